#if os(Linux)
internal import Foundation
internal import Glibc

/// How long anything may take that needs another process or the kernel, before a test fails.
package let tlsPatienceMilliseconds: Int32 = 20_000

package struct TLSTestFailure: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) {
        self.description = description
    }
}

// MARK: - Certificates

/// The certificates of one run of the tests, made by `Tests/certificates.sh` when first asked for.
package struct TLSTestCertificates {
    package let folder: String

    package static let shared = Result { try TLSTestCertificates() }

    package init() throws {
        var template = Array("/tmp/starling-tls-XXXXXX\0".utf8CString)
        // The array is writable, ends with a NUL, and is read back after the call.
        guard let path = unsafe mkdtemp(&template) else { throw TLSTestFailure("mkdtemp failed") }
        self.folder = unsafe String(cString: path)
        unsafe folderToRemove = strdup(path)
        atexit {
            guard let folder = unsafe folderToRemove else { return }
            var removal = ["rm", "-rf", unsafe String(cString: folder)]
            _ = try? TLSTestProcess(removal.removeFirst(), removal).finish()
        }
        var script = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
        script.append("certificates.sh")
        let child = try TLSTestProcess("bash", [script.joined(separator: "/"), self.folder])
        let (status, output) = try child.finish()
        guard status == 0 else { throw TLSTestFailure("certificates.sh failed: \(output)") }
    }

    package static func path(_ file: String) throws -> String {
        try "\(self.shared.get().folder)/\(file)"
    }
}

/// Written once, by the only `TLSTestCertificates`, before the process ends and reads it.
nonisolated(unsafe) private var folderToRemove: UnsafeMutablePointer<CChar>?

// MARK: - Sockets

/// A non-blocking socket, closed with the object.
package final class TLSTestSocket: Sendable {
    package let descriptor: Int32

    package init(_ descriptor: Int32) throws {
        guard descriptor >= 0 else { throw TLSTestFailure("no socket: errno \(errno)") }
        self.descriptor = descriptor
    }

    deinit {
        close(self.descriptor)
    }

    package static func pair() throws -> (TLSTestSocket, TLSTestSocket) {
        var descriptors: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        // Two descriptors are written into an array of two.
        guard unsafe socketpair(AF_UNIX, type, 0, &descriptors) == 0 else {
            throw TLSTestFailure("socketpair failed")
        }
        return try (TLSTestSocket(descriptors[0]), TLSTestSocket(descriptors[1]))
    }

    /// Waits for `events`, but not for ever.
    package func wait(for events: Int32) throws {
        var entry = pollfd(fd: self.descriptor, events: Int16(events), revents: 0)
        // One entry is passed, and written during the call alone.
        let count = unsafe poll(&entry, 1, tlsPatienceMilliseconds)
        guard count == 1 else {
            throw TLSTestFailure("nothing happened within \(tlsPatienceMilliseconds) ms")
        }
        guard entry.revents & Int16(POLLERR) == 0 else { throw TLSTestFailure("the connection is broken") }
    }

    package func send(_ bytes: [UInt8]) throws {
        // The whole array is read during the call.
        let count = unsafe Glibc.send(self.descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
        guard count == bytes.count else { throw TLSTestFailure("sent \(count) of \(bytes.count) bytes") }
    }

    /// What is there to be received without waiting; nil at the end.
    package func receive(atMost byteCountMax: Int = 65_536) -> [UInt8]? {
        var received = 0
        // At most `byteCountMax` bytes are written, and as many said to be.
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: byteCountMax) { buffer, count in
            received = unsafe recv(self.descriptor, buffer.baseAddress, byteCountMax, Int32(MSG_DONTWAIT))
            count = max(received, 0)
        }
        return received == 0 ? nil : bytes
    }

    package func shutdownWriting() {
        Glibc.shutdown(self.descriptor, Int32(SHUT_WR))
    }
}

/// Runs what blocks on a thread of its own: tasks have few of them, and all tests share those.
package func blocking<Result: Sendable>(
    _ body: @escaping @Sendable () throws -> Result
) async throws -> Result {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread {
            continuation.resume(with: Swift.Result { try body() })
        }
    }
}

