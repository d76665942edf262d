#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#elseif canImport(Musl)
internal import Musl
#endif

/// The seed that whoever runs a test wants to see alone.
func seedFromEnvironment() -> UInt64? {
    // The environment is not changed while tests run; the text is copied at once.
    guard let value = unsafe getenv("STARLING_SEED") else { return nil }
    return UInt64(unsafe String(cString: value))
}

/// How many threads can run at once, at most 8.
func coreCount() -> Int {
    min(8, max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))))
}
