/// What a broadcaster or a transport did not do.
public struct ConformanceFailure: Error, CustomStringConvertible {
    /// The check, and what was seen.
    public let description: String

    init(_ description: String) {
        self.description = description
    }
}

func expect(_ condition: Bool, _ failure: String) throws {
    if !condition { throw ConformanceFailure(failure) }
}

func unwrap<Value>(_ value: Value?, _ failure: String) throws -> Value {
    guard let value else { throw ConformanceFailure(failure) }
    return value
}
