#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Starling

/// Work for an event loop's thread between two of its ticks, from a thread that waits for it.
final class LoopRemote: Sendable {
    private struct State {
        var work: [@Sendable (NativeLoop?, ConnectionDriver?) -> Void] = []
        var isClosed = false
    }

    /// Wakes the loop.
    let wakeup: Int32
    private let state = Lock(State())

    init() {
        self.wakeup = starling_eventfd_create()
        precondition(self.wakeup >= 0, "no descriptor is left for an event loop")
    }

    /// Hands the loop a piece of work; the answer is nil if the loop has ended.
    func begin<Answer: Sendable>(
        _ body: @escaping @Sendable (NativeLoop, ConnectionDriver) -> Answer
    ) -> LoopAnswer<Answer> {
        let answer = LoopAnswer<Answer>()
        let work: @Sendable (NativeLoop?, ConnectionDriver?) -> Void = { loop, driver in
            guard let loop, let driver else { return answer.give(nil) }
            answer.give(body(loop, driver))
        }
        let isClosed = self.state.withLock { state in
            if !state.isClosed { state.work.append(work) }
            return state.isClosed
        }
        if isClosed { work(nil, nil) } else { starling_eventfd_signal(self.wakeup) }
        return answer
    }

    /// Does what was asked, on the loop's thread; whether anything was.
    func perform(_ loop: NativeLoop, _ driver: ConnectionDriver) -> Bool {
        let work = self.state.withLock { state in
            defer { state.work = [] }
            return state.work
        }
        for piece in work { piece(loop, driver) }
        return !work.isEmpty
    }

    /// The loop has ended.
    func close() {
        let work = self.state.withLock { state in
            state.isClosed = true
            defer { state.work = [] }
            return state.work
        }
        for piece in work { piece(nil, nil) }
    }
}

/// What a loop answers.
final class LoopAnswer<Answer: Sendable>: Sendable {
    private let value = Lock<Answer?>(nil)
    private let signal: Int32

    init() {
        self.signal = starling_eventfd_create()
    }

    deinit {
        if self.signal >= 0 { _ = Glibc.close(self.signal) }
    }

    func give(_ answer: Answer?) {
        self.value.withLock { $0 = answer }
        starling_eventfd_signal(self.signal)
    }

    /// Blocks the calling thread until the answer is there.
    func wait(_ timeout: Duration) throws(HandoffError) -> Answer {
        let deadline = Syscalls.monotonicNanoseconds() &+ timeout.wholeNanoseconds
        while !Syscalls.wait(for: POLLIN, on: self.signal, milliseconds: 100) {
            guard Syscalls.monotonicNanoseconds() < deadline else {
                throw HandoffError("an event loop does not answer")
            }
        }
        guard let answer = self.value.withLock({ $0 }) else {
            throw HandoffError("an event loop has ended")
        }
        return answer
    }
}
#endif
