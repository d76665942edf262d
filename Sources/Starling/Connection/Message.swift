public import StarlingCore

/// A message as a value: immutable, and shared however often it is copied, sent or published.
///
/// Making one copies its bytes once, into one heap allocation.
public struct Message: @unchecked Sendable {
    // Sendable because nothing changes the storage once `Storage.make` has returned it.

    /// Text or bytes.
    public typealias Kind = MessageView.Kind

    /// Text or bytes.
    public let kind: Kind
    let storage: Storage

    /// A text message.
    public static func text(_ text: some StringProtocol) -> Message {
        var text = String(text)
        return text.withUTF8 { utf8 in
            // The bytes are read within the call that lends them.
            unsafe Message(.text, copying: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(utf8)))
        }
    }

    /// A binary message.
    public static func binary(_ bytes: [UInt8]) -> Message {
        unsafe Message(.binary, copying: bytes.span.bytes)
    }

    /// A copy of borrowed bytes.
    ///
    /// - Precondition: For ``Kind/text`` the bytes are UTF-8. It is not checked: a receiver would end the connection.
    public init(_ kind: Kind, copying bytes: RawSpan) {
        self.kind = kind
        self.storage = Storage.make(copying: bytes)
    }

    /// A copy of a received message that must live longer than the call it was handed to.
    public init(copying view: borrowing MessageView) {
        self.init(view.kind, copying: view.bytes)
    }

    /// Bytes of the payload.
    public var byteCount: Int {
        self.storage.header
    }

    /// The payload.
    public var bytes: RawSpan {
        @_lifetime(borrow self)
        get {
            let bytes = unsafe self.storage.bytes
            // The storage lives at least as long as `self`, and nobody changes it.
            return unsafe _overrideLifetime(RawSpan(_unsafeBytes: bytes), borrowing: self)
        }
    }

    /// The payload as a string, or nil if this is a binary message.
    public var text: String? {
        unsafe self.kind == .text
            ? self.storage.bytes.withMemoryRebound(to: UInt8.self) {
                unsafe String(decoding: $0, as: UTF8.self)
            } : nil
    }

    /// A copy of the payload.
    public var byteArray: [UInt8] {
        unsafe Array(self.storage.bytes)
    }

    /// One allocation: the count, then the bytes.
    final class Storage: ManagedBuffer<Int, UInt8> {
        static func make(copying bytes: RawSpan) -> Storage {
            let buffer = Storage.create(minimumCapacity: bytes.byteCount) { _ in bytes.byteCount }
            unsafe bytes.withUnsafeBytes { source in
                unsafe buffer.withUnsafeMutablePointerToElements { elements in
                    guard let base = source.baseAddress else { return }
                    // Capacity for all of them was just made, and the two do not overlap.
                    unsafe UnsafeMutableRawPointer(elements).copyMemory(from: base, byteCount: source.count)
                }
            }
            return unsafe unsafeDowncast(buffer, to: Storage.self)
        }

        var bytes: UnsafeRawBufferPointer {
            unsafe self.withUnsafeMutablePointers {
                unsafe UnsafeRawBufferPointer(start: $1, count: $0.pointee)
            }
        }
    }
}

extension Message: Hashable {
    /// Same kind, same bytes.
    public static func == (left: Message, right: Message) -> Bool {
        unsafe left.kind == right.kind && left.storage.bytes.elementsEqual(right.storage.bytes)
    }

    /// Hashes kind and bytes.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(self.kind)
        unsafe hasher.combine(bytes: self.storage.bytes)
    }
}

extension Message: ExpressibleByStringLiteral {
    /// A text message.
    public init(stringLiteral text: String) {
        self = .text(text)
    }
}

extension Message: CustomStringConvertible {
    /// The text, or the count of bytes.
    public var description: String {
        self.text ?? "\(self.byteCount) bytes"
    }
}
