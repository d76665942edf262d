package import StarlingCore

/// A request that somebody else has read, for connections that a foreign server hands over.
package enum ForeignRequest: Sendable {
    case valid(HTTPRequestHead)
    /// It breaks rules that the other server does not insist on.
    case invalid(HandshakeError)
}

/// For connections of servers that are not ours.
extension ConnectionDriver {
    /// The request that an accepted connection begins with has been read by somebody else; what follows it comes by
    /// ``received(_:on:)-(MutableRawSpan,_)``.
    ///
    /// It is answered as if it had arrived here: with 101, or with a refusal after which the connection ends.
    package func received(_ request: ForeignRequest, on index: Int) {
        do throws(HandshakeError) {
            switch request {
            case .valid(let head): try self.route(head, on: index)
            case .invalid(let error): throw error
            }
        } catch {
            self.refuse(index, error)
        }
    }

    /// Somebody else wants a connection gone: says 1001 to a WebSocket, and ends what is none yet.
    package func closeForTransport(_ index: Int) {
        // What is not decided yet would open only to be waited for.
        guard unsafe self.slots.pointer(index).pointee.phase != .deciding else {
            return self.end(index, cause: .serverDraining)
        }
        self.drainConnection(index)
    }
}

extension ServerContext {
    /// What a request's head may have.
    package var headLimits: Limits {
        self.configuration.headLimits
    }

    /// Whether connections begin with a PROXY protocol header.
    package var expectsProxyProtocol: Bool {
        self.configuration.trustedProxies.expectsProxyProtocol
    }

    /// Whether a request for a path would reach an endpoint; the path may have a query.
    package func hasEndpoint(at target: String) -> Bool {
        let path = UpgradeRequest.split(target).path
        guard let route = self.routes.first(where: { $0.matches(path) }) else { return false }
        return switch route.target {
        case .webSocket: true
        case .http: false
        }
    }
}
