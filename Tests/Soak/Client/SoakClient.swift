import ArgumentParser
import Dispatch
import ExampleSupport
import Starling
import StarlingNative
import StarlingTopics

/// The well-behaved clients of the soak test: they publish numbered events in rooms with a history, and see that every subscriber
/// gets each of them once and in order, however often its connection ends.
///
/// Works until its standard input ends; then publishing stops, and every subscriber must have everything within a minute. Prints
/// a line for each thing that is wrong, a line `gap` for each gap that it was told of, and last a line of figures. Its exit status
/// is 0 if nothing was lost, nothing came twice, and nothing is missing.
@main
struct SoakClient: AsyncParsableCommand {
    @Option(help: "The URLs of the servers; subscribers and publishers take turns.")
    var server: [String]

    @Option(help: "Certificates to trust, in PEM.")
    var trust: String?

    @Option(help: "Rooms, each with a publisher.")
    var rooms = 6

    @Option(help: "Subscribers, each in all rooms.")
    var subscribers = 12

    @Option(help: "Milliseconds between two publications of a publisher.")
    var interval = 100

    @Option(help: "Seconds after which a subscriber has its connection closed by the server, at most.")
    var closeAfter = 15

    @Option(
        help:
            "Publications per second to the topic `flood`, which has no history and which nobody here reads."
    )
    var flood = 20

    func run() async throws {
        var configuration = ReconnectingConfiguration()
        configuration.connection.tls.trustRootsFile = trust
        // Histories hold a thousand publications: who is away for long must be told of a gap, and that is not what is tested.
        configuration.backoff = Backoff(first: .milliseconds(100), max: .seconds(2))
        let clients = (0..<rooms + subscribers + 1).map {
            ReconnectingClient(
                to: server[$0 % server.count],
                connector: NativeConnector(),
                configuration: configuration
            )
        }
        let tally = Tally(rooms: rooms)
        let listeners = clients.prefix(subscribers).enumerated().map {
            Subscriber(number: $0.offset, client: $0.element, tally: tally, closeAfter: closeAfter)
        }
        let speakers = clients.dropFirst(subscribers).prefix(rooms).enumerated().map {
            Publisher(room: $0.offset, client: $0.element, tally: tally)
        }
        let isComplete = try await withThrowingTaskGroup(of: Void.self) { group in
            for client in clients {
                group.addTask {
                    do {
                        try await client.run()
                    } catch {
                        tally.isWrong("a client does not come back: \(error)")
                    }
                }
            }
            for listener in listeners { group.addTask { await listener.listen(rooms: rooms) } }
            for listener in listeners { group.addTask { await listener.interrupt() } }
            guard await tally.waitUntilSubscribed(count: rooms * subscribers, within: .seconds(30)) else {
                tally.isWrong("not everybody could subscribe")
                for client in clients { client.close() }
                group.cancelAll()
                return false
            }
            let speaking = speakers.map { speaker in
                Task { await speaker.speak(every: .milliseconds(interval)) }
            }
            let flooding = Task { await Self.flood(clients[rooms + subscribers], perSecond: flood) }
            await Self.inputEnded()
            flooding.cancel()
            for listener in listeners { listener.stopInterrupting() }
            for speaker in speakers { speaker.stop() }
            for task in speaking { await task.value }
            await flooding.value
            let isComplete = await tally.waitUntilComplete(subscribers: subscribers, within: .seconds(60))
            for client in clients { client.close() }
            group.cancelAll()
            while let result = await group.nextResult() {
                if case .failure(let error) = result, !(error is CancellationError) { throw error }
            }
            return isComplete
        }
        Output.line(tally.figures)
        guard isComplete, tally.isFaultless else { throw ExitCode.failure }
    }

    /// Publishes what is too much for who does not read.
    private static func flood(_ client: ReconnectingClient, perSecond: Int) async {
        let much = String(repeating: "flood ", count: 8000)
        guard perSecond > 0 else { return }
        while !Task.isCancelled {
            _ = try? await client.publish(much, to: TypedTopic<String>("flood"))
            try? await Task.sleep(for: .seconds(1) / perSecond)
        }
    }

    /// Reading blocks, and so has a thread of its own.
    private static func inputEnded() async {
        await withCheckedContinuation { continuation in
            DispatchQueue(label: "input").async {
                while readLine() != nil {}
                continuation.resume()
            }
        }
    }
}
