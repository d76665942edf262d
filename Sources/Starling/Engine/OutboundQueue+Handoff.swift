internal import StarlingCore

extension OutboundQueue {
    /// Writes what waits, for another process; `place` names a publication's topic there, or is 0.
    func write(to writer: inout ByteWriter, place: (UInt32) -> Int) {
        writer.write(self.isFirstStarted)
        writer.write(self.segmentCount)
        self.forEachSegment { segment in
            writer.write(segment.topic == 0 ? 0 : place(segment.topic))
            // The bytes are copied while the segment holds them.
            unsafe writer.write(RawSpan(_unsafeBytes: segment.bytes))
        }
    }

    /// Takes what waited in another process.
    init(
        from reader: inout ByteReader,
        topic: (Int) -> UInt32?
    ) throws(ByteReader.Malformed) {
        self.init()
        let isFirstStarted = try reader.readFlag()
        let count: Int = try reader.read()
        for _ in 0..<count {
            let place: Int = try reader.read()
            let bytes = try reader.readBytes()
            guard !bytes.isEmpty, let topic = place == 0 ? 0 : topic(place) else {
                throw ByteReader.Malformed()
            }
            var segment = unsafe OutboundSegment(copying: bytes.span.bytes)
            segment.topic = topic
            self.append(segment, merging: false)
        }
        if isFirstStarted, !self.isEmpty { self.markFirstStarted() }
    }
}
