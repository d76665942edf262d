import HTTPTypes
import Starling

struct Account: Sendable {
    let name: String
    let isModerator: Bool
}

protocol Accounts: Sendable {
    func account(withToken token: String) async throws -> Account?
}

func makePrivate(_ accounts: any Accounts) -> WebSocketEndpoint {
    WebSocketEndpoint(
        authenticate: { request -> UpgradeDecision<Account> in
            guard let token = request[cookie: "session"],
                let account = try await accounts.account(withToken: token)
            else {
                return .refuse(.unauthorized, body: "Sign in first.\n")
            }
            return .accept(account, user: account.name)
        }
    ) { socket, account in
        try await socket.send("Hello, \(account.name)")
        for try await message in socket {
            if account.isModerator { try await socket.send(message) }
        }
    }
}

func makeWithBearerToken(_ accounts: any Accounts) -> WebSocketEndpoint {
    WebSocketEndpoint(
        authenticate: { request -> UpgradeDecision<Account> in
            let field = request.headerFields[.authorization] ?? ""
            guard field.hasPrefix("Bearer "),
                let account = try await accounts.account(withToken: String(field.dropFirst(7)))
            else {
                return .refuse(.unauthorized, headerFields: [.wwwAuthenticate: "Bearer"])
            }
            return .accept(account, user: account.name)
        }
    ) { socket, account in
        for try await message in socket { try await socket.send(message) }
    }
}

func makeWithFirstMessage(_ accounts: any Accounts) -> WebSocketEndpoint {
    WebSocketEndpoint { socket in
        let timeout = Task {
            try await Task.sleep(for: .seconds(5))
            await socket.close(.policyViolation, reason: "send your token first")
        }
        defer { timeout.cancel() }

        var messages = socket.makeAsyncIterator()
        guard let token = try await messages.next()?.text,
            let account = try await accounts.account(withToken: token)
        else {
            return await socket.close(.policyViolation, reason: "that token is not valid")
        }
        timeout.cancel()

        try await socket.send("Hello, \(account.name)")
        while let message = try await messages.next() {
            try await socket.send(message)
        }
    }
}

func restrict() -> (EndpointConfiguration, ServerConfiguration) {
    var endpoint = EndpointConfiguration()
    endpoint.origins = .sameHost(and: ["https://app.example.com"])

    var server = ServerConfiguration()
    server.connectionsPerUserMax = 10
    return (endpoint, server)
}

func signOut(
    _ user: String,
    _ server: WebSocketServer<some Transport>,
    _ cluster: ClusterRegistry
) async throws {
    await server.registry.close(user: user, .policyViolation, reason: "signed out")
    try await cluster.close(user: user, .policyViolation, reason: "signed out")
}
