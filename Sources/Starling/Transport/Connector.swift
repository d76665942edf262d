/// Opens connections to other servers: brokers, and those that `WebSocketClient` connects to.
///
/// `NativeConnector` is one. Whatever a broker link needs beyond bytes, such as TLS, deadlines, faults in a test and
/// simulated networks, is a connector's business, so that it works for every broker alike.
public protocol Connector: Sendable {
    /// Opens a connection, TLS handshake included.
    ///
    /// Suspends until the connection stands. Cancelling the task ends the attempt.
    ///
    /// - Throws: ``TransportError`` that names the target and why it could not be reached: a name that does not resolve, a
    ///   refused port, a certificate that is not trusted, the timeout. All addresses of a name are tried, in turn.
    func connect(to target: ConnectTarget, options: ConnectOptions) async throws(TransportError)
        -> any ByteStream
}

/// Where to connect to.
public struct ConnectTarget: Sendable, Hashable, CustomStringConvertible {
    package enum Base: Sendable, Hashable {
        case tcp(host: String, port: Int)
        case unix(path: String)
    }
    package let base: Base

    /// A port of an IPv4 or IPv6 address, or of a name that resolves to some.
    public static func tcp(host: String, port: Int) -> ConnectTarget {
        ConnectTarget(base: .tcp(host: host, port: port))
    }

    /// A Unix socket.
    public static func unix(path: String) -> ConnectTarget {
        ConnectTarget(base: .unix(path: path))
    }

    /// The name or address of a port; nil for a Unix socket.
    package var host: String? {
        switch self.base {
        case .tcp(let host, _): host
        case .unix: nil
        }
    }

    /// `host:port`, `[address]:port` for IPv6, or the path.
    public var description: String {
        switch self.base {
        case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix(let path): path
        }
    }
}

/// How to connect.
public struct ConnectOptions: Sendable {
    /// Encrypts the connection; nil for plain bytes.
    public var tls: ConnectTLS?
    /// Goes through an HTTP proxy; nil for directly.
    public var proxy: HTTPProxy?
    /// How long name resolution, connecting, a proxy's answer and the TLS handshake may take together; 5 s by default.
    public var timeout: Duration

    /// Makes options.
    public init(tls: ConnectTLS? = nil, proxy: HTTPProxy? = nil, timeout: Duration = .seconds(5)) {
        self.tls = tls
        self.proxy = proxy
        self.timeout = timeout
    }
}

/// Whom to trust and who to be, for a connection that is encrypted; certificate and name are checked unless told
/// otherwise.
public struct ConnectTLS: Sendable {
    /// A file with the certificates to trust, in PEM; nil for the system's.
    public var trustRootsFile: String?
    /// A file with our certificate chain, in PEM, for servers that ask for one.
    public var certificateFile: String?
    /// A file with our certificate's private key, in PEM.
    public var privateKeyFile: String?
    /// The name to ask for (SNI) and to find in the server's certificate; nil for the target's host.
    public var serverName: String?
    /// Whether the name must be in the server's certificate; true by default.
    public var checksServerName: Bool

    /// Makes options.
    public init(
        trustRootsFile: String? = nil,
        certificateFile: String? = nil,
        privateKeyFile: String? = nil,
        serverName: String? = nil,
        checksServerName: Bool = true
    ) {
        self.trustRootsFile = trustRootsFile
        self.certificateFile = certificateFile
        self.privateKeyFile = privateKeyFile
        self.serverName = serverName
        self.checksServerName = checksServerName
    }
}

/// An open connection, as bytes in both directions.
///
/// Reading and writing do not disturb each other; there may be one reader and one writer at a time.
public protocol ByteStream: AnyObject, Sendable {
    /// The next bytes, in the order they were sent; nil when the peer has ended its direction.
    ///
    /// Suspends until some are there; returns all that are there, 256 KiB at most. What nobody reads stays in the kernel,
    /// and the peer's TCP slows down. Cancelling the task closes the stream.
    ///
    /// - Throws: If the connection breaks or is closed.
    func read() async throws(TransportError) -> [UInt8]?

    /// Sends bytes.
    ///
    /// Suspends until the kernel has taken all of them. Cancelling the task closes the stream.
    ///
    /// - Throws: If the connection breaks or is closed.
    func write(_ bytes: [UInt8]) async throws(TransportError)

    /// Ends the connection, in both directions and at once; a read or write that waits throws.
    ///
    /// Never suspends; any thread; harmless when it is closed already. Letting go of a stream closes it too.
    func close()
}

/// A stream whose own direction can be ended while the other one goes on.
///
/// A connector's streams need not be such: clients and broker links never do this. `TransportConformance` asks for it, to see
/// what a server makes of a peer that does; the streams of `NativeConnector`, `NIOConnector` and `InMemoryConnector` are.
public protocol HalfClosableStream: ByteStream {
    /// Ends this direction, TLS's end included; what was written before still arrives.
    ///
    /// Never suspends; any thread; does nothing to a stream that is closed.
    func endWriting()
}
