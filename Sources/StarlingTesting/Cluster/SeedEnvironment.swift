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
