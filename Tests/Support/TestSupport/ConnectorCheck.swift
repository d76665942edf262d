#if os(Linux)
internal import Glibc
package import Starling
internal import Testing

/// Something that every connector must do, against sockets that do as they are told.
///
/// The transports' suites run each of ``all`` as a test of theirs.
package struct ConnectorCheck: Sendable, CustomTestStringConvertible {
    package let testDescription: String
    private let body: @Sendable (any Connector) async throws -> Void

    private init(_ description: String, _ body: @escaping @Sendable (any Connector) async throws -> Void) {
        self.testDescription = description
        self.body = body
    }

    package func run(_ connector: any Connector) async throws {
        try await self.body(connector)
    }

    package static let all = [
        ConnectorCheck("bytes go both ways, and the end of the peer's is told") {
            try await $0.goesBothWays()
        },
        ConnectorCheck("eight megabytes wait for a peer that reads slowly, and arrive whole") {
            try await $0.waitsForSlowReader()
        },
        ConnectorCheck("what nobody reads stays in the kernel, and all of it comes before the end") {
            try await $0.leavesUnread()
        },
        ConnectorCheck("two hundred reads wait, and are answered in any order") {
            try await $0.servesManyReaders()
        },
        ConnectorCheck("closing ends a read that waits") { try await $0.endsWhenClosed() },
        ConnectorCheck("cancelling its task ends a read that waits, and the connection") {
            try await $0.endsWhenCancelled()
        },
        ConnectorCheck("a stream that is let go is closed") { try await $0.endsWhenLetGo() },
        ConnectorCheck("a reset is an error that names the peer") { try await $0.namesPeerOfReset() },
        ConnectorCheck("what cannot be reached is named, with the reason") {
            try await $0.namesUnreachable()
        },
        ConnectorCheck("all addresses of a name are tried") { try await $0.triesAllAddresses() },
        ConnectorCheck("a server that says nothing to a TLS handshake is given up in time") {
            try await $0.givesUpSilentTLS()
        },
        ConnectorCheck("files of TLS that do not fit are named before anything is sent") {
            try await $0.namesBadTLSFiles()
        },
    ]
}

extension Connector {
    /// A stream and the other end of it.
    private func pair() async throws -> (stream: any ByteStream, peer: TLSTestSocket) {
        let listener = try TLSTestListener()
        let target = ConnectTarget.tcp(host: "127.0.0.1", port: Int(listener.port))
        // The kernel has accepted before we do.
        let stream = try await self.connect(to: target, options: ConnectOptions())
        return (stream, try listener.accept())
    }

    private func failure(
        _ target: ConnectTarget,
        _ options: ConnectOptions = ConnectOptions()
    ) async -> String? {
        do throws(TransportError) {
            _ = try await self.connect(to: target, options: options)
            return nil
        } catch {
            return error.description
        }
    }

    // MARK: - Bytes

    fileprivate func goesBothWays() async throws {
        let (stream, peer) = try await self.pair()
        try await stream.write(Array("question".utf8))
        try await blocking { try peer.wait(for: POLLIN) }
        #expect(peer.receive() == Array("question".utf8))
        try peer.send(Array("answer".utf8))
        #expect(try await stream.read() == Array("answer".utf8))
        peer.shutdownWriting()
        #expect(try await stream.read() == nil)
        #expect(try await stream.read() == nil)
        // Our direction goes on.
        try await stream.write([1])
        try await blocking { try peer.wait(for: POLLIN) }
        #expect(peer.receive() == [1])
    }

    fileprivate func waitsForSlowReader() async throws {
        let (stream, peer) = try await self.pair()
        let bytes = (0..<8_000_000).map { UInt8(truncatingIfNeeded: $0 / 251) }
        async let writing: Void = stream.write(bytes)
        let received = try await blocking {
            var received: [UInt8] = []
            while received.count < bytes.count {
                try peer.wait(for: POLLIN)
                received += try #require(peer.receive(atMost: 100_000), "the stream ends too early")
            }
            return received
        }
        try await writing
        #expect(received == bytes)
    }

    fileprivate func leavesUnread() async throws {
        let (stream, peer) = try await self.pair()
        try peer.send([UInt8](repeating: 1, count: 100_000))
        peer.shutdownWriting()
        var count = 0
        while let bytes = try await stream.read() {
            #expect(bytes.count <= 256 << 10)
            count += bytes.count
        }
        #expect(count == 100_000)
    }

