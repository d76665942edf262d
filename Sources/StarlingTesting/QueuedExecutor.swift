internal import Starling

/// Keeps parts of tasks until it is told to run them, on the thread that tells it.
final class QueuedExecutor: TaskExecutor {
    private struct State {
        var jobs: [UnownedJob] = []
        var isClosed = false
    }

    private let state = Lock(State())

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let isClosed = self.state.withLock { state in
            if !state.isClosed { state.jobs.append(job) }
            return state.isClosed
        }
        if isClosed { globalConcurrentExecutor.enqueue(ExecutorJob(job)) }
    }

    /// Runs what is ready, and what that makes ready; false if nothing was.
    func drain() -> Bool {
        var hasRun = false
        while true {
            let batch = self.state.withLock { state in
                defer { state.jobs = [] }
                return state.jobs
            }
            if batch.isEmpty { return hasRun }
            hasRun = true
            for job in batch { unsafe job.runSynchronously(on: self.asUnownedTaskExecutor()) }
        }
    }

    /// Tasks that still prefer it go on elsewhere.
    func close() {
        _ = self.drain()
        self.state.withLock { $0.isClosed = true }
        // What has come in between.
        _ = self.drain()
    }
}
