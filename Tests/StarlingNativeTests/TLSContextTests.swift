#if os(Linux)

import Glibc
import StarlingNative
import TestSupport
import Testing

@Suite struct TLSContextTests {
    // MARK: - Mistakes

    @Test("A missing file is named in the error")
    func missingFile() throws {
        let error = #expect(throws: TLSError.self) {
            try TLSContext(.server(.init(certificateChain: .file("/no/such.pem"), privateKey: .bytes([]))))
        }
        #expect(error?.code == .fileUnreadable)
        #expect(error?.message == "cannot read '/no/such.pem': No such file or directory")
    }

    @Test("A folder and a device are no certificates")
    func notAPlainFile() throws {
        for path in ["/tmp", "/dev/zero"] {
            let error = #expect(throws: TLSError.self) {
                try TLSContext(.client(trustRoots: .pem(.file(path))))
            }
            #expect(error?.code == .fileUnreadable)
            #expect(error?.message.contains("not a plain file") == true)
        }
    }

    @Test(
        "A text without a certificate, and one with a broken one",
        arguments: [
            ("", "no certificate in"),
            ("hello", "no certificate in"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used"),
            ("-----BEGIN CERTIFICATE-----\n!!!!\n", "cannot be used"),
        ]
    )
    func badCertificate(text: String, message: String) throws {
        let key = try TLSTestCertificates.pem("server-key.pem")
        let error = #expect(throws: TLSError.self) {
            try TLSContext(.server(.init(certificateChain: .bytes(Array(text.utf8)), privateKey: key)))
        }
        #expect(error?.code == .badCertificate)
        #expect(error?.message.contains(message) == true)
        #expect(error?.message.contains("the \(text.utf8.count) bytes given") == true)

        let rootError = #expect(throws: TLSError.self) {
            try TLSContext(.client(trustRoots: .pem(.bytes(Array(text.utf8)))))
        }
        #expect(rootError?.code == .badCertificate)
    }

    @Test("A broken certificate after a good one is not passed over")
    func brokenChain() throws {
        let folder = try TLSTestCertificates.shared.get().folder
        let child = try TLSTestProcess("cat", ["\(folder)/server.pem"])
        let chain =
            try child.finish().output + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        let error = #expect(throws: TLSError.self) {
            let key = try TLSTestCertificates.pem("server-key.pem")
            _ = try TLSContext(.server(.init(certificateChain: .bytes(Array(chain.utf8)), privateKey: key)))
        }
        #expect(error?.code == .badCertificate)
    }

    @Test(
        "A key that is another's, of another kind, encrypted, absent, or broken",
        arguments: [
            ("renewed-key.pem", TLSError.Code.privateKeyMismatch, "the chain must begin with"),
            ("rsa-key.pem", .privateKeyMismatch, "rsa-key.pem"),
            ("encrypted-key.pem", .encryptedPrivateKey, "openssl pkey"),
            ("root.pem", .badPrivateKey, "no private key in"),
        ]
    )
    func badKey(file: String, code: TLSError.Code, message: String) throws {
        let identity = try TLSIdentity(
            certificateChain: TLSTestCertificates.pem("server.pem"),
            privateKey: TLSTestCertificates.pem(file)
        )
        let error = #expect(throws: TLSError.self) { try TLSContext(.server(identity)) }
        #expect(error?.code == code)
        #expect(error?.message.contains(message) == true)
    }

    @Test(
        "Contradictory settings are refused before a file is read",
        arguments: [
            { configuration in configuration.identity = nil },
            { configuration in
                configuration.versionMin = .tls13; configuration.versionMax = .tls12
            },
            { configuration in configuration.applicationProtocols = [""] },
            { configuration in configuration.applicationProtocols = [String(repeating: "a", count: 256)] },
            { configuration in configuration.ciphers = "NO-SUCH-CIPHER" },
            { configuration in configuration.identity?.serverNames = [""] },
            { configuration in
                configuration.serverNameIdentities = [configuration.identity!]
                configuration.serverNameIdentities[0].serverNames = []
            },
        ] as [@Sendable (inout TLSConfiguration) -> Void]
    )
    func contradictions(change: @Sendable (inout TLSConfiguration) -> Void) throws {
        let error = #expect(throws: TLSError.self) { try TLSTestCertificates.server("server", change) }
        #expect(error?.code == .invalidConfiguration)
    }

    @Test("A client is not given what only servers have")
    func clientContradictions() throws {
        let roots = try TLSTestCertificates.pem("root.pem")
        let identity = try TLSTestCertificates.identity("server")
        let first = #expect(throws: TLSError.self) {
            try TLSTestCertificates.client { $0.clientCertificates = .required(trustRoots: roots) }
        }
        let second = #expect(throws: TLSError.self) {
            try TLSTestCertificates.client { $0.serverNameIdentities = [identity] }
        }
        #expect(first?.code == .invalidConfiguration)
        #expect(second?.code == .invalidConfiguration)
    }

    @Test("A client that has to check a name must have one")
    func missingServerName() throws {
        let (socket, _) = try TLSTestSocket.pair()
        let client = try TLSTestCertificates.client()
        let error = #expect(throws: TLSError.self) {
            _ = try TLSSession(client, descriptor: socket.descriptor)
        }
        #expect(error?.code == .serverNameMissing)
        let badName = #expect(throws: TLSError.self) {
            _ = try TLSSession(client, descriptor: socket.descriptor, serverName: "a\0b")
        }
        #expect(badName?.code == .invalidConfiguration)
    }

    // MARK: - What is loaded

    @Test("A context tells what its certificates say")
    func certificates() throws {
        let chat = try TLSTestCertificates.identity("chat")
        let context = try TLSTestCertificates.server { $0.serverNameIdentities = [chat] }
        let certificates = context.certificates
        try #require(certificates.count == 2)
        #expect(certificates[0].subject == "CN=localhost")
        #expect(certificates[0].dnsNames == ["localhost"])
        #expect(certificates[0].ipAddresses == ["127.0.0.1", "::1"])
        #expect(certificates[1].dnsNames == ["chat.example", "*.rooms.example"])
        #expect(certificates[0].notAfter - certificates[0].notBefore == 30 * 86_400)
    }

    @Test("An expired certificate loads, and says so")
    func expired() throws {
        let certificate = try #require(TLSTestCertificates.server("expired").certificates.first)
        #expect(certificate.notAfter < time(nil))
    }

    @Test("A client's certificate says the same as openssl does")
    func certificateFields() throws {
        let context = try TLSTestCertificates.client {
            $0.identity = try TLSTestCertificates.identity("client")
        }
        let certificate = try #require(context.certificates.first)
        #expect(certificate.subject == "CN=Zoë,O=Starling")
        #expect(certificate.commonName == "Zoë")
        #expect(certificate.dnsNames == ["zoe.example"])
        #expect(certificate.uris == ["spiffe://example/zoe"])
        #expect(certificate.emailAddresses == ["zoe@example.org"])
        #expect(certificate.ipAddresses == ["192.0.2.7"])
        let path = try TLSTestCertificates.path("client.pem")
        let (_, output) = try TLSTestProcess(
            "openssl",
            ["x509", "-in", path, "-noout", "-fingerprint", "-sha256"]
        )
        .finish()
        let digits = output.lowercased().filter { $0 != ":" }
        #expect(digits.contains("=" + certificate.fingerprint + "\n"))
        #expect(certificate.fingerprint.count == 64)
        #expect(certificate.der.first == 0x30)
    }

    @Test("Chain and key may be given as bytes, in one text")
    func bytes() throws {
        let files = try ["server-key.pem", "server.pem"].map { try TLSTestCertificates.path($0) }
        let text = try Array(TLSTestProcess("cat", files).finish().output.utf8)
        let server = try TLSContext(.server(.init(certificateChain: .bytes(text), privateKey: .bytes(text))))
        let pair = try TLSTestPair(server, TLSTestCertificates.client())
        #expect(pair.clientResult == .done)
        #expect(pair.serverResult == .done)
    }

    @Test("The system's trust roots load, and do not trust our root")
    func systemRoots() throws {
        let pair = try TLSTestPair(TLSTestCertificates.server(), TLSContext(.client()))
        #expect(pair.clientResult.failure?.kind == .certificateRejected)
    }

    // MARK: - Reload

    @Test("A reload serves new connections and leaves existing ones alone")
    func reload() throws {
        let server = try TLSTestCertificates.server()
        let client = try TLSTestCertificates.client()
        let before = try TLSTestPair(server, client)
        try server.reload(.server(TLSTestCertificates.identity("renewed")))
        let after = try TLSTestPair(server, client)
        #expect(before.serverResult == .done)
        #expect(after.serverResult == .done)
        before.expectEcho()
        after.expectEcho()
        let old = try #require(before.client.peerCertificate)
        let new = try #require(after.client.peerCertificate)
        #expect(old.fingerprint != new.fingerprint)
        #expect(server.certificates == [new])
    }

    @Test("A reload without a configuration reads the same files again")
    func reloadFiles() throws {
        let folder = try TLSTestCertificates.shared.get().folder
        let (chain, key) = ("\(folder)/live.pem", "\(folder)/live-key.pem")
        func install(_ name: String) throws {
            for (from, to) in [("\(folder)/\(name).pem", chain), ("\(folder)/\(name)-key.pem", key)] {
                try #require(TLSTestProcess("cp", [from, to]).finish().status == 0)
            }
        }
        try install("server")
        let server = try TLSContext(
            .server(.init(certificateChain: .file(chain), privateKey: .file(key)))
        )
        let before = server.certificates
        try install("renewed")
        #expect(server.certificates == before)
        try server.reload()
        #expect(server.certificates != before)
        let renewed = try TLSTestCertificates.server("renewed").certificates
        #expect(server.certificates == renewed)
    }

    @Test("A reload that fails changes nothing")
    func failedReload() throws {
        let server = try TLSTestCertificates.server()
        let before = server.certificates
        var wrong = try TLSTestCertificates.identity("server")
        wrong.privateKey = try TLSTestCertificates.pem("rsa-key.pem")
        #expect(throws: TLSError.self) { try server.reload(.server(wrong)) }
        let role = #expect(throws: TLSError.self) { try server.reload(.client()) }
        #expect(role?.code == .invalidConfiguration)
        #expect(server.certificates == before)
        try TLSTestPair(server, TLSTestCertificates.client()).expectEcho()
    }

    @Test("Sessions are made on many threads while the context is reloaded")
    func concurrentReload() async throws {
        let server = try TLSTestCertificates.server()
        let client = try TLSTestCertificates.client()
        let configurations = try ["server", "renewed"].map {
            try TLSConfiguration.server(TLSTestCertificates.identity($0))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    for _ in 0..<25 {
                        let pair = try TLSTestPair(server, client)
                        #expect(pair.serverResult == .done)
                        #expect(pair.clientResult == .done)
                    }
                }
            }
            group.addTask {
                for turn in 0..<50 { try server.reload(configurations[turn % 2]) }
            }
            try await group.waitForAll()
        }
    }
}

#endif
