package import Starling
internal import StarlingCore

/// What travels through Redis before a message's bytes.
///
/// `S`, version 1, kind, the publishing node's number (8 bytes); for a topic with a history also epoch and offset (8 bytes
/// each, big-endian). The scripts write the last two.
package enum PublicationCodec {
    private static let mark = UInt8(ascii: "S")
    private static let version: UInt8 = 1
    private static let positionFlag: UInt8 = 0x80
    /// Bytes before position and payload.
    static let headerByteCount = 11

    package static func header(_ message: Message, origin: UInt64, hasPosition: Bool) -> [UInt8] {
        let kind: UInt8 = message.kind == .text ? 1 : 2
        return [self.mark, self.version, kind | (hasPosition ? self.positionFlag : 0)] + self.encode(origin)
    }

    /// Reads what arrived on a channel; nil if nobody of ours can have written it.
    package static func decode(_ bytes: [UInt8], topic: Topic) -> Publication? {
        guard let kind = self.kind(bytes) else { return nil }
        guard bytes[2] & self.positionFlag != 0 else {
            return self.publication(kind, bytes[self.headerByteCount...], topic, nil)
        }
        let payload = self.headerByteCount + 16
        guard bytes.count >= payload else { return nil }
        let position = StreamPosition(
            epoch: self.decode(bytes[self.headerByteCount...]),
            offset: self.decode(bytes[(self.headerByteCount + 8)...])
        )
        return self.publication(kind, bytes[payload...], topic, position)
    }

    /// Reads an entry of a history, where header and payload stand apart.
    static func decode(
        header: [UInt8],
        payload: [UInt8],
        topic: Topic,
        position: StreamPosition
    ) -> Publication? {
        guard let kind = self.kind(header) else { return nil }
        return self.publication(kind, payload[...], topic, position)
    }

    /// What tells a publication from others: the publishing node's number, or that of its trace.
    static func origin(of bytes: [UInt8]) -> UInt64? {
        self.kind(bytes).map { _ in self.decode(bytes[3...]) }
    }

    // MARK: - Traces

    // A trace is a message of its own on the topic's channel, before its publication, which has the trace's number for its
    // origin. A field of the publication's would keep nodes of an earlier version from reading the publication.

    /// `S`, version 1, kind, the trace's number; then for each field two times length (2 bytes) and text.
    package static func trace(_ context: TraceContext, number: UInt64) -> [UInt8] {
        context.fields.reduce(into: [self.mark, self.version, self.traceKind] + self.encode(number)) {
            for text in [$1.key, $1.value] { $0 += self.encode(UInt16(text.utf8.count)) + Array(text.utf8) }
        }
    }

    /// Reads a trace, and the number of its publication; nil if it is none.
    ///
    /// A context that is malformed, or greater than what is carried, is nil in the result: the message is a trace all the
    /// same.
    package static func decodeTrace(_ bytes: [UInt8]) -> (number: UInt64, context: TraceContext?)? {
        guard bytes.count >= self.headerByteCount, bytes[0] == self.mark, bytes[1] == self.version,
            bytes[2] == self.traceKind
        else { return nil }
        let number = self.decode(bytes[3...])
        var rest = bytes[self.headerByteCount...]
        func takeText() -> String? {
            guard rest.count >= 2 else { return nil }
            let byteCount = Int(rest.removeFirst()) << 8 | Int(rest.removeFirst())
            guard rest.count >= byteCount else { return nil }
            defer { rest = rest.dropFirst(byteCount) }
            return String(validating: rest.prefix(byteCount), as: UTF8.self)
        }
        var fields: [String: String] = [:]
        while !rest.isEmpty {
            guard fields.count < TraceContext.fieldCountMax, let name = takeText(), let value = takeText()
            else {
                return (number, nil)
            }
            fields[name] = value
        }
        return (number, TraceContext(fields))
    }

    private static let traceKind: UInt8 = 5

    // MARK: - Presence

    /// What stands before an event's member: four bytes of length, the name, and up to the end the info.
    static func eventHeader(_ kind: PresenceEvent.Kind, origin: UInt64) -> [UInt8] {
        [self.mark, self.version, kind == .joined ? self.joined : self.left] + self.encode(origin)
    }

    /// An event without the member's info, which the script adds.
    static func event(_ kind: PresenceEvent.Kind, _ id: String, origin: UInt64) -> [UInt8] {
        self.eventHeader(kind, origin: origin) + self.encode(UInt32(id.utf8.count)) + Array(id.utf8)
    }

    /// Reads an event; nil if it is none.
    package static func decodeEvent(_ bytes: [UInt8], topic: Topic) -> PresenceEvent? {
        guard bytes.count >= self.headerByteCount + 4, bytes[0] == self.mark, bytes[1] == self.version,
            bytes[2] == self.joined || bytes[2] == self.left
        else { return nil }
        let rest = bytes[(self.headerByteCount + 4)...]
        let byteCount = bytes[self.headerByteCount..<(self.headerByteCount + 4)].reduce(0) {
            $0 << 8 | Int($1)
        }
        guard rest.count >= byteCount else { return nil }
        let member = PresenceMember(
            id: String(decoding: rest.prefix(byteCount), as: UTF8.self),
            info: String(decoding: rest.dropFirst(byteCount), as: UTF8.self)
        )
        return PresenceEvent(bytes[2] == self.joined ? .joined : .left, member, topic)
    }

    private static let joined: UInt8 = 3
    private static let left: UInt8 = 4

    /// A number's bytes, the highest first.
    static func encode<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] {
        let bits = Number.bitWidth
        return stride(from: bits - 8, through: 0, by: -8).map { UInt8(truncatingIfNeeded: number >> $0) }
    }

    static func decode(_ bytes: ArraySlice<UInt8>) -> UInt64 {
        bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
    }

    private static func kind(_ bytes: [UInt8]) -> Message.Kind? {
        guard bytes.count >= self.headerByteCount, bytes[0] == self.mark, bytes[1] == self.version else {
            return nil
        }
        switch bytes[2] & ~self.positionFlag {
        case 1: return .text
        case 2: return .binary
        default: return nil
        }
    }

    private static func publication(
        _ kind: Message.Kind,
        _ payload: ArraySlice<UInt8>,
        _ topic: Topic,
        _ position: StreamPosition?
    ) -> Publication? {
        // A foreign writer must not make us send text that is none.
        let isValid = unsafe UTF8Validator.isValid(payload.span.bytes)
        if kind == .text, !isValid { return nil }
        return unsafe Publication(
            Message(kind, copying: payload.span.bytes),
            to: topic,
            position: position
        )
    }
}
