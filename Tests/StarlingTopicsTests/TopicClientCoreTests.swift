import Starling
import Testing

@testable import StarlingTopics

/// The client's rules, without a connection.
@Suite struct TopicClientCoreTests {
    private typealias Effect = TopicClientCore.Effect

    private static func core(_ change: (inout ReconnectingConfiguration) -> Void = { _ in })
        -> TopicClientCore
    {
        var configuration = ReconnectingConfiguration()
        change(&configuration)
        return TopicClientCore(configuration)
    }

    private static func position(_ offset: Int) -> TopicPosition {
        TopicPosition(rawValue: "5.\(offset)")
    }

    private struct QueueFull: Error {}

    private static func publish(
        _ data: JSONText,
        _ key: String,
        in core: inout TopicClientCore
    ) throws -> (id: UInt64, effects: [Effect]) {
        guard let asked = core.publish(data, to: "a", key: key) else { throw QueueFull() }
        return asked
    }

    private static func request(
        in core: inout TopicClientCore
    ) throws -> (id: UInt64, effects: [Effect]) {
        guard let asked = core.request("r", .null, timeout: .seconds(1)) else { throw QueueFull() }
        return asked
    }

    private static func publication(_ offset: Int) -> ServerMessage {
        .publication(topic: "a", position: Self.position(offset), .data(.null))
    }

    private static func subscribe(_ id: UInt64, _ position: TopicPosition?) -> Effect {
        .send(ClientMessage.subscribe(id: id, topic: "a", position: position).message)
    }

