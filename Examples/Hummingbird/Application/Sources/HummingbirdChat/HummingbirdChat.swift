import CoreMetrics
import Foundation
import HTTPTypes
import Hummingbird
import Logging
import NIOPosix
import Starling
import StarlingNIO

/// A Hummingbird application with pages, middleware and a login of its own; its members chat on `/chat`, on the same port.
///
///     swift run HummingbirdChat 8080
///
/// With `LOG_LEVEL=debug` in its environment, its log tells of each connection too.
@main
struct HummingbirdChat {
    static func main() async throws {
        let port = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 8080
        var logger = Logger(label: "chat")
        let level = ProcessInfo.processInfo.environment["LOG_LEVEL"]
        logger.logLevel = level.flatMap { Logger.Level($0) } ?? .info
        let figures = Figures()
        MetricsSystem.bootstrap(figures)
        let sessions = Sessions()
        let group = MultiThreadedEventLoopGroup.singleton

        // The application, as it was before there were WebSockets.
        let router = Router(context: BasicRequestContext.self)
        router.middlewares.add(LogRequestsMiddleware(.info))
        router.middlewares.add(MetricsMiddleware())
        router.get("/") { _, _ in "A page for everybody.\n" }
        router.get("/metrics") { _, _ in figures.page }
        router.post("/login") { request, context in
            let name = String(buffer: try await request.body.collect(upTo: 64))
            guard !name.isEmpty, name.allSatisfy({ $0.isLetter && $0.isASCII }) else {
                throw HTTPError(.badRequest, message: "Send a name of letters.")
            }
            let cookie = Cookie(
                name: Sessions.cookieName,
                value: await sessions.begin(for: name),
                path: "/",
                httpOnly: true
            )
            return EditedResponse(headers: [.setCookie: cookie.description], response: "Hello, \(name).\n")
        }
        router.group("/members").add(middleware: MembersOnly(sessions: sessions)).get { _, _ in
            "A page for members.\n"
        }

        // Starling, on its event loops, with its logger and its metrics, in its service group.
        var configuration = ServerConfiguration()
        configuration.logger = logger
        let sockets = NIOWebSocketService(group: group, configuration: configuration) {
            WebSocketRoute("/chat", Self.chat(for: sessions))
        }
        let application = Application(
            router: router,
            server: .starling(sockets),
            configuration: .init(address: .hostname("127.0.0.1", port: port)),
            services: [sockets],
            onServerRunning: { _ in
                // At once, whatever reads it.
                FileHandle.standardOutput.write(Data("listening on 127.0.0.1:\(port)\n".utf8))
            },
            eventLoopGroupProvider: .shared(group),
            logger: logger
        )
        try await application.runService()
    }

    /// Who has logged in with the application may chat.
    static func chat(for sessions: Sessions) -> WebSocketEndpoint {
        let broadcaster = InMemoryBroadcaster()
        return WebSocketEndpoint(
            broadcaster: broadcaster,
            authenticate: { request -> UpgradeDecision<String> in
                guard let name = await sessions.member(request[cookie: Sessions.cookieName]) else {
                    return .refuse(.unauthorized, body: "Log in first.\n")
                }
                return .accept(name, user: name)
            }
        ) { socket, name in
            try await socket.subscribe(to: "chat")
            try await broadcaster.publish(.text("\(name) has come"), to: "chat")
            for try await message in socket {
                guard let text = message.text else { continue }
                try await broadcaster.publish(.text("\(name): \(text)"), to: "chat")
            }
            try await broadcaster.publish(.text("\(name) has gone"), to: "chat")
        }
    }
}

/// The application's logins; where yours keeps its own, ask that.
actor Sessions {
    static let cookieName = "session"

    private var members: [String: String] = [:]

    /// The new session's cookie.
    func begin(for name: String) -> String {
        let id = UUID().uuidString
        self.members[id] = name
        return id
    }

    func member(_ id: String?) -> String? {
        id.flatMap { self.members[$0] }
    }
}

/// The application's own rule for its own pages.
struct MembersOnly: RouterMiddleware {
    typealias Context = BasicRequestContext

    let sessions: Sessions

    func handle(
        _ request: Request,
        context: BasicRequestContext,
        next: (Request, BasicRequestContext) async throws -> Response
    ) async throws -> Response {
        guard await self.sessions.member(request.cookies[Sessions.cookieName]?.value) != nil else {
            throw HTTPError(.unauthorized, message: "Log in first.")
        }
        return try await next(request, context)
    }
}
