import Starling
import Testing

@testable import StarlingTopics

@Suite struct JSONTests {
    static let values = [
        "null", "true", "false", "0", "-0", "1", "-12.5e+10", "1E-3", "\"\"",
        "\"a\\\"b\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
        "\"grün 🦜\"", "[]", "[ ]", "{}", "{ }", "[1,[2,{\"a\":[]}],\"]\"]",
        "{\"a\":{\"b\":null},\"c\":[true]}",
    ]
    static let mistakes = [
        "", " ", "nul", "nulls", "tru", "01", "1.", ".5", "+1", "-", "1e", "1e+", "0x1", "NaN", "\"",
        "\"\\x\"", "\"\\u12g4\"",
        "\"\\u12\"", "\"\u{1}\"", "\"a\nb\"", "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "{", "{\"a\"",
        "{\"a\":", "{\"a\":1",
        "{\"a\":1,", "{\"a\":1,}", "{a:1}", "{1:1}", "{\"a\" 1}", "1 2", "null null", "'a'", "// 1",
        "\u{FEFF}1",
    ]

    @Test("Values are found to their last byte, whatever space is around them", arguments: values)
    func accepts(value: String) throws {
        #expect(try JSONText(parsing: value).description == value)
        #expect(try JSONText(parsing: " \n\t\r\(value) ").description == value)
        #expect(try JSONText(parsing: "[\(value)]").description == "[\(value)]")
    }

    @Test("What is not JSON is refused", arguments: mistakes)
    func refuses(mistake: String) {
        #expect(throws: JSONSyntaxError.self) { try JSONText(parsing: mistake) }
        #expect(throws: JSONSyntaxError.self) { try JSONText(parsing: "[\(mistake)}") }
    }

    @Test("A value that is cut anywhere is refused or another value, and never more than is there")
    func cuts() {
        for value in Self.values {
            let bytes = Array(value.utf8)
            for count in 0..<bytes.count {
                var scanner = JSONScanner(Array(bytes[..<count]))
                // A number's beginning may be a number.
                if let range = try? scanner.onlyValue() { #expect(range == 0..<count) }
            }
        }
    }

    @Test("Nesting has a bound, so that nobody can exhaust the stack")
    func nesting() throws {
        let deepest = JSONScanner.nestingMax
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            func nested(_ depth: Int) -> String {
                String(repeating: open, count: depth - 1) + (open == "[" ? "[]" : "{}")
                    + String(repeating: close, count: depth - 1)
            }
            #expect(try JSONText(parsing: nested(deepest)).bytes.count > 0)
            let error = #expect(throws: JSONSyntaxError.self) { try JSONText(parsing: nested(deepest + 1)) }
            #expect(error?.reason == "it is nested too deeply")
            #expect(throws: JSONSyntaxError.self) {
                try JSONText(parsing: String(repeating: open, count: 100_000))
            }
        }
    }

    @Test("An error says where it is")
    func errors() {
        let error = #expect(throws: JSONSyntaxError.self) { try JSONText(parsing: #"{"a": tru}"#) }
        #expect(error?.description == "a value is expected at byte 9")
    }

    @Test("Strings are decoded: escapes, surrogate pairs, and half of one as U+FFFD")
    func strings() throws {
        let object = try JSONObject(
            parsing: Array(
                #"{"a":"\"\\\/\b\f\n\r\t","b":"\ud83e\udd9c\u00e9x","c":"\ud83e","d\u0041":"plain"}"#.utf8
            )
        )
        #expect(try object.string("a") == "\"\\/\u{8}\u{C}\n\r\t")
        #expect(try object.string("b") == "🦜éx")
        #expect(try object.string("c") == "\u{FFFD}")
        #expect(try object.string("dA") == "plain")
    }

    @Test("Fields of the wrong kind, and two of a name, are refused; null is not there")
    func fields() throws {
        let object = try JSONObject(
            parsing: Array(#"{"n":null,"s":"x","i":7,"f":1.5,"big":9007199254740992}"#.utf8)
        )
        #expect(try object.optionalString("n") == nil)
        #expect(object.value("n") == nil)
        #expect(try object.optionalInteger("i", from: 1) == 7)
        for name in ["s", "f", "big"] {
            #expect(throws: InvalidMessage.self) { try object.optionalInteger(name, from: 1) }
        }
        #expect(throws: InvalidMessage.self) { try object.string("i") }
        #expect(throws: InvalidMessage.self) { try object.string("n") }
        #expect(throws: InvalidMessage.self) { try JSONObject(parsing: Array(#"{"a":1,"a":2}"#.utf8)) }
        #expect(throws: InvalidMessage.self) { try JSONObject(parsing: Array("[]".utf8)) }
    }

    @Test("Control characters and quotes are written so that they can be read again")
    func writing() throws {
        let text = String(String.UnicodeScalarView((0..<0x80).compactMap(Unicode.Scalar.init))) + "é🦜"
        var writer = JSONWriter("test")
        writer.add("text", text)
        let object = try JSONObject(parsing: writer.message().byteArray)
        #expect(try object.string("text") == text)
    }
}