    @Test("A subscription comes back with the newest position, and tells whether it is complete")
    func comesBack() {
        var core = Self.core()
        #expect(core.subscribe(to: "a", from: nil) == [])
        #expect(core.connected() == [Self.subscribe(1, nil)])
        // What comes before the answer belongs to nothing.
        #expect(core.received(Self.publication(3)) == [])
        #expect(
            core.received(.subscribed(id: 1, topic: "a", position: Self.position(4), isRecovered: true))
                == [.update("a", .subscribed(Self.position(4), isRecovered: true))]
        )
        #expect(
            core.received(Self.publication(5)) == [.update("a", .publication(Self.position(5), .data(.null)))]
        )
        #expect(
            core.received(.gap(topic: "a", after: Self.position(5), position: Self.position(8))) == [
                .update("a", .gap(after: Self.position(5), position: Self.position(8)))
            ]
        )
        // As an older server says it.
        #expect(
            core.received(.gap(topic: "a", after: nil, position: Self.position(9))) == [
                .update("a", .gap(after: nil, position: Self.position(9)))
            ]
        )
        #expect(core.disconnected() == [])
        #expect(core.received(Self.publication(10)) == [])
        #expect(core.connected() == [Self.subscribe(2, Self.position(9))])
        #expect(
            core.received(.subscribed(id: 2, topic: "a", position: Self.position(20), isRecovered: false))
                == [.update("a", .subscribed(Self.position(20), isRecovered: false))]
        )
        // An answer to the last connection's question is none.
        #expect(core.received(.subscribed(id: 1, topic: "a", position: nil, isRecovered: true)) == [])
    }

    @Test("A topic without a history cannot promise that nothing was missed")
    func withoutHistory() {
        var core = Self.core()
        _ = core.subscribe(to: "a", from: nil)
        _ = core.connected()
        #expect(
            core.received(.subscribed(id: 1, topic: "a", position: nil, isRecovered: true))
                == [.update("a", .subscribed(nil, isRecovered: true))]
        )
        _ = core.disconnected()
        _ = core.connected()
        #expect(
            core.received(.subscribed(id: 2, topic: "a", position: nil, isRecovered: true))
                == [.update("a", .subscribed(nil, isRecovered: false))]
        )
    }

    @Test(
        "Publications wait for a connection, and are sent again with their keys, in order, until they are acknowledged"
    )
    func publications() throws {
        var core = Self.core()
        let first = try Self.publish(.null, "k1", in: &core)
        #expect(first.effects == [])
        let sent = { (id: UInt64, key: String) -> Effect in
            .send(ClientMessage.publish(id: id, topic: "a", data: .null, key: key).message)
        }
        #expect(core.connected() == [sent(1, "k1")])
        let second = try Self.publish(.null, "k2", in: &core)
        #expect(second.effects == [sent(2, "k2")])
        let third = try Self.publish(.null, "k3", in: &core)
        #expect(core.received(.published(id: 2, position: nil)) == [.answer(2, .published(nil))])
        #expect(core.received(.published(id: 2, position: nil)) == [])
        #expect(core.disconnected() == [])
        #expect(core.connected() == [sent(1, "k1"), sent(3, "k3")])
        #expect(
            core.received(.error(id: third.id, TopicRefusal(.forbidden, "no")))
                == [.answer(3, .refused(TopicRefusal(.forbidden, "no")))]
        )
        #expect(core.close() == [.answer(1, .failed(.closed))])
    }

    @Test("The queue is bounded in number and bytes; the policy says who goes")
    func queue() throws {
        let data = try JSONText(parsing: "\"\(String(repeating: "x", count: 98))\"")
        for bound in [\ReconnectingConfiguration.publicationsMax, \.publicationByteCountMax] {
            var core = Self.core { $0[keyPath: bound] = bound == \.publicationsMax ? 2 : 250 }
            _ = try Self.publish(data, "1", in: &core)
            _ = try Self.publish(data, "2", in: &core)
            #expect(core.publish(data, to: "a", key: "3") == nil)
            core.withdraw(1)
            #expect(core.publish(data, to: "a", key: "4") != nil)

            var dropping = Self.core {
                $0[keyPath: bound] = bound == \.publicationsMax ? 2 : 250
                $0.publicationQueuePolicy = .dropOldest
            }
            for key in ["1", "2"] { _ = dropping.publish(data, to: "a", key: key) }
            #expect(dropping.publish(data, to: "a", key: "3")?.effects == [.answer(1, .failed(.dropped))])
        }
        // One that alone is over the bound fits nowhere.
        var core = Self.core {
            $0.publicationByteCountMax = 50
            $0.publicationQueuePolicy = .dropOldest
        }
        #expect(core.publish(data, to: "a", key: "1") == nil)
    }

    @Test(
        "Requests are sent once: those without an answer fail with the connection, those not sent wait for the next"
    )
    func requests() throws {
        var core = Self.core { $0.requestsMax = 2 }
        _ = core.connected()
        let first = try Self.request(in: &core)
        #expect(first.effects.count == 1)
        #expect(core.disconnected() == [.answer(first.id, .failed(.connectionLost))])
        let second = try Self.request(in: &core)
        #expect(second.effects == [])
        #expect(core.connected().count == 1)
        #expect(core.received(.reply(id: second.id, data: .null)) == [.answer(second.id, .reply(.null))])
        _ = core.members(of: "a", from: nil)
        _ = core.request("r", .null, timeout: .seconds(1))
        #expect(core.request("r", .null, timeout: .seconds(1)) == nil)
    }

    @Test("A topic that is paused is left, and taken up from where it was")
    func pause() {
        var core = Self.core()
        _ = core.connected()
        #expect(core.subscribe(to: "a", from: nil) == [Self.subscribe(1, nil)])
        _ = core.received(.subscribed(id: 1, topic: "a", position: Self.position(0), isRecovered: true))
        _ = core.received(Self.publication(1))
        #expect(core.pause("a") == [.send(ClientMessage.unsubscribe(id: 2, topic: "a").message)])
        #expect(core.pause("a") == [])
        #expect(core.received(Self.publication(2)) == [])
        #expect(core.resume("a") == [Self.subscribe(3, Self.position(1))])
        #expect(core.resume("a") == [])
        #expect(core.pause("a").count == 1)
        _ = core.disconnected()
        #expect(core.connected() == [])
        #expect(core.resume("a") == [Self.subscribe(5, Self.position(1))])
        #expect(core.unsubscribe(from: "a") == [.send(ClientMessage.unsubscribe(id: 6, topic: "a").message)])
        #expect(core.unsubscribe(from: "a") == [])
    }

    @Test("A refused subscription is over; one that the broker could not make is asked for again")
    func refusals() {
        var core = Self.core()
        _ = core.connected()
        _ = core.subscribe(to: "a", from: Self.position(7))
        #expect(core.received(.error(id: 1, TopicRefusal(.unavailable, "no Redis"))) == [.retryLater])
        #expect(core.retry() == [Self.subscribe(2, Self.position(7))])
        #expect(core.retry() == [])
        let refusal = TopicRefusal(.forbidden, "not you")
        #expect(core.received(.error(id: 2, refusal)) == [.fail("a", refusal)])
        #expect(core.retry() == [])
        _ = core.disconnected()
        #expect(core.connected() == [])
    }

    @Test("A publication that the broker could not take is sent again, and those behind it wait for it")
    func unavailable() throws {
        var core = Self.core()
        _ = core.connected()
        let first = try Self.publish(.null, "k1", in: &core)
        let second = try Self.publish(.null, "k2", in: &core)
        let refusal = TopicRefusal(.unavailable, "no Redis")
        #expect(core.received(.error(id: first.id, refusal)) == [.retryLater])
        #expect(core.received(.error(id: second.id, refusal)) == [])
        #expect(try Self.publish(.null, "k3", in: &core).effects == [])
        // A request does not need the broker.
        #expect(try Self.request(in: &core).effects.count == 1)
        let again = ["k1", "k2", "k3"].enumerated().map { index, key -> Effect in
            let message = ClientMessage.publish(id: UInt64(index + 1), topic: "a", data: .null, key: key)
            return .send(message.message)
        }
        #expect(core.retry() == again)
        #expect(core.retry() == [])
        // A request's refusal is its answer.
        #expect(core.received(.error(id: 4, refusal)) == [.answer(4, .refused(refusal))])
    }

    @Test("The wait is random, its bound doubles, and both ends are kept")
    func backoff() {
        var generator = SystemRandomNumberGenerator()
        let backoff = Backoff(first: .milliseconds(100), max: .seconds(1))
        for (attempt, bound) in [(0, 100), (1, 200), (2, 400), (3, 800), (4, 1000), (500, 1000)]
            as [(Int, Int64)]
        {
            let waits = (0..<400).map { _ in backoff.delay(beforeAttempt: attempt, using: &generator) }
            #expect(waits.allSatisfy { $0 >= .zero && $0 <= .milliseconds(bound) })
            // 400 draws miss the upper half with a probability of 2^-400.
            #expect(waits.contains { $0 > .milliseconds(bound / 2) })
            #expect(waits.contains { $0 < .milliseconds(bound / 2) })
        }
    }

    @Test(
        "A time of its own is kept to; what everybody is told has a backoff on top, so that not all come back together"
    )
    func hintsAndBackoff() {
        var generator = SystemRandomNumberGenerator()
        let backoff = Backoff(first: .milliseconds(100), max: .seconds(1))
        for (attempt, bound) in [(0, 100), (3, 800), (500, 1000)] as [(Int, Int64)] {
            func waits(_ hint: Backoff.Hint) -> [Duration] {
                (0..<400).map { _ in
                    backoff.delay(beforeAttempt: attempt, hint: hint, using: &generator)
                }
            }
            #expect(Set(waits(.ownTime(.milliseconds(2400)))) == [.milliseconds(2400)])
            let refused = waits(.leastTime(.seconds(1)))
            #expect(refused.allSatisfy { $0 >= .seconds(1) && $0 <= .milliseconds(1000 + bound) })
            #expect(refused.contains { $0 > .milliseconds(1000 + bound / 2) })
            #expect(refused.contains { $0 < .milliseconds(1000 + bound / 2) })
        }
    }

    @Test("Which close codes a client comes back after")
    func closeCodes() {
        for code in [1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015] as [UInt16] {
            #expect(ReconnectingConfiguration.comesBack(after: .init(rawValue: code)), "\(code)")
        }
        for code in [1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 4000, 4999] as [UInt16] {
            #expect(!ReconnectingConfiguration.comesBack(after: .init(rawValue: code)), "\(code)")
        }
    }

    @Test("A retry hint is found in a close reason, and bounded")
    func hints() {
        #expect(RetryHint(in: "the server shuts down; retry in 2400 ms")?.delay == .milliseconds(2400))
        #expect(RetryHint(in: RetryHint(.seconds(3)).description)?.delay == .seconds(3))
        #expect(RetryHint(in: "retry in 99999999999999 ms")?.delay == RetryHint.delayMax)
        for reason in ["", "retry in ms", "retry in 5", "retry in 99999999999999999999 ms", "retry in -1 ms"]
        {
            #expect(RetryHint(in: reason) == nil, "\(reason)")
        }
    }

    @Test("What the connection would not take is refused at once, and holds up nothing")
    func tooBig() throws {
        var core = Self.core {
            $0.connection.outbound.byteCountMax = 1000
            $0.publicationByteCountMax = 1 << 20
        }
        _ = core.connected()
        let data = try JSONText(encoding: String(repeating: "x", count: 1000))
        for asked in [
            core.request("r", data, timeout: .seconds(1)), core.publish(data, to: "a", key: "k"),
        ] {
            let (id, effects) = try #require(asked)
            guard case .answer(let answered, .refused(let refusal)) = effects.first, effects.count == 1 else {
                Issue.record("\(effects)")
                continue
            }
            #expect(answered == id && refusal.code == .invalidData)
        }
        // Nor does it wait.
        #expect(try Self.publish(.null, "k2", in: &core).effects.count == 1)
    }
}
