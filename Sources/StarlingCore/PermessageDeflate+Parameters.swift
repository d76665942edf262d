extension PermessageDeflate {
    /// The four parameters by the names that they have on the wire (RFC 7692 §7.1).
    enum Parameter: String, Hashable, Sendable {
        case serverNoContextTakeover = "server_no_context_takeover"
        case clientNoContextTakeover = "client_no_context_takeover"
        case serverMaxWindowBits = "server_max_window_bits"
        case clientMaxWindowBits = "client_max_window_bits"
    }

    /// The parameters of one offer or answer, as they stand in the header field.
    struct Parameters {
        var serverNoContextTakeover = false
        var clientNoContextTakeover = false
        var serverMaxWindowBits: Int?
        var clientMaxWindowBits = ClientMaxWindowBits.absent

        init() {}

        /// What a client with these preferences asks for.
        init(offering preferences: Preferences) {
            self.serverNoContextTakeover = preferences.serverNoContextTakeover
            self.clientNoContextTakeover = preferences.clientNoContextTakeover
            if preferences.serverMaxWindowBits < 15 {
                self.serverMaxWindowBits = preferences.serverMaxWindowBits
            }
            let bits = preferences.clientMaxWindowBits
            self.clientMaxWindowBits = bits < 15 ? .bits(bits) : .unspecified
        }

        /// Checks what holds for offers and answers alike: known names, no name twice, values in range.
        init(_ element: ExtensionList.Element) throws(NegotiationError) {
            for (name, value) in element.parameters {
                guard let parameter = Parameter(rawValue: String(name)) else {
                    throw NegotiationError(.parameterUnknown)
                }
                guard !self.has(parameter) else { throw NegotiationError(.parameterRepeated, parameter) }
                switch (parameter, value) {
                case (.serverNoContextTakeover, nil): self.serverNoContextTakeover = true
                case (.clientNoContextTakeover, nil): self.clientNoContextTakeover = true
                case (.clientMaxWindowBits, nil): self.clientMaxWindowBits = .unspecified
                case (.serverMaxWindowBits, let value?):
                    self.serverMaxWindowBits = try Self.windowBits(value, of: parameter)
                case (.clientMaxWindowBits, let value?):
                    self.clientMaxWindowBits = .bits(try Self.windowBits(value, of: parameter))
                case (.serverMaxWindowBits, nil), (.serverNoContextTakeover, _?),
                    (.clientNoContextTakeover, _?):
                    throw NegotiationError(.parameterInvalid, parameter)
                }
            }
        }

        /// The header field that says so.
        var fieldValue: String {
            var value = PermessageDeflate.extensionName
            func append(_ parameter: Parameter, _ bits: Int? = nil) {
                value += "; "
                value += parameter.rawValue
                if let bits { value += "=\(bits)" }
            }
            if self.serverNoContextTakeover { append(.serverNoContextTakeover) }
            if self.clientNoContextTakeover { append(.clientNoContextTakeover) }
            if let bits = self.serverMaxWindowBits { append(.serverMaxWindowBits, bits) }
            switch self.clientMaxWindowBits {
            case .absent: break
            case .unspecified: append(.clientMaxWindowBits)
            case .bits(let bits): append(.clientMaxWindowBits, bits)
            }
            return value
        }

        private func has(_ parameter: Parameter) -> Bool {
            switch parameter {
            case .serverNoContextTakeover: self.serverNoContextTakeover
            case .clientNoContextTakeover: self.clientNoContextTakeover
            case .serverMaxWindowBits: self.serverMaxWindowBits != nil
            case .clientMaxWindowBits: self.clientMaxWindowBits != .absent
            }
        }

        /// RFC 7692 §7.1.2: a decimal integer without leading zeroes, 8 to 15.
        private static func windowBits(
            _ value: String,
            of parameter: Parameter
        ) throws(NegotiationError) -> Int {
            switch value {
            case "8": 8
            case "9": 9
            case "10": 10
            case "11": 11
            case "12": 12
            case "13": 13
            case "14": 14
            case "15": 15
            default: throw NegotiationError(.parameterInvalid, parameter)
            }
        }

        /// In an offer this parameter may stand without a value: the server may choose one.
        enum ClientMaxWindowBits: Hashable {
            case absent
            case unspecified
            case bits(Int)
        }
    }
}
