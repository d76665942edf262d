public import StarlingCore

/// A message as a value: immutable, and shared however often it is copied, sent or published.
///
/// Making one copies its bytes once, into one heap allocation.
public struct Message: @unchecked Sendable {
    // Sendable because nothing changes the storage once it is filled, but `next`: that belongs to the inbox, and is over
    // before anybody else sees the message. `MessagePool` fills one anew only if nobody else refers to it.

    /// Text or bytes.
    public typealias Kind = MessageView.Kind

    /// Text or bytes.
    public var kind: Kind { self.storage.kind }
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
    /// - Precondition: For ``/StarlingCore/MessageView/Kind/text`` the bytes are UTF-8. It is not checked: a receiver would end the connection.
    public init(_ kind: Kind, copying bytes: RawSpan) {
        self.storage = Storage.make(kind, copying: bytes)
    }

    init(storage: Storage) {
        self.storage = storage
    }

    /// A copy of a received message that must live longer than the call it was handed to.
    public init(copying view: borrowing MessageView) {
        self.init(view.kind, copying: view.bytes)
    }

    /// Bytes of the payload.
    public var byteCount: Int {
        self.storage.byteCount
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

    /// One allocation: the header, then the bytes.
    final class Storage: ManagedBuffer<StorageHeader, UInt8> {
        static func make(_ kind: Kind, copying bytes: RawSpan, capacity: Int = 0) -> Storage {
            let header = unsafe StorageHeader(kind: kind, byteCount: bytes.byteCount)
            let buffer = Storage.create(minimumCapacity: max(capacity, bytes.byteCount)) { _ in header }
            let storage = unsafe unsafeDowncast(buffer, to: Storage.self)
            storage.copy(bytes)
            return storage
        }

        /// Takes another message's bytes; for somebody who alone refers to it, and knows that it has room for them.
        func refill(_ kind: Kind, copying bytes: RawSpan) {
            unsafe self.headerPointer.pointee = unsafe StorageHeader(kind: kind, byteCount: bytes.byteCount)
            self.copy(bytes)
        }

        private func copy(_ bytes: RawSpan) {
            unsafe bytes.withUnsafeBytes { source in
                unsafe self.withUnsafeMutablePointerToElements { elements in
                    guard let base = source.baseAddress else { return }
                    // There is capacity for all of them, and the two do not overlap.
                    unsafe UnsafeMutableRawPointer(elements).copyMemory(from: base, byteCount: source.count)
                }
            }
        }

        var bytes: UnsafeRawBufferPointer {
            unsafe self.withUnsafeMutablePointers {
                unsafe UnsafeRawBufferPointer(start: $1, count: $0.pointee.byteCount)
            }
        }

        var kind: Kind { unsafe self.headerPointer.pointee.kind }
        var byteCount: Int { unsafe self.headerPointer.pointee.byteCount }

        /// The message behind this one in the ``Inbox`` that holds it, and which alone uses this.
        var next: Unmanaged<Storage>? {
            get { unsafe self.headerPointer.pointee.next }
            set { unsafe self.headerPointer.pointee.next = newValue }
        }

        /// Past the check for exclusive access that `header` makes each time; good as long as `self` is.
        private var headerPointer: UnsafeMutablePointer<StorageHeader> {
            unsafe self.withUnsafeMutablePointerToHeader { unsafe $0 }
        }
    }

    @safe struct StorageHeader {
        let kind: Kind
        let byteCount: Int
        /// While the message waits in an ``Inbox``.
        var next: Unmanaged<Storage>?
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
