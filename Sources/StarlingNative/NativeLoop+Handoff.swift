#if os(Linux)
internal import CStarlingLinux
internal import Glibc
internal import Logging
internal import Starling

/// Connections go to another process, and come from one.
extension NativeLoop {
    /// Accepts on one more listener.
    func add(_ listener: Listener) {
        self.listeners.append(listener)
        if self.acceptResumesAt == nil { self.watchListener(self.listeners.count - 1) }
    }

    /// Neither accepts, nor reads nor writes, until ``resume(_:)``; false, with nothing done, if it listens no more because the
    /// server ends.
    func pause(_ driver: ConnectionDriver) -> Bool {
        guard !driver.isDraining else { return false }
        self.isPaused = true
        // They can go as well as others.
        while !self.arrivals.isEmpty {
            let arrival = self.arrivals.removeFirst()
            self.accepted(arrival.descriptor, arrival.address, driver)
        }
        driver.beginHandoff()
        return true
    }

    /// Goes on with what is there.
    func resume(_ driver: ConnectionDriver) {
        driver.abandonHandoff()
        self.endPause()
    }

    /// The listeners are this process'.
    private func endPause() {
        self.isTakingOver = false
        self.isPaused = false
        if self.server.isDraining { self.stopListening() }
    }

    /// A connection that goes to another process, or comes from one.
    struct Passenger: Sendable {
        let record: ConnectionRecord
        let descriptor: Int32
        /// Whether a PROXY header is to come before all else, of which nothing has been read.
        let awaitsProxyHeader: Bool
    }

    /// The connections that can go, with their descriptors, which stay this loop's.
    func export(_ driver: ConnectionDriver) -> [Passenger] {
        let records = driver.exportConnections { index in
            // A session's keys, and a PROXY header of which a part has come, are nobody else's.
            self.connections.isOpen(index) && !self.connections.isEncrypted(index)
                && self.proxyHeaders[index]?.isUntouched != false
        }
        return records.map { record in
            Passenger(
                record: record,
                descriptor: unsafe self.connections.pointer(record.index).pointee.descriptor,
                awaitsProxyHeader: self.proxyHeaders[record.index] != nil
            )
        }
    }

    /// Another process has the listeners and these connections.
    func letGo(of indices: [Int], _ driver: ConnectionDriver) {
        self.closeListeners(areGone: false)
        for index in indices where self.connections.isOpen(index) {
            // As for a listener: it is not the last descriptor of the socket that is closed here.
            self.forget(index)
        }
        driver.finishHandoff(of: indices)
        self.isPaused = false
    }

    /// Makes a connection that another process still has; its number, or nil if it cannot be made.
    ///
    /// The descriptor is this loop's from now on.
    func adopt(_ passenger: Passenger, _ driver: ConnectionDriver) -> Int? {
        let descriptor = passenger.descriptor
        let index: Int
        do {
            if passenger.awaitsProxyHeader, !driver.expectsProxyProtocol {
                throw HandoffError("a PROXY header is to come, which nobody expects here")
            }
            index = try driver.restore(passenger.record)
        } catch {
            self.server.logger.info("not taken over", metadata: [LoggingKeys.error: "\(error)"])
            _ = Glibc.close(descriptor)
            return nil
        }
        self.connections.open(index, descriptor)
        if passenger.awaitsProxyHeader { self.proxyHeaders[index] = ProxyHeaderReader() }
        unsafe self.connections.pointer(index).pointee.flags.set(.reading, driver.isReading(index))
        if !self.watch(index) {
            driver.abandonTakeover(of: [index])
            return nil
        }
        return index
    }

    /// The other process has let go: serves its connections, with what was asked of them too late for their records.
    func begin(_ indices: [Int], _ orders: [Int: [UInt8]], _ driver: ConnectionDriver) {
        for index in indices { driver.beginServing(index, orders[index]) }
        self.endPause()
    }

    /// The other process keeps its connections: forgets them, and ends.
    func abandon(_ driver: ConnectionDriver) {
        driver.abandonTakeover(of: nil)
        self.mustEnd = true
    }
}
#endif
