/// Asks a history on behalf of many subscribers: so many questions at a time, and the same one once for all who wait with it.
///
/// After a restart thousands of clients come back at once, to few topics and from few positions.
package final class HistoryReads: Sendable {
    /// Questions that a broadcaster is asked at a time.
    package static let countMax = 64

    /// What has come behind a position; nil for the newest position alone.
    package struct Question: Hashable, Sendable {
        package let topic: Topic
        package let position: StreamPosition?

        package init(topic: Topic, position: StreamPosition?) {
            self.topic = topic
            self.position = position
        }
    }

    typealias Answer = Result<TopicHistory, BroadcastError>

    /// What somebody who waits is told.
    private enum Turn {
        /// To ask, and to tell these.
        case ask([Waiter])
        case answer(Answer)
    }

    private typealias Waiter = CheckedContinuation<Turn, Never>

    private struct State {
        var askedCount = 0
        /// Questions that are not asked yet, in order, and who waits with each; the first asks it.
        var queue = Deque<Question>()
        var waiters: [Question: [Waiter]] = [:]
    }

    private let state = Lock(State())

    package init() {}

    /// Callers whose question is not asked yet.
    package var waitingCount: Int {
        self.state.withLock { $0.waiters.values.reduce(0) { $0 + $1.count } }
    }

    /// Answers a question; `read` asks it, unless another caller's answer to the same one can be had.
    ///
    /// An answer is never older than the call: nobody joins a question that is asked already.
    package func answer(
        to question: Question,
        _ read: () async throws(BroadcastError) -> TopicHistory
    ) async throws(BroadcastError) -> TopicHistory {
        switch await self.turn(for: question) {
        case .answer(let answer): return try answer.get()
        case .ask(let others):
            let answer: Answer
            do throws(BroadcastError) {
                answer = .success(try await read())
            } catch {
                answer = .failure(error)
            }
            self.finish(answer, others)
            return try answer.get()
        }
    }

    private func turn(for question: Question) async -> Turn {
        await withCheckedContinuation { waiter in
            let mayAsk = self.state.withLock { state in
                if state.waiters[question] != nil {
                    state.waiters[question]?.append(waiter)
                    return false
                }
                if state.askedCount < Self.countMax {
                    state.askedCount += 1
                    return true
                }
                state.queue.append(question)
                state.waiters[question] = [waiter]
                return false
            }
            if mayAsk { waiter.resume(returning: .ask([])) }
        }
    }

    private func finish(_ answer: Answer, _ others: [Waiter]) {
        if case .failure = answer, Task.isCancelled, let next = others.first {
            // It is this caller alone that has no answer.
            return next.resume(returning: .ask(Array(others.dropFirst())))
        }
        for other in others { other.resume(returning: .answer(answer)) }
        let next = self.state.withLock { state -> [Waiter] in
            guard !state.queue.isEmpty else {
                state.askedCount -= 1
                return []
            }
            return state.waiters.removeValue(forKey: state.queue.removeFirst()) ?? []
        }
        next.first?.resume(returning: .ask(Array(next.dropFirst())))
    }
}
