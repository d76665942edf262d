import StarlingCore
import Testing

/// An event, copied out of the buffer it was borrowed from.
enum Event: Equatable {
    case text([UInt8])
    case binary([UInt8])
    case ping([UInt8])
    case pong([UInt8])
    case close(CloseCode?, [UInt8])
    case failed(ProtocolError.Kind)
}

/// Decodes `pieces`, each as one read from the network, into events.
func decode(_ pieces: [[UInt8]], role: Role = .server, limits: Limits = Limits(), compression: Bool = false)
    -> [Event]
{
    var codec = FrameCodec(role: role, limits: limits)
    codec.permitsCompression = compression
    var events: [Event] = []
    for piece in pieces {
        var buffer = piece
        var span = buffer.mutableSpan
        var bytes = unsafe span.mutableBytes
        do throws(ProtocolError) {
            decoding: while true {
                switch try codec.next(in: &bytes) {
                case .message(let message):
                    let copy = array(message.bytes)
                    events.append(message.kind == .text ? .text(copy) : .binary(copy))
                case .ping(let payload): events.append(.ping(array(payload)))
                case .pong(let payload): events.append(.pong(array(payload)))
                case .close(let code, let reason): events.append(.close(code, array(reason)))
                case .needsMoreBytes: break decoding
                }
            }
        } catch {
            events.append(.failed(error.kind))
            return events
        }
    }
    return events
}

