import ArgumentParser
import Foundation
import Starling
import StarlingNative
import StarlingRedis

/// What a Redis between nodes costs, beside `redis-benchmark` on the same server in the same run.
@main
struct RedisBenchmark: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures publications through one Redis, from one broadcaster to another."
    )

    @Option(help: "Publications of each measurement.")
    var count = 200_000

    @Option(help: "Bytes of a publication.")
    var payload = 100

    @Option(help: "Publications in flight.")
    var depth = 500

    @Option(help: "Topics that are subscribed anew after a broken link.")
    var topics = 100_000

    func run() async throws {
        let redis = try BenchmarkRedis()
        defer { redis.stop() }
        print("| what | result |\n| --- | --: |")
        // `redis-benchmark` with one connection per pipeline, as a node has one link.
        let reference = try redis.benchmarkPublish(count: count, payload: payload, pipeline: depth)
        print("| redis-benchmark, PUBLISH, 1 client, pipeline of \(depth) | \(Int(reference)) / s |")
        let single = try redis.benchmarkPublish(count: count / 2, payload: payload, pipeline: 1, clients: 50)
        print("| redis-benchmark, PUBLISH, 50 clients | \(Int(single)) / s |")

        let (sender, receiver) = (Node(try redis.broadcaster()), Node(try redis.broadcaster()))
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await sender.broadcaster.run() }
            group.addTask { try await receiver.broadcaster.run() }
            defer { group.cancelAll() }
            try await receiver.broadcaster.subscribe(to: ["plain", "history:x"])
            for topic in ["plain", "history:x"] as [Topic] {
                let rate = try await publish(to: topic, sender, receiver)
                let name = topic == "plain" ? "without a history" : "with a history"
                let share = String(format: "%.2f, %.2f", rate.perSecond / reference, rate.perSecond / single)
                print(
                    "| node to node, \(name), \(depth) in flight | \(Int(rate.perSecond)) / s (of the two: \(share)) |"
                )
                print("| CPU of both nodes per publication, \(name) | \(format(rate.cpuPerPublication)) µs |")
                let latencies = try await latencies(of: topic, sender, receiver)
                print(
                    "| latency one by one, \(name) | p50 \(format(latencies.p50)), p99 \(format(latencies.p99)) µs |"
                )
            }
            try await resubscribe(receiver, redis)
        }
    }

    private func format(_ value: Double) -> String {
        String(format: "%.1f", value)
    }

    private func publish(
        to topic: Topic,
        _ sender: Node,
        _ receiver: Node
    ) async throws -> (perSecond: Double, cpuPerPublication: Double) {
        let message = Message.binary([UInt8](repeating: 120, count: payload))
        let (count, depth) = (count, depth)
        let arrived = receiver.arrivedCount
        let cpu = processorSeconds()
        let start = ContinuousClock.now
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<depth {
                group.addTask {
                    for _ in 0..<(count / depth) { try await sender.broadcaster.publish(message, to: topic) }
                }
            }
            try await group.waitForAll()
        }
        let total = count / depth * depth
        try await receiver.wait(for: arrived + total)
        let seconds = start.duration(to: .now) / .seconds(1)
        return (Double(total) / seconds, (processorSeconds() - cpu) / Double(total) * 1e6)
    }

    private func latencies(
        of topic: Topic,
        _ sender: Node,
        _ receiver: Node
    ) async throws -> (p50: Double, p99: Double) {
        var samples: [Double] = []
        for _ in 0..<2000 {
            let next = receiver.arrivedCount + 1
            let start = ContinuousClock.now
            _ = sender.broadcaster.tryPublish("x", to: topic)
            await receiver.waitForOne(next)
            samples.append(start.duration(to: .now) / .microseconds(1))
        }
        samples.sort()
        return (samples[samples.count / 2], samples[samples.count * 99 / 100])
    }

    private func resubscribe(_ receiver: Node, _ redis: BenchmarkRedis) async throws {
        let names = Set((0..<topics).map { Topic("many:\($0)") })
        var start = ContinuousClock.now
        try await receiver.broadcaster.subscribe(to: names)
        print("| \(topics) topics subscribed | \(format(start.duration(to: .now) / .seconds(1))) s |")
        start = .now
        try redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        // The last one is confirmed when all are: a publication to each of some topics arrives.
        let probes = names.prefix(100)
        for topic in probes {
            let next = receiver.arrivedCount + 1
            repeat {
                _ = receiver.broadcaster.tryPublish("x", to: topic)
                try await Task.sleep(for: .milliseconds(2))
            } while receiver.arrivedCount < next
        }
        print("| the same after a broken link | \(format(start.duration(to: .now) / .seconds(1))) s |")
    }
}

/// A broadcaster, and how much has arrived from it.
final class Node: Sendable {
    private struct State {
        var count = 0
        var waiter: (count: Int, continuation: CheckedContinuation<Void, Never>)?
    }

    let broadcaster: RedisBroadcaster
    private let state = Lock(State())

    init(_ broadcaster: RedisBroadcaster) {
        self.broadcaster = broadcaster
        broadcaster.attach(
            BroadcastSink(
                delivered: { _ in
                    let waiter: CheckedContinuation<Void, Never>? = self.state.withLock { state in
                        state.count += 1
                        guard let waiter = state.waiter, waiter.count <= state.count else { return nil }
                        state.waiter = nil
                        return waiter.continuation
                    }
                    waiter?.resume()
                },
                gap: { topic, _ in fatalError("a gap in \(topic), where nothing was lost") }
            )
        )
    }

    var arrivedCount: Int {
        state.withLock(\.count)
    }

    func waitForOne(_ count: Int) async {
        await withCheckedContinuation { continuation in
            let isThere = state.withLock { state in
                if state.count >= count { return true }
                state.waiter = (count, continuation)
                return false
            }
            if isThere { continuation.resume() }
        }
    }

    func wait(for count: Int) async throws {
        let end = ContinuousClock.now + .seconds(60)
        while arrivedCount < count {
            guard .now < end else {
                throw BenchmarkFailure("\(count - arrivedCount) publications have not arrived")
            }
            try await Task.sleep(for: .milliseconds(1))
        }
    }
}

struct BenchmarkFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

func processorSeconds() -> Double {
    var usage = rusage()
    // One `rusage` is written during the call.
    unsafe getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    let seconds = Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
    return seconds + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
}
