internal import Starling
internal import StarlingCore

/// A client in a simulation: what it wants, what it has seen, and whether that was right.
///
/// A value without streams or clock: it is handed bytes, and leaves bytes to be sent.
struct SimulatedClient {
    enum Phase: Equatable {
        case away
        case connecting
        case open
        case closing
    }

    private struct View {
        /// The last position that the client knows: behind it everything is to come, once and in order.
        var position: StreamPosition?
        var asked: StreamPosition?
        var isSubscribed = false
        var members: Set<String> = []
        /// Members of which something has been heard since the subscription began.
        var heardOf: Set<String> = []
    }

    private struct Pending {
        let topic: Topic
        let key: String
        let text: String
    }

    let name: String
    let topics: [Topic]
    private let dialect: any ClusterDialect
    private let broker: SimulatedBroker
    private(set) var phase = Phase.away
    /// Where the client wants to be present.
    private(set) var wanted: Set<Topic> = []
    private var views: [Topic: View] = [:]
    private var pending: [Pending] = []
    private var lastKey = 0
    private var wire = TestWire()
    /// Bytes to be sent.
    var output: [UInt8] = []
    private(set) var figures = ClusterFigures()

    init(name: String, topics: [Topic], _ dialect: any ClusterDialect, _ broker: SimulatedBroker) {
        self.name = name
        self.topics = topics
        self.dialect = dialect
        self.broker = broker
        for topic in topics { self.views[topic] = View() }
    }

    // MARK: - The stream

    /// A stream stands.
    mutating func begin() {
        self.phase = .connecting
        self.wire = TestWire()
        self.output = TestWire.request(self.dialect.path(for: self.name), [])
        for topic in self.topics { self.views[topic]?.isSubscribed = false }
    }

    /// The stream is gone.
    mutating func lost() {
        self.phase = .away
        self.output = []
    }

    /// Says goodbye.
    mutating func close() {
        guard self.phase == .open else { return }
        self.phase = .closing
        self.output += TestFrame.close(.normalClosure).masked
    }

    mutating func received(_ bytes: [UInt8]) {
        self.wire.append(bytes)
        if self.phase == .connecting, self.wire.readHead() {
            guard self.wire.status == 101 else {
                return self.violate("an upgrade was refused: \(self.wire.head ?? "")")
            }
            self.phase = .open
            self.ask()
        }
        guard self.phase == .open || self.phase == .closing else { return }
        while let frame = self.wire.nextFrame() {
            switch frame.opcode {
            case .ping: self.output += TestFrame(.pong, frame.payload).masked
            case .close:
                self.note("is closed with \(frame.closeCode.map { "\($0.rawValue)" } ?? "no code")")
                if self.phase == .open { self.output += TestFrame.close(frame.closeCode).masked }
                self.phase = .closing
            default:
                guard let message = self.wire.message(with: frame) else { continue }
                if let event = self.dialect.event(in: message) { self.saw(event) }
            }
        }
    }

    // MARK: - Requests

    /// After coming back: everything that the client wants.
    private mutating func ask() {
        for topic in self.topics {
            let position = self.views[topic]?.position
            self.views[topic]?.asked = position
            self.send(.subscribe(topic, from: position))
            if self.wanted.contains(topic) { self.send(.enter(topic, member: self.name)) }
        }
        for publication in self.pending { self.send(publication) }
    }

    mutating func publish(to topic: Topic) {
        self.lastKey += 1
        let key = "\(self.name)-\(self.lastKey)"
        let publication = Pending(topic: topic, key: key, text: "text-\(key)")
        self.pending.append(publication)
        if self.phase == .open { self.send(publication) }
    }

    /// Publishes again what may have failed.
    mutating func retry(_ key: String) {
        guard self.phase == .open, let publication = self.pending.first(where: { $0.key == key }) else {
            return
        }
        self.send(publication)
    }

    /// Enters a topic, or leaves it.
    mutating func togglePresence(in topic: Topic) {
        let leaves = self.wanted.remove(topic) != nil
        if !leaves { self.wanted.insert(topic) }
        self.note(leaves ? "leaves \(topic)" : "enters \(topic)")
        guard self.phase == .open else { return }
        self.send(leaves ? .leave(topic) : .enter(topic, member: self.name))
    }

    private mutating func send(_ publication: Pending) {
        self.send(.publish(publication.text, publication.topic, key: publication.key))
    }

    private mutating func send(_ request: ClientRequest) {
        let message = self.dialect.message(for: request)
        self.output += TestFrame(message.kind.opcode, message.byteArray).masked
    }

    // MARK: - What it sees

    /// Keys of publications to try again; taken by the simulation.
    private(set) var failedKeys: [String] = []

    mutating func takeFailedKeys() -> [String] {
        defer { self.failedKeys = [] }
        return self.failedKeys
    }

