import FileBroadcaster
import Foundation
import Starling
import StarlingTesting
import Testing

@Suite struct FileBroadcasterTests {
    @Test("The broadcaster of Documentation/ImplementingABroadcaster.md does what every broadcaster must")
    func conformance() async throws {
        let directory = FileManager.default.temporaryDirectory
            .appending(path: "starling-files-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: directory) }
        let names = try await BroadcasterConformance { try FileBroadcaster(directory: directory) }.run()
        #expect(names.count == 5)
    }

    @Test("A directory that cannot be written is an error that says so")
    func unwritable() async throws {
        let directory = FileManager.default.temporaryDirectory
            .appending(path: "starling-files-\(UInt64.random(in: 0 ... .max))")
        let broadcaster = try FileBroadcaster(directory: directory)
        try FileManager.default.removeItem(at: directory)
        let error = await #expect(throws: BroadcastError.self) {
            try await broadcaster.publish("x", to: "topic")
        }
        #expect(error?.code == .unavailable)
        #expect(error?.message.contains("cannot publish to 'topic'") == true)
    }
}
