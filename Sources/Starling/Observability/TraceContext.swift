/// What a tracer puts into a publication, to find it again where the publication is delivered: W3C's `traceparent`, for
/// example.
///
/// The names and values are the tracer's; a broadcaster carries them as they are.
public struct TraceContext: Sendable, Hashable {
    /// The fields, by name.
    public let fields: [String: String]

    /// Fields that are carried; of a context with more nothing is.
    public static let fieldCountMax = 16
    /// Bytes of all names and values that are carried; of a context with more nothing is.
    public static let byteCountMax = 2048

    /// Makes a context; nil if there are no fields, or too many, or too long ones.
    public init?(_ fields: [String: String]) {
        let byteCount = fields.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count }
        guard !fields.isEmpty, fields.count <= Self.fieldCountMax, byteCount <= Self.byteCountMax else {
            return nil
        }
        self.fields = fields
    }
}
