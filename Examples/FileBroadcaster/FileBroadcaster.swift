public import Foundation
public import Starling
import Synchronization

#if canImport(Glibc)
import Glibc
#endif

/// A broadcaster for the processes of one machine: a file per topic, to which publications are appended, and which every
/// node reads on from where it is.
///
/// `Documentation/ImplementingABroadcaster.md` goes through it. It keeps its promises, but it is an example: it looks for
/// news a hundred times a second, and its files grow for ever.
public final class FileBroadcaster: Broadcaster {
    private struct State {
        var sinks: [BroadcastSink] = []
        /// How far the files of the topics that are subscribed to have been read.
        var offsets: [Topic: UInt64] = [:]
    }

    private let state = Mutex(State())
    private let directory: URL

    /// Joins all that use the same directory.
    public init(directory: URL) throws {
        self.directory = directory
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    }

    // MARK: - What a server calls

    /// Keeps a sink, to which whatever arrives is handed.
    public func attach(_ sink: BroadcastSink) {
        self.state.withLock { $0.sinks.append(sink) }
    }

    /// Whatever is appended behind the present end will be delivered: that is all there is to do.
    public func subscribe(to topics: Set<Topic>) async throws(BroadcastError) {
        for topic in topics {
            let end = try self.attempt("subscribe to '\(topic)'") { try TopicFile(self.url(topic)).end() }
            self.state.withLock { state in
                if state.offsets[topic] == nil { state.offsets[topic] = end }
            }
        }
    }

    /// Delivers nothing more of the topics.
    public func unsubscribe(from topics: Set<Topic>) async throws(BroadcastError) {
        self.state.withLock { state in
            for topic in topics { state.offsets[topic] = nil }
        }
    }

    /// Appends; the order of the file is the order for everybody.
    public func publish(_ message: Message, to topic: Topic) async throws(BroadcastError) -> StreamPosition? {
        try self.attempt("publish to '\(topic)'") { try TopicFile(self.url(topic)).append(message) }
        return nil
    }

    /// Reads what is new, until the task is cancelled.
    public func run() async throws(BroadcastError) {
        while !Task.isCancelled {
            for (topic, offset) in self.state.withLock({ $0.offsets }) {
                let news = try self.attempt("read '\(topic)'") {
                    try TopicFile(self.url(topic)).messages(from: offset)
                }
                self.deliver(news.messages, topic, from: offset, to: news.end)
            }
            try? await Task.sleep(for: .milliseconds(10))
        }
    }

    // MARK: - How

    /// Hands over what was read, unless the topic was left meanwhile.
    private func deliver(_ messages: [Message], _ topic: Topic, from start: UInt64, to end: UInt64) {
        let sinks = self.state.withLock { state in
            guard state.offsets[topic] == start else { return [BroadcastSink]() }
            state.offsets[topic] = end
            return state.sinks
        }
        for message in messages {
            for sink in sinks { sink.deliver(Publication(message, to: topic)) }
        }
    }

    /// A name may have any characters; a file's may not.
    private func url(_ topic: Topic) -> URL {
        let name = topic.name.utf8.map { String($0, radix: 16) }.joined(separator: "-")
        return self.directory.appending(path: "topic-\(name)")
    }

    private func attempt<Result>(_ what: String, _ work: () throws -> Result) throws(BroadcastError) -> Result
    {
        do {
            return try work()
        } catch {
            throw BroadcastError(.unavailable, message: "cannot \(what): \(error)", underlying: error)
        }
    }
}

/// Messages one after the other, each behind its length in four bytes and its kind in one.
private struct TopicFile {
    private let handle: FileHandle

    init(_ url: URL) throws {
        let descriptor = unsafe open(url.path, O_RDWR | O_CREAT, 0o644)
        guard descriptor >= 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO) }
        self.handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
    }

    func end() throws -> UInt64 {
        // Nobody is in the middle of a message.
        try self.locked { try self.handle.seekToEnd() }
    }

    func append(_ message: Message) throws {
        let payload = message.byteArray
        var record = Data((0..<4).map { UInt8(truncatingIfNeeded: payload.count >> (24 - 8 * $0)) })
        record.append(message.kind == .text ? 0 : 1)
        record.append(contentsOf: payload)
        try self.locked {
            let start = try self.handle.seekToEnd()
            do {
                try self.handle.write(contentsOf: record)
            } catch {
                // A full disk: no half of a message may stay.
                try? self.handle.truncate(atOffset: start)
                throw error
            }
        }
    }

    /// The whole messages from an offset on, and where they end.
    func messages(from start: UInt64) throws -> (messages: [Message], end: UInt64) {
        try self.handle.seek(toOffset: start)
        let bytes = [UInt8](try self.handle.readToEnd() ?? Data())
        var messages: [Message] = []
        var rest = bytes[...]
        while rest.count >= 5 {
            let length = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
            guard rest.count >= 5 + length else { break }
            let payload = rest.dropFirst(5).prefix(length)
            let isText = rest[rest.startIndex + 4] == 0
            messages.append(
                isText ? .text(String(decoding: payload, as: UTF8.self)) : .binary(Array(payload))
            )
            rest = rest.dropFirst(5 + length)
        }
        return (messages, start + UInt64(bytes.count - rest.count))
    }

    /// One writer at a time, on all nodes.
    private func locked<Result>(_ work: () throws -> Result) throws -> Result {
        flock(self.handle.fileDescriptor, LOCK_EX)
        defer { flock(self.handle.fileDescriptor, LOCK_UN) }
        return try work()
    }
}
