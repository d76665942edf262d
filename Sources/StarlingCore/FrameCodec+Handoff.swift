extension FrameCodec {
    /// Writes what has arrived of an unfinished frame or message, for a codec of another process.
    ///
    /// - Precondition: The peer has broken no rule.
    package mutating func writePartialInput(to writer: inout ByteWriter) {
        precondition(self.failure == nil, "a connection's input was to go on after a violation")
        if self.partial?.isReleasable == true { self.partial = nil }
        writer.write(self.partial) { $1.write(to: &$0) }
    }

    /// Goes on with a frame or message of which another process has received a part.
    package mutating func readPartialInput(from reader: inout ByteReader) throws(ByteReader.Malformed) {
        let limits = self.settings.limits
        self.partial = try reader.readOptional { reader throws(ByteReader.Malformed) in
            try PartialInput(limits: limits, from: &reader)
        }
    }
}
