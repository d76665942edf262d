internal import HTTPTypes
internal import StarlingCore

/// A cookie by which a load balancer brings a browser back to the node that it was on.
///
/// ```swift
/// configuration.affinity = SessionAffinity(node: "chat-1", key: secret)
/// ```
///
/// It is set with the response to an upgrade, and is `node.session.signature`: a balancer may look for the node's name, or
/// hash the session, which stays the same if the node changes. The signature keeps strangers from choosing what the
/// metrics count. <doc:LoadBalancers> has configurations.
public struct SessionAffinity: Sendable {
    /// This node's name, as the balancer knows it.
    public let node: String
    /// The cookie's name.
    public var cookieName = "starling_node"
    /// How long browsers keep it.
    public var maxAge = Duration.seconds(24 * 3600)
    /// Whether browsers send it over TLS only; right wherever the balancer speaks TLS.
    public var isSecure = true

    private let key: [UInt8]

    /// What a request's cookie says.
    enum Outcome: Equatable {
        /// It names this node.
        case hit
        /// It names another node; the session goes on here.
        case miss(session: String)
        /// There is none, or none of ours.
        case none
    }

    /// Makes cookies for a node.
    ///
    /// - Parameters:
    ///   - node: Letters, digits and hyphens.
    ///   - key: Signs; the same on all nodes, 16 bytes at least.
    public init(node: String, key: [UInt8]) {
        precondition(
            Self.isValidName(node),
            "a node's name has letters, digits and hyphens: '\(node)'"
        )
        precondition(key.count >= 16, "a key has 16 bytes at least")
        self.node = node
        self.key = key
    }

    /// Whether a node may have this name: letters and digits of ASCII, and hyphens.
    public static func isValidName(_ node: String) -> Bool {
        !node.isEmpty
            && node.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
    }

    func outcome(of cookie: String?) -> Outcome {
        guard let cookie else { return .none }
        let parts = cookie.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 3, cookie.utf8.count <= 512 else { return .none }
        let expected = Array(self.signature("\(parts[0]).\(parts[1])").utf8)
        let given = Array(parts[2].utf8)
        guard HMACSHA256.isSame(given, expected) else { return .none }
        return parts[0] == self.node ? .hit : .miss(session: String(parts[1]))
    }

    /// The field that sets the cookie; nil if the browser has it.
    func field(after outcome: Outcome) -> HTTPField? {
        let session: String
        switch outcome {
        case .hit: return nil
        case .miss(let known): session = known
        case .none: session = String(UInt64.random(in: 0 ... .max), radix: 16)
        }
        let value = "\(self.node).\(session)"
        var text = "\(self.cookieName)=\(value).\(self.signature(value)); Path=/; HttpOnly; SameSite=Lax"
        text += "; Max-Age=\(self.maxAge.components.seconds)"
        if self.isSecure { text += "; Secure" }
        return HTTPField(name: .setCookie, value: text)
    }

    private func signature(_ value: String) -> String {
        HMACSHA256.code(of: Array(value.utf8), key: self.key).prefix(16).map { byte in
            let digits = String(byte, radix: 16)
            return digits.utf8.count == 1 ? "0" + digits : digits
        }.joined()
    }
}
