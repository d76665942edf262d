import Starling
import StarlingCore
import StarlingTesting
import Testing

/// Subscriptions that end while they begin.
@Suite struct SubscriptionEndsTests {
    @Test("Of two that begin one subscription anew the later one counts, and the other says so")
    func replaced() async throws {
        let gate = Gate()
        let broadcaster = ScriptedBroadcaster { position throws(BroadcastError) in
            await gate.wait()
            let newest = StreamPosition(epoch: 1, offset: 3)
            let missed = (((position?.offset ?? 3) + 1)..<4).map { offset in
                Publication(.text("\(offset)"), to: "t", position: StreamPosition(epoch: 1, offset: offset))
            }
            return TopicHistory(publications: missed, newest: newest, isComplete: true)
        }
        let outcomes = Lock<[String]>([])
        let endpoint = WebSocketEndpoint(broadcaster: broadcaster) { socket in
            await withTaskGroup { group in
                for offset in [1, 2] as [UInt64] {
                    group.addTask {
                        do throws(WebSocketError) {
                            try await socket.subscribe(
                                to: "t",
                                from: StreamPosition(epoch: 1, offset: offset)
                            )
                            outcomes.withLock { $0.append("from \(offset)") }
                        } catch {
                            outcomes.withLock { $0.append("\(error)") }
                        }
                    }
                }
            }
            for try await _ in socket {}
        }
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        while broadcaster.asked.count < 2 { await server.waiting {} }
        await server.waiting { await gate.open() }
        while outcomes.withLock({ $0.count }) < 2 { await server.waiting {} }
        #expect(outcomes.withLock { $0 }.contains("cancelled"))
        // It is subscribed, and has had each once from where the later one began.
        broadcaster.deliver("4", to: "t", 1, 4)
        server.advance(by: .milliseconds(1))
        let texts = client.takeTexts()
        #expect(texts.suffix(2) == ["3", "4"])
        #expect(texts.filter { $0 == "4" }.count == 1)
    }

    @Test("A client that was told of a subscription which then fails is to come back")
    func failsBehindPrologue() async throws {
        let broadcaster = ScriptedBroadcaster { position throws(BroadcastError) in
            guard position == StreamPosition(epoch: 1, offset: 1) else {
                throw BroadcastError(.unavailable, message: "gone in the middle")
            }
            let second = StreamPosition(epoch: 1, offset: 2)
            return TopicHistory(
                publications: [Publication(.text("2"), to: "t", position: second)],
                newest: StreamPosition(epoch: 1, offset: 3),
                isComplete: true
            )
        }
        let codes = Lock<[WebSocketError.Code]>([])
        let endpoint = WebSocketEndpoint(broadcaster: broadcaster) { socket in
            for try await _ in socket {
                do throws(WebSocketError) {
                    try await socket.subscribe(to: "t", from: StreamPosition(epoch: 1, offset: 1)) { _ in
                        .text("told")
                    }
                } catch {
                    codes.withLock { $0.append(error.code) }
                }
            }
        }
        let server = EmbeddedTransport { WebSocketRoute("/", endpoint) }
        let client = try Client(server)
        #expect(client.takeStatus() == 101)
        client.send(.text, [])
        while codes.withLock({ $0.isEmpty }) { await server.waiting {} }
        server.advance(by: .milliseconds(1))
        #expect(codes.withLock { $0 } == [.broadcasting])
        #expect(client.takeTexts() == ["told", "2", closedWith1013])
    }
}
