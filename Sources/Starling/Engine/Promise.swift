/// A value that comes later; one task waits for it.
package final class Promise<Value: Sendable>: Sendable {
    private struct State {
        var value: Value?
        var waiter: CheckedContinuation<Value?, Never>?
    }

    private let state = Lock(State())

    package init() {}

    /// Gives the value; what comes after the first is ignored.
    package func fulfil(_ value: Value) {
        let waiter = self.state.withLock { state -> CheckedContinuation<Value?, Never>? in
            guard state.value == nil else { return nil }
            state.value = value
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: value)
    }

    /// Suspends until the value is there; nil if the task is cancelled before.
    package func value() async -> Value? {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let (isDecided, value): (Bool, Value?) = self.state.withLock { state in
                    if state.value != nil || Task.isCancelled { return (true, state.value) }
                    state.waiter = continuation
                    return (false, nil)
                }
                if isDecided { continuation.resume(returning: value) }
            }
        } onCancel: {
            let waiter = self.state.withLock { state in
                defer { state.waiter = nil }
                return state.waiter
            }
            waiter?.resume(returning: nil)
        }
    }
}
