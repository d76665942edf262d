import NIOCore
import NIOWebSocket

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// Sends every data frame back as it came.
///
/// A fragment is answered by a fragment, so nothing need be assembled.
final class EchoHandler: ChannelInboundHandler {
    typealias InboundIn = WebSocketFrame
    typealias OutboundOut = WebSocketFrame

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = Self.unwrapInboundIn(data)
        switch frame.opcode {
        case .text, .binary, .continuation:
            let reply = WebSocketFrame(fin: frame.fin, opcode: frame.opcode, data: frame.unmaskedData)
            context.write(Self.wrapOutboundOut(reply), promise: nil)
        default:
            answerControlFrame(frame, context: context)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
    }
}

/// The topics by name.
///
/// They are used on the event loop alone.
final class Rooms {
    private var rooms: [Substring: Room] = [:]

    subscript(name: Substring) -> Room {
        if let room = self.rooms[name] { return room }
        let room = Room()
        self.rooms[name] = room
        return room
    }
}

/// The subscribers of a topic.
final class Room {
    private var subscribers: [ObjectIdentifier: ChannelHandlerContext] = [:]

    func add(_ context: ChannelHandlerContext) {
        self.subscribers[ObjectIdentifier(context)] = context
    }

    func remove(_ context: ChannelHandlerContext) {
        self.subscribers[ObjectIdentifier(context)] = nil
    }

    func publish(_ frame: WebSocketFrame) {
        let data = NIOAny(frame)
        for context in self.subscribers.values {
            context.write(data, promise: nil)
        }
    }

    /// Flushes what was published, so that publications that were read together leave together.
    func flush() {
        for context in self.subscribers.values {
            context.flush()
        }
    }
}

/// A connection that receives what is published.
final class SubscribeHandler: ChannelInboundHandler {
    typealias InboundIn = WebSocketFrame
    typealias OutboundOut = WebSocketFrame

    private let room: Room

    init(room: Room) {
        self.room = room
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.room.add(context)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.room.remove(context)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        answerControlFrame(Self.unwrapInboundIn(data), context: context)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        context.flush()
    }
}

/// A connection whose data frames go to every subscriber.
final class PublishHandler: ChannelInboundHandler {
    typealias InboundIn = WebSocketFrame
    typealias OutboundOut = WebSocketFrame

    private let room: Room

    init(room: Room) {
        self.room = room
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let frame = Self.unwrapInboundIn(data)
        switch frame.opcode {
        case .text, .binary:
            self.room.publish(WebSocketFrame(fin: true, opcode: frame.opcode, data: frame.unmaskedData))
        default:
            answerControlFrame(frame, context: context)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.room.flush()
        context.flush()
    }
}

/// RFC 6455 §5.5: a ping is answered by a pong with its payload, a close by a close, after which we hang up.
private func answerControlFrame(_ frame: WebSocketFrame, context: ChannelHandlerContext) {
    switch frame.opcode {
    case .ping:
        let pong = WebSocketFrame(fin: true, opcode: .pong, data: frame.unmaskedData)
        context.write(NIOAny(pong), promise: nil)
    case .connectionClose:
        let close = WebSocketFrame(fin: true, opcode: .connectionClose, data: frame.unmaskedData)
        let channel = context.channel
        context.writeAndFlush(NIOAny(close)).whenComplete { _ in channel.close(promise: nil) }
    default:
        break
    }
}

/// Standard output is a pipe when a benchmark reads it, and a pipe is flushed only on request.
func flushStandardOutput() {
    fflush(nil)
}
