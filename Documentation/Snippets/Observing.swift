import HTTPTypes
import Starling
import StarlingNative

func lookAtSlowPeers(_ server: WebSocketServer<NativeTransport>) async {
    var options = ServerSnapshot.Options()
    options.connectionCountMax = 100
    let snapshot = await server.snapshot(options)
    for connection in snapshot.connections where connection.bufferedBytes > 1 << 16 { print(connection.id) }
    options.connectionsFrom = snapshot.nextConnection  // the next page
}

func showStatus(
    _ transport: NativeTransport,
    _ chat: WebSocketEndpoint,
    _ isOperator: @escaping @Sendable (HTTPRequest) async -> Bool
) -> WebSocketServer<NativeTransport> {
    WebSocketServer(transport: transport) {
        DebugRoute("/debug/starling") { request in await isOperator(request) }
        WebSocketRoute("/chat", chat)
    }
}

func showStatus(expected: String) -> [Route] {
    DebugRoute("/debug/starling") { $0.headerFields[.authorization] == expected }
}
