import FuzzTargets
import Testing

#if canImport(Glibc)
import Glibc
#elseif canImport(Darwin)
import Darwin
#endif

/// The fuzz targets with their seeds: meaningful inputs, and what the fuzzer once found.
@Suite struct FuzzSeedTests {
    struct Seed: CustomTestStringConvertible {
        let target: FuzzTarget
        let name: String
        let path: String

        var testDescription: String { "\(self.target.name)/\(self.name)" }

        static let all: [Seed] = FuzzTarget.all.flatMap { target in
            let folder = "\(seedsFolder)/\(target.name)"
            return names(in: folder).map { Seed(target: target, name: $0, path: "\(folder)/\($0)") }
        }

        private static let seedsFolder: String = {
            let replay = #filePath.split(separator: "/", omittingEmptySubsequences: false)
            return replay.dropLast(2).joined(separator: "/") + "/Seeds"
        }()

        private static func names(in folder: String) -> [String] {
            guard let listing = unsafe opendir(folder) else { return [] }
            defer { unsafe closedir(listing) }
            var names: [String] = []
            while let entry = unsafe readdir(listing) {
                // The name ends with a NUL within its field, and is copied before the next call.
                let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                    unsafe String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
                }
                if !name.hasPrefix(".") { names.append(name) }
            }
            return names.sorted()
        }

        func bytes() throws -> [UInt8] {
            let file = try unsafe #require(fopen(self.path, "rb"))
            defer { unsafe fclose(file) }
            var bytes = [UInt8](repeating: 0, count: 1 << 20)
            let count = unsafe fread(&bytes, 1, bytes.count, file)
            return Array(bytes[..<count])
        }
    }

    @Test("Every target has seeds", arguments: FuzzTarget.all.map(\.name))
    func seedsExist(_ target: String) {
        #expect(Seed.all.contains { $0.target.name == target })
    }

    @Test("What must hold for every input holds for the seeds", arguments: Seed.all)
    func replay(_ seed: Seed) throws {
        try seed.target.run(seed.bytes())
    }

    @Test("What must hold holds for the seeds cut short, and with a byte changed", arguments: Seed.all)
    func replayVariations(_ seed: Seed) throws {
        let bytes = try seed.bytes()
        // A few variations of each, so that this stays a matter of seconds: the fuzzer tries the others.
        let step = max(1, bytes.count / 16)
        for index in stride(from: 0, to: bytes.count, by: step) {
            try seed.target.run(Array(bytes[..<index]))
            var changed = bytes
            changed[index] ^= 1 << UInt8(index & 7)
            try seed.target.run(changed)
        }
    }
}
