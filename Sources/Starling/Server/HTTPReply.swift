public import HTTPTypes
internal import StarlingCore

/// A small response to a plain HTTP request.
public struct HTTPReply: Sendable {
    /// The status.
    public var status: HTTPResponse.Status
    /// The header fields; `Content-Length` and `Connection` are set by the server.
    public var headerFields: HTTPFields
    /// The body.
    public var body: [UInt8]

    /// Makes a response.
    public init(_ status: HTTPResponse.Status, headerFields: HTTPFields = [:], body: [UInt8] = []) {
        self.status = status
        self.headerFields = headerFields
        self.body = body
    }

    /// A response of plain text.
    public static func text(_ text: String, status: HTTPResponse.Status = .ok) -> HTTPReply {
        HTTPReply(
            status,
            headerFields: [.contentType: "text/plain; charset=utf-8", .cacheControl: "no-store"],
            body: Array(text.utf8)
        )
    }

    /// Head and body as they stand on the wire.
    func serialized(keepsConnection: Bool, isHeadRequest: Bool) -> [UInt8] {
        var fields = self.headerFields
        // RFC 9110 §8.6: in a 304 it would be the length of what is not sent.
        fields[.contentLength] = self.status == .notModified ? nil : String(self.body.count)
        fields[.transferEncoding] = nil
        if !keepsConnection, fields[.connection] == nil { fields[.connection] = "close" }
        let head = HTTPResponse(status: self.status, headerFields: fields).serialized()
        return isHeadRequest ? head : head + self.body
    }
}
