#if os(Linux)

import Glibc
import StarlingNative
import TestSupport
import Testing

@Suite struct TLSSessionTests {
    @Test("A session is one pointer, also where there may be none; a failure is two words")
    func layout() {
        #expect(MemoryLayout<TLSSession>.size == 8)
        #expect(MemoryLayout<TLSSession?>.size == 8)
        #expect(MemoryLayout<TLSFailure>.size <= 16)
    }

    // MARK: - Versions, ciphers, ALPN

    @Test("Each version is spoken when both sides allow it", arguments: [TLSVersion.tls12, .tls13])
    func versions(version: TLSVersion) throws {
        let server = try TLSTestCertificates.server()
        let client = try TLSTestCertificates.client { $0.versionMax = version }
        let pair = try TLSTestPair(server, client)
        #expect(pair.serverResult == .done)
        #expect(pair.clientResult == .done)
        #expect(pair.server.session.version == version)
        #expect(pair.client.session.version == version)
        #expect("\(version)" == (version == .tls12 ? "TLS 1.2" : "TLS 1.3"))
        #expect(pair.server.session.cipher?.contains("_SHA") == (version == .tls13))
        pair.expectEcho()
    }

    @Test("A client that is too old is refused, and told so")
    func versionMismatch() throws {
        let server = try TLSTestCertificates.server { $0.versionMin = .tls13 }
        let client = try TLSTestCertificates.client { $0.versionMax = .tls12 }
        let pair = try TLSTestPair(server, client)
        #expect(pair.serverResult.failure?.kind == .version)
        #expect(pair.clientResult.failure?.kind == .peerAlert)
        #expect(pair.clientResult.failure?.alert == 70)
        #expect(pair.clientResult.failure?.description.contains("alert 70") == true)
    }

