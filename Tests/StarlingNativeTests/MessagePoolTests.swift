import StarlingCore
import Testing

@testable import Starling

@Suite struct MessagePoolTests {
    private static func copy(_ text: String, _ pool: inout MessagePool) -> Message {
        let bytes = Array(text.utf8)
        return unsafe pool.copy(MessageView(.text, bytes.span.bytes))
    }

    @Test("A message that somebody keeps is never written over; one that nobody keeps is")
    func keeps() {
        var pool = MessagePool()
        var kept: [(text: String, message: Message)] = []
        var addresses = Set<ObjectIdentifier>()
        for number in 0..<5000 {
            let text = "message \(number)"
            let message = Self.copy(text, &pool)
            #expect(message.text == text)
            addresses.insert(ObjectIdentifier(message.storage))
            if number.isMultiple(of: 10) { kept.append((text, message)) }
        }
        for (text, message) in kept { #expect(message.text == text) }
        // Those that are kept, and a few that all the others went into.
        #expect((500...520).contains(addresses.count))
    }

    @Test("A burst grows the pool as far as it needs, and no further than it may")
    func burst() {
        var pool = MessagePool()
        let burst = (0..<MessagePool.countMax + 500).map { Self.copy("\($0)", &pool) }
        #expect(burst.enumerated().allSatisfy { $1.text == "\($0)" })
        let before = Set(burst.map { ObjectIdentifier($0.storage) })
        #expect(before.count == burst.count)
    }

    @Test("A big message has memory of its own, and the next small one goes on in the pool")
    func big() {
        var pool = MessagePool()
        let text = String(repeating: "x", count: MessagePool.byteCountMax + 1)
        let first = ObjectIdentifier(Self.copy("a", &pool).storage)
        #expect(Self.copy(text, &pool).text == text)
        #expect(ObjectIdentifier(Self.copy("b", &pool).storage) == first)
    }
}
