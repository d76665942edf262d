import HTTPTypes
import Starling
import StarlingNative

protocol Sessions: Sendable {
    func user(ofToken token: String) async throws -> String?
}

func migrateServer(_ sessions: any Sessions) async throws {
    let chat = WebSocketEndpoint(
        authenticate: { request -> UpgradeDecision<String> in
            guard let token = request[query: "token"], let user = try await sessions.user(ofToken: token)
            else {
                return .refuse(.unauthorized)
            }
            return .accept(user, user: user)
        }
    ) { socket, user in
        try await socket.send("Hello, \(user)")
        for try await message in socket {
            switch message.kind {
            case .text: try await socket.send("you said \(message.text ?? "")")
            case .binary: try await socket.send(.binary(message.byteArray))
            }
        }
        print("\(user) has gone: \(socket.closure?.description ?? "")")
    }
    try await WebSocketServer(transport: NativeTransport(port: 8080)) {
        WebSocketRoute("/chat", chat)
    }.run()
}

func rememberSockets(_ server: WebSocketServer<NativeTransport>, user: String) async {
    await server.registry.send(.text("your order is on its way"), toUser: user)
}

func allowOldSizes() -> EndpointConfiguration {
    var configuration = EndpointConfiguration()
    configuration.limits.frameBytesMax = 16 << 10
    configuration.limits.messageBytesMax = 16 << 20
    configuration.outbound.byteCountMax = 32 << 20
    configuration.deflate = nil
    configuration.origins = .any
    return configuration
}
