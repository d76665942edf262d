import Starling
import StarlingTesting
import Testing

@Suite struct EmbeddedTransportTests {
    @Test("A handshake against an endpoint, with nothing around it")
    func handshake() throws {
        let echo = WebSocketEndpoint { socket in
            for try await message in socket { try await socket.send(message) }
        }
        let request = Array(
            """
            GET /echo HTTP/1.1\r
            Host: example.com\r
            Connection: Upgrade\r
            Upgrade: websocket\r
            Sec-WebSocket-Version: 13\r
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
            \r

            """.utf8
        )
        let response = Array(
            """
            HTTP/1.1 101 Switching Protocols\r
            Upgrade: websocket\r
            Connection: Upgrade\r
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r
            \r

            """.utf8
        )

        let server = EmbeddedTransport { WebSocketRoute("/echo", echo) }
        let client = try #require(server.connect())
        server.receive(request, on: client)
        #expect(server.takeOutput(of: client) == response)
    }

    @Test("The same with a client that knows the protocol")
    func client() throws {
        let echo = WebSocketEndpoint { socket in
            for try await message in socket { try await socket.send(message) }
        }

        let server = EmbeddedTransport { WebSocketRoute("/echo", echo) }
        let client = try TestClient(server, path: "/echo")
        client.send(.text("Hello"))
        #expect(client.takeTexts() == ["Hello"])
    }
}
