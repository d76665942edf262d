/// A metric, as `/metrics` and swift-metrics have it, and `Documentation/Observability.md` lists it.
package struct MetricFamily: Sendable {
    package enum Kind: String, Sendable {
        /// Only grows.
        case counter
        /// Goes up and down.
        case gauge
        /// Counters of observations up to a bound, by the dimension `le`, and their count and sum.
        case histogram
    }

    /// The name, with `starling_` before it.
    package let name: String
    package let kind: Kind
    package let unit: String
    /// What tells the family's members apart, besides the dimensions of the server; nil for a single one.
    package let dimension: String?
    package let help: String

    init(_ name: String, _ kind: Kind, _ unit: String, _ help: String, by dimension: String? = nil) {
        self.name = "starling_" + name
        self.kind = kind
        self.unit = unit
        self.dimension = dimension
        self.help = help
    }

    static func counter(
        _ name: String,
        _ unit: String,
        _ help: String,
        by dimension: String? = nil
    ) -> MetricFamily {
        MetricFamily(name, .counter, unit, help, by: dimension)
    }

    static func gauge(
        _ name: String,
        _ unit: String,
        _ help: String,
        by dimension: String? = nil
    ) -> MetricFamily {
        MetricFamily(name, .gauge, unit, help, by: dimension)
    }
}

extension MetricFamily {
    static let heldBytes = MetricFamily.gauge(
        "held_bytes",
        "bytes",
        """
        What is charged to the memory budget: unfinished messages, request heads, TLS handshakes, what waits for \
        peers, rings of topics, compression windows, full inboxes; of all servers that share it.
        """
    )
    static let heldBytesMax = MetricFamily.gauge("held_bytes_max", "bytes", "The limit of held bytes.")
    static let connectionsMax = MetricFamily.gauge(
        "connections_max",
        "connections",
        "The limit of connections."
    )
    static let ready = MetricFamily.gauge("ready", "1 or 0", "Whether the server takes new connections.")
    static let draining = MetricFamily.gauge("draining", "1 or 0", "Whether the server shuts down.")
    static let uptime = MetricFamily.gauge("uptime_seconds", "seconds", "How long the server has been there.")
    static let loopLag = MetricFamily.gauge(
        "loop_lag_nanoseconds",
        "nanoseconds",
        "The longest tick of any loop in a recent second."
    )
    static let closes = MetricFamily.counter(
        "closes_total",
        "connections",
        "WebSockets closed, by cause.",
        by: "cause"
    )
    static let refusals = MetricFamily.counter(
        "refusals_total",
        "handshakes",
        "Handshakes refused, by cause.",
        by: "cause"
    )
    static let tickDuration = MetricFamily(
        "tick_duration_nanoseconds",
        .histogram,
        "nanoseconds",
        "How long ticks took, the wait for events not counted.",
        by: "le"
    )
    static let handshakeDuration = MetricFamily(
        "handshake_duration_nanoseconds",
        .histogram,
        "nanoseconds",
        "From a connection's first moment to its upgrade, in steps of 10 ms.",
        by: "le"
    )
    static let brokerPublished = MetricFamily.counter(
        "broadcaster_published_total",
        "publications",
        "Publications that a broadcaster has taken and its broker has confirmed.",
        by: "broadcaster"
    )
    static let brokerFailed = MetricFamily.counter(
        "broadcaster_failed_total",
        "publications",
        "Publications that a broadcaster could not make.",
        by: "broadcaster"
    )
    static let brokerDelivered = MetricFamily.counter(
        "broadcaster_delivered_total",
        "publications",
        "Publications that have arrived from a broadcaster.",
        by: "broadcaster"
    )
    static let brokerLinks = MetricFamily.gauge(
        "broadcaster_links",
        "links",
        "Links to brokers that a broadcaster wants.",
        by: "broadcaster"
    )
    static let brokerLinksUp = MetricFamily.gauge(
        "broadcaster_links_up",
        "links",
        "Links to brokers that are up, and deliver what they should.",
        by: "broadcaster"
    )

    /// All that there are.
    package static let all: [MetricFamily] =
        LoopFigure.allCases.map(\.family) + [
            .heldBytes, .heldBytesMax, .connectionsMax, .ready, .draining, .uptime, .loopLag,
            .tickDuration, .handshakeDuration, .closes, .refusals,
            .brokerPublished, .brokerFailed, .brokerDelivered, .brokerLinks, .brokerLinksUp,
        ]
}

/// A family's members and their values at a moment.
struct MetricReading {
    struct Sample {
        /// What stands behind the family's name: `_bucket` for example.
        var suffix = ""
        /// The value of the family's dimension.
        var member: String?
        var value: UInt64
    }

    let family: MetricFamily
    var samples: [Sample]

    init(_ family: MetricFamily, _ value: UInt64) {
        self.family = family
        self.samples = [Sample(value: value)]
    }

    init(_ family: MetricFamily, _ members: [(String, UInt64)]) {
        self.family = family
        self.samples = members.map { Sample(member: $0.0, value: $0.1) }
    }

    init(_ family: MetricFamily, _ histogram: HistogramFigures, _ bounds: [UInt64]) {
        self.family = family
        var count: UInt64 = 0
        self.samples = zip(bounds.map { "\($0)" } + ["+Inf"], histogram.counts).map { bound, more in
            count &+= more
            return Sample(suffix: "_bucket", member: bound, value: count)
        }
        self.samples.append(Sample(suffix: "_count", value: count))
        self.samples.append(Sample(suffix: "_sum", value: histogram.sum))
    }

    /// The reading in Prometheus' text format, version 0.0.4.
    var prometheusText: String {
        var text = "# HELP \(self.family.name) \(self.family.help)\n"
        text += "# TYPE \(self.family.name) \(self.family.kind.rawValue)\n"
        for sample in self.samples {
            let member = sample.member.map { "{\(self.family.dimension ?? "")=\"\(Self.escaped($0))\"}" }
            text += "\(self.family.name)\(sample.suffix)\(member ?? "") \(sample.value)\n"
        }
        return text
    }

    private static func escaped(_ text: String) -> String {
        var escaped = ""
        for character in text.unicodeScalars {
            switch character {
            case "\\": escaped += "\\\\"
            case "\"": escaped += "\\\""
            case "\n": escaped += "\\n"
            default: escaped.unicodeScalars.append(character)
            }
        }
        return escaped
    }
}
