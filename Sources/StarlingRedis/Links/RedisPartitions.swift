/// Sixty-four parts of all topics, each with a hash tag whose slot is in its own 64th of the 16,384 slots.
struct RedisPartitions: Sendable {
    /// The same for every node and every version, for keys and channels are named after them.
    static let count = 64
    private static let slotCount = 16_384

    /// The hash tags, by partition.
    let tags: [String]
    /// The slots, by partition.
    let slots: [Int]
    private let byTag: [String: Int]

    init() {
        var tags: [String?] = Array(repeating: nil, count: Self.count)
        var number = 0
        while tags.contains(nil) {
            let partition = Self.slot(ofTag: "\(number)") * Self.count / Self.slotCount
            if tags[partition] == nil { tags[partition] = "\(number)" }
            number += 1
        }
        self.tags = tags.compactMap { $0 }
        self.slots = self.tags.map(Self.slot)
        self.byTag = Dictionary(uniqueKeysWithValues: zip(self.tags, 0...))
    }

    /// The partition whose tag a key or a channel has.
    func partition(ofName name: String) -> Int? {
        let bytes = name.utf8
        guard let begin = bytes.firstIndex(of: UInt8(ascii: "{")),
            let end = bytes[begin...].firstIndex(of: UInt8(ascii: "}"))
        else { return nil }
        return self.byTag[String(name[name.index(after: begin)..<end])]
    }

    func partition(ofSlot slot: Int) -> Int? {
        self.slots.firstIndex(of: slot)
    }

    /// CRC-16/XMODEM, as the specification of Redis Cluster has it.
    static func slot(ofTag tag: String) -> Int {
        var crc: UInt16 = 0
        for byte in tag.utf8 {
            crc ^= UInt16(byte) << 8
            for _ in 0..<8 { crc = crc & 0x8000 != 0 ? crc << 1 ^ 0x1021 : crc << 1 }
        }
        return Int(crc) % Self.slotCount
    }
}
