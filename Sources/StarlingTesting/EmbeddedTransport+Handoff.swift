package import Starling

extension EmbeddedTransport {
    /// Hands the connections that can go to another server, as a restart of a process does, to test an endpoint that is made for
    /// it.
    ///
    /// Both servers have the same routes. What is left here is served on.
    ///
    /// - Parameters:
    ///   - successor: The other server.
    ///   - meanwhile: Called when the other server has the connections' state, before it serves them.
    /// - Returns: The connections' numbers there, by their numbers here.
    public func handOff(to successor: EmbeddedTransport, meanwhile: () -> Void = {}) -> [Int: Int] {
        var numbers: [Int: Int] = [:]
        let records = self.exportConnections()
        successor.tick {
            for record in records {
                guard let number = try? successor.driver.restore(record) else { continue }
                successor.adopt(number)
                numbers[record.index] = number
            }
        }
        meanwhile()
        var orders: [Int: [UInt8]] = [:]
        self.tick {
            for late in self.driver.takeLateOrders() { orders[late.index] = late.bytes }
            self.driver.finishHandoff(of: numbers.keys.sorted())
        }
        successor.tick {
            for (index, number) in numbers.sorted(by: { $0.key < $1.key }) {
                successor.driver.beginServing(number, orders[index])
            }
        }
        return numbers
    }

    /// Begins a hand-off that fails: the connections go on here.
    ///
    /// - Parameter meanwhile: Called when the state has been read.
    public func failHandOff(meanwhile: () -> Void = {}) {
        _ = self.exportConnections()
        meanwhile()
        self.tick { self.driver.abandonHandoff() }
    }

    /// The records of all connections that can go, once what runs has come to rest; they stay until more is done.
    package func exportConnections() -> [ConnectionRecord] {
        // No history is asked, which would suspend: what is published in between is the test's to publish.
        self.driver.notePositions(
            Dictionary(uniqueKeysWithValues: self.driver.topicsWithoutPosition().map { ($0, nil) })
        )
        self.tick { self.driver.beginHandoff() }
        var rounds = 0
        while !self.driver.isAtRest, rounds < 100 {
            rounds += 1
            self.tick {}
        }
        return self.driver.exportConnections()
    }

    /// Makes a connection from a record that may be anything.
    package func restore(_ record: ConnectionRecord) throws -> Int {
        let result = self.withTick { Result { try self.driver.restore(record) } }
        return try result.get()
    }

    /// A restored connection's stream is here from now on.
    package func adopt(_ number: Int) {
        self.io.open(number)
        if !self.driver.isReading(number) { self.io.setReading(false, on: number) }
    }

    package func finishHandOff(of indices: [Int]) {
        self.tick { self.driver.finishHandoff(of: indices) }
    }

    package func beginServing(_ number: Int) {
        self.tick { self.driver.beginServing(number) }
    }

    private func withTick<Value>(_ body: () -> Value) -> Value {
        var value: Value?
        self.tick { value = body() }
        guard let value else { preconditionFailure("a tick ran without its work") }
        return value
    }
}