    @Test("Sides without a common cipher do not meet")
    func noCommonCipher() throws {
        let server = try TLSTestCertificates.server { $0.ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384" }
        let client = try TLSTestCertificates.client {
            $0.versionMax = .tls12
            $0.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256"
        }
        let pair = try TLSTestPair(server, client)
        #expect(pair.serverResult.failure?.kind == .noCommonCipher)
        #expect(pair.clientResult.failure?.alert == 40)
    }

    @Test(
        "ALPN takes the server's first choice among the client's",
        arguments: [
            (["http/1.1"], ["http/1.1"], "http/1.1"),
            (["http/1.1", "h2"], ["h2", "http/1.1"], "http/1.1"),
            (["h2", "http/1.1"], ["http/1.1"], "http/1.1"),
            (["http/1.1"], [], nil),
            ([], ["http/1.1"], nil),
        ] as [([String], [String], String?)]
    )
    func alpn(offeredByServer: [String], offeredByClient: [String], chosen: String?) throws {
        let server = try TLSTestCertificates.server { $0.applicationProtocols = offeredByServer }
        let client = try TLSTestCertificates.client { $0.applicationProtocols = offeredByClient }
        let pair = try TLSTestPair(server, client)
        #expect(pair.serverResult == .done)
        #expect(pair.server.session.applicationProtocol == chosen)
        #expect(pair.client.session.applicationProtocol == chosen)
    }

    @Test(
        "A client with other protocols only is refused, by an SNI identity too",
        arguments: ["localhost", "chat.example"]
    )
    func alpnMismatch(name: String) throws {
        let chat = try TLSTestCertificates.identity("chat")
        let server = try TLSTestCertificates.server { $0.serverNameIdentities = [chat] }
        let client = try TLSTestCertificates.client { $0.applicationProtocols = ["h2"] }
        let pair = try TLSTestPair(server, client, serverName: name)
        #expect(pair.serverResult.failure?.kind == .noApplicationProtocol)
        #expect(pair.clientResult.failure?.alert == 120)
    }

    // MARK: - Names

    @Test(
        "SNI chooses the identity",
        arguments: [
            ("localhost", "localhost"),
            ("chat.example", "chat.example"),
            ("CHAT.Example", "chat.example"),
            ("blue.rooms.example", "chat.example"),
            ("deep.blue.rooms.example", "localhost"),
            ("rooms.example", "localhost"),
            ("unknown.example", "localhost"),
        ]
    )
    func serverNames(asked: String, shown: String) throws {
        let chat = try TLSTestCertificates.identity("chat")
        let server = try TLSTestCertificates.server { $0.serverNameIdentities = [chat] }
        let client = try TLSTestCertificates.client { $0.checksServerName = false }
        let pair = try TLSTestPair(server, client, serverName: asked)
        #expect(pair.clientResult == .done)
        #expect(pair.client.session.peerCertificate?.dnsNames.first == shown)
        #expect(pair.server.session.serverName == asked)
    }

    @Test("Without SNI the default identity is shown")
    func noServerName() throws {
        let chat = try TLSTestCertificates.identity("chat")
        let server = try TLSTestCertificates.server { $0.serverNameIdentities = [chat] }
        let client = try TLSTestCertificates.client { $0.checksServerName = false }
        let pair = try TLSTestPair(server, client, serverName: nil)
        #expect(pair.client.session.peerCertificate?.dnsNames.first == "localhost")
        #expect(pair.server.session.serverName == nil)
    }

    @Test("Names set by hand go before those in the certificate")
    func explicitServerNames() throws {
        let chat = try TLSTestCertificates.identity("chat", serverNames: ["other.example"])
        let server = try TLSTestCertificates.server { $0.serverNameIdentities = [chat] }
        let client = try TLSTestCertificates.client { $0.checksServerName = false }
        for (asked, shown) in [("other.example", "chat.example"), ("chat.example", "localhost")] {
            let pair = try TLSTestPair(server, client, serverName: asked)
            #expect(pair.client.session.peerCertificate?.dnsNames.first == shown)
        }
    }

    @Test(
        "A client accepts names and addresses in the certificate, and no others",
        arguments: [
            ("localhost", true), ("localhost.", true), ("127.0.0.1", true), ("::1", true),
            ("example.org", false), ("127.0.0.2", false), ("ocalhost", false),
        ]
    )
    func nameCheck(name: String, isAccepted: Bool) throws {
        let pair = try TLSTestPair(
            TLSTestCertificates.server(),
            TLSTestCertificates.client(),
            serverName: name
        )
        if isAccepted {
            #expect(pair.clientResult == .done)
            #expect(pair.server.session.serverName == (name.hasPrefix("l") ? "localhost" : nil))
        } else {
            #expect(pair.clientResult.failure?.kind == .certificateRejected)
            #expect(pair.clientResult.failure?.description.contains("mismatch") == true)
        }
    }

    @Test("The configuration's server name goes before the session's")
    func configuredServerName() throws {
        let client = try TLSTestCertificates.client { $0.serverName = "localhost" }
        let pair = try TLSTestPair(TLSTestCertificates.server(), client, serverName: "10.0.0.1")
        #expect(pair.clientResult == .done)
        #expect(pair.server.session.serverName == "localhost")
    }

    @Test("A client refuses an expired server, and one of an unknown authority")
    func badServers() throws {
        let expired = try TLSTestPair(TLSTestCertificates.server("expired"), TLSTestCertificates.client())
        #expect(expired.clientResult.failure?.kind == .certificateRejected)
        #expect(expired.clientResult.failure?.description.contains("expired") == true)
        #expect(expired.serverResult.failure?.alert == 45)

        let stranger = try TLSTestPair(TLSTestCertificates.server("stranger"), TLSTestCertificates.client())
        #expect(stranger.clientResult.failure?.kind == .certificateRejected)
        #expect(stranger.serverResult.failure?.alert == 48)
    }

    // MARK: - Mutual TLS

    private enum Demand: CaseIterable {
        case optional, required
    }

    private func mutualServer(_ demand: Demand) throws -> TLSContext {
        let roots = try TLSTestCertificates.pem("root.pem")
        let chat = try TLSTestCertificates.identity("chat")
        return try TLSTestCertificates.server {
            $0.serverNameIdentities = [chat]
            switch demand {
            case .optional: $0.clientCertificates = .optional(trustRoots: roots)
            case .required: $0.clientCertificates = .required(trustRoots: roots)
            }
        }
    }

    @Test(
        "A client's certificate is verified and shown",
        arguments: [TLSVersion.tls12, .tls13],
        ["localhost", "chat.example"]
    )
    func clientCertificate(version: TLSVersion, name: String) throws {
        let identity = try TLSTestCertificates.identity("client")
        let client = try TLSTestCertificates.client {
            $0.identity = identity
            $0.versionMax = version
        }
        for demand in Demand.allCases {
            let pair = try TLSTestPair(self.mutualServer(demand), client, serverName: name)
            #expect(pair.serverResult == .done)
            let certificate = try #require(pair.server.peerCertificate)
            #expect(certificate == client.certificates.first)
            #expect(certificate.uris == ["spiffe://example/zoe"])
            pair.expectEcho()
        }
    }

    @Test(
        "A client without a certificate is refused only if one is required",
        arguments: ["localhost", "chat.example"]
    )
    func missingClientCertificate(name: String) throws {
        let client = try TLSTestCertificates.client()
        let optional = try TLSTestPair(self.mutualServer(.optional), client, serverName: name)
        #expect(optional.serverResult == .done)
        #expect(optional.server.session.peerCertificate == nil)
        optional.expectEcho()

        let required = try TLSTestPair(self.mutualServer(.required), client, serverName: name)
        #expect(required.serverResult.failure?.kind == .certificateMissing)
        // A client of TLS 1.3 is done before the server has seen its certificate, and learns it by reading.
        #expect(required.clientResult == .done)
        #expect(required.client.read().result.failure?.alert == 116)
    }

    @Test(
        "A client of another authority is refused",
        arguments: [TLSVersion.tls12, .tls13],
        ["localhost", "chat.example"]
    )
    func wrongAuthority(version: TLSVersion, name: String) throws {
        let identity = try TLSTestCertificates.identity("stranger")
        let client = try TLSTestCertificates.client {
            $0.identity = identity
            $0.versionMax = version
        }
        for demand in Demand.allCases {
            let pair = try TLSTestPair(self.mutualServer(demand), client, serverName: name)
            #expect(pair.serverResult.failure?.kind == .certificateRejected)
            let failure =
                version == .tls12 ? pair.clientResult.failure : pair.client.read().result.failure
            #expect(failure?.alert == 48)
        }
    }

    // MARK: - Bytes

    @Test("A megabyte goes through a full socket, whole and in order", arguments: [TLSVersion.tls12, .tls13])
    func bulk(version: TLSVersion) throws {
        let client = try TLSTestCertificates.client { $0.versionMax = version }
        let pair = try TLSTestPair(TLSTestCertificates.server(), client)
        let bytes = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 7) }
        var sent = 0
        var received: [UInt8] = []
        var waits = 0
        while received.count < bytes.count {
            // A copy at another address each time: a write that goes on after a wait must allow it.
            writing: while sent < bytes.count {
                switch pair.client.write(bytes[sent...]) {
                case .bytes(let count): sent += count
                case .wantsWrite:
                    waits += 1
                    break writing
                case .wantsRead, .failed: throw TLSTestFailure("the client cannot write")
                }
            }
            let before = received.count
            reading: while true {
                let (result, part) = pair.server.read(atMost: 10_000)
                switch result {
                case .bytes:
                    received += part
                    if part.count == 10_000 && received.count % 16_384 != 0 {
                        #expect(pair.server.hasBufferedInput)
                    }
                case .wantsRead: break reading
                case .wantsWrite, .closed, .eof, .failed: throw TLSTestFailure("the server cannot read")
                }
            }
            try #require(received.count > before, "neither side gets on")
        }
        #expect(waits > 0)
        #expect(received == bytes)
    }

    @Test("What a short read leaves behind is counted, and read without the socket")
    func pending() throws {
        let pair = try TLSTestPair(TLSTestCertificates.server(), TLSTestCertificates.client())
        #expect(pair.client.write("0123456789".utf8) == .bytes(10))
        #expect(pair.client.write("abc".utf8) == .bytes(3))
        #expect(pair.server.session.pendingByteCount == 0)
        #expect(pair.server.read(atMost: 4).bytes == Array("0123".utf8))
        #expect(pair.server.session.pendingByteCount == 6)
        #expect(pair.server.hasBufferedInput)
        #expect(pair.server.socket.receive() == [], "the session read ahead, so the socket is empty")
        #expect(pair.server.read(atMost: 100).bytes == Array("456789".utf8))
        #expect(pair.server.session.pendingByteCount == 0)
        #expect(pair.server.hasBufferedInput, "the second record waits, not yet decrypted")
        #expect(pair.server.read(atMost: 100).bytes == Array("abc".utf8))
        #expect(!pair.server.hasBufferedInput)
        #expect(pair.server.read().result == .wantsRead)
    }

    @Test("An empty write writes nothing")
    func emptyWrite() throws {
        let pair = try TLSTestPair(TLSTestCertificates.server(), TLSTestCertificates.client())
        #expect(pair.client.write([]) == .bytes(0))
        #expect(pair.server.read().result == .wantsRead)
    }

    @Test("Handshake, data and close come through one byte at a time", arguments: [TLSVersion.tls12, .tls13])
    func byteByByte(version: TLSVersion) throws {
        let (serverSide, serverRelay) = try TLSTestSocket.pair()
        let (clientSide, clientRelay) = try TLSTestSocket.pair()
        let server = try TLSTestEndpoint(self.mutualServer(.required), serverSide)
        let identity = try TLSTestCertificates.identity("client")
        let client = try TLSTestEndpoint(
            TLSTestCertificates.client {
                $0.versionMax = version
                $0.identity = identity
            },
            clientSide,
            serverName: "chat.example"
        )
        var relayed = 0
        /// Passes one byte each way, and says whether there was any.
        func relay() throws -> Bool {
            var isMoving = false
            for (from, to) in [(clientRelay, serverRelay), (serverRelay, clientRelay)] {
                guard let byte = from.receive(atMost: 1), !byte.isEmpty else { continue }
                try to.send(byte)
                isMoving = true
                relayed += 1
            }
            return isMoving
        }

        var (serverResult, clientResult) = (server.session.handshake(), client.session.handshake())
        while !serverResult.isFinal || !clientResult.isFinal {
            let isMoving = try relay()
            try #require(isMoving, "the handshake stands still: \(serverResult), \(clientResult)")
            if !serverResult.isFinal { serverResult = server.session.handshake() }
            if !clientResult.isFinal { clientResult = client.session.handshake() }
        }
        #expect(serverResult == .done)
        #expect(clientResult == .done)
        #expect(relayed > 1_000)

        #expect(client.write("hello".utf8) == .bytes(5))
        #expect(client.session.shutdown() == .sent)
        var answers: [TLSReadResult] = []
        while answers.last != .closed {
            let isMoving = try relay()
            try #require(isMoving, "close_notify did not come")
            let result = server.read().result
            if result != .wantsRead { answers.append(result) }
            // Takes what the server still had to say, its ticket; else the relay's socket would fill.
            #expect(client.read().result == .wantsRead)
        }
        #expect(answers == [.bytes(5), .closed])
    }

    // MARK: - Ends

    @Test("After close_notify the other direction stays open", arguments: [TLSVersion.tls12, .tls13])
    func halfClosed(version: TLSVersion) throws {
        let client = try TLSTestCertificates.client { $0.versionMax = version }
        let pair = try TLSTestPair(TLSTestCertificates.server(), client)
        #expect(pair.client.write("last words".utf8) == .bytes(10))
        #expect(pair.client.session.shutdown() == .sent)
        #expect(pair.client.session.shutdown() == .sent, "a second one does nothing")
        #expect(pair.client.write("more".utf8).failure?.kind == .shutDown)

        #expect(pair.server.read().bytes == Array("last words".utf8))
        #expect(pair.server.read().result == .closed)
        #expect(pair.server.read().result == .closed)
        #expect(pair.server.write("answer".utf8) == .bytes(6))
        #expect(pair.server.session.shutdown() == .sent)
        #expect(pair.client.session.shutdown() == .sent, "data to be read does not disturb it")
        #expect(pair.client.read().bytes == Array("answer".utf8))
        #expect(pair.client.read().result == .closed)
    }

    @Test("An end without close_notify is told apart")
    func truncated() throws {
        let pair = try TLSTestPair(TLSTestCertificates.server(), TLSTestCertificates.client())
        #expect(pair.client.write("hello".utf8) == .bytes(5))
        pair.client.socket.shutdownWriting()
        #expect(pair.server.read().bytes == Array("hello".utf8))
        #expect(pair.server.read().result == .eof)
        #expect(pair.server.read().result == .eof || pair.server.read().result.failure != nil)
    }

    @Test("An end in the middle of the handshake is a failure")
    func closedDuringHandshake() throws {
        let (left, right) = try TLSTestSocket.pair()
        let server = try TLSTestEndpoint(TLSTestCertificates.server(), left)
        #expect(server.session.handshake() == .wantsRead)
        try right.send([0x16, 0x03])
        #expect(server.session.handshake() == .wantsRead)
        right.shutdownWriting()
        let failure = try #require(server.session.handshake().failure)
        #expect(failure.kind == .connectionLost)
        #expect(failure.errno == nil)
        #expect(failure.description.contains("during the handshake"))
    }

    @Test("Writing to a peer that has gone fails, and does not kill the process")
    func brokenPipe() throws {
        let server = try TLSTestCertificates.server()
        let client = try TLSTestCertificates.client()
        let (left, right) = try TLSTestSocket.pair()
        let survivor = try TLSTestEndpoint(server, left)
        var peer: TLSTestEndpoint? = try TLSTestEndpoint(client, right, serverName: "localhost")
        for _ in 0..<10 {
            _ = peer?.session.handshake()
            _ = survivor.session.handshake()
        }
        // The pair's other owner: without it the descriptor stays open.
        try #require(dup2(left.descriptor, right.descriptor) == right.descriptor)
        peer = nil
        let failure = try #require(survivor.write("hello".utf8).failure)
        #expect(failure.kind == .connectionLost)
        #expect(failure.errno == EPIPE)
        #expect(failure.description == "the connection was lost: Broken pipe")
        guard case .failed = survivor.session.shutdown() else {
            throw TLSTestFailure("close_notify was sent")
        }
    }

    @Test("A reset connection is lost with its errno")
    func reset() throws {
        let listener = try TLSTestListener()
        var peer: TLSTestSocket? = try TLSTestListener.connect(port: listener.port)
        let server = try TLSTestEndpoint(TLSTestCertificates.server(), listener.accept())
        var linger = linger(l_onoff: 1, l_linger: 0)
        // A `linger` is passed with its own size.
        let status = unsafe setsockopt(
            peer?.descriptor ?? -1,
            SOL_SOCKET,
            SO_LINGER,
            &linger,
            socklen_t(MemoryLayout.size(ofValue: linger))
        )
        try #require(status == 0)
        peer = nil
        let failure = try #require(server.handshake().failure)
        #expect(failure.kind == .connectionLost)
        #expect(failure.errno == ECONNRESET)
    }

    // MARK: - Peers that speak something else

    @Test(
        "HTTP on a TLS port is called plain text, and nothing is answered",
        arguments: [
            "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "OPTIONS * HTTP/1.1\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\n\r\n",
            "DELETE / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
    )
    func plaintext(request: String) throws {
        let (left, right) = try TLSTestSocket.pair()
        let server = try TLSTestEndpoint(TLSTestCertificates.server(), left)
        try right.send(Array(request.utf8))
        let failure = try #require(server.session.handshake().failure)
        #expect(failure.kind == .plaintext)
        #expect(failure.description.contains("plain text"))
        #expect(right.receive() == [], "so that an answer in plain text is the first thing the client sees")
    }

    @Test("A server that answers in plain text is called so too")
    func plaintextServer() throws {
        let (left, right) = try TLSTestSocket.pair()
        let client = try TLSTestEndpoint(TLSTestCertificates.client(), left, serverName: "localhost")
        #expect(client.session.handshake() == .wantsRead)
        try right.send(Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8))
        #expect(client.session.handshake().failure?.kind == .plaintext)
    }

    @Test(
        "Garbage is no TLS, or breaks it",
        arguments: [
            ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], .notTLS),
            ([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], .notTLS),
            ([0x16, 0x99, 0x99, 0x00, 0x05, 1, 2, 3, 4, 5], .notTLS),
            ([0x16, 0x03, 0x01, 0x00, 0x05, 0xFF, 0, 0, 1, 0], .protocolViolation),
            ([0x16, 0x03, 0x01, 0xFF, 0xFF, 0, 0, 0, 0, 0], .protocolViolation),
            ([0x17, 0x03, 0x03, 0x00, 0x05, 1, 2, 3, 4, 5], .protocolViolation),
        ] as [([UInt8], TLSFailure.Kind)]
    )
    func garbage(bytes: [UInt8], kind: TLSFailure.Kind) throws {
        let (left, right) = try TLSTestSocket.pair()
        let server = try TLSTestEndpoint(TLSTestCertificates.server(), left)
        try right.send(bytes)
        let failure = try #require(server.session.handshake().failure)
        #expect(failure.kind == kind)
        #expect(!failure.description.isEmpty)
        // The next client is served as before: nothing of the failure stays in the thread's error queue.
        try TLSTestPair(TLSTestCertificates.server(), TLSTestCertificates.client()).expectEcho()
    }

    @Test("A forged record after the handshake breaks the connection")
    func forgedRecord() throws {
        let pair = try TLSTestPair(TLSTestCertificates.server(), TLSTestCertificates.client())
        try pair.client.socket.send([0x17, 0x03, 0x03, 0, 32] + [UInt8](repeating: 7, count: 32))
        #expect(pair.server.read().result.failure?.kind == .protocolViolation)
        #expect(pair.client.read().result.failure?.alert == 20)
        // A letter first is only plain text at the beginning of a connection.
        let other = try TLSTestPair(TLSTestCertificates.server(), TLSTestCertificates.client())
        try other.client.socket.send(Array("GET / HTTP/1.1\r\n\r\n".utf8))
        #expect(other.server.read().result.failure?.kind == .protocolViolation)
    }
}

#endif
