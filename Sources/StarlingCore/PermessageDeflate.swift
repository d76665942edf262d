/// What both sides agreed on when they negotiated permessage-deflate (RFC 7692 §7).
///
/// The negotiation is made of values: header fields in, an agreement and a header field out. A server calls
/// ``accept(offers:preferences:)``; a client calls ``offer(preferences:)``, then
/// ``confirm(response:preferences:)``.
public struct PermessageDeflate: Hashable, Sendable {
    /// Whether the server compresses each message by itself, so that the client need not keep a window to
    /// inflate (RFC 7692 §7.1.1.1).
    public var serverNoContextTakeover: Bool
    /// Whether the client compresses each message by itself, so that the server need not keep a window to
    /// inflate (RFC 7692 §7.1.1.2).
    public var clientNoContextTakeover: Bool
    /// The base-2 logarithm of the largest window that the server compresses with: 9...15, for a client also 8
    /// (RFC 7692 §7.1.2.1).
    public var serverMaxWindowBits: Int
    /// The base-2 logarithm of the largest window that the client compresses with: 8...15 (RFC 7692 §7.1.2.2).
    public var clientMaxWindowBits: Int

    /// Makes an agreement by hand, for both sides in one process or for a test.
    public init(
        serverNoContextTakeover: Bool,
        clientNoContextTakeover: Bool,
        serverMaxWindowBits: Int,
        clientMaxWindowBits: Int
    ) {
        self.serverNoContextTakeover = serverNoContextTakeover
        self.clientNoContextTakeover = clientNoContextTakeover
        self.serverMaxWindowBits = serverMaxWindowBits
        self.clientMaxWindowBits = clientMaxWindowBits
    }

    /// The name under which the extension is registered (RFC 7692 §7).
    ///
    /// Compared byte for byte: other spellings are other extensions.
    public static let extensionName = "permessage-deflate"
}

// MARK: - Server

extension PermessageDeflate {
    /// Chooses among a client's offers.
    ///
    /// Takes the values of all `Sec-WebSocket-Extensions` fields of the request, in their order, and accepts the
    /// first offer that can be honoured. Other extensions are ignored. An offer is declined, and the next one
    /// considered, if it names an unknown parameter, one twice, or one with an invalid value (RFC 7692 §7.1),
    /// and if it asks for `server_max_window_bits=8`: zlib has no 8-bit window.
    ///
    /// The windows that are agreed on are never larger than the preferences say, with one exception: a client
    /// that did not offer `client_max_window_bits` cannot be told to use a smaller one (RFC 7692 §7.1.2.2).
    ///
    /// Returns the agreement and the value of the response's `Sec-WebSocket-Extensions` field, or nil if there
    /// is nothing to accept: then the response has no such field, and the connection goes on uncompressed.
    /// Throws ``NegotiationError`` if a field breaks the grammar, anywhere: the upgrade must then be refused
    /// (RFC 6455 §9.1), with status 400.
    public static func accept(
        offers: [String],
        preferences: Preferences = Preferences()
    ) throws(NegotiationError) -> (agreed: PermessageDeflate, response: String)? {
        var answer: (agreed: PermessageDeflate, response: String)?
        for field in offers {
            var list = ExtensionList(field)
            // The list is read to its end even after an answer is found, because what follows may be malformed.
            while let offer = try list.next() {
                guard answer == nil, offer.name == self.extensionName else { continue }
                guard let parameters = try? Parameters(offer) else { continue }
                answer = Self.answer(parameters, preferences: preferences)
            }
        }
        return answer
    }

    private static func answer(
        _ offer: Parameters,
        preferences: Preferences
    ) -> (agreed: PermessageDeflate, response: String)? {
        var agreed = PermessageDeflate(
            serverNoContextTakeover: preferences.serverNoContextTakeover || offer.serverNoContextTakeover,
            clientNoContextTakeover: preferences.clientNoContextTakeover || offer.clientNoContextTakeover,
            serverMaxWindowBits: preferences.serverMaxWindowBits,
            clientMaxWindowBits: 15
        )
        var answer = Parameters()
        answer.serverNoContextTakeover = agreed.serverNoContextTakeover
        answer.clientNoContextTakeover = agreed.clientNoContextTakeover

        if let bits = offer.serverMaxWindowBits {
            guard bits >= Preferences.windowBitsRange.lowerBound else { return nil }
            agreed.serverMaxWindowBits = min(bits, preferences.serverMaxWindowBits)
        }
        // RFC 7692 §7.1.2.1: accepting an offer that has the parameter means to answer it. Without it, the
        // answer may still have it, which lets the client inflate with less memory.
        if offer.serverMaxWindowBits != nil || agreed.serverMaxWindowBits < 15 {
            answer.serverMaxWindowBits = agreed.serverMaxWindowBits
        }

        // RFC 7692 §7.1.2.2: the answer must not have the parameter unless the offer did.
        switch offer.clientMaxWindowBits {
        case .absent: break
        case .unspecified: agreed.clientMaxWindowBits = preferences.clientMaxWindowBits
        case .bits(let bits): agreed.clientMaxWindowBits = min(bits, preferences.clientMaxWindowBits)
        }
        if agreed.clientMaxWindowBits < 15 {
            answer.clientMaxWindowBits = .bits(agreed.clientMaxWindowBits)
        }
        return (agreed, answer.fieldValue)
    }
}

