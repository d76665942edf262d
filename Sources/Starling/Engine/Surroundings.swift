/// What the engine takes from the world beside bytes and the time of its loops; a simulation brings its own.
package struct Surroundings: Sendable {
    /// Waits; ends early when the task is cancelled.
    package var sleep: @Sendable (Duration) async throws -> Void
    /// A number in a range, for what is spread at random.
    package var random: @Sendable (ClosedRange<UInt32>) -> UInt32

    /// The real world, unless told otherwise.
    package init(
        sleep: @escaping @Sendable (Duration) async throws -> Void = { try await Task.sleep(for: $0) },
        random: @escaping @Sendable (ClosedRange<UInt32>) -> UInt32 = { .random(in: $0) }
    ) {
        self.sleep = sleep
        self.random = random
    }
}
