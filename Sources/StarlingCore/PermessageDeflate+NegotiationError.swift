extension PermessageDeflate {
    /// Why a header field cannot be taken.
    ///
    /// A trivial value: throwing it neither allocates nor retains.
    public struct NegotiationError: Error, Hashable, Sendable {
        /// What is wrong.
        public struct Code: Hashable, Sendable {
            fileprivate enum Base: UInt8, Sendable {
                case malformed, extensionNotOffered, extensionRepeated
                case parameterUnknown, parameterRepeated, parameterInvalid, parameterMissing
            }
            fileprivate let base: Base

            /// The field breaks the grammar (RFC 6455 §9.1).
            public static let malformed = Code(base: .malformed)
            /// The server names an extension that was not offered (RFC 6455 §4.1).
            public static let extensionNotOffered = Code(base: .extensionNotOffered)
            /// The server accepts permessage-deflate twice.
            public static let extensionRepeated = Code(base: .extensionRepeated)
            /// A parameter that RFC 7692 does not define.
            public static let parameterUnknown = Code(base: .parameterUnknown)
            /// A parameter stands twice in one offer or answer.
            public static let parameterRepeated = Code(base: .parameterRepeated)
            /// A parameter has a value where it must have none, none where it must have one, or one out of range.
            public static let parameterInvalid = Code(base: .parameterInvalid)
            /// The server accepts an offer, but not what it asks for.
            public static let parameterMissing = Code(base: .parameterMissing)
        }

        /// What is wrong.
        public let code: Code
        private let parameter: Parameter?

        init(_ code: Code, _ parameter: Parameter? = nil) {
            self.code = code
            self.parameter = parameter
        }

        /// The parameter that is wrong, if it is one that RFC 7692 defines.
        public var parameterName: String? {
            self.parameter?.rawValue
        }
    }
}

extension PermessageDeflate.NegotiationError: CustomStringConvertible {
    /// A sentence that says what is wrong, and where.
    public var description: String {
        let parameter = self.parameter?.rawValue ?? "a parameter"
        return switch self.code.base {
        case .malformed: "Sec-WebSocket-Extensions is malformed"
        case .extensionNotOffered: "the server accepts an extension that was not offered"
        case .extensionRepeated: "the server accepts permessage-deflate twice"
        case .parameterUnknown: "permessage-deflate has an unknown parameter"
        case .parameterRepeated: "permessage-deflate has \(parameter) twice"
        case .parameterInvalid: "permessage-deflate has an invalid value for \(parameter)"
        case .parameterMissing: "permessage-deflate is accepted without \(parameter)"
        }
    }
}
