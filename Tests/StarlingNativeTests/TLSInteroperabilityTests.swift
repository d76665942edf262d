#if os(Linux)

import Glibc
import StarlingNative
import TestSupport
import Testing

/// Our sessions against OpenSSL's own programs and Python's `ssl`, in processes of their own.
///
/// Serialized, so that no child inherits a socket of another test between `accept` and `fcntl`.
@Suite(.serialized) struct TLSInteroperabilityTests {
    /// Starts `openssl s_client` with `arguments`, and takes its connection.
    private func connect(_ context: TLSContext, _ arguments: String...) throws -> (
        server: TLSTestEndpoint, child: TLSTestProcess
    ) {
        let listener = try TLSTestListener()
        let root = try TLSTestCertificates.path("root.pem")
        let child = try TLSTestProcess(
            "openssl",
            ["s_client", "-connect", "127.0.0.1:\(listener.port)", "-CAfile", root, "-verify_return_error"]
                + arguments
        )
        return try (TLSTestEndpoint(context, listener.accept()), child)
    }

    /// A greeting each way, then an orderly end; returns everything that the client said.
    private func greet(_ server: TLSTestEndpoint, _ child: TLSTestProcess) throws -> String {
        #expect(server.write("hello from the server\n".utf8) == .bytes(22))
        _ = try child.hear("hello from the server\n")
        try child.say("hello from the client\n")
        #expect(try server.receive().text == "hello from the client\n")
        #expect(server.session.shutdown() == .sent)
        #expect(try server.receive().result == .closed)
        // Without the end of the stream s_client would wait for half a second.
        server.socket.shutdownWriting()
        let (status, output) = try child.finish()
        #expect(status == 0, "\(output)")
        return output
    }

    // MARK: - openssl s_client

    @Test("s_client speaks each version", arguments: [("-tls1_2", TLSVersion.tls12), ("-tls1_3", .tls13)])
    func versions(option: String, version: TLSVersion) throws {
        let (server, child) = try self.connect(
            TLSTestCertificates.server(),
            option,
            "-verify_hostname",
            "localhost"
        )
        #expect(try server.handshake() == .done)
        #expect(server.session.version == version)
        let output = try self.greet(server, child)
        #expect(output.contains("Verify return code: 0 (ok)"))
        #expect(output.contains("Compression: NONE"))
    }

    @Test("TLS 1.1 is refused")
    func tls11() throws {
        let (server, child) = try self.connect(
            TLSTestCertificates.server(),
            "-tls1_1",
            "-cipher",
            "ALL:@SECLEVEL=0"
        )
        #expect(try server.handshake().failure?.kind == .version)
        let (status, output) = try child.finish()
        #expect(status == 1)
        #expect(output.contains("alert protocol version"))
    }

    @Test(
        "s_client gets the certificate it asks for",
        arguments: [
            ("localhost", "CN = localhost"), ("chat.example", "CN = chat.example"),
            ("x.rooms.example", "CN = chat.example"),
        ]
    )
    func serverNames(asked: String, subject: String) throws {
        let chat = try TLSTestCertificates.identity("chat")
        let context = try TLSTestCertificates.server { $0.serverNameIdentities = [chat] }
        let (server, child) = try self.connect(context, "-servername", asked, "-verify_hostname", asked)
        #expect(try server.handshake() == .done)
        #expect(server.session.serverName == asked)
        #expect(try self.greet(server, child).contains("subject=\(subject)\n"))
    }

    @Test("s_client negotiates http/1.1, and is refused with h2 alone")
    func alpn() throws {
        let context = try TLSTestCertificates.server()
        let (server, child) = try self.connect(context, "-alpn", "h2,http/1.1")
        #expect(try server.handshake() == .done)
        #expect(server.session.applicationProtocol == "http/1.1")
        #expect(try self.greet(server, child).contains("ALPN protocol: http/1.1"))

        let (refusing, refused) = try self.connect(context, "-alpn", "h2")
        #expect(try refusing.handshake().failure?.kind == .noApplicationProtocol)
        #expect(try refused.finish().output.contains("no application protocol"))
    }

    @Test("A renegotiation is refused, and the server does not hang or break")
    func renegotiation() throws {
        let (server, child) = try self.connect(TLSTestCertificates.server(), "-tls1_2")
        #expect(try server.handshake() == .done)
        _ = try child.hear("Secure Renegotiation IS supported")
        try child.say("R\n")
        // The server answers with a no_renegotiation warning and goes on; s_client then gives up.
        let (result, _) = try server.receive()
        #expect([.closed, .eof].contains(result) || result.failure?.kind == .peerAlert)
        let (status, output) = try child.finish()
        #expect(status != 0)
        #expect(output.contains("no renegotiation"))
    }

