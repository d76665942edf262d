internal import HTTPTypes
internal import StarlingCore
internal import StarlingDeflate

/// A client's handshake, and who waits for its outcome.
final class ConnectAttempt {
    let handshake: ClientHandshake
    /// The promise of a connection; the first outcome counts.
    let outcome: ConnectPromise
    /// A response other than 101, while its body arrives.
    var refusal: RefusedResponse?

    init(_ handshake: ClientHandshake, _ outcome: ConnectPromise) {
        self.handshake = handshake
        self.outcome = outcome
    }
}

extension ConnectionDriver {
    /// A connection stands: sends a client's request over it, and returns the connection's number.
    ///
    /// The driver's context is a client's, with one endpoint.
    func connect(_ attempt: ConnectAttempt, to address: RemoteAddress) -> Int? {
        guard let index = self.slots.allocate() else { return nil }
        let slot = unsafe self.slots.pointer(index)
        unsafe slot.pointee.phase = .connecting
        let details = ConnectionDetails(
            headReader: HTTPHeadReader(limits: self.server.configuration.headLimits)
        )
        details.attempt = attempt
        details.path = String(UpgradeRequest.split(attempt.handshake.request.path ?? "/").path)
        unsafe slot.pointee.details = details
        unsafe slot.pointee.endpoint = self.endpoints[0]
        unsafe slot.pointee.address = address
        unsafe slot.pointee.openedAt = self.now
        unsafe slot.pointee.waitingSince = self.now
        unsafe slot.pointee.lastReceivedAt = self.now
        self.appendBytes(attempt.handshake.request.serialized(), to: index)
        self.scheduleDeadline(index)
        return index
    }

    /// Reads the response, and behind a 101 the first frames.
    func receiveResponse(_ bytes: inout MutableRawSpan, on index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard let details = unsafe slot.pointee.details, let attempt = details.attempt else { return }
        do throws(HandshakeError) {
            while unsafe slot.pointee.phase == .connecting, !bytes.isEmpty {
                if attempt.refusal != nil {
                    attempt.refusal?.append(bytes.bytes)
                    if attempt.refusal?.isComplete == true { self.responseEnded(index) }
                    return
                }
                guard let head = try details.headReader.read(from: &bytes) else { return }
                let limits = self.server.configuration.headLimits
                let response = try HTTPResponseHead(parsing: head, limits: limits)
                switch response.response.status.code {
                case 101: try self.confirm(response, attempt, on: index)
                // RFC 9110 §15.2: any number of interim responses may come first.
                case 102...199: continue
                case 100: continue
                default:
                    attempt.refusal = RefusedResponse(response.response)
                    if attempt.refusal?.isComplete == true { return self.responseEnded(index) }
                }
            }
        } catch {
            attempt.outcome(.failure(ConnectError(.invalidResponse, underlying: error)))
            return self.end(index, cause: .protocolViolation)
        }
        if unsafe slot.pointee.phase == .open { self.stash(bytes.bytes, on: index) }
    }

    /// The application has the connection: what has arrived behind the response is read, and what follows.
    ///
    /// Not before: a message and the end of the connection may have come together, and the application is to see, and may
    /// answer, the one before the other.
    func begin(_ id: ConnectionID) {
        guard let index = self.index(of: id) else { return }
        let slot = unsafe self.slots.pointer(index)
        self.resumeReading(index, from: .application)
        var stash = self.details(of: index).stash
        self.details(of: index).stash = []
        guard unsafe slot.pointee.phase == .open, !stash.isEmpty else { return }
        var span = stash.mutableSpan
        var bytes = unsafe span.mutableBytes
        self.receiveFrames(&bytes, on: index)
    }

    /// The stream has ended before there was a connection, or the body of a refusal is complete.
    func responseEnded(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard let attempt = unsafe slot.pointee.details?.attempt else { return }
        if let refusal = attempt.refusal {
            attempt.outcome(
                .failure(ConnectError(.refused, response: refusal.response, body: refusal.body))
            )
            self.end(index, cause: .refused)
        } else {
            attempt.outcome(.failure(ConnectError(.connectionLost)))
            self.end(index, cause: .connectionLost)
        }
    }