/// A TCP listener on a port of the kernel's choice on 127.0.0.1.
package struct TLSTestListener: Sendable {
    package let socket: TLSTestSocket
    package let port: UInt16

    package init() throws {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        self.socket = try TLSTestSocket(Glibc.socket(AF_INET, type, 0))
        var address = Self.loopback(port: 0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = self.socket.descriptor
        // A sockaddr_in is passed with its own size, as the socket's family asks for.
        let isListening = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe bind(descriptor, generic, length) == 0 && listen(descriptor, 8) == 0
                    && getsockname(descriptor, generic, &length) == 0
            }
        }
        guard isListening else { throw TLSTestFailure("cannot listen: errno \(errno)") }
        self.port = UInt16(bigEndian: address.sin_port)
    }

    package func accept() throws -> TLSTestSocket {
        try self.socket.wait(for: POLLIN)
        let socket = try TLSTestSocket(Glibc.accept(self.socket.descriptor, nil, nil))
        guard
            fcntl(socket.descriptor, F_SETFD, FD_CLOEXEC) == 0,
            fcntl(socket.descriptor, F_SETFL, O_NONBLOCK) == 0
        else { throw TLSTestFailure("fcntl failed: errno \(errno)") }
        return socket
    }

    package static func connect(port: UInt16) throws -> TLSTestSocket {
        // Blocking until connected, which on loopback is at once or never.
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        let socket = try TLSTestSocket(Glibc.socket(AF_INET, type, 0))
        var address = Self.loopback(port: port)
        // As above.
        let status = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe Glibc.connect(socket.descriptor, generic, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard status == 0 else { throw TLSTestFailure("cannot connect: errno \(errno)") }
        return socket
    }

    private static func loopback(port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }
}

// MARK: - Other programs

/// A program at the other end of a socket pair; `timeout` ends it if nothing else does.
package final class TLSTestProcess {
    private let socket: TLSTestSocket
    private let process: pid_t
    private var said = ""

    /// Starts `program`, which must exist: a missing tool fails the test.
    package init(_ program: String, _ arguments: [String]) throws {
        let (ours, its) = try TLSTestSocket.pair()
        self.socket = ours
        // The program expects to wait in read and write.
        guard fcntl(its.descriptor, F_SETFL, 0) == 0 else {
            throw TLSTestFailure("fcntl failed: errno \(errno)")
        }
        let words = ["timeout", "-k", "1", "30", program] + arguments
        // The copies live until after the spawn, and the array ends with a null.
        var vector: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) }
        unsafe vector.append(nil)
        defer { unsafe vector.forEach { unsafe free($0) } }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        for standard in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] {
            unsafe posix_spawn_file_actions_adddup2(&actions, its.descriptor, standard)
        }
        var process: pid_t = 0
        let status = unsafe posix_spawnp(&process, "timeout", &actions, nil, &vector, environ)
        self.process = process
        guard status == 0 else { throw TLSTestFailure("cannot run timeout: error \(status)") }
    }

    /// Writes to the program's standard input.
    package func say(_ text: String) throws {
        try self.socket.send(Array(text.utf8))
    }

    /// Waits until the program has said `words`, and returns everything it has said.
    package func hear(_ words: String) throws -> String {
        while !self.said.contains(words) {
            guard try self.readMore() else { throw TLSTestFailure("never said \"\(words)\": \(self.said)") }
        }
        return self.said
    }

    /// Closes the program's input, waits until it ends, and returns its status and everything it said.
    package func finish() throws -> (status: Int32, output: String) {
        self.socket.shutdownWriting()
        while try self.readMore() {}
        var status: Int32 = 0
        // Bounded by `timeout`, which is the process waited for.
        guard unsafe waitpid(self.process, &status, 0) == self.process else {
            throw TLSTestFailure("no child")
        }
        return (status & 0x7F == 0 ? status >> 8 & 0xFF : -1, self.said)
    }

    private func readMore() throws -> Bool {
        try self.socket.wait(for: POLLIN)
        guard let bytes = self.socket.receive() else { return false }
        self.said += String(decoding: bytes, as: UTF8.self)
        return true
    }
}
#endif
