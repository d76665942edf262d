import FoundationEssentials
import Glibc

/// Raises the soft limit of open descriptors to the hard one; children inherit it.
func raiseDescriptorLimit() throws {
    var limit = rlimit()
    // Safe: the structure is read or written before each call returns.
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
        throw BenchmarkError("getrlimit: \(describe(errno))")
    }
    limit.rlim_cur = limit.rlim_max
    guard unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
        throw BenchmarkError("setrlimit: \(describe(errno))")
    }
    let needed = Scenario.all.map(\.connections).max()! + 100
    guard limit.rlim_max >= needed else {
        throw BenchmarkError("A process may open \(limit.rlim_max) descriptors; this takes \(needed).")
    }
}

/// Memory that a process shares with no other, in bytes.
func privateByteCount(of pid: pid_t) throws -> Int {
    let lines = try readFile("/proc/\(pid)/smaps_rollup").split(separator: "\n")
    let kibibytes = lines.compactMap { line -> Int? in
        guard line.hasPrefix("Private_Clean:") || line.hasPrefix("Private_Dirty:") else { return nil }
        return line.split(separator: " ").dropFirst().first.flatMap { Int($0) }
    }
    guard kibibytes.count == 2 else {
        throw BenchmarkError("/proc/\(pid)/smaps_rollup has no private memory.")
    }
    return kibibytes.reduce(0, +) * 1024
}

/// The whole of a text file.
func readFile(_ path: String) throws -> String {
    String(decoding: try Data(contentsOf: URL(filePath: path)), as: UTF8.self)
}

/// Where this program was started from, and its companions lie.
func directoryOfThisExecutable() throws -> String {
    var path = [UInt8](repeating: 0, count: Int(PATH_MAX))
    // Safe: the link's target is written within the count that is passed.
    let count = unsafe path.withUnsafeMutableBytes { bytes in
        unsafe readlink("/proc/self/exe", bytes.baseAddress!, bytes.count)
    }
    guard count > 0 else { throw BenchmarkError("readlink: \(describe(errno))") }
    return String(decoding: path[..<count], as: UTF8.self)
        .split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
}

func isExecutable(_ path: String) -> Bool {
    // Safe: the path is only read.
    unsafe access(path, X_OK) == 0
}

/// Progress goes to standard error, so that standard output is the table alone.
func report(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    // Safe: the count is the buffer's. A progress line that is lost changes no figure.
    _ = unsafe write(STDERR_FILENO, bytes, bytes.count)
}

/// The system's words for an error number.
func describe(_ error: CInt) -> String {
    // Safe: the returned string is copied at once, and this program has one thread.
    unsafe String(cString: strerror(error))
}
