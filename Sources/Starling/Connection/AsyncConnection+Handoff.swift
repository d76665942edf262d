internal import StarlingCore

/// What an async connection needs on its way to another process, or from one.
struct AsyncHandoff {
    enum Stage {
        /// Not under way.
        case none
        /// The body is told to return, or has.
        case suspending
        /// The connection stays after all: the body is started anew once it has returned.
        case resuming
    }

    var stage = Stage.none
    /// Whether the body has been given the end of its messages, or an error for one that it sent, because it is to return.
    var isHeeded = false
    /// The connection has ended while the body was about to return: the one that comes then, with what it has not taken.
    var lastBody: (@Sendable (WebSocket) async throws -> Void)?
    /// What the body wants to find again.
    var carried: [UInt8]?
    /// Whether there was a body before.
    var isResumed = false
    /// What `authenticate` accepted the connection with, for the next body.
    var userData: (any Sendable)?
}

/// What a body finds that goes on where another one has stopped.
@usableFromInline
final class Resumption: Sendable {
    let carried: [UInt8]?

    init(carried: [UInt8]?) {
        self.carried = carried
    }
}

extension AsyncConnection {
    /// Tells the body that it is to return.
    ///
    /// Its iteration ends, and it waits for its peer no more. What it has not taken stays in the inbox for the next one, whichever
    /// process that is in.
    ///
    /// - Parameter cancels: Whether its task is cancelled as well, and with it whatever else it waits for.
    func suspend(cancels: Bool) {
        self.preconditionOnLoop()
        let rare = self.rare
        guard rare.handoff.stage != .suspending, rare.end == nil else { return }
        rare.handoff.stage = .suspending
        unsafe self.state.pointee.mustReturn = true
        if cancels { self.cancel() } else { self.wake() }
    }

    /// Whether the body is to return, so that the connection can go to another process; on the loop.
    var mustReturn: Bool {
        unsafe self.state.pointee.mustReturn
    }

    /// Whether the body has returned, after it was told to.
    var isAtRest: Bool {
        unsafe self.state.pointee.task == nil && self.rare.handoff.stage == .suspending
    }

    /// The connection stays after all; whether the body is to be started anew now.
    ///
    /// Otherwise that is done when it returns.
    func resume() -> Bool {
        self.preconditionOnLoop()
        let rare = self.rare
        guard rare.handoff.stage != .none else { return false }
        if unsafe self.state.pointee.task != nil {
            rare.handoff.stage = .resuming
            return false
        }
        self.prepareToResume()
        return true
    }

    /// The connection has ended; whether it needs one more body, since the last one has returned because it was told to.
    ///
    /// That one has left things as they were, for the next: somebody's presence for example, which is the next one's to end.
    func mustResumeAtEnd() -> Bool {
        guard let rare = unsafe self.state.pointee.rare, rare.handoff.stage != .none,
            unsafe self.state.pointee.task == nil
        else { return false }
        self.prepareToResume()
        return true
    }

    /// The connection has ended, and the body is about to return because it was told to, or may be: the next one comes then.
    func resumeAtEnd(_ body: @escaping @Sendable (WebSocket) async throws -> Void) {
        guard let rare = unsafe self.state.pointee.rare, rare.handoff.stage != .none, rare.handoff.isHeeded,
            unsafe self.state.pointee.task != nil
        else { return }
        rare.handoff.lastBody = body
    }

    /// The body of a connection that has ended has returned; whether one more comes.
    func takeLastBody(_ driver: ConnectionDriver) -> Bool {
        guard let rare = unsafe self.state.pointee.rare, let body = rare.handoff.lastBody else {
            return false
        }
        rare.handoff.lastBody = nil
        self.prepareToResume()
        driver.startLast(self, body)
        return true
    }

    /// The body has returned; whether that was because it was told to.
    func takeSuspension(_ driver: ConnectionDriver) -> Bool {
        guard let rare = unsafe self.state.pointee.rare, rare.end == nil else { return false }
        switch rare.handoff.stage {
        case .none: return false
        case .suspending: driver.bodySuspended(self, mustGoOn: false)
        case .resuming: driver.bodySuspended(self, mustGoOn: true)
        }
        return true
    }

    /// What the next body finds.
    var resumption: Resumption? {
        guard let rare = unsafe self.state.pointee.rare, rare.handoff.isResumed else { return nil }
        return Resumption(carried: rare.handoff.carried)
    }

    /// Keeps bytes for the next body.
    func carry(_ bytes: [UInt8]) {
        self.perform { if $0 != nil { self.rare.handoff.carried = bytes } }
    }

    /// Writes what the body has left, for another process.
    func write(to writer: inout ByteWriter) {
        writer.write(self.rare.handoff.carried) { $0.write($1) }
        let messages = unsafe self.state.pointee.inbox.messages
        writer.write(messages.count)
        for message in messages {
            writer.write(message.kind == .text)
            writer.write(message.bytes)
        }
    }

    /// Takes what another process' body has left, before there is a body here; whether so much that nothing more is to be read
    /// until the body has taken some.
    func read(from reader: inout ByteReader) throws(ByteReader.Malformed) -> Bool {
        let rare = self.rare
        rare.handoff.carried = try reader.readOptionalBytes()
        let count: Int = try reader.read()
        for _ in 0..<count {
            let kind: Message.Kind = try reader.readFlag() ? .text : .binary
            let bytes = try reader.readBytes()
            unsafe self.state.pointee.inbox.append(Message(kind, copying: bytes.span.bytes))
        }
        self.prepareToResume()
        let isFull = unsafe self.state.pointee.inbox.byteCount >= self.facts.inboundByteCountMax
        unsafe self.state.pointee.isReadingPaused = isFull
        return isFull
    }

    private func prepareToResume() {
        let rare = self.rare
        rare.handoff.stage = .none
        rare.handoff.isHeeded = false
        rare.handoff.isResumed = true
        unsafe self.state.pointee.mustReturn = false
    }
}
