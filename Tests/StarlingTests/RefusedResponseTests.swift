import HTTPTypes
import Testing

@testable import Starling

@Suite struct RefusedResponseTests {
    @Test(
        "A chunk of more bytes than are kept, or than there can be, ends the body",
        arguments: ["7fffffffffffffff", "7ffffffffffffffe", "10001", "ffffffffffffffffff", "-1"]
    )
    func hugeChunk(size: String) {
        var response = HTTPResponse(status: .badRequest)
        response.headerFields[.transferEncoding] = "chunked"
        var refused = RefusedResponse(response)
        let bytes = Array("3\r\nabc\r\n\(size)\r\nrest".utf8)
        unsafe refused.append(bytes.span.bytes)
        #expect(refused.isComplete)
        #expect(refused.body == Array("abc".utf8))
    }
}
