#if os(Linux)
internal import Foundation
internal import Glibc
internal import Testing

/// A server that says what it is told to, on a blocking thread of its own.
package final class ScriptedServer: Sendable {
    private let listener: TLSTestListener
    package let port: Int

    /// Answers the first bytes of as many connections with what `answer` makes of them, and carries what follows to another
    /// port, or ends the stream.
    package init(
        connections: Int = 1,
        _ answer: @escaping @Sendable ([UInt8]) -> (bytes: [UInt8], tunnel: UInt16?)
    ) throws {
        let listener = try TLSTestListener()
        self.listener = listener
        self.port = Int(listener.port)
        Thread.detachNewThread {
            var held: [TLSTestSocket] = []
            for _ in 0..<connections {
                do {
                    let socket = try listener.accept()
                    held.append(socket)
                    try socket.wait(for: POLLIN)
                    let (bytes, tunnel) = answer(socket.receive() ?? [])
                    try socket.send(bytes)
                    if let tunnel {
                        try Self.relay(socket, try TLSTestListener.connect(port: tunnel))
                    } else {
                        socket.shutdownWriting()
                    }
                } catch {
                    Issue.record(error)
                }
            }
        }
    }

    /// Carries bytes both ways until one side ends.
    private static func relay(_ one: TLSTestSocket, _ other: TLSTestSocket) throws {
        while true {
            var entries = [one, other].map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
            // Two entries are passed, and written during the call alone.
            guard unsafe poll(&entries, 2, tlsPatienceMilliseconds) > 0 else { return }
            for (entry, (from, to)) in zip(entries, [(one, other), (other, one)]) where entry.revents != 0 {
                guard let bytes = from.receive(), !bytes.isEmpty else { return }
                try to.send(bytes)
            }
        }
    }
}
#endif
