import CoreMetrics
import Synchronization

/// The application's metrics, as a page of lines like `hb.requests{http.route="/"} 3.0`.
///
/// Stands where yours has swift-prometheus, or another backend of swift-metrics.
final class Figures: MetricsFactory {
    fileprivate let values = Mutex<[String: Double]>([:])

    var page: String {
        self.values.withLock { $0.sorted { $0.key < $1.key } }.map { "\($0.key) \($0.value)\n" }.joined()
    }

    func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        Figure(label, dimensions, of: self)
    }

    func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        Figure(label, dimensions, of: self)
    }

    func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        Figure(label, dimensions, of: self)
    }

    func destroyCounter(_ handler: any CounterHandler) {}
    func destroyRecorder(_ handler: any RecorderHandler) {}
    func destroyTimer(_ handler: any TimerHandler) {}
}

/// One line of the page: a counter's sum, or the last value of anything else.
private final class Figure: CounterHandler, RecorderHandler, TimerHandler {
    private let name: String
    private let figures: Figures

    init(_ label: String, _ dimensions: [(String, String)], of figures: Figures) {
        let members = dimensions.map { "\($0)=\"\($1)\"" }.joined(separator: ",")
        self.name = members.isEmpty ? label : "\(label){\(members)}"
        self.figures = figures
    }

    func increment(by amount: Int64) {
        self.figures.values.withLock { $0[self.name, default: 0] += Double(amount) }
    }

    func reset() {
        self.set(0)
    }

    func record(_ value: Int64) {
        self.set(Double(value))
    }

    func record(_ value: Double) {
        self.set(value)
    }

    func recordNanoseconds(_ duration: Int64) {
        self.set(Double(duration))
    }

    private func set(_ value: Double) {
        self.figures.values.withLock { $0[self.name] = value }
    }
}
