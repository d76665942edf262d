import StarlingCore
import Testing

@testable import Starling

@Suite struct TopicTests {
    /// Twice é, twice Å in three bytes each, and K and the sign for kelvin.
    private static let pairs = [
        ("caf\u{E9}", "cafe\u{301}"), ("\u{212B}", "A\u{30A}"), ("K", "\u{212A}"),
        (
            String(repeating: "long ", count: 10) + "\u{E9}",
            String(repeating: "long ", count: 10) + "e\u{301}"
        ),
    ]

    @Test("Names that look the same and are other bytes are other topics, as they are for a broker")
    func bytes() {
        for (one, other) in Self.pairs {
            #expect(one == other)
            #expect(Topic(one) != Topic(other))
            #expect(Set([Topic(one), Topic(other), Topic(one)]).count == 2)
            #expect(UTF8Name(one) != UTF8Name(other))
            // Copies in other memory are the same.
            let copy = String(decoding: Array(one.utf8), as: UTF8.self)
            #expect(Topic(one) == Topic(copy))
            #expect(Topic(one).hashValue == Topic(copy).hashValue)
        }
        #expect(Topic("") == Topic(""))
        #expect(Topic("a") != Topic("b"))
        #expect(Topic("a") != Topic("ab"))
    }

    @Test("Names with marks in any order are no two alike, and their hashes are not either")
    func hashes() {
        // All of these are one string: a table of topics by strings' hashes would become a list.
        let marks = ["\u{327}", "\u{323}", "\u{302}", "\u{345}", "\u{31B}"]
        func names(_ rest: [String]) -> [String] {
            rest.isEmpty
                ? ["e"] : rest.flatMap { mark in names(rest.filter { $0 != mark }).map { $0 + mark } }
        }
        let topics = names(marks).map { Topic($0) }
        #expect(Set(topics).count == 120)
        #expect(Set(topics.map(\.hashValue)).count == 120)
    }

    @Test("Members are counted by their ids' bytes")
    func members() throws {
        var counts = PresenceCounts()
        let (one, other) = ("caf\u{E9}", "cafe\u{301}")
        let isFirst = [one, other, other].map { counts.enter(PresenceMember(id: $0), "room") }
        #expect(isFirst == [true, true, false])
        let left = [one, other, other].map { counts.leave($0, from: "room") }
        #expect(left.map { $0 != nil } == [true, false, true])
        #expect(left[0]?.id.utf8.elementsEqual(one.utf8) == true)
        #expect(counts.topics.isEmpty)
    }
}
