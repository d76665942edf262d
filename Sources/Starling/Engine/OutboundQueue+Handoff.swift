internal import StarlingCore

extension OutboundQueue {
    /// Writes what waits, for another process.
    func write(to writer: inout ByteWriter) {
        writer.write(self.isFirstStarted)
        writer.write(self.segmentCount)
        // The bytes are copied while the segment holds them.
        self.forEachSegment { segment in unsafe writer.write(RawSpan(_unsafeBytes: segment.bytes)) }
    }

    /// Takes what waited in another process.
    init(from reader: inout ByteReader) throws(ByteReader.Malformed) {
        self.init()
        let isFirstStarted = try reader.readFlag()
        let count: Int = try reader.read()
        for _ in 0..<count {
            let bytes = try reader.readBytes()
            guard !bytes.isEmpty else { throw ByteReader.Malformed() }
            unsafe self.append(OutboundSegment(copying: bytes.span.bytes))
        }
        if isFirstStarted, !self.isEmpty { self.markFirstStarted() }
    }
}
