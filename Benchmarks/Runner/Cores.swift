/// The core that servers run on, and the one for the load generator.
struct Cores {
    let server: Int
    let generator: Int

    /// Takes the last two cores that this process may use: interrupts tend to prefer the first.
    init() throws {
        let cores = try Self.allowed()
        guard let server = cores.last, let generator = cores.dropLast().last else {
            throw BenchmarkError("A server and its load need two cores; this process may use one.")
        }
        self.server = server
        self.generator = generator
    }

    /// Starts a process that stays on some cores.
    static func start(
        _ executable: String,
        _ arguments: [String],
        on cores: [Int],
        errors: Child.Errors = .shown
    ) throws -> Child {
        // taskset becomes the executable, so the process id is the executable's.
        let list = cores.map(String.init).joined(separator: ",")
        return try Child("taskset", ["--cpu-list", list, executable] + arguments, errors: errors)
    }

    /// The numbers in a line such as `Cpus_allowed_list:	0-3,6`.
    private static func allowed() throws -> [Int] {
        let lines = try readFile("/proc/self/status").split(separator: "\n")
        let line = lines.first { $0.hasPrefix("Cpus_allowed_list:") }
        guard let list = line?.split(separator: "\t").last else {
            throw BenchmarkError("/proc/self/status does not say which cores may be used.")
        }
        return list.split(separator: ",").flatMap { range -> [Int] in
            let ends = range.split(separator: "-").compactMap { Int($0) }
            guard let first = ends.first, let last = ends.last else { return [] }
            return Array(first...last)
        }
    }
}
