import StarlingCore
import Testing

/// Negotiation tables: header fields in, agreement and header fields out.
@Suite struct PermessageDeflateTests {
    typealias Code = PermessageDeflate.NegotiationError.Code
    typealias Preferences = PermessageDeflate.Preferences

    /// Takes contexts over in both directions: what remains to be seen is what the other end asks for.
    static let takeover = Preferences(serverNoContextTakeover: false, clientNoContextTakeover: false)
    static let none = Preferences()

    /// What a test expects to be agreed on, in the order of RFC 7692 §7.1.
    static func agreement(
        _ serverNoContextTakeover: Bool,
        _ clientNoContextTakeover: Bool,
        _ serverMaxWindowBits: Int,
        _ clientMaxWindowBits: Int
    ) -> PermessageDeflate {
        PermessageDeflate(
            serverNoContextTakeover: serverNoContextTakeover,
            clientNoContextTakeover: clientNoContextTakeover,
            serverMaxWindowBits: serverMaxWindowBits,
            clientMaxWindowBits: clientMaxWindowBits
        )
    }

    // MARK: - Server

    struct Accepted: Sendable, CustomTestStringConvertible {
        var offers: [String]
        var preferences = takeover
        var response: String
        var agreed: PermessageDeflate
        var testDescription: String { self.offers.joined(separator: " ⏎ ") }
    }

