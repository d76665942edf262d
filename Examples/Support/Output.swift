#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#endif

/// Lines for a person or a script that waits for them.
public enum Output {
    /// Writes a line to standard output at once, however the output is buffered.
    public static func line(_ text: String) {
        print(text)
        fflush(nil)
    }
}
