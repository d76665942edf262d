public import Starling
public import StarlingCore

/// A client of an ``EmbeddedTransport`` that speaks the protocol by hand: a test says what is on the wire, right or wrong, and
/// sees what comes back.
///
/// ```swift
/// let server = EmbeddedTransport { WebSocketRoute("/echo", echo) }
/// let client = try TestClient(server, path: "/echo")
/// client.send(.text("Hello"))
/// #expect(client.takeTexts() == ["Hello"])
/// ```
///
/// It answers nothing by itself, pings and closes included. Nothing happens between its calls.
public final class TestClient {
    /// The server.
    public let server: EmbeddedTransport
    /// The connection's number at the server.
    public let connection: Int
    private var wire = TestWire()

    /// Connects and asks for an upgrade.
    ///
    /// - Parameters:
    ///   - server: The server.
    ///   - path: Path and query.
    ///   - fields: More lines for the request's head, as `Origin: https://example.com`.
    ///   - address: Where the connection is said to come from.
    /// - Throws: ``TestClientError`` if the server takes no connection; whether it upgrades, ``status`` says.
    public init(
        _ server: EmbeddedTransport,
        path: String = "/",
        fields: [String] = [],
        from address: RemoteAddress = RemoteAddress(host: "192.0.2.1", port: 5)
    ) throws {
        guard let connection = server.connect(from: address) else {
            throw TestClientError("the server takes no connection")
        }
        self.server = server
        self.connection = connection
        self.send(bytes: Self.request(path, fields))
        self.collect()
        _ = self.wire.readHead()
    }

    /// A request for an upgrade, in bytes.
    public static func request(_ path: String, _ fields: [String] = []) -> [UInt8] {
        TestWire.request(path, fields)
    }

    /// The status that the server has answered with; 101 for a WebSocket, nil while it is undecided.
    public var status: Int? {
        if self.wire.head == nil {
            self.collect()
            _ = self.wire.readHead()
        }
        return self.wire.status
    }

    /// The head of the server's response.
    public var responseHead: String { self.status == nil ? "" : self.wire.head ?? "" }

    /// Sends a frame, masked as a client's must be.
    public func send(_ frame: TestFrame) {
        self.send(bytes: frame.masked)
    }

    /// Sends a frame's payload, masked.
    public func send(_ opcode: Opcode, _ payload: [UInt8] = []) {
        self.send(TestFrame(opcode, payload))
    }

    /// Sends bytes as they are.
    public func send(bytes: [UInt8]) {
        self.server.receive(bytes, on: self.connection)
    }

    /// The whole frames that have arrived since the last call.
    public func takeFrames() -> [TestFrame] {
        guard self.status != nil else { return [] }
        self.collect()
        var frames: [TestFrame] = []
        while let frame = self.wire.nextFrame() { frames.append(frame) }
        return frames
    }

    /// The messages that have arrived since the last call, joined from their frames; control frames are dropped.
    public func takeMessages() -> [Message] {
        self.takeFrames().compactMap { self.wire.message(with: $0) }
    }

    /// The messages that have arrived since the last call, as texts.
    public func takeTexts() -> [String] {
        self.takeMessages().map { $0.text ?? "\($0.byteCount) bytes" }
    }

    /// The code of the server's close frame, once it was among the frames that were taken; 1005 if it had none.
    public var closeCode: CloseCode? { self.wire.closeCode }

    private func collect() {
        self.wire.append(self.server.takeOutput(of: self.connection))
    }
}

/// A client over any stream that speaks the protocol by hand: on an ``InMemoryNetwork``, through a ``FaultyConnector``, or over a
/// socket.
///
/// ```swift
/// let client = try await TestStreamClient(
///     network.connector,
///     to: .tcp(host: "chat", port: 80),
///     path: "/room"
/// )
/// try await client.send(.text("Hello"))
/// let frame = try await client.nextFrame()
/// ```
///
/// It answers nothing by itself, pings and closes included. For one task.
public final class TestStreamClient {
    /// The stream.
    public let stream: any ByteStream
    private var wire = TestWire()

    /// Connects, asks for an upgrade, and waits for the response's head.
    ///
    /// - Parameters:
    ///   - connector: Opens the stream.
    ///   - target: What to connect to.
    ///   - path: Path and query.
    ///   - fields: More lines for the request's head.
    /// - Throws: If the stream cannot be opened or ends before the response; whether the server upgrades, ``status`` says.
    public init(
        _ connector: any Connector,
        to target: ConnectTarget,
        path: String = "/",
        fields: [String] = []
    ) async throws {
        self.stream = try await connector.connect(to: target, options: ConnectOptions())
        try await self.stream.write(TestWire.request(path, fields))
        while !self.wire.readHead() {
            guard let bytes = try await self.stream.read() else {
                throw TestClientError("the stream ended before the response")
            }
            self.wire.append(bytes)
        }
    }

    /// The status that the server has answered with; 101 for a WebSocket.
    public var status: Int? { self.wire.status }

    /// The head of the server's response.
    public var responseHead: String { self.wire.head ?? "" }

    /// Sends a frame, masked as a client's must be.
    public func send(_ frame: TestFrame) async throws {
        try await self.stream.write(frame.masked)
    }

    /// Sends bytes as they are.
    public func send(bytes: [UInt8]) async throws {
        try await self.stream.write(bytes)
    }

    /// The next frame; nil when the server has ended the stream.
    ///
    /// Suspends until it is there.
    public func nextFrame() async throws -> TestFrame? {
        while true {
            if let frame = self.wire.nextFrame() { return frame }
            guard let bytes = try await self.stream.read() else { return nil }
            self.wire.append(bytes)
        }
    }

    /// The next message, joined from its frames; nil when the server has ended the stream.
    ///
    /// Suspends until it is there; control frames are dropped.
    public func nextMessage() async throws -> Message? {
        while let frame = try await self.nextFrame() {
            if let message = self.wire.message(with: frame) { return message }
        }
        return nil
    }

    /// The code of the server's close frame, once it was among the frames that were taken; 1005 if it had none.
    public var closeCode: CloseCode? { self.wire.closeCode }
}

@available(*, unavailable) extension TestClient: Sendable {}
@available(*, unavailable) extension TestStreamClient: Sendable {}

/// Why a test client could not do its work.
public struct TestClientError: Error, Sendable, CustomStringConvertible {
    /// What happened.
    public let description: String

    init(_ description: String) {
        self.description = description
    }
}
