import ArgumentParser
import Foundation

/// Many reconnecting clients in one process, who keep a book on what they get and on when they are away.
///
/// Each is subscribed to two topics. Of each topic one client publishes numbers, 1, 2, 3 and so on, at a steady pace. Whoever starts
/// it says by lines on the standard input what happens, and reads the books from the standard output, a line of JSON each.
@main
struct RollingClient: AsyncParsableCommand {
    @Option(help: "Where the clients connect.")
    var url: String

    @Option(help: "How many there are.")
    var clients: Int

    @Option(help: "How many topics there are.")
    var topics = 20

    @Option(help: "Milliseconds between two publications of a topic.")
    var interval = 1000

    @Option(help: "Clients that connect at the same time in the beginning.")
    var dialing = 100

    func run() async throws {
        let crowd = Crowd(url: self.url, count: self.clients, topicCount: self.topics)
        try await withThrowingTaskGroup(of: Void.self) { group in
            await crowd.join(self.dialing, &group)
            await crowd.untilAllAreBack()
            Self.say(["joined": self.clients])
            var publishing: [Task<Int, any Error>] = []
            for await line in Self.lines {
                switch line {
                case "publish":
                    publishing = crowd.publish(every: .milliseconds(self.interval))
                // A node is about to go.
                case "restart": crowd.beginRestart()
                // It has gone and is there again: tells how everybody fared.
                case "settle":
                    await crowd.untilAllAreBack()
                    Self.say(crowd.restartReport())
                case "end":
                    crowd.stopPublishing()
                    var last: [Int] = []
                    for task in publishing { last.append(try await task.value) }
                    Self.say(await crowd.finalReport(last: last))
                    crowd.close()
                default: throw ValidationError("unknown command '\(line)'")
                }
            }
            try await group.waitForAll()
        }
    }

    private static func say(_ figures: [String: Int]) {
        let fields = figures.sorted { $0.key < $1.key }.map { "\"\($0.key)\":\($0.value)" }
        // Past the buffer: the reader waits for the line.
        FileHandle.standardOutput.write(Data("{\(fields.joined(separator: ","))}\n".utf8))
    }

    /// The standard input's lines, read by a thread of its own because reading blocks.
    private static var lines: AsyncStream<String> {
        AsyncStream { continuation in
            Thread.detachNewThread {
                while let line = readLine() { continuation.yield(line) }
                continuation.finish()
            }
        }
    }
}
