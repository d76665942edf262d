internal import CoreMetrics

/// Hands a server's figures to swift-metrics, once a second: nothing is reported per message.
struct ServerMetrics {
    private enum Handler {
        case counter(Counter, reported: UInt64)
        case gauge(Gauge)
    }

    private struct Key: Hashable {
        let name: String
        let member: String?
    }

    private let dimensions: [(String, String)]
    private var handlers: [Key: Handler] = [:]

    /// Makes the metrics of a server, told apart from those of others by `dimensions`.
    init(dimensions: [(String, String)]) {
        self.dimensions = dimensions
    }

    mutating func report(_ readings: [MetricReading]) {
        for reading in readings {
            for sample in reading.samples { self.report(sample, of: reading.family) }
        }
    }

    private mutating func report(_ sample: MetricReading.Sample, of family: MetricFamily) {
        let key = Key(name: family.name + sample.suffix, member: sample.member)
        switch self.handlers[key] ?? self.makeHandler(key, family) {
        case .gauge(let gauge):
            gauge.record(Double(sample.value))
            self.handlers[key] = .gauge(gauge)
        case .counter(let counter, let reported):
            if sample.value != reported { counter.increment(by: Int64(clamping: sample.value &- reported)) }
            self.handlers[key] = .counter(counter, reported: sample.value)
        }
    }

    private func makeHandler(_ key: Key, _ family: MetricFamily) -> Handler {
        var dimensions = self.dimensions
        if let member = key.member, let dimension = family.dimension {
            dimensions.append((dimension, member))
        }
        switch family.kind {
        case .gauge: return .gauge(Gauge(label: key.name, dimensions: dimensions))
        case .counter, .histogram:
            return .counter(Counter(label: key.name, dimensions: dimensions), reported: 0)
        }
    }
}
