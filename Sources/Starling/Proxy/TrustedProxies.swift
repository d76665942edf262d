public import HTTPTypes

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Musl)
internal import Musl
#else
internal import Darwin
#endif

/// The proxies whose word about a client's address is believed, and what it is read from.
///
/// ```swift
/// configuration.trustedProxies = try TrustedProxies(["10.0.0.0/8", "::1"])
/// ```
///
/// Anybody can send `X-Forwarded-For`. So it counts only on connections that come from these addresses, and only as far
/// as the chain of trusted ones reaches: it is read from its end, and the first address that is not a trusted proxy's is
/// the client's.
public struct TrustedProxies: Sendable {
    /// What proxies say the client's address in.
    public enum Source: Sendable {
        /// `X-Forwarded-For`, which most proxies append to.
        case xForwardedFor
        /// `Forwarded` with `for=` (RFC 7239).
        case forwarded
        /// The PROXY protocol, versions 1 and 2, before anything else on each connection: HAProxy's `send-proxy-v2`,
        /// nginx' `proxy_protocol on`, and load balancers of TCP.
        ///
        /// The listener then refuses connections without such a header, and those of others.
        case proxyProtocol
    }

    /// Nobody: a client's address is its connection's.
    public static let none = TrustedProxies(ranges: [], source: .xForwardedFor)

    private let ranges: [AddressRange]
    /// What the client's address is read from.
    public let source: Source

    /// Trusts addresses.
    ///
    /// - Parameters:
    ///   - ranges: Addresses, `192.0.2.1`, and ranges, `2001:db8::/32`. `unix` is whoever comes over a Unix socket.
    ///   - source: The one place that the proxies write to. A second one would be the client's to fill.
    /// - Throws: ``InvalidAddressRange`` that names the one that makes no sense.
    public init(_ ranges: [String], source: Source = .xForwardedFor) throws(InvalidAddressRange) {
        var parsed: [AddressRange] = []
        for range in ranges { parsed.append(try AddressRange(range)) }
        self.init(ranges: parsed, source: source)
    }

    private init(ranges: [AddressRange], source: Source) {
        self.ranges = ranges
        self.source = source
    }

    /// Whether connections begin with a PROXY protocol header.
    public var expectsProxyProtocol: Bool {
        self.source == .proxyProtocol && !self.ranges.isEmpty
    }

    /// Whether an address is a trusted proxy's.
    public func contains(_ host: String) -> Bool {
        guard !self.ranges.isEmpty else { return false }
        let address = AddressRange.parse(host)
        return self.ranges.contains { $0.contains(address) }
    }

    /// Where a request comes from.
    ///
    /// - Parameters:
    ///   - peer: The other end of the connection.
    ///   - headerFields: The request's.
    /// - Returns: The client, as far as trusted proxies say who it is; the last proxy whose word can be read otherwise.
    public func client(of peer: RemoteAddress, _ headerFields: HTTPFields) -> RemoteAddress {
        guard self.contains(peer.host) else { return peer }
        var client = peer
        for entry in self.chain(headerFields).reversed() {
            guard let address = Self.address(entry) else { return client }
            client = address
            if !self.contains(address.host) { return client }
        }
        return client
    }

    /// The addresses, the client's own word first.
    private func chain(_ headerFields: HTTPFields) -> [Substring] {
        switch self.source {
        case .proxyProtocol: []
        case .xForwardedFor:
            headerFields[values: HTTPField.Name("X-Forwarded-For")!].flatMap { $0.split(separator: ",") }
        case .forwarded:
            headerFields[values: HTTPField.Name("Forwarded")!].flatMap { $0.split(separator: ",") }
                .map { element in
                    let pair = element.split(separator: ";").map(Self.trimmed)
                        .first { $0.lowercased().hasPrefix("for=") }
                    return pair?.dropFirst(4) ?? ""
                }
        }
    }

