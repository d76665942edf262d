internal import CAllocationCounter

#if canImport(Glibc)
internal import Glibc
#endif

/// Counts how often a piece of code asks for memory.
///
/// Set `STARLING_PRINT_ALLOCATIONS=1` to see on the standard error stream which stack each allocation comes from;
/// `llvm-symbolizer` turns its addresses into lines.
public enum AllocationCounter {
    /// Whether allocations can be counted: on Linux with glibc, and not under a sanitizer.
    public static var isAvailable: Bool {
        starling_allocations_are_counted()
    }

    /// Whether this is a release build.
    public static var isOptimized: Bool {
        #if DEBUG
        false
        #else
        true
        #endif
    }

    /// The allocations of `repetitions` calls of `body` on this thread, after as many that are not counted: caches and
    /// buffers have grown by then.
    public static func count(repetitions: Int = 1000, _ body: () throws -> Void) rethrows -> Int {
        for _ in 0..<repetitions { try body() }
        starling_allocations_print(self.isPrinting)
        defer { starling_allocations_print(false) }
        let start = starling_allocation_count()
        for _ in 0..<repetitions { try body() }
        return Int(starling_allocation_count() - start)
    }

    private static let isPrinting: Bool = {
        #if canImport(Glibc)
        // The environment is read before a test could change it.
        unsafe getenv("STARLING_PRINT_ALLOCATIONS") != nil
        #else
        false
        #endif
    }()
}