    @Test(
        "A client with a certificate resumes its session and stays known",
        arguments: ["-tls1_2", "-tls1_3"]
    )
    func mutualResumption(option: String) throws {
        let roots = try TLSTestCertificates.pem("root.pem")
        let context = try TLSTestCertificates.server { $0.clientCertificates = .required(trustRoots: roots) }
        let identity = try [
            "-cert", TLSTestCertificates.path("client.pem"), "-key",
            TLSTestCertificates.path("client-key.pem"),
        ]
        let ticket = try TLSTestCertificates.path("ticket\(option).pem")

        let (first, firstChild) = try self.connect(
            context,
            option,
            identity[0],
            identity[1],
            identity[2],
            identity[3],
            "-sess_out",
            ticket
        )
        #expect(try first.handshake() == .done)
        #expect(!first.wasResumed)
        #expect(first.session.peerCertificate?.commonName == "Zoë")
        _ = try self.greet(first, firstChild)

        let (second, secondChild) = try self.connect(context, option, "-sess_in", ticket)
        #expect(try second.handshake() == .done)
        #expect(second.wasResumed)
        #expect(second.session.peerCertificate?.commonName == "Zoë")
        #expect(try self.greet(second, secondChild).contains("Reused, TLSv1."))

        // A reload brings new keys for tickets: what was revoked cannot come back by an old one.
        try context.reload()
        let (third, thirdChild) = try self.connect(context, option, "-sess_in", ticket)
        #expect(try third.handshake().failure?.kind == .certificateMissing)
        #expect(try thirdChild.finish().status != 0)
    }

    // MARK: - Python

    @Test("Python's ssl echoes, half-closes, and shows its certificate")
    func pythonClient() throws {
        let roots = try TLSTestCertificates.pem("root.pem")
        let context = try TLSTestCertificates.server { $0.clientCertificates = .required(trustRoots: roots) }
        let listener = try TLSTestListener()
        let script = """
            import socket, ssl, sys
            port, folder = int(sys.argv[1]), sys.argv[2]
            context = ssl.create_default_context(cafile=folder + "/root.pem")
            context.load_cert_chain(folder + "/client.pem", folder + "/client-key.pem")
            context.set_alpn_protocols(["http/1.1"])
            plain = socket.create_connection(("127.0.0.1", port), timeout=20)
            tls = context.wrap_socket(plain, server_hostname="localhost")
            print(tls.version(), tls.selected_alpn_protocol(), tls.getpeercert()["subject"][0][0][1])
            tls.sendall(b"x" * 100_000)
            received = b""
            while len(received) < 100_000:
                received += tls.recv(65536)
            assert received == b"x" * 100_000
            tls.unwrap()
            print("closed by both")
            """
        let folder = try TLSTestCertificates.shared.get().folder
        let child = try TLSTestProcess("python3", ["-c", script, "\(listener.port)", folder])
        let server = try TLSTestEndpoint(context, listener.accept())
        #expect(try server.handshake() == .done)
        #expect(server.session.peerCertificate?.emailAddresses == ["zoe@example.org"])
        var echoed = 0
        while true {
            let (result, text) = try server.receive()
            guard case .bytes = result else {
                #expect(result == .closed)
                break
            }
            var bytes = Array(text.utf8)[...]
            while !bytes.isEmpty {
                switch server.write(bytes) {
                case .bytes(let count): bytes = bytes.dropFirst(count)
                case .wantsWrite: try server.socket.wait(for: POLLOUT)
                case .wantsRead: try server.socket.wait(for: POLLIN)
                case .failed(let failure): throw failure
                }
            }
            echoed += text.utf8.count
        }
        #expect(echoed == 100_000)
        #expect(server.session.shutdown() == .sent)
        let (status, output) = try child.finish()
        #expect(status == 0, "\(output)")
        #expect(output.contains("TLSv1.3 http/1.1 localhost"))
        #expect(output.contains("closed by both"))
    }

    @Test("Our client meets Python's server, which asks for its certificate")
    func pythonServer() throws {
        let script = """
            import socket, ssl, sys
            folder = sys.argv[1]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder + "/server.pem", folder + "/server-key.pem")
            context.load_verify_locations(folder + "/root.pem")
            context.verify_mode = ssl.CERT_REQUIRED
            context.set_alpn_protocols(["http/1.1"])
            listener = socket.create_server(("127.0.0.1", 0))
            listener.settimeout(20)
            print("port", listener.getsockname()[1], "ready", flush=True)
            plain, _ = listener.accept()
            plain.settimeout(20)
            tls = context.wrap_socket(plain, server_side=True)
            print("client", tls.getpeercert()["subjectAltName"], flush=True)
            tls.sendall(tls.recv(100)[::-1])
            tls.unwrap()
            """
        let folder = try TLSTestCertificates.shared.get().folder
        let child = try TLSTestProcess("python3", ["-c", script, folder])
        let words = try child.hear(" ready").split(separator: " ")
        let port = try #require(words.count > 1 ? UInt16(words[1]) : nil)
        let identity = try TLSTestCertificates.identity("client")
        let context = try TLSTestCertificates.client { $0.identity = identity }
        let client = try TLSTestEndpoint(
            context,
            TLSTestListener.connect(port: port),
            serverName: "localhost"
        )
        #expect(try client.handshake() == .done)
        #expect(client.session.applicationProtocol == "http/1.1")
        #expect(client.session.peerCertificate?.dnsNames == ["localhost"])
        #expect(client.write("reverse".utf8) == .bytes(7))
        #expect(try client.receive().text == "esrever")
        #expect(try client.receive().result == .closed)
        #expect(client.session.shutdown() == .sent)
        let (status, output) = try child.finish()
        #expect(status == 0, "\(output)")
        #expect(output.contains("spiffe://example/zoe"))
    }
}

#endif
