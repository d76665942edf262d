// `environ` is a variable of C; it is read once, by the only thread.
@unsafe @preconcurrency import Glibc

/// A child process whose standard input and output are pipes.
///
/// It is ended and reaped with this value.
struct Child: ~Copyable {
    let pid: pid_t
    private var input: CInt?
    private let output: CInt
    private var unread: [UInt8] = []
    private var reaped = false

    /// What becomes of the child's standard error.
    enum Errors {
        /// It is this process's.
        case shown
        case dropped
        /// Its lines are read with those of the output.
        case read
    }

    /// Starts an executable.
    ///
    /// A name without a slash is looked up in `PATH`.
    init(_ executable: String, _ arguments: [String], errors: Errors = .shown) throws {
        let (childInput, input) = try Self.makePipe()
        let (output, childOutput) = try Self.makePipe()
        defer {
            close(childInput)
            close(childOutput)
        }

        // Safe: the actions and the argument strings outlive the call, which keeps neither.
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawn_file_actions_adddup2(&actions, childInput, STDIN_FILENO)
        unsafe posix_spawn_file_actions_adddup2(&actions, childOutput, STDOUT_FILENO)
        switch errors {
        case .shown: break
        case .dropped:
            unsafe posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
        case .read: unsafe posix_spawn_file_actions_adddup2(&actions, childOutput, STDERR_FILENO)
        }
        var argumentPointers = unsafe ([executable] + arguments).map { unsafe strdup($0) } + [nil]
        defer {
            unsafe posix_spawn_file_actions_destroy(&actions)
            unsafe argumentPointers.forEach { unsafe free($0) }
        }
        var pid: pid_t = 0
        let error = unsafe posix_spawnp(&pid, executable, &actions, nil, &argumentPointers, environ)
        guard error == 0 else {
            close(input)
            close(output)
            throw BenchmarkError("\(executable) does not start: \(describe(error))")
        }
        self.pid = pid
        self.input = input
        self.output = output
    }

    deinit {
        if let input { close(input) }
        if !self.reaped {
            // What a benchmark starts owns nothing worth a farewell, and nothing may outlive the benchmark.
            kill(self.pid, SIGKILL)
            var status: CInt = 0
            unsafe waitpid(self.pid, &status, 0)
        }
        close(self.output)
    }

    /// Closes the child's standard input, which tells the load generator to let go of its idle connections.
    mutating func closeInput() {
        if let input = self.input.take() { close(input) }
    }

    /// The next line of the child's output, or nil at its end.
    ///
    /// Throws when `time` is over, and on an interruption.
    mutating func readLine(within time: Duration) throws -> String? {
        let deadline = ContinuousClock.now + time
        while true {
            if let end = self.unread.firstIndex(of: UInt8(ascii: "\n")) {
                let line = String(decoding: self.unread[..<end], as: UTF8.self)
                self.unread.removeSubrange(...end)
                return line
            }
            guard try self.readMore(until: deadline) else { return nil }
        }
    }

    /// Waits for the child to end and returns its exit status, or 128 plus the signal that ended it.
    ///
    /// The end of its output is the end of the child; what is left of the output is dropped.
    mutating func exitStatus() throws -> CInt {
        let deadline = ContinuousClock.now + .seconds(30)
        while try self.readMore(until: deadline) { self.unread = [] }
        var status: CInt = 0
        // Safe: the status is written before the call returns.
        guard unsafe waitpid(self.pid, &status, 0) == self.pid else {
            throw BenchmarkError("waitpid: \(describe(errno))")
        }
        self.reaped = true
        let signal = status & 0x7f
        return signal == 0 ? (status >> 8) & 0xff : 128 + signal
    }

    /// Waits for output; false at its end.
    private mutating func readMore(until deadline: ContinuousClock.Instant) throws -> Bool {
        while true {
            try Interruption.check()
            var wanted = pollfd(fd: self.output, events: Int16(POLLIN), revents: 0)
            // A short wait, because a signal that arrives just before `poll` does not end it.
            // Safe: one descriptor, and a buffer of the size that is passed.
            if unsafe poll(&wanted, 1, 200) > 0 {
                var part = [UInt8](repeating: 0, count: 4096)
                let count = unsafe read(self.output, &part, part.count)
                if count > 0 { self.unread += part[..<count] }
                return count > 0
            }
            if ContinuousClock.now >= deadline {
                throw BenchmarkError("Process \(self.pid) has been silent for too long.")
            }
        }
    }

    /// A pipe that no child inherits but the one that it is made for.
    private static func makePipe() throws -> (read: CInt, write: CInt) {
        var ends: [CInt] = [0, 0]
        // Safe: two descriptors are written before the call returns.
        guard unsafe pipe(&ends) == 0 else { throw BenchmarkError("pipe: \(describe(errno))") }
        for end in ends where fcntl(end, F_SETFD, FD_CLOEXEC) != 0 {
            throw BenchmarkError("fcntl: \(describe(errno))")
        }
        return (ends[0], ends[1])
    }
}
