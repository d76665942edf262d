import Testing

@testable import Starling
@testable import StarlingNative

@Suite struct IdleMemoryTests {
    @Test("An idle connection costs at most 200 bytes in the tables of its loop")
    func sizes() {
        let slot = MemoryLayout<ConnectionSlot>.stride
        let connection = MemoryLayout<NativeConnection>.stride
        #expect(slot == 184)
        #expect(connection == 16)
        #expect(slot + connection <= 200)
    }
}
