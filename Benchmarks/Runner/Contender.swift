import ArgumentParser

/// A server that is measured.
enum Contender: String, CaseIterable, Codable, ExpressibleByArgument {
    /// The C server that moves the bytes of an echo and knows no protocol.
    case floor
    /// Starling with a synchronous handler.
    case starlingSync = "starling-sync"
    /// Starling with an async handler.
    case starlingAsync = "starling-async"
    /// A plain server on NIOWebSocket.
    case nioWebSocket = "nio"

    static var names: String { Self.allCases.map(\.rawValue).joined(separator: ", ") }

    /// The words in the table.
    var title: String {
        switch self {
        case .floor: "floor (C, no protocol)"
        case .starlingSync: "Starling, synchronous"
        case .starlingAsync: "Starling, async"
        case .nioWebSocket: "NIOWebSocket"
        }
    }

    /// The arguments it is started with for a scenario; nil if it takes no part.
    func arguments(for scenario: Scenario) -> [String]? {
        switch (self, scenario.load) {
        case (.floor, .echo): ["--payload", "\(scenario.payloadByteCount)"]
        case (.floor, .fanout), (.floor, .idle): nil
        case (.starlingSync, .echo): ["--mode", "echo-sync", "--port", "0"]
        case (.starlingSync, .fanout): ["--mode", "fanout", "--port", "0"]
        case (.starlingSync, .idle): ["--mode", "idle-sync", "--port", "0"]
        case (.starlingAsync, .echo): ["--mode", "echo-async", "--port", "0"]
        // A delivery wakes no handler of either form, so fan-out is measured once.
        case (.starlingAsync, .fanout): nil
        case (.starlingAsync, .idle): ["--mode", "idle-async", "--port", "0"]
        case (.nioWebSocket, _): []
        }
    }
}
