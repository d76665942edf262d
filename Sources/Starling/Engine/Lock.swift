#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#elseif canImport(Musl)
internal import Musl
#endif

/// The one lock of this package: a value behind a `pthread_mutex`.
///
/// Not `Synchronization.Mutex`, for which ThreadSanitizer reports races on Linux that are none. Never held across
/// an `await` or a call into user code. Where two nest, the order is: broadcaster, hub, mailbox.
@safe package final class Lock<Value>: @unchecked Sendable {
    // Sendable because `value` is touched only by `withLock`, which holds the mutex.
    private var value: Value
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>

    package init(_ value: sending Value) {
        self.value = value
        // The mutex needs an address of its own that does not change.
        unsafe self.mutex = .allocate(capacity: 1)
        unsafe self.mutex.initialize(to: pthread_mutex_t())
        let result = unsafe pthread_mutex_init(self.mutex, nil)
        precondition(result == 0, "pthread_mutex_init failed")
    }

    deinit {
        unsafe pthread_mutex_destroy(self.mutex)
        unsafe self.mutex.deinitialize(count: 1)
        unsafe self.mutex.deallocate()
    }

    package func withLock<Result, Failure: Error>(
        _ body: (inout Value) throws(Failure) -> sending Result
    ) throws(Failure) -> sending Result {
        unsafe pthread_mutex_lock(self.mutex)
        defer { unsafe pthread_mutex_unlock(self.mutex) }
        return try body(&self.value)
    }
}
