#if os(Linux)

import Glibc
import StarlingNative
import TestSupport
import Testing

extension TLSTestCertificates {
    static func pem(_ file: String) throws -> TLSPEM {
        try .file(self.path(file))
    }

    static func identity(_ name: String, serverNames: [String]? = nil) throws -> TLSIdentity {
        try TLSIdentity(
            certificateChain: self.pem("\(name).pem"),
            privateKey: self.pem("\(name)-key.pem"),
            serverNames: serverNames
        )
    }

    /// A server that shows `name`, changed by `change`.
    static func server(
        _ name: String = "server",
        _ change: (inout TLSConfiguration) throws -> Void = { _ in }
    ) throws -> TLSContext {
        var configuration = try TLSConfiguration.server(self.identity(name))
        try change(&configuration)
        return try TLSContext(configuration)
    }

    /// A client that trusts `root.pem`, changed by `change`.
    static func client(
        _ change: (inout TLSConfiguration) throws -> Void = { _ in }
    ) throws -> TLSContext {
        var configuration = try TLSConfiguration.client(trustRoots: .pem(self.pem("root.pem")))
        try change(&configuration)
        return try TLSContext(configuration)
    }
}

// MARK: - Sessions

/// A session on its socket, driven with bounded waits.
final class TLSTestEndpoint {
    let socket: TLSTestSocket
    var session: TLSSession

    init(_ context: TLSContext, _ socket: TLSTestSocket, serverName: String? = nil) throws {
        self.socket = socket
        self.session = try TLSSession(context, descriptor: socket.descriptor, serverName: serverName)
    }

    /// The whole handshake with a peer in another process.
    func handshake() throws -> TLSHandshakeResult {
        while true {
            let result = self.session.handshake()
            switch result {
            case .done, .failed: return result
            case .wantsRead: try self.socket.wait(for: POLLIN)
            case .wantsWrite: try self.socket.wait(for: POLLOUT)
            }
        }
    }

    /// One read, as the session answers it.
    func read(atMost byteCountMax: Int = 65_536) -> (result: TLSReadResult, bytes: [UInt8]) {
        var result = TLSReadResult.wantsRead
        // The session writes at most the buffer's size, and says how much.
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: byteCountMax) { buffer, count in
            result = unsafe self.session.read(
                into: UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: byteCountMax)
            )
            if case .bytes(let received) = result { count = received }
        }
        return (result, bytes)
    }

    /// One read that waits until it brings anything.
    func receive() throws -> (result: TLSReadResult, text: String) {
        while true {
            let (result, bytes) = self.read()
            switch result {
            case .wantsRead: try self.socket.wait(for: POLLIN)
            case .wantsWrite: try self.socket.wait(for: POLLOUT)
            case .bytes, .closed, .eof, .failed: return (result, String(decoding: bytes, as: UTF8.self))
            }
        }
    }

    // `#expect` copies what it looks into, which a session does not allow.

    var peerCertificate: TLSCertificate? {
        self.session.peerCertificate
    }

    var hasBufferedInput: Bool {
        self.session.hasBufferedInput
    }

    var wasResumed: Bool {
        self.session.wasResumed
    }

    /// One write, as the session answers it.
    func write(_ bytes: some Sequence<UInt8>) -> TLSWriteResult {
        // Read during the call alone.
        unsafe Array(bytes).withUnsafeBytes { unsafe self.session.write($0) }
    }
}

/// Two sessions of ours over a socket pair, both driven by the test's thread.
struct TLSTestPair {
    let server: TLSTestEndpoint
    let client: TLSTestEndpoint
    var serverResult = TLSHandshakeResult.wantsRead
    var clientResult = TLSHandshakeResult.wantsRead

    /// Connects both and lets them do the handshake, or as much of it as they can.
    init(_ server: TLSContext, _ client: TLSContext, serverName: String? = "localhost") throws {
        let (left, right) = try TLSTestSocket.pair()
        self.server = try TLSTestEndpoint(server, left)
        self.client = try TLSTestEndpoint(client, right, serverName: serverName)
        // A handshake takes three turns; what has not ended after ten has nothing to wait for.
        for _ in 0..<10 {
            if !self.clientResult.isFinal { self.clientResult = self.client.session.handshake() }
            if !self.serverResult.isFinal { self.serverResult = self.server.session.handshake() }
        }
    }

    /// Expects that a text comes through in both directions.
    func expectEcho(_ text: String = "hello", sourceLocation: SourceLocation = #_sourceLocation) {
        for (from, to) in [(self.client, self.server), (self.server, self.client)] {
            #expect(from.write(text.utf8) == .bytes(text.utf8.count), sourceLocation: sourceLocation)
            #expect(Array(text.utf8) == to.read().bytes, sourceLocation: sourceLocation)
        }
    }
}

extension TLSHandshakeResult {
    var isFinal: Bool {
        switch self {
        case .done, .failed: true
        case .wantsRead, .wantsWrite: false
        }
    }

    var failure: TLSFailure? {
        if case .failed(let failure) = self { failure } else { nil }
    }
}

extension TLSReadResult {
    var failure: TLSFailure? {
        if case .failed(let failure) = self { failure } else { nil }
    }
}

extension TLSWriteResult {
    var failure: TLSFailure? {
        if case .failed(let failure) = self { failure } else { nil }
    }
}

#endif