// MARK: - Client

extension PermessageDeflate {
    /// The value of the request's `Sec-WebSocket-Extensions` field.
    ///
    /// Always offers `client_max_window_bits`, so that the server may choose a smaller window.
    public static func offer(preferences: Preferences = Preferences()) -> String {
        Parameters(offering: preferences).fieldValue
    }

    /// Checks a server's answer against the offer made with the same preferences.
    ///
    /// Takes the values of all `Sec-WebSocket-Extensions` fields of the response. Returns nil if the server
    /// declined. Throws ``NegotiationError`` if the answer breaks the grammar, names another extension or an
    /// unknown parameter, or does not fit the offer: the client must then fail the connection (RFC 6455 §4.1,
    /// RFC 7692 §7.1).
    public static func confirm(
        response: [String],
        preferences: Preferences = Preferences()
    ) throws(NegotiationError) -> PermessageDeflate? {
        var answer: Parameters?
        for field in response {
            var list = ExtensionList(field)
            while let element = try list.next() {
                guard element.name == self.extensionName else {
                    throw NegotiationError(.extensionNotOffered)
                }
                guard answer == nil else { throw NegotiationError(.extensionRepeated) }
                answer = try Parameters(element)
            }
        }
        guard let answer else { return nil }
        return try Self.agreement(on: answer, preferences: preferences)
    }

    private static func agreement(
        on answer: Parameters,
        preferences: Preferences
    ) throws(NegotiationError) -> PermessageDeflate {
        let offer = Parameters(offering: preferences)

        // RFC 7692 §7.1.1.1 and §7.1.2.1: a server accepts what was asked of it by saying so.
        if offer.serverNoContextTakeover, !answer.serverNoContextTakeover {
            throw NegotiationError(.parameterMissing, .serverNoContextTakeover)
        }
        if let offered = offer.serverMaxWindowBits {
            guard let bits = answer.serverMaxWindowBits else {
                throw NegotiationError(.parameterMissing, .serverMaxWindowBits)
            }
            guard bits <= offered else { throw NegotiationError(.parameterInvalid, .serverMaxWindowBits) }
        }

        let clientMaxWindowBits: Int
        switch answer.clientMaxWindowBits {
        case .absent:
            clientMaxWindowBits = preferences.clientMaxWindowBits
        case .unspecified:
            // RFC 7692 §7.1.2.2: in an answer the parameter has a value.
            throw NegotiationError(.parameterInvalid, .clientMaxWindowBits)
        case .bits(let bits):
            guard bits <= preferences.clientMaxWindowBits else {
                throw NegotiationError(.parameterInvalid, .clientMaxWindowBits)
            }
            clientMaxWindowBits = bits
        }
        return PermessageDeflate(
            serverNoContextTakeover: answer.serverNoContextTakeover,
            // The offer was a hint that this end would not take its context over, and it keeps to it.
            clientNoContextTakeover: answer.clientNoContextTakeover || preferences.clientNoContextTakeover,
            serverMaxWindowBits: answer.serverMaxWindowBits ?? 15,
            clientMaxWindowBits: clientMaxWindowBits
        )
    }
}

// MARK: - Preferences

extension PermessageDeflate {
    /// What one end wants of permessage-deflate.
    ///
    /// By default neither direction takes its context over: a compressor and a decompressor are then shared by
    /// all connections of an event loop, and a connection has no compression state. With context takeover every
    /// connection has windows of its own, up to 2^bits bytes to inflate and about eight times that to compress;
    /// smaller windows bound this.
    public struct Preferences: Hashable, Sendable {
        /// The windows that zlib compresses with.
        static let windowBitsRange = 9...15

        /// Whether the server compresses each message by itself.
        ///
        /// A client whose preference this is insists on it. A server does what a client insists on either way.
        public var serverNoContextTakeover: Bool
        /// Whether the client compresses each message by itself.
        ///
        /// A server whose preference this is insists on it. A client does what a server insists on either way.
        public var clientNoContextTakeover: Bool
        /// The base-2 logarithm of the largest window for the server to compress with: 9...15.
        ///
        /// Other values are a programming error.
        public var serverMaxWindowBits: Int {
            didSet { Self.check(self.serverMaxWindowBits) }
        }
        /// The base-2 logarithm of the largest window for the client to compress with: 9...15.
        ///
        /// Other values are a programming error. A client that does not offer to be limited uses 15, whatever a
        /// server prefers (RFC 7692 §7.1.2.2).
        public var clientMaxWindowBits: Int {
            didSet { Self.check(self.clientMaxWindowBits) }
        }

        /// Prefers no context takeover in either direction, and windows of 32 KiB, unless told otherwise.
        public init(
            serverNoContextTakeover: Bool = true,
            clientNoContextTakeover: Bool = true,
            serverMaxWindowBits: Int = 15,
            clientMaxWindowBits: Int = 15
        ) {
            Self.check(serverMaxWindowBits)
            Self.check(clientMaxWindowBits)
            self.serverNoContextTakeover = serverNoContextTakeover
            self.clientNoContextTakeover = clientNoContextTakeover
            self.serverMaxWindowBits = serverMaxWindowBits
            self.clientMaxWindowBits = clientMaxWindowBits
        }

        private static func check(_ windowBits: Int) {
            precondition(self.windowBitsRange.contains(windowBits), "window bits must be in 9...15")
        }
    }
}
