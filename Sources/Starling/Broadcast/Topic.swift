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
