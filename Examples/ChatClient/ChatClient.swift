import ArgumentParser
import ChatTopics
import Foundation
import Starling
import StarlingNative
import StarlingTopics

/// The chat in a terminal: what is said in a room is printed, what is typed is said.
@main
struct ChatClient: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Chats with a running Chat: what you type is said in the room."
    )

    @Argument(help: "The server.")
    var server = "ws://127.0.0.1:8080"

    @Option(help: "The room.")
    var room = "lobby"

    @Option(help: "Your name.")
    var nickname = "Terminal"

    @Option(help: "Certificates to trust, in PEM, for wss.")
    var trust: String?

    func run() async throws {
        // Where we want to be, and as whom, is in the address: so it is said anew whenever the client comes back.
        var url = URLComponents()
        url.queryItems = [.init(name: "room", value: room), .init(name: "nickname", value: nickname)]
        var configuration = ReconnectingConfiguration()
        configuration.connection.tls.trustRootsFile = trust
        let client = ReconnectingClient(
            to: "\(server)/chat?\(url.percentEncodedQuery ?? "")",
            connector: NativeConnector(),
            configuration: configuration
        )
        let wish = JoinWish(room: room, nickname: nickname)
        try await withThrowingTaskGroup { group in
            group.addTask { try await client.run() }
            group.addTask {
                defer { client.close() }
                try await Self.chat(client, wish)
            }
            for await state in client.states { Self.show(state) }
            try await group.waitForAll()
        }
    }

    /// Prints what was said last; then what is said, and says what is typed, until the input ends.
    private static func chat(_ client: ReconnectingClient, _ wish: JoinWish) async throws {
        let welcome = try await client.request(ChatTopics.join, wish, timeout: .seconds(600))
        for said in welcome.history { show(said) }
        try await withThrowingTaskGroup { group in
            group.addTask {
                let room = client.topic(ChatTopics.room(welcome.room), from: welcome.position)
                for try await update in room.updates { show(update) }
            }
            group.addTask {
                for await line in lines() where !line.isEmpty { await say(line, client, in: welcome.room) }
            }
            try await group.next()
            group.cancelAll()
        }
    }

    /// Waits while there is no connection; it is said once.
    private static func say(_ line: String, _ client: ReconnectingClient, in room: String) async {
        do {
            let saying = Saying(key: UUID().uuidString, text: line)
            try await client.publish(saying, to: ChatTopics.sayings(room))
        } catch {
            print("* not said: \(error)")
        }
    }

    /// Past `stdout`, which would keep lines back if a program reads them, and whose flushing waits for `readLine`.
    private static func print(_ line: String) {
        FileHandle.standardOutput.write(Data("\(line)\n".utf8))
    }

    private static func show(_ said: Said) {
        print("\(said.member.nickname): \(said.text)")
    }

    private static func show(_ update: TopicUpdate<Said>) {
        switch update {
        case .event(let said, _): show(said)
        case .joined(let member): print("* \(member.info) joined")
        case .left(let member): print("* \(member.info) left")
        case .gap, .subscribed(isRecovered: false, _): print("* some messages are missing here")
        case .subscribed(isRecovered: true, _): print("* in the room")
        }
    }

    private static func show(_ state: ReconnectingClient.State) {
        switch state {
        case .connecting: print("* connecting")
        case .connected: print("* connected")
        case .waiting(let until):
            print("* the next attempt is in \(ContinuousClock.now.duration(to: until))")
        case .closed(let reason): print("* closed: \(reason)")
        }
    }

    /// What is typed.
    ///
    /// Reading blocks, and so has a thread of its own.
    private static func lines() -> AsyncStream<String> {
        AsyncStream { continuation in
            Thread.detachNewThread {
                while let line = readLine() { continuation.yield(line) }
                continuation.finish()
            }
        }
    }
}
