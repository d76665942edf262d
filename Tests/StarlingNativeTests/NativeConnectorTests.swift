#if os(Linux)
import Glibc
import Starling
import StarlingNative
import TestSupport
import Testing

@Suite struct NativeConnectorTests {
    /// A stream and the other end of it.
    private func pair() async throws -> (stream: any ByteStream, peer: TLSTestSocket) {
        let listener = try TLSTestListener()
        let target = ConnectTarget.tcp(host: "127.0.0.1", port: Int(listener.port))
        // The kernel has accepted before we do.
        let stream = try await NativeConnector().connect(to: target, options: ConnectOptions())
        return (stream, try listener.accept())
    }

    private func failure(
        _ target: ConnectTarget,
        _ options: ConnectOptions = ConnectOptions()
    ) async -> String? {
        do throws(TransportError) {
            _ = try await NativeConnector().connect(to: target, options: options)
            return nil
        } catch {
            return error.description
        }
    }

    @Test("Bytes go both ways, and the end of the peer's is told")
    func bothWays() async throws {
        let (stream, peer) = try await self.pair()
        try await stream.write(Array("question".utf8))
        try peer.wait(for: POLLIN)
        #expect(peer.receive() == Array("question".utf8))
        try peer.send(Array("answer".utf8))
        #expect(try await stream.read() == Array("answer".utf8))
        peer.shutdownWriting()
        #expect(try await stream.read() == nil)
    }

    @Test("Eight megabytes wait for a peer that reads slowly, and arrive whole")
    func slowReader() async throws {
        let (stream, peer) = try await self.pair()
        let bytes = (0..<8_000_000).map { UInt8(truncatingIfNeeded: $0 / 251) }
        async let writing: Void = stream.write(bytes)
        var received: [UInt8] = []
        while received.count < bytes.count {
            try peer.wait(for: POLLIN)
            received += try #require(peer.receive(atMost: 10_000), "the stream ends too early")
            await Task.yield()
        }
        try await writing
        #expect(received == bytes)
    }

    @Test("Two hundred reads wait, and are answered in any order")
    func manyReaders() async throws {
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

    @Test("Closing ends a read that waits, and cancelling its task does too")
    func ends() async throws {
        let (closed, silent) = try await self.pair()
        let first = Task { try await closed.read() }
        closed.close()
        await #expect(throws: TransportError.self) { try await first.value }
        await #expect(throws: TransportError.self) { try await closed.write([1]) }
        // Not before: a peer that is let go has ended, which a read would tell.
        withExtendedLifetime(silent) {}

        let (cancelled, peer) = try await self.pair()
        let task = Task { try await cancelled.read() }
        task.cancel()
        await #expect(throws: TransportError.self) { try await task.value }
        // The peer sees the end.
        try peer.wait(for: POLLIN)
        #expect(peer.receive() == nil)
    }

    @Test("A stream that is let go is closed")
    func letGo() async throws {
        let peer = try await self.pair().peer
        try peer.wait(for: POLLIN)
        #expect(peer.receive() == nil)
    }

    @Test("A reset is an error that names the peer")
    func reset() async throws {
        let listener = try TLSTestListener()
        let target = ConnectTarget.tcp(host: "127.0.0.1", port: Int(listener.port))
        let stream = try await NativeConnector().connect(to: target, options: ConnectOptions())
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

    @Test("What cannot be reached is named, with the reason")
    func unreachable() async throws {
        let port: Int = try Int(TLSTestListener().port)
        let refused = await self.failure(.tcp(host: "127.0.0.1", port: port))
        #expect(refused == "cannot connect to 127.0.0.1:\(port): Connection refused")
        let unknown = await self.failure(.tcp(host: "nowhere.invalid", port: 1))
        #expect(unknown?.hasPrefix("cannot resolve 'nowhere.invalid': ") == true)
        let missing = await self.failure(.unix(path: "/nowhere/socket"))
        #expect(missing == "cannot connect to /nowhere/socket: No such file or directory")
        let long = await self.failure(.unix(path: String(repeating: "x", count: 200)))
        #expect(long?.contains("at most 107 bytes") == true)
    }

    @Test("All addresses of a name are tried")
    func addresses() async throws {
        // On 127.0.0.1 alone, whereas the name may mean ::1 first.
        let listener = try TLSTestListener()
        let target = ConnectTarget.tcp(host: "localhost", port: Int(listener.port))
        #expect(await self.failure(target) == nil)
    }

    @Test("A server that says nothing to a TLS handshake is given up in time")
    func silentTLS() async throws {
        let listener = try TLSTestListener()
        let options = ConnectOptions(
            tls: ConnectTLS(trustRootsFile: try TLSTestCertificates.path("root.pem")),
            timeout: .milliseconds(100)
        )
        let failure = await self.failure(.tcp(host: "127.0.0.1", port: Int(listener.port)), options)
        #expect(failure?.contains("no answer within 0.1 seconds") == true)
    }

    @Test("Files of TLS that do not fit are named before anything is sent")
    func badTLS() async throws {
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
