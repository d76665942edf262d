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

/// A name that is equal to another one if both are the same bytes in UTF-8; as strings they are if they only look the same.
package struct UTF8Name: Hashable, Sendable {
    package let string: String

    package init(_ string: String) {
        self.string = string
    }

    package static func == (one: UTF8Name, other: UTF8Name) -> Bool {
        let (one, other) = (one.string.utf8, other.string.utf8)
        guard one.count == other.count else { return false }
        // The bytes are lent for the call, and there are as many of both.
        let isEqual = unsafe one.withContiguousStorageIfAvailable { one in
            unsafe other.withContiguousStorageIfAvailable { other in
                unsafe one.elementsEqual(other)
            }
        }
        return isEqual.flatMap { $0 } ?? one.elementsEqual(other)
    }

    package func hash(into hasher: inout Hasher) {
        // The bytes are lent for the call.
        let isHashed: Void? = unsafe self.string.utf8.withContiguousStorageIfAvailable { bytes in
            unsafe hasher.combine(bytes: UnsafeRawBufferPointer(bytes))
        }
        if isHashed == nil { for byte in self.string.utf8 { hasher.combine(byte) } }
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
