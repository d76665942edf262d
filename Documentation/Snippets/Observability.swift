import HTTPTypes
import Starling
import StarlingNative

func lookAround(_ server: WebSocketServer<NativeTransport>) async {
    var options = ServerSnapshot.Options()
    options.connectionCountMax = 100
    let snapshot = await server.snapshot(options)
    for connection in snapshot.connections where connection.bufferedBytes > 1 << 16 { print(connection.id) }
    options.connectionsFrom = snapshot.nextConnection  // the next page
    print(options)
}

func isOperator(_ request: HTTPRequest) async -> Bool { false }

func serveStatus(_ transport: NativeTransport, _ chat: WebSocketEndpoint) -> WebSocketServer<NativeTransport>
{
    WebSocketServer(transport: transport) {
        DebugRoute("/debug/starling") { request in await isOperator(request) }
        WebSocketRoute("/chat", chat)
    }
}

func mountStatus(expected: String) -> [Route] {
    DebugRoute("/debug/starling") { $0.headerFields[.authorization] == expected }
}
