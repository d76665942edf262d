internal import StarlingCore

/// A connection on its way from one process to the next.
///
/// The bytes begin with ``version``, and are read by the process that they are sent to alone.
package struct ConnectionRecord: Sendable {
    /// The connection's number, in the driver that it comes from or in the one that it goes to.
    package let index: Int
    /// Everything about it but its descriptor.
    package let bytes: [UInt8]

    package init(index: Int, bytes: [UInt8]) {
        self.index = index
        self.bytes = bytes
    }

    /// The version of the bytes: processes with different ones do not hand connections to each other.
    package static let version = 1

    /// Why a connection cannot go on from its bytes.
    package struct Unusable: Error, CustomStringConvertible {
        package let description: String

        init(_ reason: String) {
            self.description = "a connection cannot be taken over: \(reason)"
        }
    }

    /// What stands first.
    enum Kind: UInt64 {
        /// A WebSocket.
        case open = 1
        /// A connection whose first or next request has not arrived, or only a part of its head.
        case http = 2
    }
}

/// What is asked of a connection while it is between two processes.
enum LateOrder: Sendable {
    case send(Message)
    case close(CloseCode, reason: String)
}

extension ConnectionRecord {
    /// Writes what came too late for the record, for its connection.
    static func write(_ orders: [LateOrder]) -> [UInt8] {
        var writer = ByteWriter()
        writer.write(orders.count)
        for order in orders {
            switch order {
            case .send(let message):
                writer.write(message.kind == .text ? 0 : 1)
                writer.write(message.bytes)
            case .close(let code, let reason):
                writer.write(2)
                writer.write(Int(code.rawValue))
                writer.write(reason)
            }
        }
        return writer.bytes
    }

    static func readOrders(_ bytes: [UInt8]) throws(ByteReader.Malformed) -> [LateOrder] {
        var reader = ByteReader(bytes)
        let count: Int = try reader.read()
        var orders: [LateOrder] = []
        for _ in 0..<count {
            switch try reader.readNumber() {
            case 0:
                let bytes = try reader.readBytes()
                orders.append(unsafe .send(Message(.text, copying: bytes.span.bytes)))
            case 1: orders.append(.send(.binary(try reader.readBytes())))
            case 2:
                let code: UInt16 = try reader.read()
                orders.append(.close(CloseCode(rawValue: code), reason: try reader.readText()))
            default: throw ByteReader.Malformed()
            }
        }
        return orders
    }
}
