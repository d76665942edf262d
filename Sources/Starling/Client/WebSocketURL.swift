/// What a client connects to, taken from a URL: `ws`, `wss`, or `ws+unix` (RFC 6455 §3).
struct WebSocketURL: Hashable, Sendable {
    enum Scheme: String, Sendable {
        case ws, wss
        case unix = "ws+unix"
    }

    let scheme: Scheme
    /// A name or an address, without brackets; for `ws+unix` the socket's path.
    let host: String
    let port: Int
    /// Path and query, as they stand in the request.
    let requestTarget: String

    var connectTarget: ConnectTarget {
        switch self.scheme {
        case .ws, .wss: .tcp(host: self.host, port: self.port)
        case .unix: .unix(path: self.host)
        }
    }

    /// The value of `Host`: without the port if it is the scheme's own (RFC 6455 §4.1).
    var authority: String {
        guard self.scheme != .unix else { return "localhost" }
        let host = self.host.contains(":") ? "[\(self.host)]" : self.host
        return self.port == self.scheme.defaultPort ? host : "\(host):\(self.port)"
    }

    /// Takes a URL apart.
    ///
    /// `http` and `https`, as redirects name them, mean `ws` and `wss`. `ws+unix:/run/app.sock:/chat` is the path `/chat` of
    /// the server at `/run/app.sock`.
    init(_ url: String) throws(ConnectError) {
        func invalid(_ why: String) -> ConnectError { ConnectError(.invalidURL, "'\(url)': \(why)") }
        guard let colon = url.firstIndex(of: ":") else { throw invalid("it has no scheme") }
        var rest = url[url.index(after: colon)...]
        switch url[..<colon].lowercased() {
        case "ws", "http": self.scheme = .ws
        case "wss", "https": self.scheme = .wss
        case "ws+unix": self.scheme = .unix
        default: throw invalid("the scheme must be ws, wss or ws+unix")
        }
        guard !url.contains("#") else { throw invalid("a fragment is not allowed (RFC 6455 §3)") }
        if rest.hasPrefix("//") { rest = rest.dropFirst(2) }

        if self.scheme == .unix {
            let parts = rest.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard !parts[0].isEmpty else { throw invalid("the socket's path is missing") }
            self.host = String(parts[0])
            self.port = 0
            self.requestTarget = Self.target(parts.count > 1 ? parts[1] : "")
            return
        }
        let end = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
        let authority = rest[..<end]
        guard !authority.contains("@") else {
            throw invalid("put credentials into headerFields, as Authorization")
        }
        var host = authority
        var portText: Substring?
        if authority.hasPrefix("[") {
            guard let close = authority.firstIndex(of: "]") else { throw invalid("']' is missing") }
            host = authority[authority.index(after: authority.startIndex)..<close]
            let behind = authority[authority.index(after: close)...]
            guard behind.isEmpty || behind.hasPrefix(":") else { throw invalid("the host is malformed") }
            portText = behind.isEmpty ? nil : behind.dropFirst()
        } else if let colon = authority.lastIndex(of: ":") {
            host = authority[..<colon]
            portText = authority[authority.index(after: colon)...]
        }
        let isHostValid = host.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"),
                UInt8(ascii: "_"), UInt8(ascii: ":"), UInt8(ascii: "%"):
                true
            default: false
            }
        }
        guard !host.isEmpty, isHostValid else {
            throw invalid("the host must be a name in ASCII or an address")
        }
        self.host = String(host)
        if let portText, !portText.isEmpty {
            guard let port = Int(portText), (1...65535).contains(port) else {
                throw invalid("the port must be from 1 to 65535")
            }
            self.port = port
        } else {
            self.port = self.scheme.defaultPort
        }
        self.requestTarget = Self.target(rest[end...])
    }

    /// Path and query with a slash in front, and whatever a request line cannot carry percent-encoded.
    private static func target(_ text: Substring) -> String {
        var target = text.hasPrefix("/") ? "" : "/"
        for byte in text.utf8 {
            if byte > 0x20, byte < 0x7F, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "<"),
                byte != UInt8(ascii: ">")
            {
                target.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                let digits = String(byte, radix: 16, uppercase: true)
                target += digits.count == 1 ? "%0\(digits)" : "%\(digits)"
            }
        }
        return target
    }
}

extension WebSocketURL.Scheme {
    fileprivate var defaultPort: Int {
        switch self {
        case .ws: 80
        case .wss: 443
        case .unix: 0
        }
    }
}