func array(_ bytes: RawSpan) -> [UInt8] {
    bytes.byteOffsets.map { unsafe bytes.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
}

/// A client's frame: masked with a fixed key.
func frame(
    _ opcode: Opcode,
    _ payload: [UInt8],
    isFinal: Bool = true,
    isCompressed: Bool = false,
    key: UInt32? = 0x7856_3412
) -> [UInt8] {
    var output: [UInt8] = []
    unsafe FrameCodec.encode(
        opcode,
        payload.span.bytes,
        isFinal: isFinal,
        isCompressed: isCompressed,
        maskingKey: key.map(MaskingKey.init),
        into: &output
    )
    return output
}

/// Wire bytes and what a server must make of them.
struct WireCase: CustomTestStringConvertible {
    let name: String
    let bytes: [UInt8]
    let events: [Event]

    init(_ name: String, _ bytes: [UInt8], _ events: [Event]) {
        self.name = name
        self.bytes = bytes
        self.events = events
    }

    var testDescription: String { self.name }

    static let long = [UInt8](repeating: 0x61, count: 300)
    static let euro: [UInt8] = [0xE2, 0x82, 0xAC]

    static let all: [WireCase] = [
        // RFC 6455 §5.7: the masked "Hello".
        WireCase(
            "the RFC's masked text",
            [0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58],
            [.text(Array("Hello".utf8))]
        ),
        WireCase("an empty text", frame(.text, []), [.text([])]),
        WireCase("an empty binary", frame(.binary, []), [.binary([])]),
        WireCase("125 bytes", frame(.binary, Array(long[..<125])), [.binary(Array(long[..<125]))]),
        WireCase("126 bytes", frame(.binary, Array(long[..<126])), [.binary(Array(long[..<126]))]),
        WireCase("two messages", frame(.text, [0x61]) + frame(.binary, [1]), [.text([0x61]), .binary([1])]),
        WireCase(
            "a control frame between fragments",
            frame(.text, [0x61], isFinal: false) + frame(.ping, [9]) + frame(.continuation, [0x62]),
            [.ping([9]), .text([0x61, 0x62])]
        ),
        WireCase(
            "a character across fragments",
            frame(.text, [euro[0]], isFinal: false) + frame(.continuation, Array(euro[1...])),
            [.text(euro)]
        ),
        WireCase(
            "empty fragments",
            frame(.text, [], isFinal: false) + frame(.continuation, [], isFinal: false)
                + frame(.continuation, []),
            [.text([])]
        ),
        WireCase("a pong", frame(.pong, [1, 2]), [.pong([1, 2])]),
        WireCase("a close without a code", frame(.close, []), [.close(nil, [])]),
        WireCase("a close with a reason", frame(.close, [0x03, 0xE8, 0x61]), [.close(1000, [0x61])]),
        WireCase("a private close code", frame(.close, [0x0F, 0xA0]), [.close(4000, [])]),

        WireCase("an unmasked frame", [0x81, 0x01, 0x61], [.failed(.missingMask)]),
        WireCase("the second reserved bit", [0xA1, 0x80, 0, 0, 0, 0], [.failed(.reservedBits)]),
        WireCase("the first reserved bit, not agreed", [0xC1, 0x80, 0, 0, 0, 0], [.failed(.reservedBits)]),
        WireCase("a reserved data opcode", [0x83, 0x80, 0, 0, 0, 0], [.failed(.reservedOpcode)]),
        WireCase("a reserved control opcode", [0x8B, 0x80, 0, 0, 0, 0], [.failed(.reservedOpcode)]),
        WireCase("16 bits for a short length", [0x82, 0xFE, 0, 125, 0, 0, 0, 0], [.failed(.overlongLength)]),
        WireCase(
            "64 bits for a medium length",
            [0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0],
            [.failed(.overlongLength)]
        ),
        WireCase(
            "the topmost bit of the length",
            [0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [.failed(.lengthOverflow)]
        ),
        WireCase(
            "the greatest length",
            [0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0],
            [.failed(.frameTooBig)]
        ),
        WireCase("a ping of 126 bytes", [0x89, 0xFE, 0, 126, 0, 0, 0, 0], [.failed(.controlFrameTooLong)]),
        WireCase("a fragmented ping", [0x09, 0x80, 0, 0, 0, 0], [.failed(.fragmentedControlFrame)]),
        WireCase("a continuation of nothing", frame(.continuation, [1]), [.failed(.unexpectedContinuation)]),
        WireCase(
            "a message within a message",
            frame(.text, [0x61], isFinal: false) + frame(.text, [0x62]),
            [.failed(.expectedContinuation)]
        ),
        WireCase("text that is not UTF-8", frame(.text, [0xFF]), [.failed(.invalidUTF8)]),
        WireCase("text that stops within a character", frame(.text, [0xE2, 0x82]), [.failed(.invalidUTF8)]),
        WireCase("a surrogate", frame(.text, [0xED, 0xA0, 0x80]), [.failed(.invalidUTF8)]),
        WireCase("an overlong slash", frame(.text, [0xC0, 0xAF]), [.failed(.invalidUTF8)]),
        WireCase("beyond U+10FFFF", frame(.text, [0xF4, 0x90, 0x80, 0x80]), [.failed(.invalidUTF8)]),
        WireCase("a close code of one byte", frame(.close, [3]), [.failed(.truncatedCloseCode)]),
        WireCase("close code 1005", frame(.close, [0x03, 0xED]), [.failed(.invalidCloseCode)]),
        WireCase("close code 999", frame(.close, [0x03, 0xE7]), [.failed(.invalidCloseCode)]),
        WireCase("close code 5000", frame(.close, [0x13, 0x88]), [.failed(.invalidCloseCode)]),
        WireCase("a bad reason", frame(.close, [0x03, 0xE8, 0xFF]), [.failed(.invalidCloseReason)]),
    ]
}

@Suite struct FrameCodecTests {
    @Test("Whole input gives the expected events", arguments: WireCase.all)
    func whole(_ wire: WireCase) {
        #expect(decode([wire.bytes]) == wire.events)
    }

    @Test("Input one byte at a time gives the same", arguments: WireCase.all)
    func byteByByte(_ wire: WireCase) {
        #expect(decode(wire.bytes.map { [$0] }) == wire.events)
    }

    @Test("Input split at any offset gives the same", arguments: WireCase.all)
    func split(_ wire: WireCase) {
        for offset in 0...wire.bytes.count {
            let pieces = [Array(wire.bytes[..<offset]), Array(wire.bytes[offset...])]
            #expect(decode(pieces) == wire.events, "split at \(offset)")
        }
    }

    @Test("Bad text is refused before the frame ends")
    func failFast() {
        let start = Array(frame(.text, [0x61, 0xFF] + WireCase.long)[..<10])
        #expect(decode([start]) == [.failed(.invalidUTF8)])
    }

    @Test("A message is refused when its header passes the limit, before its payload arrives")
    func messageLimit() {
        let limits = Limits(messageBytesMax: 10)
        #expect(decode([frame(.binary, Array(WireCase.long[..<10]))], limits: limits).count == 1)
        #expect(
            decode([Array(frame(.binary, WireCase.long)[..<8])], limits: limits) == [.failed(.frameTooBig)]
        )
        let fragments =
            frame(.binary, [1, 2, 3, 4, 5, 6], isFinal: false) + frame(.continuation, [1, 2, 3, 4, 5])
        #expect(decode([fragments], limits: limits) == [.failed(.messageTooBig)])
    }

    @Test("A message over the limit is refused for that, whatever is in it and however it arrives")
    func messageLimitComesFirst() {
        let limits = Limits(frameBytesMax: 100, messageBytesMax: 10)
        let wire = frame(.text, [UInt8](repeating: 0xFF, count: 11))
        #expect(decode([wire], limits: limits) == [.failed(.messageTooBig)])
        #expect(decode(wire.map { [$0] }, limits: limits) == [.failed(.messageTooBig)])
    }

    @Test("A message of too many fragments is refused")
    func fragmentLimit() {
        let limits = Limits(fragmentsPerMessageMax: 3)
        let one = frame(.binary, [], isFinal: false)
        let more = frame(.continuation, [], isFinal: false)
        #expect(decode([one + more + frame(.continuation, [])], limits: limits) == [.binary([])])
        #expect(decode([one + more + more + more], limits: limits) == [.failed(.tooManyFragments)])
    }

    @Test("A client refuses masked frames and takes unmasked ones")
    func clientRole() {
        #expect(decode([frame(.text, [0x61], key: nil)], role: .client) == [.text([0x61])])
        #expect(decode([frame(.text, [0x61])], role: .client) == [.failed(.unexpectedMask)])
    }

    @Test("The compression bit is taken on a message's first frame only, once agreed")
    func compressionBit() {
        let first = frame(.binary, [1], isFinal: false, isCompressed: true)
        #expect(decode([first + frame(.continuation, [2])], compression: true) == [.binary([1, 2])])
        let second = frame(.continuation, [2], isCompressed: true)
        #expect(decode([first + second], compression: true) == [.failed(.reservedBits)])
        #expect(decode([frame(.ping, [], isCompressed: true)], compression: true) == [.failed(.reservedBits)])
    }

    @Test("After a violation every call throws the same")
    func failureIsFinal() {
        var codec = FrameCodec(role: .server)
        for bytes in [[0x81, 0x01, 0x61], frame(.text, [0x61])] as [[UInt8]] {
            var buffer = bytes
            var span = buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            var thrown: ProtocolError?
            do throws(ProtocolError) { _ = try codec.next(in: &bytes) } catch { thrown = error }
            #expect(thrown == ProtocolError(.missingMask))
        }
    }

    @Test("Between messages the codec holds no memory")
    func releasesPartialInput() {
        var codec = FrameCodec(role: .server)
        func feed(_ piece: [UInt8], _ codec: inout FrameCodec) throws(ProtocolError) {
            var buffer = piece
            var span = buffer.mutableSpan
            var bytes = unsafe span.mutableBytes
            while true {
                if case .needsMoreBytes = try codec.next(in: &bytes) { return }
            }
        }
        #expect(throws: Never.self) { try feed(Array(frame(.binary, WireCase.long)[..<100]), &codec) }
        let holdsBefore = codec.holdsPartialInput
        #expect(holdsBefore)
        #expect(throws: Never.self) { try feed(Array(frame(.binary, WireCase.long)[100...]), &codec) }
        let holdsAfter = codec.holdsPartialInput
        #expect(!holdsAfter)
    }
}

@Suite struct MaskingTests {
    @Test("Any length at any offset equals the RFC's formula")
    func formula() {
        let key = MaskingKey(rawValue: 0xDDCC_BBAA)
        let octets: [UInt8] = [0xAA, 0xBB, 0xCC, 0xDD]
        for count in 0...100 {
            for offset in 0..<5 {
                let original = (0..<count).map { UInt8($0) }
                var bytes = original
                var span = bytes.mutableSpan
                var raw = unsafe span.mutableBytes
                key.apply(to: &raw, at: offset)
                #expect(bytes == original.enumerated().map { $1 ^ octets[($0 + offset) % 4] })
            }
        }
    }
}

@Suite struct UTF8ValidatorTests {
    func isValid(_ bytes: [UInt8]) -> Bool {
        unsafe UTF8Validator.isValid(bytes.span.bytes)
    }

    @Test("Agrees with the standard library on every string of two and three interesting bytes")
    func againstStandardLibrary() {
        let interesting: [UInt8] = [
            0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED,
            0xEE, 0xEF,
            0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF,
        ]
        for first in interesting {
            for second in interesting {
                for third in interesting {
                    for tail in [[], [0x80], [0x61]] as [[UInt8]] {
                        let bytes = [first, second, third] + tail
                        let expected = String(validating: bytes, as: UTF8.self) != nil
                        #expect(isValid(bytes) == expected, "\(bytes)")
                    }
                }
            }
        }
    }

    @Test("A bad byte is found at every position of a long text")
    func positions() {
        for position in 0..<100 {
            var bytes = [UInt8](repeating: 0x61, count: 100)
            #expect(isValid(bytes))
            bytes[position] = 0xFF
            #expect(!isValid(bytes), "at \(position)")
        }
    }
}
