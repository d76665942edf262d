public import HTTPTypes
public import Logging
public import StarlingCore
public import StarlingDeflate

/// Everything about a client's connection that has a default.
public struct ClientConfiguration: Sendable {
    /// More fields for the request: `Authorization`, `Origin`, `Cookie`.
    ///
    /// Those of the handshake itself are set by the client.
    public var headerFields: HTTPFields = [:]
    /// The subprotocols to offer, the favourite first.
    public var subprotocols: [String] = []
    /// permessage-deflate, or nil not to offer it.
    public var deflate: DeflateConfiguration? = DeflateConfiguration()
    /// Whom to trust and who to be, for `wss`: certificate and host name are checked by default.
    public var tls = ConnectTLS()
    /// The HTTP proxy to go through (CONNECT, RFC 9110 §9.3.6), or nil.
    public var proxy: HTTPProxy?
    /// Redirects to follow; none by default.
    ///
    /// From `wss` to `ws`, and to a Unix socket of this machine, is never followed, and another host is not told
    /// `Authorization` and `Cookie`.
    public var redirectsMax = 0
    /// How long name resolution, connecting, a proxy's answer and the TLS handshake may take together.
    public var connectTimeout: Duration = .seconds(5)
    /// How long the server may take to answer the handshake.
    public var handshakeTimeout: Duration = .seconds(5)
    /// What the server may make the client hold, in bytes and fragments.
    public var limits = Limits()
    /// Pings, and how long the server may take to answer them, to close and to take bytes.
    public var timeouts = ConnectionTimeouts()
    /// What may wait for a server that reads slowly.
    public var outbound = OutboundConfiguration()
    /// Received messages that may wait for the application, in bytes; then the connection is not read until half of them
    /// are taken.
    public var inboundByteCountMax = 256 << 10
    /// Where the client logs, at `debug`.
    public var logger = Logger(label: "starling.client")

    /// The defaults.
    public init() {}
}

/// A proxy that opens tunnels.
public struct HTTPProxy: Sendable, Hashable {
    /// Its name or address.
    public var host: String
    /// Its port.
    public var port: Int
    /// Fields for its request, `Proxy-Authorization` above all.
    public var headerFields: HTTPFields

    /// Names a proxy.
    public init(host: String, port: Int, headerFields: HTTPFields = [:]) {
        self.host = host
        self.port = port
        self.headerFields = headerFields
    }
}

extension HTTPProxy {
    /// Asks the proxy at the other end of a stream for a tunnel; for connectors.
    ///
    /// - Throws: ``TransportError`` with the proxy's status if it refuses.
    package func openTunnel(
        to target: ConnectTarget,
        over stream: any ByteStream
    ) async throws(TransportError) {
        var request = HTTPRequest(
            method: .connect,
            scheme: nil,
            authority: target.description,
            path: target.description
        )
        request.headerFields = self.headerFields
        try await stream.write(request.serialized())
        var reader = HTTPHeadReader()
        while true {
            guard var bytes = try await stream.read() else {
                throw TransportError(
                    "cannot connect to \(target): the proxy \(self.name) ended the connection"
                )
            }
            var span = bytes.mutableSpan
            var rest = unsafe span.mutableBytes
            let status: HTTPResponse.Status
            do throws(HandshakeError) {
                guard let head = try reader.read(from: &rest) else { continue }
                status = try HTTPResponseHead(parsing: head).response.status
                // A server waits for its client, whether for TLS or for a request.
                guard rest.isEmpty || status.code >= 300 else { throw HandshakeError(.malformedResponse) }
            } catch {
                throw TransportError("cannot connect to \(target): the proxy \(self.name): \(error)")
            }
            guard (200...299).contains(status.code) else {
                throw TransportError("cannot connect to \(target): the proxy \(self.name) says \(status)")
            }
            return
        }
    }

    private var name: String { "\(ConnectTarget.tcp(host: self.host, port: self.port))" }
}
