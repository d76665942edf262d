#if os(Linux)

internal import COpenSSL

/// What an X.509 certificate says, for deciding who a peer is and when to renew.
///
/// The texts are whatever the issuer wrote: they are decoded as UTF-8 with repairs and may contain any
/// character, NUL included. For a peer, decide by the names only after its issuer was verified, as the
/// handshake does wherever trust roots are set.
public struct TLSCertificate: Hashable, Sendable {
    /// The whole subject in the form of RFC 2253, such as `CN=alice,O=Example`.
    public private(set) var subject = ""
    /// The subject's first common name.
    public private(set) var commonName: String?
    /// The DNS names among the alternative names.
    public private(set) var dnsNames: [String] = []
    /// The IP addresses among the alternative names, as text.
    public private(set) var ipAddresses: [String] = []
    /// The URIs among the alternative names: SPIFFE identities are here.
    public private(set) var uris: [String] = []
    /// The e-mail addresses among the alternative names.
    public private(set) var emailAddresses: [String] = []
    /// The SHA-256 digest of the encoded certificate, as 64 hexadecimal digits in lower case.
    public private(set) var fingerprint = ""
    /// The encoded certificate (DER).
    public private(set) var der: [UInt8] = []
    /// When the certificate becomes valid, in seconds since 1970.
    public private(set) var notBefore: Int64 = 0
    /// When the certificate expires, in seconds since 1970.
    ///
    /// An expired certificate of our own is no error here, so that a server can start; its clients refuse it.
    public private(set) var notAfter: Int64 = 0

    /// Copies everything out of `certificate`, an `X509 *` that need not outlive the call.
    ///
    /// - Returns: nil if OpenSSL runs out of memory or finds the dates malformed.
    init?(_ certificate: OpaquePointer) {
        // The visitor runs during the call alone, on this thread, with the address of `self` as its argument.
        let isDescribed = unsafe withUnsafeMutablePointer(to: &self) { target in
            unsafe starling_tls_certificate_describe(certificate, target) { argument, field, bytes, count in
                let target = unsafe argument.assumingMemoryBound(to: TLSCertificate.self)
                let bytes = unsafe UnsafeBufferPointer(start: bytes, count: count)
                unsafe target.pointee.take(field, Array(bytes))
            }
        }
        let isDated = unsafe starling_tls_certificate_validity(certificate, &self.notBefore, &self.notAfter)
        guard isDescribed && isDated else { return nil }
    }

    private mutating func take(_ field: starling_tls_field, _ bytes: [UInt8]) {
        let text = String(decoding: bytes, as: UTF8.self)
        switch field {
        case .subject: self.subject = text
        case .common_name: self.commonName = text
        case .dns_name: self.dnsNames.append(text)
        case .address: self.ipAddresses.append(text)
        case .uri: self.uris.append(text)
        case .email: self.emailAddresses.append(text)
        case .sha256: self.fingerprint = hexadecimal(bytes)
        case .der: self.der = bytes
        }
    }
}

private func hexadecimal(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

#endif
