#if os(Linux)
import StarlingNative
import TestSupport
import Testing

@Suite struct NativeConnectorTests {
    @Test("What every connector must do", arguments: ConnectorCheck.all)
    func check(_ check: ConnectorCheck) async throws {
        try await check.run(NativeConnector())
    }
}
#endif