    @Test(
        "A server accepts",
        arguments: [
            // RFC 7692 §7.1.3: the simplest offer, and those of its examples.
            Accepted(
                offers: ["permessage-deflate"],
                response: "permessage-deflate",
                agreed: agreement(false, false, 15, 15)
            ),
            Accepted(
                offers: ["permessage-deflate; client_max_window_bits; server_max_window_bits=10"],
                response: "permessage-deflate; server_max_window_bits=10",
                agreed: agreement(false, false, 10, 15)
            ),
            Accepted(
                offers: [
                    "permessage-deflate; client_max_window_bits; server_max_window_bits=10, "
                        + "permessage-deflate; client_max_window_bits"
                ],
                preferences: Preferences(
                    serverNoContextTakeover: false,
                    clientNoContextTakeover: false,
                    clientMaxWindowBits: 12
                ),
                response: "permessage-deflate; server_max_window_bits=10; client_max_window_bits=12",
                agreed: agreement(false, false, 10, 12)
            ),
            // RFC 7692 §7.1.1: context takeover.
            Accepted(
                offers: ["permessage-deflate; server_no_context_takeover"],
                response: "permessage-deflate; server_no_context_takeover",
                agreed: agreement(true, false, 15, 15)
            ),
            Accepted(
                offers: ["permessage-deflate; client_no_context_takeover"],
                response: "permessage-deflate; client_no_context_takeover",
                agreed: agreement(false, true, 15, 15)
            ),
            Accepted(
                offers: ["permessage-deflate"],
                preferences: none,
                response: "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                agreed: agreement(true, true, 15, 15)
            ),
            // What browsers send.
            Accepted(
                offers: ["permessage-deflate; client_max_window_bits"],
                preferences: none,
                response: "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                agreed: agreement(true, true, 15, 15)
            ),
            // RFC 7692 §7.1.2.1: an answer to server_max_window_bits has the same value or a smaller one.
            Accepted(
                offers: ["permessage-deflate; server_max_window_bits=15"],
                response: "permessage-deflate; server_max_window_bits=15",
                agreed: agreement(false, false, 15, 15)
            ),
            Accepted(
                offers: ["permessage-deflate; server_max_window_bits=14"],
                preferences: Preferences(
                    serverNoContextTakeover: false,
                    clientNoContextTakeover: false,
                    serverMaxWindowBits: 11
                ),
                response: "permessage-deflate; server_max_window_bits=11",
                agreed: agreement(false, false, 11, 15)
            ),
            // It may stand in the answer though the offer lacks it.
            Accepted(
                offers: ["permessage-deflate"],
                preferences: Preferences(
                    serverNoContextTakeover: false,
                    clientNoContextTakeover: false,
                    serverMaxWindowBits: 9
                ),
                response: "permessage-deflate; server_max_window_bits=9",
                agreed: agreement(false, false, 9, 15)
            ),
            // RFC 7692 §7.1.2.2: client_max_window_bits only if it was offered, and no larger.
            Accepted(
                offers: ["permessage-deflate"],
                preferences: Preferences(
                    serverNoContextTakeover: false,
                    clientNoContextTakeover: false,
                    clientMaxWindowBits: 10
                ),
                response: "permessage-deflate",
                agreed: agreement(false, false, 15, 15)
            ),
            Accepted(
                offers: ["permessage-deflate; client_max_window_bits=9"],
                preferences: Preferences(
                    serverNoContextTakeover: false,
                    clientNoContextTakeover: false,
                    clientMaxWindowBits: 10
                ),
                response: "permessage-deflate; client_max_window_bits=9",
                agreed: agreement(false, false, 15, 9)
            ),
            Accepted(
                offers: ["permessage-deflate; client_max_window_bits=8"],
                response: "permessage-deflate; client_max_window_bits=8",
                agreed: agreement(false, false, 15, 8)
            ),
            Accepted(
                offers: ["permessage-deflate; client_max_window_bits=15"],
                response: "permessage-deflate",
                agreed: agreement(false, false, 15, 15)
            ),
            // The grammar of RFC 6455 §9.1.
            Accepted(
                offers: ["permessage-deflate; server_max_window_bits=\"10\""],
                response: "permessage-deflate; server_max_window_bits=10",
                agreed: agreement(false, false, 10, 15)
            ),
            Accepted(
                offers: ["permessage-deflate; server_max_window_bits=\"1\\0\""],
                response: "permessage-deflate; server_max_window_bits=10",
                agreed: agreement(false, false, 10, 15)
            ),
            Accepted(
                offers: [
                    " ,,\t permessage-deflate\t;server_max_window_bits = 12 ;client_no_context_takeover , "
                ],
                response: "permessage-deflate; client_no_context_takeover; server_max_window_bits=12",
                agreed: agreement(false, true, 12, 15)
            ),
            // Other extensions, other spellings, other fields.
            Accepted(
                offers: ["x-webkit-deflate-frame; no_context_takeover, permessage-deflate"],
                response: "permessage-deflate",
                agreed: agreement(false, false, 15, 15)
            ),
            Accepted(
                offers: ["foo; bar=\"permessage-deflate\"; baz", "", "permessage-deflate"],
                response: "permessage-deflate",
                agreed: agreement(false, false, 15, 15)
            ),
            // What cannot be honoured is skipped.
            Accepted(
                offers: [
                    "permessage-deflate; server_max_window_bits=8",
                    "permessage-deflate; server_max_window_bits=9",
                ],
                response: "permessage-deflate; server_max_window_bits=9",
                agreed: agreement(false, false, 9, 15)
            ),
            Accepted(
                offers: ["permessage-deflate; unknown, permessage-deflate; server_no_context_takeover"],
                response: "permessage-deflate; server_no_context_takeover",
                agreed: agreement(true, false, 15, 15)
            ),
        ]
    )
    func accepts(_ row: Accepted) throws {
        let answer = try #require(
            try PermessageDeflate.accept(offers: row.offers, preferences: row.preferences)
        )
        #expect(answer.response == row.response)
        #expect(answer.agreed == row.agreed)
    }

    @Test(
        "A server declines",
        arguments: [
            "",
            " , ,",
            "permessage-bzip2",
            "Permessage-Deflate",
            "permessage-deflate2",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate; Server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover=\"x\"",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=10; client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=0",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=010",
            "permessage-deflate; server_max_window_bits=+10",
            "permessage-deflate; server_max_window_bits=-10",
            "permessage-deflate; server_max_window_bits=1e1",
            "permessage-deflate; server_max_window_bits=10.0",
            "permessage-deflate; server_max_window_bits=99999999999999999999999",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=012",
            "permessage-deflate; client_max_window_bits=x",
        ]
    )
    func declines(_ offer: String) throws {
        #expect(try PermessageDeflate.accept(offers: [offer], preferences: Self.takeover) == nil)
        // The next offer is considered all the same, be it in the same field or in the next.
        for offers in [["\(offer), permessage-deflate"], [offer, "permessage-deflate"]] {
            let answer = try PermessageDeflate.accept(offers: offers, preferences: Self.takeover)
            #expect(answer?.response == "permessage-deflate")
        }
    }

    static let malformedFields = [
        ";",
        "=",
        "\"permessage-deflate\"",
        "permessage-deflate;",
        "permessage-deflate; ;",
        "permessage-deflate; , foo",
        "permessage-deflate; =10",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits= ; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=\"\"",
        "permessage-deflate; server_max_window_bits=\"10",
        "permessage-deflate; server_max_window_bits=\"10\\",
        "permessage-deflate; server_max_window_bits=\"10\\\"",
        "permessage-deflate; server_max_window_bits=\"1 0\"",
        "permessage-deflate; server_max_window_bits=\"10\"1",
        "permessage-deflate; server_max_window_bits=10 11",
        "permessage-deflate; server_max_window_bits==10",
        "permessage-deflate; server_max_window_bits=10=11",
        "permessage-deflate server_no_context_takeover",
        "permessage-deflate: x",
        "permessage-deflate, foo(bar)",
        "permessage-deflate, caf\u{E9}",
        "permessage-deflate; x=\u{1F9C0}",
        "permessage-deflate\r\n",
        "permessage-deflate\u{0}",
        "permessage-deflate\u{301}",
    ]

    @Test(
        "A field that breaks the grammar fails the handshake, wherever it breaks it",
        arguments: malformedFields
    )
    func failsMalformed(_ field: String) {
        for fields in [[field], ["permessage-deflate", field], [field, "permessage-deflate"]] {
            #expect(throws: PermessageDeflate.NegotiationError.self) {
                try PermessageDeflate.accept(offers: fields)
            }
        }
        let error = #expect(throws: PermessageDeflate.NegotiationError.self) {
            try PermessageDeflate.confirm(response: [field], preferences: Self.takeover)
        }
        // A client fails on what it did not offer before it comes to what is malformed.
        #expect(error?.code == .malformed || error?.code == .extensionNotOffered)
    }

    @Test("Any prefix and any single foreign character of a field ends in an answer, never in a trap")
    func mutations() {
        let field = #"foo; a="b\c", permessage-deflate; server_max_window_bits="10"; client_max_window_bits"#
        var outcomes: Set<String> = []
        func note(_ field: String) {
            do {
                let answer = try PermessageDeflate.accept(offers: [field])
                outcomes.insert(answer == nil ? "declined" : "accepted")
            } catch {
                outcomes.insert("failed")
            }
        }
        for index in field.indices {
            note(String(field[..<index]))
            for foreign in ["\"", "\\", ",", ";", "=", " ", "\t", "é", "\u{0}", "8", ""] {
                note(field[..<index] + foreign + field[field.index(after: index)...])
            }
        }
        #expect(outcomes == ["accepted", "declined", "failed"])
    }

    // MARK: - Client

    @Test(
        "A client offers what it prefers",
        arguments: [
            (
                none,
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits"
            ),
            (takeover, "permessage-deflate; client_max_window_bits"),
            (
                Preferences(
                    serverNoContextTakeover: true,
                    clientNoContextTakeover: false,
                    serverMaxWindowBits: 9,
                    clientMaxWindowBits: 14
                ),
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=14"
            ),
        ]
    )
    func offers(_ preferences: Preferences, _ offer: String) {
        #expect(PermessageDeflate.offer(preferences: preferences) == offer)
    }

    struct Confirmed: Sendable, CustomTestStringConvertible {
        var response: String
        var preferences = takeover
        var agreed: PermessageDeflate?
        var testDescription: String { self.response }
    }

    static let small = Preferences(
        serverNoContextTakeover: false,
        clientNoContextTakeover: false,
        serverMaxWindowBits: 10,
        clientMaxWindowBits: 12
    )

    @Test(
        "A client confirms",
        arguments: [
            Confirmed(response: "", agreed: nil),
            Confirmed(response: "permessage-deflate", agreed: agreement(false, false, 15, 15)),
            // RFC 7692 §7.1.1.1 and §7.1.1.2: the server may restrict either end unasked.
            Confirmed(
                response: "permessage-deflate; server_no_context_takeover",
                agreed: agreement(true, false, 15, 15)
            ),
            Confirmed(
                response: "permessage-deflate; client_no_context_takeover",
                agreed: agreement(false, true, 15, 15)
            ),
            Confirmed(
                response: "permessage-deflate; server_no_context_takeover",
                preferences: none,
                agreed: agreement(true, true, 15, 15)
            ),
            Confirmed(
                response: "permessage-deflate; server_max_window_bits=8; client_max_window_bits=8",
                agreed: agreement(false, false, 8, 8)
            ),
            Confirmed(
                response: "permessage-deflate; server_max_window_bits=\"10\"",
                preferences: small,
                agreed: agreement(false, false, 10, 12)
            ),
            Confirmed(
                response: "permessage-deflate; server_max_window_bits=9; client_max_window_bits=11",
                preferences: small,
                agreed: agreement(false, false, 9, 11)
            ),
        ]
    )
    func confirms(_ row: Confirmed) throws {
        #expect(
            try PermessageDeflate.confirm(response: [row.response], preferences: row.preferences)
                == row.agreed
        )
    }

    @Test("A client without an answer goes on uncompressed")
    func confirmsNothing() throws {
        #expect(try PermessageDeflate.confirm(response: []) == nil)
    }

    struct Refused: Sendable, CustomTestStringConvertible {
        var response: [String]
        var preferences = takeover
        var code: Code
        var parameterName: String?
        var testDescription: String { self.response.joined(separator: " ⏎ ") }
    }

    @Test(
        "A client refuses",
        arguments: [
            Refused(response: ["foo"], code: .extensionNotOffered),
            Refused(response: ["permessage-deflate, foo"], code: .extensionNotOffered),
            Refused(response: ["permessage-deflate", "foo"], code: .extensionNotOffered),
            Refused(response: ["Permessage-Deflate"], code: .extensionNotOffered),
            Refused(response: ["permessage-deflate, permessage-deflate"], code: .extensionRepeated),
            Refused(response: ["permessage-deflate", "permessage-deflate"], code: .extensionRepeated),
            Refused(response: ["permessage-deflate; foo"], code: .parameterUnknown),
            Refused(
                response: ["permessage-deflate; server_max_window_bits=9; server_max_window_bits=9"],
                code: .parameterRepeated,
                parameterName: "server_max_window_bits"
            ),
            Refused(
                response: ["permessage-deflate; server_no_context_takeover=1"],
                code: .parameterInvalid,
                parameterName: "server_no_context_takeover"
            ),
            Refused(
                response: ["permessage-deflate; server_max_window_bits"],
                code: .parameterInvalid,
                parameterName: "server_max_window_bits"
            ),
            Refused(
                response: ["permessage-deflate; server_max_window_bits=16"],
                code: .parameterInvalid,
                parameterName: "server_max_window_bits"
            ),
            // RFC 7692 §7.1.2.2: in an answer the parameter has a value, no larger than the offer's.
            Refused(
                response: ["permessage-deflate; client_max_window_bits"],
                code: .parameterInvalid,
                parameterName: "client_max_window_bits"
            ),
            Refused(
                response: ["permessage-deflate; server_max_window_bits=10; client_max_window_bits=13"],
                preferences: small,
                code: .parameterInvalid,
                parameterName: "client_max_window_bits"
            ),
            // RFC 7692 §7.1.1.1 and §7.1.2.1: what the client insists on must be answered.
            Refused(
                response: ["permessage-deflate"],
                preferences: none,
                code: .parameterMissing,
                parameterName: "server_no_context_takeover"
            ),
            Refused(
                response: ["permessage-deflate; client_max_window_bits=12"],
                preferences: small,
                code: .parameterMissing,
                parameterName: "server_max_window_bits"
            ),
            Refused(
                response: ["permessage-deflate; server_max_window_bits=11"],
                preferences: small,
                code: .parameterInvalid,
                parameterName: "server_max_window_bits"
            ),
        ]
    )
    func refuses(_ row: Refused) throws {
        let error = #expect(throws: PermessageDeflate.NegotiationError.self) {
            try PermessageDeflate.confirm(response: row.response, preferences: row.preferences)
        }
        #expect(error?.code == row.code)
        #expect(error?.parameterName == row.parameterName)
        if let parameterName = row.parameterName {
            #expect(error?.description.contains(parameterName) == true)
        }
    }

    @Test("Our client and our server agree, whatever either prefers")
    func agree() throws {
        var all: [Preferences] = []
        for takeovers in 0..<4 {
            for (server, client) in [(9, 9), (9, 15), (15, 9), (15, 15), (11, 13)] {
                all.append(
                    Preferences(
                        serverNoContextTakeover: takeovers & 1 != 0,
                        clientNoContextTakeover: takeovers & 2 != 0,
                        serverMaxWindowBits: server,
                        clientMaxWindowBits: client
                    )
                )
            }
        }
        for client in all {
            for server in all {
                let offer = PermessageDeflate.offer(preferences: client)
                let answer = try #require(
                    try PermessageDeflate.accept(offers: [offer], preferences: server)
                )
                let confirmed = try PermessageDeflate.confirm(
                    response: [answer.response],
                    preferences: client
                )
                #expect(confirmed == answer.agreed, "\(offer) → \(answer.response)")
                #expect(
                    answer.agreed.serverMaxWindowBits
                        == min(client.serverMaxWindowBits, server.serverMaxWindowBits)
                )
                #expect(
                    answer.agreed.clientMaxWindowBits
                        == min(client.clientMaxWindowBits, server.clientMaxWindowBits)
                )
            }
        }
    }
}
