internal import Starling

/// Connections as arrays of bytes.
final class EmbeddedIO: ConnectionIO {
    private struct Stream {
        var output: [UInt8] = []
        var capacity: Int?
        /// Whether a write was cut short.
        var isBlocked = false
        var isReading = true
        var isEnded = false
        var isClosed = false
    }

    private var streams: [Int: Stream] = [:]

    var openConnections: [Int] {
        self.streams.filter { !$0.value.isClosed }.map(\.key)
    }

    func open(_ connection: Int) {
        self.streams[connection] = Stream()
    }

    func write(_ bytes: RawSpan, to connection: Int) -> WriteResult {
        guard var stream = self.streams[connection], !stream.isClosed else { return .failed }
        let count = min(bytes.byteCount, stream.capacity ?? .max)
        // The view is read within the call that lends it.
        unsafe bytes.withUnsafeBytes { unsafe stream.output.append(contentsOf: $0.prefix(count)) }
        if let capacity = stream.capacity { stream.capacity = capacity - count }
        stream.isBlocked = count < bytes.byteCount
        self.streams[connection] = stream
        return .wrote(count)
    }

    func writeTogether(_ head: RawSpan, _ body: RawSpan, to connection: Int) -> WriteResult? {
        switch self.write(head, to: connection) {
        case .wrote(head.byteCount):
            switch self.write(body, to: connection) {
            case .wrote(let count): .wrote(head.byteCount + count)
            case .failed: .failed
            }
        case let result: result
        }
    }

    func setReading(_ isOn: Bool, on connection: Int) {
        self.streams[connection]?.isReading = isOn
    }

    func shutdownWriting(_ connection: Int) {
        self.streams[connection]?.isEnded = true
    }

    func close(_ connection: Int) {
        self.streams[connection]?.isClosed = true
    }

    func stopListening() {}

    func setCapacity(_ byteCount: Int?, of connection: Int) {
        self.streams[connection]?.capacity = byteCount
    }

    func isBlocked(_ connection: Int) -> Bool { self.streams[connection]?.isBlocked ?? false }

    func takeOutput(of connection: Int) -> [UInt8] {
        guard let output = self.streams[connection]?.output, !output.isEmpty else { return [] }
        self.streams[connection]?.output = []
        return output
    }

    func isEnded(_ connection: Int) -> Bool { self.streams[connection]?.isEnded ?? false }
    func isClosed(_ connection: Int) -> Bool { self.streams[connection]?.isClosed ?? false }
    func isReading(_ connection: Int) -> Bool { self.streams[connection]?.isReading ?? false }
}

/// Several writes at once, as a transport with a ring makes them.
extension EmbeddedIO: BatchingIO {
    /// Few, so that a tick has several batches.
    var batchedWritesMax: Int { 4 }

    func write(_ batch: inout [BatchedWrite]) {
        for position in batch.indices {
            // The driver keeps the bytes until this has returned.
            let bytes = unsafe RawSpan(_unsafeBytes: batch[position].bytes)
            batch[position].result = self.write(bytes, to: batch[position].connection)
        }
    }
}
