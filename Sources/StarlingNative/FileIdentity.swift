#if os(Linux)
internal import Glibc

/// Tells a file from another one that stands at its path later.
struct FileIdentity: Hashable {
    private let device: UInt64
    private let number: UInt64

    /// Nil if no file is there.
    init?(path: String) {
        var entry = stat()
        guard unsafe stat(path, &entry) == 0 else { return nil }
        self.device = UInt64(entry.st_dev)
        self.number = UInt64(entry.st_ino)
    }
}
#endif