    private mutating func saw(_ event: ClientEvent) {
        switch event {
        case .subscribed(let topic, let position, let isRecovered, let members):
            self.note(
                "is subscribed to \(topic) at \(position.short)\(isRecovered ? "" : ", lost"), \(members)"
            )
            self.subscribed(topic, position, isRecovered, members)
        case .publication(let topic, let position, let text): self.saw(topic, position, text)
        case .gap(let topic, let newest):
            self.note("sees a gap in \(topic) up to \(newest.short)")
            self.figures.gaps += 1
            self.views[topic]?.position = newest
        case .joined(let topic, let member): self.saw(member, topic, isPresent: true)
        case .left(let topic, let member): self.saw(member, topic, isPresent: false)
        case .acknowledged(let key, let position):
            guard let index = self.pending.firstIndex(where: { $0.key == key }) else { return }
            let publication = self.pending.remove(at: index)
            self.figures.acknowledgements += 1
            let entry = self.broker.entry(of: publication.topic, at: position)
            guard entry?.key == key, entry?.message.text == publication.text else {
                return self.violate("\(key) is acknowledged at \(position.short), where it is not")
            }
        case .failed(let key):
            self.note("is told that \(key) has failed")
            self.figures.failures += 1
            self.failedKeys.append(key)
        }
    }

    private mutating func subscribed(
        _ topic: Topic,
        _ position: StreamPosition,
        _ isRecovered: Bool,
        _ members: [String]
    ) {
        guard let view = self.views[topic], !view.isSubscribed else {
            return self.violate("is subscribed to \(topic) twice")
        }
        if let asked = view.asked {
            if isRecovered, asked != position {
                return self.violate("has asked for \(topic) from \(asked.short), and got \(position.short)")
            }
            if isRecovered { self.figures.recoveries += 1 } else { self.figures.lostHistories += 1 }
        } else if !isRecovered {
            return self.violate("has lost what it never asked for")
        }
        self.views[topic]?.isSubscribed = true
        self.views[topic]?.position = position
        self.views[topic]?.members = Set(members)
        self.views[topic]?.heardOf = []
    }

    private mutating func saw(_ topic: Topic, _ position: StreamPosition, _ text: String) {
        guard let view = self.views[topic], view.isSubscribed, let last = view.position else {
            return self.violate("got a publication of \(topic) before it was subscribed")
        }
        self.figures.publications += 1
        self.note("got \(topic) \(position.short)")
        guard position.epoch == last.epoch else {
            return self.violate(
                "got \(topic) \(position.short) after \(last.short): an epoch has changed in silence"
            )
        }
        if position.offset <= last.offset {
            return self.violate("got \(topic) \(position.short) after \(last.short): twice, or out of order")
        }
        if position.offset > last.offset + 1 {
            return self.violate("got \(topic) \(position.short) after \(last.short): something is missing")
        }
        self.views[topic]?.position = position
        if self.broker.entry(of: topic, at: position)?.message.text != text {
            self.violate("got \(topic) \(position.short) with another text: \(text)")
        }
    }

    private mutating func saw(_ member: String, _ topic: Topic, isPresent: Bool) {
        self.note("sees that \(member) has \(isPresent ? "joined" : "left") \(topic)")
        self.figures.presenceEvents += 1
        guard let view = self.views[topic], view.isSubscribed else {
            return self.violate("got a presence event of \(topic) before it was subscribed")
        }
        // Events that are told while a subscription begins may repeat what its answer has said: each member's first.
        let isFirst = self.views[topic]?.heardOf.insert(member).inserted == true
        let changes =
            isPresent
            ? self.views[topic]?.members.insert(member).inserted == true
            : self.views[topic]?.members.remove(member) != nil
        if !changes, !isFirst {
            self.violate(
                "sees \(member) \(isPresent ? "join" : "leave") \(topic) twice, of \(view.members.sorted())"
            )
        }
    }

    /// What is not as it must be when nothing has failed for a while; nil if all is well.
    func complaint(_ present: (Topic) -> Set<String>) -> String? {
        guard self.phase == .open else { return "\(self.name) is not connected" }
        if let publication = self.pending.first { return "\(self.name) has no answer to \(publication.key)" }
        for topic in self.topics {
            guard let view = self.views[topic], view.isSubscribed else {
                return "\(self.name) is not subscribed to \(topic)"
            }
            let newest = self.broker.newest(of: topic)
            guard view.position == newest else {
                return "\(self.name) is at \(view.position?.short ?? "nothing") of \(topic), whose end is "
                    + "\(newest?.short ?? "nothing"): something is missing"
            }
            guard view.members == present(topic) else {
                return
                    "\(self.name) sees \(view.members.sorted()) in \(topic), but \(present(topic).sorted()) are there"
            }
        }
        return nil
    }

    private func note(_ text: String) {
        self.broker.simulation.note("\(self.name) \(text)")
    }

    private func violate(_ text: String) {
        self.broker.simulation.violate("\(self.name) \(text)")
    }
}