    /// Reads `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`, each maybe in quotes; nil for others, such
    /// as `unknown` and `_hidden`.
    private static func address(_ entry: Substring) -> RemoteAddress? {
        var text = self.trimmed(entry)
        if text.count >= 2, text.first == "\"", text.last == "\"" { text = text.dropFirst().dropLast() }
        var host = text
        var port: Substring = "0"
        if text.first == "[" {
            guard let end = text.firstIndex(of: "]") else { return nil }
            host = text[text.index(after: text.startIndex)..<end]
            let rest = text[text.index(after: end)...]
            if rest.first == ":" { port = rest.dropFirst() } else if !rest.isEmpty { return nil }
        } else if text.filter({ $0 == ":" }).count == 1, let colon = text.firstIndex(of: ":") {
            host = text[..<colon]
            port = text[text.index(after: colon)...]
        }
        guard let bytes = AddressRange.parse(String(host)), let number = UInt16(port) else { return nil }
        // In the spelling of a socket's address: it is compared with those, and counted with them.
        return unsafe RemoteAddress(bytes: bytes.span.bytes, port: number)
    }

    private static func trimmed(_ text: Substring) -> Substring {
        var text = text.drop { $0 == " " || $0 == "\t" }
        while text.last == " " || text.last == "\t" { text = text.dropLast() }
        return text
    }
}

/// Text that is no address and no range of addresses.
public struct InvalidAddressRange: Error, Sendable, CustomStringConvertible {
    /// What, and what was expected.
    public let description: String
}

/// Addresses that begin with the same bits; or all Unix sockets.
struct AddressRange: Sendable {
    /// Four or sixteen bytes; none for Unix sockets.
    private let prefix: [UInt8]
    private let bitCount: Int

    init(_ text: String) throws(InvalidAddressRange) {
        if text == "unix" {
            (self.prefix, self.bitCount) = ([], 0)
            return
        }
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard let bytes = parts.first.flatMap({ Self.parse(String($0)) }), (1...2).contains(parts.count),
            let bitCount = parts.count == 2 ? Int(parts[1]) : bytes.count * 8,
            (0...bytes.count * 8).contains(bitCount)
        else {
            throw InvalidAddressRange(
                description: "'\(text)' is no address: expected 192.0.2.1, 10.0.0.0/8, 2001:db8::/32 or unix"
            )
        }
        (self.prefix, self.bitCount) = (bytes, bitCount)
    }

    /// An address' bytes, nil for a Unix socket.
    func contains(_ address: [UInt8]?) -> Bool {
        guard let address else { return self.prefix.isEmpty }
        guard address.count == self.prefix.count else { return false }
        let (whole, rest) = (self.bitCount / 8, self.bitCount % 8)
        guard address[..<whole] == self.prefix[..<whole] else { return false }
        return rest == 0 || (address[whole] ^ self.prefix[whole]) >> UInt8(8 - rest) == 0
    }

    /// The bytes of an address in its usual form; nil for anything else.
    static func parse(_ host: String) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 16)
        // A zero byte would end the string for the C library, and what follows it would not be looked at.
        guard !host.utf8.contains(0) else { return nil }
        let isIPv6 = host.contains(":")
        // `inet_pton` writes 4 or 16 bytes, for which there is room.
        let result = unsafe inet_pton(isIPv6 ? AF_INET6 : AF_INET, host, &bytes)
        guard result == 1 else { return nil }
        return isIPv6 ? bytes : Array(bytes.prefix(4))
    }
}

extension RemoteAddress {
    /// An address of 4 or 16 bytes, in the one spelling that the C library gives it; of an IPv4 address in IPv6, the IPv4 address.
    package init(bytes: RawSpan, port: UInt16) {
        precondition(bytes.byteCount == 4 || bytes.byteCount == 16, "an address has 4 or 16 bytes")
        let host = unsafe bytes.withUnsafeBytes { bytes in
            let isMapped =
                unsafe bytes.count == 16 && bytes.prefix(10).allSatisfy { $0 == 0 } && bytes[10] == 0xFF
                && bytes[11] == 0xFF
            // The bytes outlive this call, an address of the family that they are read as; the text has room for either kind and
            // is ended by a zero.
            return unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(INET6_ADDRSTRLEN)) {
                let family = isMapped || bytes.count == 4 ? AF_INET : AF_INET6
                let address = unsafe UnsafeRawBufferPointer(rebasing: bytes.dropFirst(isMapped ? 12 : 0))
                let text = unsafe inet_ntop(family, address.baseAddress, $0.baseAddress, socklen_t($0.count))
                return unsafe text.map { unsafe String(cString: $0) } ?? ""
            }
        }
        self.init(host: host, port: port)
    }
}