    fileprivate func servesManyReaders() async throws {
        var pairs: [(stream: any ByteStream, peer: TLSTestSocket)] = []
        for _ in 0..<200 { pairs.append(try await self.pair()) }
        let sum = try await withThrowingTaskGroup(of: Int.self) { group in
            for (stream, _) in pairs {
                group.addTask { try await stream.read().map { Int($0[0]) } ?? -1 }
            }
            for (index, pair) in pairs.enumerated().shuffled() { try pair.peer.send([UInt8(index)]) }
            return try await group.reduce(0, +)
        }
        #expect(sum == (0..<200).reduce(0, +))
    }

    // MARK: - Ends

    fileprivate func endsWhenClosed() async throws {
        let (stream, peer) = try await self.pair()
        let reading = Task { try await stream.read() }
        stream.close()
        await #expect(throws: TransportError.self) { try await reading.value }
        await #expect(throws: TransportError.self) { try await stream.write([1]) }
        // Not before: a peer that is let go has ended, which a read would tell.
        withExtendedLifetime(peer) {}
    }

    fileprivate func endsWhenCancelled() async throws {
        let (stream, peer) = try await self.pair()
        let task = Task { try await stream.read() }
        task.cancel()
        await #expect(throws: TransportError.self) { try await task.value }
        // The peer sees the end.
        try await blocking { try peer.wait(for: POLLIN) }
        #expect(peer.receive() == nil)
    }

    fileprivate func endsWhenLetGo() async throws {
        let peer = try await self.pair().peer
        try await blocking { try peer.wait(for: POLLIN) }
        #expect(peer.receive() == nil)
    }

    fileprivate func namesPeerOfReset() async throws {
        let listener = try TLSTestListener()
        let target = ConnectTarget.tcp(host: "127.0.0.1", port: Int(listener.port))
        let stream = try await self.connect(to: target, options: ConnectOptions())
        do {
            let peer = try listener.accept()
            var linger = linger(l_onoff: 1, l_linger: 0)
            let size = socklen_t(MemoryLayout.size(ofValue: linger))
            // One `linger` is read during the call; closing then resets.
            _ = unsafe setsockopt(peer.descriptor, SOL_SOCKET, SO_LINGER, &linger, size)
        }
        let error = await #expect(throws: TransportError.self) { try await stream.read() }
        #expect(error?.description.contains("127.0.0.1:\(listener.port)") == true)
    }

    // MARK: - Connecting

    fileprivate func namesUnreachable() async throws {
        let port = try Int(TLSTestListener().port)
        let refused = await self.failure(.tcp(host: "127.0.0.1", port: port))
        #expect(refused == "cannot connect to 127.0.0.1:\(port): Connection refused")
        let unknown = await self.failure(.tcp(host: "nowhere.invalid", port: 1))
        #expect(unknown?.hasPrefix("cannot resolve 'nowhere.invalid': ") == true)
        let missing = await self.failure(.unix(path: "/nowhere/socket"))
        #expect(missing == "cannot connect to /nowhere/socket: No such file or directory")
        let long = await self.failure(.unix(path: String(repeating: "x", count: 200)))
        #expect(long?.contains("at most 107 bytes") == true)
    }

    fileprivate func triesAllAddresses() async throws {
        // On 127.0.0.1 alone, whereas the name may mean ::1 first.
        let listener = try TLSTestListener()
        #expect(await self.failure(.tcp(host: "localhost", port: Int(listener.port))) == nil)
    }

    fileprivate func givesUpSilentTLS() async throws {
        let listener = try TLSTestListener()
        let options = ConnectOptions(
            tls: ConnectTLS(trustRootsFile: try TLSTestCertificates.path("root.pem")),
            timeout: .milliseconds(100)
        )
        let failure = await self.failure(.tcp(host: "127.0.0.1", port: Int(listener.port)), options)
        #expect(failure?.contains("no answer within 0.1 seconds") == true)
    }

    fileprivate func namesBadTLSFiles() async throws {
        let target = ConnectTarget.tcp(host: "127.0.0.1", port: 1)
        let missing = ConnectOptions(tls: ConnectTLS(trustRootsFile: "/nowhere/root.pem"))
        #expect(await self.failure(target, missing)?.contains("/nowhere/root.pem") == true)
        let half = ConnectOptions(tls: ConnectTLS(certificateFile: "/nowhere/client.pem"))
        #expect(
            await self.failure(target, half)?.contains("a certificate and its key belong together") == true
        )
    }
}
#endif
