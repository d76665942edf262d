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
    /// Boost.Beast.
    case beast
    /// µWebSockets, by way of socketify.
    case socketify
    /// Go's gorilla/websocket.
    case gorilla
    /// Node's ws.
    case ws
    /// Python's websockets.
    case websockets

    static var names: String { Self.allCases.map(\.rawValue).joined(separator: ", ") }

    /// The words in the table.
    var title: String {
        switch self {
        case .floor: "floor (C, no protocol)"
        case .starlingSync: "Starling, synchronous"
        case .starlingAsync: "Starling, async"
        case .nioWebSocket: "NIOWebSocket"
        case .beast: "Boost.Beast (C++)"
        case .socketify: "µWebSockets, socketify (Python)"
        case .gorilla: "gorilla/websocket (Go)"
        case .ws: "ws (Node)"
        case .websockets: "websockets (Python)"
        }
    }

    /// Whether it is built by `Benchmarks/peers.sh`, and not with this program.
    var isPeer: Bool {
        switch self {
        case .floor, .starlingSync, .starlingAsync: false
        case .nioWebSocket, .beast, .socketify, .gorilla, .ws, .websockets: true
        }
    }

    /// Whether it is measured under a load.
    func takesPart(in scenario: Scenario) -> Bool {
        switch self {
        case .floor:
            scenario.isPlainEcho
        case .starlingSync:
            true
        case .starlingAsync:
            // A delivery wakes no handler of either form, so fan-out is measured once.
            !scenario.isFanOut
        case .nioWebSocket:
            // It has no permessage-deflate, and TLS comes from another package.
            scenario.arrangement == .oneLoop && !scenario.deflate && scenario.security == .none
        case .beast, .socketify, .gorilla, .ws, .websockets:
            scenario.arrangement == .oneLoop
        }
    }

    /// The arguments it is started with for a scenario.
    func arguments(for scenario: Scenario, with certificate: Certificate) -> [String] {
        let tls =
            scenario.security == .none ? [] : ["--certificate", certificate.chain, "--key", certificate.key]
        let common = tls + (scenario.deflate ? ["--deflate"] : [])
        switch self {
        case .floor: return ["--payload", "\(scenario.payloadByteCount)"]
        case .starlingSync: return ["--form", "sync"] + common
        case .starlingAsync: return ["--form", "async"] + common
        case .nioWebSocket, .beast, .socketify, .gorilla, .ws, .websockets: return common
        }
    }
}
