#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#elseif canImport(Musl)
internal import Musl
#endif

/// What connections subscribe to and messages are published to; a name that the application chooses.
///
/// ```swift
/// try await socket.subscribe(to: "room:\(name)")
/// ```
public struct Topic: Hashable, Sendable, ExpressibleByStringInterpolation {
    /// The name; any string that does not begin with `$starling:`, which is what nodes tell each other.
    public let name: String

    /// Makes a topic with a name.
    public init(_ name: String) {
        self.name = name
    }

    /// Makes a topic with a name.
    public init(stringLiteral name: String) {
        self.name = name
    }
}

extension Topic {
    // Brokers compare names by their bytes, and so must we: of two ways to write é each is a topic of its own.

    /// Whether both names are the same bytes in UTF-8.
    public static func == (one: Topic, other: Topic) -> Bool {
        UTF8Name(one.name) == UTF8Name(other.name)
    }

    /// Hashes the name's bytes.
    public func hash(into hasher: inout Hasher) {
        UTF8Name(self.name).hash(into: &hasher)
    }
}

/// A name that is equal to another one only if both are the same bytes in UTF-8; strings are equal if they stand for the same characters.
package struct UTF8Name: Hashable, Sendable {
    package let string: String

    package init(_ string: String) {
        self.string = string
    }

    package static func == (one: UTF8Name, other: UTF8Name) -> Bool {
        let (one, other) = unsafe (one.string.utf8.span.bytes, other.string.utf8.span.bytes)
        guard one.byteCount == other.byteCount else { return false }
        // There are as many bytes of both, and they are lent for the call.
        return unsafe one.withUnsafeBytes { one in
            unsafe other.withUnsafeBytes { other in
                guard let first = one.baseAddress, let second = other.baseAddress else {
                    return true
                }
                return unsafe memcmp(first, second, one.count) == 0
            }
        }
    }

    package func hash(into hasher: inout Hasher) {
        // The bytes are lent for the call.
        unsafe self.string.utf8.span.bytes.withUnsafeBytes { unsafe hasher.combine(bytes: $0) }
        // No name is the beginning of another one.
        hasher.combine(0xFF as UInt8)
    }
}

extension Topic {
    /// Whether it belongs to ``ClusterRegistry``; connections may not subscribe or publish to it, whoever chose its name.
    package var isReserved: Bool { self.name.utf8.starts(with: "$starling:".utf8) }
}

extension Topic: CustomStringConvertible {
    /// The name.
    public var description: String {
        self.name
    }
}

/// A place in a topic's history.
///
/// A changed epoch means that the history was lost and that offsets start over.
public struct StreamPosition: Hashable, Sendable {
    /// Which history the offset belongs to.
    public var epoch: UInt64
    /// The number of the publication in that history.
    public var offset: UInt64

    /// Makes a position.
    public init(epoch: UInt64, offset: UInt64) {
        self.epoch = epoch
        self.offset = offset
    }
}
