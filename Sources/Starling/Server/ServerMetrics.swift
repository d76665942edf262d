internal import CoreMetrics

/// Hands the loops' figures to swift-metrics, once a second: nothing is reported per message.
struct ServerMetrics {
    private var reported = LoopFigures.zero
    private let counters: [Counter?]
    private let gauges: [Gauge?]
    private let closes: [Counter]
    private let refusals: [Counter]
    private let lag: Gauge

    /// Makes the metrics of a server, told apart from those of others by `dimensions`.
    init(dimensions: [(String, String)]) {
        self.counters = LoopFigures.names.map {
            $0.isGauge ? nil : Counter(label: "starling_\($0.name)", dimensions: dimensions)
        }
        self.gauges = LoopFigures.names.map {
            $0.isGauge ? Gauge(label: "starling_\($0.name)", dimensions: dimensions) : nil
        }
        self.closes = CloseCause.Base.allCases.map {
            Counter(label: "starling_closes_total", dimensions: dimensions + [("cause", "\($0)")])
        }
        self.refusals = RefusalCause.allCases.map {
            Counter(label: "starling_refusals_total", dimensions: dimensions + [("cause", "\($0)")])
        }
        self.lag = Gauge(label: "starling_loop_lag_nanoseconds", dimensions: dimensions)
    }

    mutating func report(_ figures: LoopFigures, longestTick nanoseconds: UInt64) {
        self.lag.record(Double(nanoseconds))
        for (index, value) in figures.plain.enumerated() {
            self.gauges[index]?.record(Double(value))
            self.counters[index]?.increment(by: Int64(clamping: value &- self.reported.plain[index]))
        }
        for (index, value) in figures.closes.enumerated() where value != self.reported.closes[index] {
            self.closes[index].increment(by: Int64(clamping: value &- self.reported.closes[index]))
        }
        for (index, value) in figures.refusals.enumerated() where value != self.reported.refusals[index] {
            self.refusals[index].increment(by: Int64(clamping: value &- self.reported.refusals[index]))
        }
        self.reported = figures
    }
}
