/// The masking of a client's frames (RFC 6455 §5.3): an exclusive or with four bytes, over and over.
public struct MaskingKey: Hashable, Sendable {
    /// The four bytes in wire order, the first in the lowest byte.
    public let rawValue: UInt32

    /// Takes the key's bytes in wire order, the first in the lowest byte.
    @inlinable
    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// The key as it must be applied to bytes that start `byteCount` bytes into the payload.
    @inlinable
    func advanced(by byteCount: Int) -> MaskingKey {
        let shift = UInt32(truncatingIfNeeded: byteCount & 3) * 8
        return shift == 0
            ? self : MaskingKey(rawValue: self.rawValue >> shift | self.rawValue << (32 - shift))
    }

    /// Masks or unmasks bytes in place; `offset` is how far into the payload they start.
    ///
    /// Works in 32-byte vectors, then words. Applying it twice gives the bytes back.
    @inlinable
    public func apply(to bytes: inout MutableRawSpan, at offset: Int = 0) {
        let key = self.advanced(by: offset).rawValue
        unsafe bytes.withUnsafeMutableBytes { buffer in
            guard let base = buffer.baseAddress else { return }
            unsafe exclusiveOr(base, byteCount: buffer.count, key)
        }
    }
}

/// Masking itself, shared with the encoder, which masks what it has just copied.
@usableFromInline
func exclusiveOr(_ base: UnsafeMutableRawPointer, byteCount: Int, _ key: UInt32) {
    // Every access below lies within `byteCount` bytes from `base`: each loop checks before it loads, and
    // unaligned loads and stores are used throughout.
    let word = UInt64(key) << 32 | UInt64(key)
    var index = 0
    if byteCount >= 32 {
        let vector = SIMD4<UInt64>(repeating: word)
        while index &+ 32 <= byteCount {
            let block = unsafe base.loadUnaligned(fromByteOffset: index, as: SIMD4<UInt64>.self)
            unsafe base.storeBytes(of: block ^ vector, toByteOffset: index, as: SIMD4<UInt64>.self)
            index &+= 32
        }
    }
    if index &+ 16 <= byteCount {
        let block = unsafe base.loadUnaligned(fromByteOffset: index, as: SIMD2<UInt64>.self)
        let masked = block ^ SIMD2<UInt64>(repeating: word)
        unsafe base.storeBytes(of: masked, toByteOffset: index, as: SIMD2<UInt64>.self)
        index &+= 16
    }
    if index &+ 8 <= byteCount {
        let block = unsafe base.loadUnaligned(fromByteOffset: index, as: UInt64.self)
        unsafe base.storeBytes(of: block ^ word, toByteOffset: index, as: UInt64.self)
        index &+= 8
    }
    if index &+ 4 <= byteCount {
        let block = unsafe base.loadUnaligned(fromByteOffset: index, as: UInt32.self)
        unsafe base.storeBytes(of: block ^ key, toByteOffset: index, as: UInt32.self)
        index &+= 4
    }
    var rest = key
    while index < byteCount {
        let byte = unsafe base.load(fromByteOffset: index, as: UInt8.self)
        unsafe base.storeBytes(
            of: byte ^ UInt8(truncatingIfNeeded: rest),
            toByteOffset: index,
            as: UInt8.self
        )
        rest >>= 8
        index &+= 1
    }
}
