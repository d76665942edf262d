import Starling
import StarlingNative

@main struct Echo {
    static func main() async throws {
        let echo = WebSocketEndpoint { socket in
            for try await message in socket { try await socket.send(message) }
        }
        try await WebSocketServer(transport: NativeTransport(port: 8080)) {
            WebSocketRoute("/echo", echo)
        }.run()
    }
}
