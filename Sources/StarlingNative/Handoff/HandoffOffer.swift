#if os(Linux)
internal import Starling
internal import StarlingCore

/// What the old process says of its listeners before the new one takes them.
struct HandoffOffer {
    let endpoint: String
    let isEncrypted: Bool
    let listeners: [Listener]

    init(_ transport: NativeTransport, _ listeners: [Listener]) {
        self.endpoint = transport.endpoint.bound(to: listeners[0].address).description
        self.isEncrypted = transport.tls != nil
        // A Unix socket's is the same for all loops.
        self.listeners = listeners.first?.isShared == true ? Array(listeners.prefix(1)) : listeners
    }

    var message: HandoffMessage {
        var writer = ByteWriter()
        writer.write(self.endpoint)
        writer.write(self.isEncrypted)
        writer.write(self.listeners.count)
        for listener in self.listeners {
            writer.write(listener.address)
            writer.write(listener.isShared)
            writer.write(listener.path) { $0.write($1) }
        }
        return HandoffMessage(
            kind: .offer,
            bytes: writer.bytes,
            descriptors: self.listeners.map(\.descriptor)
        )
    }

    init(_ message: HandoffMessage) throws(ByteReader.Malformed) {
        var reader = ByteReader(message.bytes)
        self.endpoint = try reader.readText()
        self.isEncrypted = try reader.readFlag()
        let count: Int = try reader.read()
        guard count == message.descriptors.count, count > 0 else { throw ByteReader.Malformed() }
        var listeners: [Listener] = []
        for descriptor in message.descriptors {
            listeners.append(
                Listener(
                    descriptor: descriptor,
                    address: try reader.readText(),
                    isShared: try reader.readFlag(),
                    path: try reader.readOptionalText()
                )
            )
        }
        self.listeners = listeners
    }
}

extension ListenTarget {
    /// Whether any port will do.
    var isAnyPort: Bool {
        if case .tcp(_, 0) = self.base { true } else { false }
    }

    /// Where it listens, with the port of a listener's address where any would do.
    func bound(to address: String) -> ListenTarget {
        guard case .tcp(let host, 0) = self.base else { return self }
        return .tcp(host: host, port: address.split(separator: ":").last.flatMap { Int($0) } ?? 0)
    }
}
#endif
