internal import Synchronization

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#elseif canImport(Musl)
internal import Musl
#endif

/// One thread that serves many connections, seen from other threads; and the executor of those connections' tasks.
///
/// A task that prefers its connection's loop runs between the loop's reads and writes: no thread is hopped to, and
/// what it sends goes out with the same system call as the rest of the tick's.
public final class EventLoop: TaskExecutor, Sendable {
    /// The loop's number within its server.
    public let index: Int

    let mailbox = Mailbox()
    private let wakeup: @Sendable () -> Void
    /// For comparison with the thread's current driver; a loop has one driver, and none when it has ended.
    private let driverAddress = Atomic<UInt>(0)
    /// ``key``, read without the check whether it has been made.
    private let key = EventLoop.key

    /// Makes a loop for a transport.
    ///
    /// - Parameters:
    ///   - index: Its number within the server, below 64.
    ///   - wakeup: Makes the loop's thread run a tick; called on any thread, and only while the loop sleeps.
    public init(index: Int, wakeup: @escaping @Sendable () -> Void) {
        precondition(index >= 0 && index < ConnectionID.loopsMax, "a server has at most 64 event loops")
        self.index = index
        self.wakeup = wakeup
    }

    /// Whether the calling thread is inside a tick of this loop.
    ///
    /// Asks thread-specific data each time: a task may have moved to another thread since the last await.
    var isCurrent: Bool {
        guard let current = unsafe pthread_getspecific(self.key) else { return false }
        return UInt(bitPattern: current) == self.driverAddress.load(ordering: .relaxed)
    }

    /// Whether it serves nobody: it has ended, or not begun.
    var hasEnded: Bool {
        self.driverAddress.load(ordering: .relaxed) == 0
    }

    /// This loop's driver, if the calling thread is inside one of its ticks.
    var currentDriver: ConnectionDriver? {
        unsafe self.currentDriverReference?.takeUnretainedValue()
    }

    /// The same, not retained: good until the caller suspends.
    var currentDriverReference: Unmanaged<ConnectionDriver>? {
        guard let current = unsafe pthread_getspecific(self.key),
            UInt(bitPattern: current) == self.driverAddress.load(ordering: .relaxed)
        else { return nil }
        // As for the static one below.
        return unsafe Unmanaged.fromOpaque(current)
    }

    /// Notes the loop's driver, before its first tick.
    func attach(_ driver: ConnectionDriver) {
        let address = unsafe UInt(bitPattern: Unmanaged.passUnretained(driver).toOpaque())
        self.driverAddress.store(address, ordering: .relaxed)
    }

    /// Forgets the driver: another one may be at its address some day.
    func detach() {
        self.driverAddress.store(0, ordering: .relaxed)
    }

    /// The driver whose tick the calling thread is in.
    static var currentDriver: ConnectionDriver? {
        guard let pointer = unsafe pthread_getspecific(Self.key) else { return nil }
        // Set by `withCurrent` for the time of a tick, during which the driver is alive.
        return unsafe Unmanaged<ConnectionDriver>.fromOpaque(pointer).takeUnretainedValue()
    }

    /// Runs a tick's work with `driver` as the thread's current one.
    static func withCurrent<Result>(_ driver: ConnectionDriver, _ body: () -> Result) -> Result {
        let previous = unsafe pthread_getspecific(Self.key)
        unsafe pthread_setspecific(Self.key, Unmanaged.passUnretained(driver).toOpaque())
        defer { unsafe pthread_setspecific(Self.key, previous) }
        return body()
    }

    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        let result = unsafe pthread_key_create(&key, nil)
        precondition(result == 0, "no key for thread-specific data is left")
        return key
    }()

    /// Hands a message to the loop, or does what is right for it if the loop has ended.
    ///
    /// - Returns: Whether the loop gets it.
    @discardableResult
    func post(_ message: LoopMessage) -> Bool {
        switch self.mailbox.post(message) {
        case .posted: return true
        case .postedToSleeper:
            self.wakeup()
            return true
        case .closed:
            Self.handleAfterEnd(message)
            return false
        case .departed:
            Self.handleAfterEnd(message)
            return false
        }
    }

    /// Tasks may outlive the loop that they prefer: they go on elsewhere.
    ///
    /// All else was for connections, and there are none any more.
    static func handleAfterEnd(_ message: LoopMessage) {
        switch message {
        case .job(let job): globalConcurrentExecutor.enqueue(ExecutorJob(job))
        case .perform(let work): work(nil)
        case .send(let message, let connection): connection.cameTooLate(message)
        case .publication: break
        }
    }

    /// Runs one part of a task: at once in order on this loop's thread, or through the mailbox.
    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        if let driver = unsafe self.currentDriverReference {
            unsafe driver._withUnsafeGuaranteedRef { $0.jobs.append(job) }
        } else {
            self.post(.job(job))
        }
    }
}
