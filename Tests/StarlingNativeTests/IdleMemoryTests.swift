import StarlingCore
import StarlingDeflate
import Testing

@testable import Starling
@testable import StarlingNative

@Suite struct IdleMemoryTests {
    @Test("An idle connection costs 192 bytes in the tables of its loop")
    func sizes() {
        let slot = MemoryLayout<ConnectionSlot>.stride
        let connection = MemoryLayout<NativeConnection>.stride
        #expect(slot == 184)
        #expect(connection == 8)
    }

    @Test("Connections that agreed on the same compression without a context share that")
    func agreements() {
        func deflate(keepsContext: Bool = false, bits: Int = 15) -> ConnectionDeflate {
            let agreed = PermessageDeflate(
                serverNoContextTakeover: !keepsContext,
                clientNoContextTakeover: true,
                serverMaxWindowBits: bits,
                clientMaxWindowBits: 15
            )
            return ConnectionDeflate(agreed: agreed, configuration: DeflateConfiguration(), role: .server)
        }
        var agreements = SharedAgreements()
        #expect(agreements.number(of: deflate()) == 1)
        #expect(agreements.number(of: deflate()) == 1)
        #expect(agreements.number(of: deflate(bits: 10)) == 2)
        #expect(agreements[2].windowBits == 10)
        #expect(agreements.number(of: deflate(keepsContext: true)) == nil)
    }
}
