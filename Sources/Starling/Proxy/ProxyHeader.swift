/// Reads the PROXY protocol's header, versions 1 and 2
/// (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt).
///
/// It says how many of the bytes that are there belong to the header, so that none behind it is taken.
package struct ProxyHeaderReader {
    package enum Progress: Equatable {
        /// More bytes are to come.
        case incomplete
        /// The header is complete; nil if it says nothing of a client, as a proxy's own health check does.
        case complete(RemoteAddress?)
        case invalid
    }

    /// Longer ones are invalid.
    ///
    /// Version 1 has 107 at most; what version 2 carries along is rarely over a few hundred.
    package static let byteCountMax = 4096
    private static let lineByteCountMax = 107
    private static let signature: [UInt8] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ]

    private var header: [UInt8] = []

    package init() {}

    /// Whether nothing of the header has come yet.
    package var isUntouched: Bool { self.header.isEmpty }

    /// Takes the header's share of bytes that have arrived; returns how many it was.
    package mutating func take(_ bytes: some Collection<UInt8>) -> (count: Int, progress: Progress) {
        var count = 0
        for byte in bytes {
            self.header.append(byte)
            count += 1
            let progress = self.progress()
            if progress != .incomplete { return (count, progress) }
        }
        return (count, .incomplete)
    }

    private func progress() -> Progress {
        let header = self.header
        if header.first == Self.signature.first {
            guard header.elementsEqual(Self.signature.prefix(header.count)) || header.count > 12 else {
                return .invalid
            }
            guard header.count >= 16 else { return .incomplete }
            let length = 16 + (Int(header[14]) << 8 | Int(header[15]))
            guard header[12] >> 4 == 2, length <= Self.byteCountMax else { return .invalid }
            return header.count < length ? .incomplete : self.binaryHeader()
        }
        guard header.elementsEqual("PROXY ".utf8.prefix(header.count)) || header.count > 6,
            header.count <= Self.lineByteCountMax
        else { return .invalid }
        return header.last == UInt8(ascii: "\n") ? self.textHeader() : .incomplete
    }

    /// `PROXY TCP4 192.0.2.1 198.51.100.1 4711 80` with CR and LF.
    private func textHeader() -> Progress {
        guard self.header.suffix(2).elementsEqual("\r\n".utf8) else { return .invalid }
        let line = String(decoding: self.header.dropLast(2), as: UTF8.self)
        let words = line.split(separator: " ", omittingEmptySubsequences: false)
        if words.count >= 2, words[1] == "UNKNOWN" { return .complete(nil) }
        guard words.count == 6, words[1] == "TCP4" || words[1] == "TCP6", let port = UInt16(words[4]),
            UInt16(words[5]) != nil,
            let source = AddressRange.parse(String(words[2])),
            let destination = AddressRange.parse(String(words[3]))
        else { return .invalid }
        let byteCount = words[1] == "TCP4" ? 4 : 16
        guard source.count == byteCount, destination.count == byteCount else { return .invalid }
        // The arrays whose bytes are shown, here and below, outlive the call.
        return unsafe .complete(RemoteAddress(bytes: source.span.bytes, port: port))
    }

    private func binaryHeader() -> Progress {
        switch self.header[12] & 0xF {
        case 0: return .complete(nil)
        case 1: break
        default: return .invalid
        }
        let body = Array(self.header[16...])
        switch self.header[13] {
        case 0x11:
            guard body.count >= 12 else { return .invalid }
            return unsafe .complete(
                RemoteAddress(bytes: body.span.bytes.extracting(0..<4), port: Self.port(body[8..<10]))
            )
        case 0x21:
            guard body.count >= 36 else { return .invalid }
            return unsafe .complete(
                RemoteAddress(bytes: body.span.bytes.extracting(0..<16), port: Self.port(body[32..<34]))
            )
        // Unix sockets, datagrams and what is not specified name nobody that we know.
        default: return .complete(nil)
        }
    }

    private static func port(_ bytes: ArraySlice<UInt8>) -> UInt16 {
        bytes.reduce(0) { $0 << 8 | UInt16($1) }
    }
}
