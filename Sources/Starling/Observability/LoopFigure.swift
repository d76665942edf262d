/// The plain figures of an event loop: one number each, that loops' numbers are added up for a server's.
///
/// The raw value is the place among ``LoopFigures/plain``.
enum LoopFigure: Int, CaseIterable, Sendable {
    case connections, topics, accepted, opened, messagesReceived, messagesSent, bytesReceived, bytesSent
    case publicationsDelivered, pings, httpResponses
    case slowConsumerDisconnects, slowConsumerDrops, slowConsumerConflations, acceptPauses, openConnections
    case slowConsumers, slowConsumerGaps, slowConsumerRecoveries, memoryPauses, memorySheds
    case affinityHits, affinityMisses, recoveries, recoveryFailures
    case subscriptions, tasks, waitingUpgrades, outboundBytes, ticks

    /// The metric.
    var family: MetricFamily {
        switch self {
        case .connections: .gauge("connections", "connections", "Connections of any kind that exist.")
        case .topics: .gauge("topics", "topics", "Topics with subscribers, added up over event loops.")
        case .accepted: .counter("connections_accepted_total", "connections", "Connections accepted.")
        case .opened: .counter("websockets_opened_total", "connections", "Upgrades that succeeded.")
        case .messagesReceived: .counter("messages_received_total", "messages", "Messages received.")
        case .messagesSent:
            .counter(
                "messages_sent_total",
                "messages",
                "Messages sent, each delivery of a publication counted."
            )
        case .bytesReceived:
            .counter("bytes_received_total", "bytes", "Bytes received, framing included.")
        case .bytesSent: .counter("bytes_sent_total", "bytes", "Bytes sent, framing included.")
        case .publicationsDelivered:
            .counter(
                "publications_delivered_total",
                "publications",
                "Publications delivered to an event loop's subscribers."
            )
        case .pings: .counter("pings_sent_total", "pings", "Heartbeat pings sent.")
        case .httpResponses:
            .counter("http_responses_total", "responses", "Plain HTTP requests answered.")
        case .slowConsumerDisconnects:
            .counter(
                "slow_consumer_disconnects_total",
                "connections",
                "Connections closed because their peer read too slowly."
            )
        case .slowConsumerDrops:
            .counter(
                "slow_consumer_drops_total",
                "messages",
                "Messages left out because a peer read too slowly."
            )
        case .slowConsumerConflations:
            .counter(
                "slow_consumer_conflations_total",
                "messages",
                "Publications left out for newer ones of their key."
            )
        case .slowConsumers:
            .counter(
                "slow_consumers_total",
                "subscriptions",
                "Times that a subscriber fell behind its topic."
            )
        case .memoryPauses:
            .counter(
                "memory_pauses_total",
                "connections",
                "Times that a connection was not read because memory was scarce."
            )
        case .memorySheds:
            .counter(
                "memory_sheds_total",
                "connections",
                "Connections closed because they held most when memory was used up."
            )
        case .slowConsumerGaps:
            .counter(
                "slow_consumer_gaps_total",
                "subscriptions",
                "Times that a slow subscriber went on behind a gap."
            )
        case .slowConsumerRecoveries:
            .counter(
                "slow_consumer_recoveries_total",
                "pages",
                "Pages of histories that slow subscribers were brought up to date with."
            )
        case .acceptPauses:
            .counter(
                "accept_pauses_total",
                "pauses",
                "Pauses of accepting because descriptors or memory were used up."
            )
        case .openConnections: .gauge("websockets", "connections", "WebSockets that are open.")
        case .affinityHits:
            .counter("affinity_hits_total", "upgrades", "Upgrades whose cookie names this node.")
        case .affinityMisses:
            .counter("affinity_misses_total", "upgrades", "Upgrades whose cookie names another node.")
        case .recoveries:
            .counter(
                "recoveries_total",
                "subscriptions",
                "Subscriptions from a position that were recovered."
            )
        case .recoveryFailures:
            .counter(
                "recovery_failures_total",
                "subscriptions",
                "Subscriptions from a position that was too old, or of a lost epoch."
            )
        case .subscriptions:
            .gauge("subscriptions", "subscriptions", "Subscriptions of connections to topics.")
        case .tasks:
            .gauge("tasks", "tasks", "Tasks of connections and of requests that have not returned.")
        case .waitingUpgrades:
            .gauge(
                "waiting_upgrades",
                "upgrades",
                "Upgrades that wait for their turn, and those of clients that have gone meanwhile."
            )
        case .outboundBytes:
            .gauge("outbound_bytes", "bytes", "Bytes that wait for peers to take them.")
        case .ticks: .counter("ticks_total", "ticks", "Ticks of event loops.")
        }
    }
}
