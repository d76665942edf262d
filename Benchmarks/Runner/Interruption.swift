import Glibc
import Synchronization

/// SIGINT and SIGTERM as errors, so that servers and generators are ended on the way out.
enum Interruption {
    private static let arrived = Atomic(false)

    /// Begins to notice the two signals.
    static func watch() {
        // The first use initialises the flag, which a signal handler must not do.
        self.arrived.store(false, ordering: .relaxed)
        for number in [SIGINT, SIGTERM] {
            // A handler may do next to nothing; storing to an atomic is allowed.
            _ = signal(number) { _ in Interruption.arrived.store(true, ordering: .relaxed) }
        }
    }

    /// Throws if one of them has arrived.
    static func check() throws {
        if self.arrived.load(ordering: .relaxed) { throw Interrupted() }
    }
}

/// The end of a run that somebody asked for.
struct Interrupted: Error, CustomStringConvertible {
    var description: String { "Interrupted." }
}
