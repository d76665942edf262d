internal import CHiredis

/// A reply of Redis (RESP2).
enum RedisValue: Sendable, Equatable {
    case null
    case integer(Int)
    case bytes([UInt8])
    case status(String)
    case error(String)
    case array([RedisValue])

    var text: String? {
        switch self {
        case .bytes(let bytes): String(decoding: bytes, as: UTF8.self)
        case .status(let text), .error(let text): text
        case .integer(let number): String(number)
        case .null, .array: nil
        }
    }

    var byteArray: [UInt8]? {
        if case .bytes(let bytes) = self { bytes } else { nil }
    }

    var number: Int? {
        switch self {
        case .integer(let number): number
        case .bytes(let bytes): Int(String(decoding: bytes, as: UTF8.self))
        case .null, .status, .error, .array: nil
        }
    }

    var elements: [RedisValue]? {
        if case .array(let elements) = self { elements } else { nil }
    }
}

/// hiredis' parser: bytes in, replies out.
///
/// Belongs to one task at a time.
@safe final class RedisParser {
    private let reader: UnsafeMutablePointer<redisReader>

    init() {
        guard let reader = unsafe redisReaderCreate() else {
            fatalError("no memory for a parser of Redis replies")
        }
        unsafe self.reader = reader
    }

    deinit {
        unsafe redisReaderFree(self.reader)
    }

    /// Takes bytes, and returns the replies that are complete now.
    func parse(_ bytes: [UInt8]) throws(RedisError) -> [RedisValue] {
        // hiredis copies the bytes during the call.
        let result = unsafe bytes.withUnsafeBytes { buffer in
            unsafe redisReaderFeed(
                self.reader,
                buffer.baseAddress?.assumingMemoryBound(to: CChar.self),
                buffer.count
            )
        }
        guard result == REDIS_OK else { throw self.failure }
        var replies: [RedisValue] = []
        while true {
            var reply: UnsafeMutableRawPointer?
            guard unsafe redisReaderGetReply(self.reader, &reply) == REDIS_OK else { throw self.failure }
            guard let reply = unsafe reply else { return replies }
            defer { unsafe freeReplyObject(reply) }
            // The default functions of the reader make a `redisReply`, which is ours until it is freed here.
            unsafe replies.append(Self.value(reply.assumingMemoryBound(to: redisReply.self)))
        }
    }

    private var failure: RedisError {
        let reason = unsafe withUnsafeBytes(of: &self.reader.pointee.errstr) { text in
            unsafe String(decoding: text.prefix { $0 != 0 }, as: UTF8.self)
        }
        return RedisError(.protocolViolation, "Redis sent what is no reply: \(reason)")
    }

    /// Copies a reply out of hiredis' memory.
    private static func value(_ reply: UnsafeMutablePointer<redisReply>) -> RedisValue {
        switch unsafe reply.pointee.type {
        case REDIS_REPLY_INTEGER: unsafe .integer(Int(reply.pointee.integer))
        case REDIS_REPLY_STRING: unsafe .bytes(self.bytes(reply))
        case REDIS_REPLY_STATUS: unsafe .status(String(decoding: self.bytes(reply), as: UTF8.self))
        case REDIS_REPLY_ERROR: unsafe .error(String(decoding: self.bytes(reply), as: UTF8.self))
        case REDIS_REPLY_ARRAY: unsafe .array(self.elements(reply))
        default: .null
        }
    }

    private static func bytes(_ reply: UnsafeMutablePointer<redisReply>) -> [UInt8] {
        // `len` bytes stand there, as hiredis promises for these types.
        unsafe Array(UnsafeRawBufferPointer(start: reply.pointee.str, count: Int(reply.pointee.len)))
    }

    private static func elements(_ reply: UnsafeMutablePointer<redisReply>) -> [RedisValue] {
        (0..<Int(unsafe reply.pointee.elements)).map { index in
            guard let element = unsafe reply.pointee.element[index] else { return .null }
            return unsafe self.value(element)
        }
    }
}

@available(*, unavailable) extension RedisParser: Sendable {}
