internal import HTTPTypes
internal import StarlingCore

/// Upgrades that wait for their turn.
///
/// A waiting one is a connection in the phase `deciding` whose request has been read and is not looked at further: it is not
/// read, and has no task.
extension ConnectionDriver {
    /// Upgrades that one tick takes off the queue, so that those who are there do not wait long.
    private static let turnsPerTickMax = 128
    /// How long the loop sleeps at most while some wait.
    static let turnIntervalMilliseconds: Int32 = 10

    /// Puts an upgrade at the end of this loop's queue.
    func awaitTurn(_ index: Int, isDecided: Bool) {
        self.details(of: index).isAwaitingTurn = true
        self.waitingUpgrades.append(self.id(of: index), isDecided: isDecided)
        self.decide(index)
    }

    /// Lets those in whose turn it is.
    func serveWaitingUpgrades() {
        var turnsLeft = Self.turnsPerTickMax
        var undecidedOnly = false
        while turnsLeft > 0, let upgrade = self.waitingUpgrades.first(undecidedOnly: undecidedOnly) {
            // Gone, or refused because its time was up.
            guard let index = self.index(of: upgrade.id), let details = self.waitingDetails(of: index) else {
                self.server.admission.stopWaiting(isDecided: upgrade.isDecided)
                self.waitingUpgrades.remove(upgrade)
                continue
            }
            if self.drain == nil {
                guard self.server.admission.takeTurn(at: self.now, isDecided: upgrade.isDecided) else {
                    guard upgrade.isDecided else { return }
                    undecidedOnly = true
                    continue
                }
            } else {
                self.server.admission.stopWaiting(isDecided: upgrade.isDecided)
            }
            self.waitingUpgrades.remove(upgrade)
            turnsLeft -= 1
            details.isAwaitingTurn = false
            unsafe self.slots.pointer(index).pointee.phase = .http
            if self.drain == nil {
                self.proceedWithUpgrade(index)
            } else {
                self.refuse(index, self.shutsDown, .draining)
            }
            // Else the application decides first.
            if unsafe self.slots.pointer(index).pointee.phase != .deciding { self.resumeAfterDecision(index) }
        }
    }

    /// An upgrade has waited as long as it may: it is told when to come back.
    func stopWaiting(_ index: Int) {
        // Its place in the queue is taken out when it comes to the front.
        self.details(of: index).isAwaitingTurn = false
        self.refuse(
            index,
            self.tooManyUpgrades(self.server.admission.promiseUpgrade(at: self.now)),
            .upgradeRate
        )
    }

    /// What an upgrade is refused with that is one too many: a time to come back, a little different each time.
    func tooManyUpgrades(_ delay: Duration?) -> HTTPReply {
        var seconds = self.randomRetryDelay()
        if let delay {
            let least = min(LoopInterval(delay).wholeSeconds, Self.retryDelayMax)
            // Beyond that the promise is worth nothing: they are spread instead.
            let most = least < Self.retryDelayMax ? least + 1 : 2 * Self.retryDelayMax
            seconds = self.server.surroundings.random(max(1, least)...most)
        }
        return Self.busy("Too many upgrades at once.\n", retryAfter: seconds)
    }

    /// The longest wait that is computed for a refused client, in seconds.
    private static let retryDelayMax: UInt32 = 60

    private func waitingDetails(of index: Int) -> ConnectionDetails? {
        let slot = unsafe self.slots.pointer(index)
        guard unsafe slot.pointee.phase == .deciding, unsafe !slot.pointee.flags.contains(.ending),
            let details = unsafe slot.pointee.details, details.isAwaitingTurn
        else { return nil }
        return details
    }
}
