/// The fields of a JSON object, each decoded when it is asked for.
struct JSONObject {
    private let bytes: [UInt8]
    private let fields: [(name: String, value: Range<Int>)]

    /// Finds the fields of an object.
    ///
    /// - Throws: If it is no JSON, no object, or has two fields of a name: parsers disagree about which of them counts.
    init(parsing bytes: [UInt8]) throws(InvalidMessage) {
        var scanner = JSONScanner(bytes)
        self.bytes = bytes
        do {
            self.fields = try scanner.onlyObject()
        } catch {
            throw InvalidMessage("this is no JSON object: \(error)")
        }
        var names: Set<String> = []
        for field in self.fields where !names.insert(field.name).inserted {
            throw InvalidMessage("'\(field.name)' is there twice")
        }
    }

    /// The elements of an array, each an object.
    static func list(_ array: JSONText) throws(InvalidMessage) -> [JSONObject] {
        var scanner = JSONScanner(array.bytes)
        let elements: [Range<Int>]
        do {
            elements = try scanner.onlyArray()
        } catch {
            throw InvalidMessage("an array is expected: \(error)")
        }
        var objects: [JSONObject] = []
        for element in elements { objects.append(try JSONObject(parsing: Array(array.bytes[element]))) }
        return objects
    }

    /// A field's value; nil if it is not there, or null.
    func value(_ name: String) -> JSONText? {
        self.range(name).map { JSONText(checked: self.bytes[$0]) }
    }

    /// A string; nil if it is not there, or null.
    func optionalString(_ name: String) throws(InvalidMessage) -> String? {
        guard let range = self.range(name) else { return nil }
        guard let string = JSONScanner(self.bytes).string(at: range) else {
            throw InvalidMessage("'\(name)' must be a string")
        }
        return string
    }

    func string(_ name: String) throws(InvalidMessage) -> String {
        guard let string = try self.optionalString(name) else { throw InvalidMessage("'\(name)' is missing") }
        return string
    }

    /// An integer that JavaScript can count to; nil if it is not there, or null.
    func optionalInteger(_ name: String, from least: UInt64) throws(InvalidMessage) -> UInt64? {
        guard let range = self.range(name) else { return nil }
        let text = String(decoding: self.bytes[range], as: UTF8.self)
        guard let integer = UInt64(text), integer >= least, integer < 1 << 53 else {
            throw InvalidMessage("'\(name)' must be an integer from \(least) to 2^53 - 1")
        }
        return integer
    }

    func boolean(_ name: String) throws(InvalidMessage) -> Bool {
        switch self.value(name)?.description {
        case "true": return true
        case "false": return false
        case nil, _?: throw InvalidMessage("'\(name)' must be true or false")
        }
    }

    private func range(_ name: String) -> Range<Int>? {
        guard let field = self.fields.first(where: { $0.name == name }) else { return nil }
        return self.bytes[field.value.lowerBound] == UInt8(ascii: "n") ? nil : field.value
    }
}

/// Why a message is none of the subprotocol's.
package struct InvalidMessage: Error {
    package let text: String
    /// The message's `id`, if that much could be read.
    package let id: UInt64?

    init(_ text: String, id: UInt64? = nil) {
        self.text = text
        self.id = id
    }
}
