import HTTPTypes
import Starling
import StarlingNative

func connect() async throws {
    let client = WebSocketClient(connector: NativeConnector())
    try await client.connect(to: "wss://example.com/chat") { socket in
        try await socket.send("Hello")
        for try await message in socket { print(message) }
    }
}

func connectWithOptions(token: String) async throws {
    var configuration = ClientConfiguration()
    configuration.headerFields[.authorization] = "Bearer \(token)"
    configuration.subprotocols = ["chat.v2"]
    configuration.tls.trustRootsFile = "/etc/ssl/private-roots.pem"

    let client = WebSocketClient(connector: NativeConnector())
    do {
        try await client.connect(to: "wss://chat.internal/", configuration: configuration) { socket in
            for try await message in socket { print(message.text ?? "\(message.byteCount) bytes") }
            if let closure = socket.closure, closure.code.invitesReconnect { print("come back") }
        }
    } catch let error as ConnectError where error.response?.status == .unauthorized {
        print("the token is not valid any more")
    }
}
