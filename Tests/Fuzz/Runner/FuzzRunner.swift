internal import CFuzzer
internal import FuzzTargets

#if canImport(Glibc)
internal import Glibc
#elseif canImport(Darwin)
internal import Darwin
#endif

/// The target that the environment names.
///
/// libFuzzer has the arguments to itself: it starts this program again with others of its own.
private let target: FuzzTarget = {
    let name = unsafe getenv("STARLING_FUZZ_TARGET").map { unsafe String(cString: $0) } ?? ""
    guard let target = FuzzTarget.all.first(where: { $0.name == name }) else {
        fatalError("no fuzz target is named '\(name)'; there are \(FuzzTarget.all.map(\.name))")
    }
    return target
}()

/// The program's start, under the name that SwiftPM gives to the main function of this target.
@_cdecl("FuzzRunner_main")
public func main(_ argc: Int32, _ argv: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?) -> Int32 {
    var argc = argc
    var argv = unsafe argv
    return unsafe LLVMFuzzerRunDriver(&argc, &argv) { data, size in
        // libFuzzer lends `size` bytes for the time of the call.
        let input = unsafe Array(UnsafeBufferPointer(start: data, count: size))
        do {
            try target.run(input)
        } catch {
            fatalError("\(target.name): \(error)")
        }
        return 0
    }
}
