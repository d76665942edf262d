internal import CHiredis

/// A command, formatted for the wire.
struct RedisCommand: Sendable {
    let bytes: [UInt8]

    init(_ arguments: [[UInt8]]) {
        self.bytes = Self.format(arguments)
    }

    init(_ arguments: String...) {
        self.init(arguments.map { Array($0.utf8) })
    }

    /// Commands that go out together.
    init(joined commands: [RedisCommand]) {
        self.bytes = commands.flatMap(\.bytes)
    }

    private static func format(_ arguments: [[UInt8]]) -> [UInt8] {
        let joined = arguments.flatMap { $0 }
        let counts = arguments.map(\.count)
        var formatted: UnsafeMutablePointer<CChar>?
        // Both arrays live through the call, and `counts` adds up to `joined`.
        let length = unsafe joined.withUnsafeBytes { bytes in
            unsafe counts.withUnsafeBufferPointer { counts in
                unsafe starling_redis_format(
                    &formatted,
                    Int32(counts.count),
                    bytes.baseAddress?.assumingMemoryBound(to: CChar.self),
                    counts.baseAddress
                )
            }
        }
        guard length >= 0, let formatted = unsafe formatted else {
            fatalError("no memory for a Redis command")
        }
        defer { unsafe starling_redis_free(formatted) }
        return unsafe Array(UnsafeRawBufferPointer(start: formatted, count: length))
    }
}
