/// Where a transport listens: the counterpart of ``ConnectTarget``.
public struct ListenTarget: Sendable, Hashable, CustomStringConvertible {
    package enum Base: Sendable, Hashable {
        case tcp(host: String, port: Int)
        case unix(path: String)
    }
    package let base: Base

    /// A port of an IPv4 or IPv6 address, or of a name that resolves to one.
    ///
    /// Port 0 takes a free one.
    public static func tcp(host: String, port: Int) -> ListenTarget {
        ListenTarget(base: .tcp(host: host, port: port))
    }

    /// A Unix socket.
    ///
    /// A socket file that nobody listens on any more is replaced.
    public static func unix(path: String) -> ListenTarget {
        ListenTarget(base: .unix(path: path))
    }

    /// `host:port`, `[address]:port` for IPv6, or the path.
    public var description: String {
        switch self.base {
        case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix(let path): path
        }
    }
}
