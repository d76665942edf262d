#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#endif

/// Lines for a person or a script that waits for them.
public enum Output {
    /// Writes a line to standard output at once, however the output is buffered.
    ///
    /// Not by `print` and `fflush`: Swift cannot name `stdout`, and flushing all streams waits for one that reads the
    /// keyboard.
    public static func line(_ text: String) {
        var rest = Array("\(text)\n".utf8)[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe write(1, $0.baseAddress, $0.count) }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }
}
