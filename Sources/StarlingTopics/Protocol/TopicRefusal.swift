/// Why something that a client asked for was not done: what an application throws on the server, and what a client gets.
public struct TopicRefusal: Error, Sendable, Hashable, CustomStringConvertible {
    /// What programs tell refusals apart by; an application may have codes of its own.
    public struct Code: Sendable, Hashable, ExpressibleByStringLiteral {
        /// The code as it stands on the wire.
        public let name: String

        /// Makes a code.
        public init(_ name: String) {
            self.name = name
        }

        /// Makes a code.
        public init(stringLiteral name: String) {
            self.name = name
        }

        /// A message could not be understood.
        public static let invalidMessage = Code("invalid-message")
        /// The data is not what the topic or the request takes.
        public static let invalidData = Code("invalid-data")
        /// The application does not allow it.
        public static let forbidden = Code("forbidden")
        /// No request has this name.
        public static let unknownRequest = Code("unknown-request")
        /// The connection has as many subscriptions as it may.
        public static let tooManySubscriptions = Code("too-many-subscriptions")
        /// As many requests are being worked on as may be.
        public static let tooManyRequests = Code("too-many-requests")
        /// The application did not answer in time.
        public static let timeout = Code("timeout")
        /// The broker cannot be reached: try again.
        public static let unavailable = Code("unavailable")
        /// A ticket is none, has expired, or is somebody else's.
        public static let invalidTicket = Code("invalid-ticket")
        /// The application failed.
        public static let `internal` = Code("internal")
    }

    /// What programs tell refusals apart by.
    public let code: Code
    /// What, where, and what to do.
    public let text: String

    /// Makes a refusal.
    public init(_ code: Code, _ text: String) {
        self.code = code
        self.text = text
    }

    /// Code and text.
    public var description: String {
        "\(self.code.name): \(self.text)"
    }
}