    func serveConnectDeadline(_ index: Int) {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe self.isDue(slot.pointee.waitingSince + self.server.handshakeTimeout) else { return }
        // A refusal whose body does not end is a refusal all the same.
        if unsafe slot.pointee.details?.attempt?.refusal != nil { return self.responseEnded(index) }
        unsafe slot.pointee.details?.attempt?.outcome(.failure(ConnectError(.timedOut)))
        self.end(index, cause: .handshakeTimeout)
    }

    /// Checks a 101 and opens the connection.
    private func confirm(
        _ response: HTTPResponseHead,
        _ attempt: ConnectAttempt,
        on index: Int
    ) throws(HandshakeError) {
        let slot = unsafe self.slots.pointer(index)
        guard let endpoint = unsafe slot.pointee.endpoint else { return }
        let details = self.details(of: index)
        details.subprotocol = try attempt.handshake.confirm(response)
        let extensions = response.response.headerFields[values: .secWebSocketExtensions]
        if let configuration = endpoint.configuration.deflate {
            let agreed: PermessageDeflate?
            do throws(PermessageDeflate.NegotiationError) {
                agreed = try PermessageDeflate.confirm(
                    response: extensions,
                    preferences: configuration.preferences
                )
            } catch {
                throw HandshakeError(.unexpectedExtension)
            }
            if let agreed {
                self.agree(
                    on: ConnectionDeflate(agreed: agreed, configuration: configuration, role: .client),
                    index
                )
            }
        } else if !extensions.isEmpty {
            throw HandshakeError(.unexpectedExtension)
        }
        details.attempt = nil
        details.userData = attempt.outcome
        self.pauseReading(index, for: .application)
        self.becomeOpen(index, endpoint)
    }
}

/// A response that is no upgrade, and as much of its body as is kept.
struct RefusedResponse {
    let response: HTTPResponse
    private var bytes: [UInt8] = []
    private let framing: Framing

    private enum Framing {
        case length(Int)
        case chunked
        case untilEnd
    }

    /// More of a body is not kept.
    static let byteCountMax = 64 << 10

    init(_ response: HTTPResponse) {
        self.response = response
        // RFC 9112 §6.3.
        if let coding = response.headerFields[.transferEncoding] {
            self.framing = coding.lowercased().hasSuffix("chunked") ? .chunked : .untilEnd
        } else if let length = response.headerFields[.contentLength].flatMap({ Int($0) }), length >= 0 {
            self.framing = .length(length)
        } else {
            self.framing = [204, 304].contains(response.status.code) ? .length(0) : .untilEnd
        }
    }

    mutating func append(_ more: RawSpan) {
        let room = Self.byteCountMax - self.bytes.count
        // Copied within the call that lends them.
        unsafe more.withUnsafeBytes { unsafe self.bytes.append(contentsOf: $0.prefix(room)) }
    }

    var isComplete: Bool {
        if self.bytes.count >= Self.byteCountMax { return true }
        switch self.framing {
        case .length(let length): return self.bytes.count >= length
        case .chunked: return Self.decodeChunks(self.bytes).isComplete
        case .untilEnd: return false
        }
    }

    var body: [UInt8] {
        switch self.framing {
        case .length(let length): Array(self.bytes.prefix(length))
        case .chunked: Self.decodeChunks(self.bytes).body
        case .untilEnd: self.bytes
        }
    }

    /// The chunks that are there (RFC 9112 §7.1); from what is malformed on, nothing.
    private static func decodeChunks(_ bytes: [UInt8]) -> (body: [UInt8], isComplete: Bool) {
        var body: [UInt8] = []
        var rest = bytes[...]
        while let lineEnd = rest.firstIndex(of: UInt8(ascii: "\n")) {
            let digits = rest[..<lineEnd].prefix { $0 != UInt8(ascii: ";") && $0 != UInt8(ascii: "\r") }
            guard let size = Int(String(decoding: digits, as: UTF8.self), radix: 16), size >= 0 else {
                return (body, true)
            }
            guard size > 0, size <= Self.byteCountMax else { return (body, true) }
            rest = rest[(lineEnd + 1)...]
            body += rest.prefix(size)
            guard rest.count >= size + 2 else { return (body, false) }
            rest = rest.dropFirst(size + 2)
        }
        return (body, false)
    }
}
