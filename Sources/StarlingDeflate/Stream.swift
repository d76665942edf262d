package import CZlib

/// What a flush ends in; permessage-deflate leaves it out of every message (RFC 7692 §7.2.1).
let flushMarker: [UInt8] = [0x00, 0x00, 0xFF, 0xFF]

/// The version of the library that is linked, for the one message that needs it.
var zlibVersionText: String {
    // SAFETY: zlib returns a constant string.
    unsafe zlibVersion().map { unsafe String(cString: $0) } ?? "?"
}

/// A `z_stream` in memory that never moves: zlib keeps its address.
///
/// Its owner frees it.
@safe package struct Stream {
    package let pointer: UnsafeMutablePointer<z_stream>

    init() {
        unsafe self.pointer = .allocate(capacity: 1)
        unsafe self.pointer.initialize(to: z_stream())
    }

    /// Frees the stream, but not what zlib made for it.
    func deallocate() {
        unsafe self.pointer.deallocate()
    }

    /// Lets the next calls read these bytes, which must stay in place until they are read; at most 2^32 − 1.
    func setInput(_ bytes: UnsafeRawBufferPointer) {
        // SAFETY: zlib declares its input mutable, and does not write to it.
        let start = unsafe bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        unsafe self.pointer.pointee.next_in = unsafe UnsafeMutablePointer(mutating: start)
        unsafe self.pointer.pointee.avail_in = UInt32(bytes.count)
    }

    /// Lets one call append at most `room` bytes, and no more than 1 GiB.
    ///
    /// Returns the call's status, and how much of the room it left.
    func write(
        room: Int,
        to output: inout [UInt8],
        by call: (UnsafeMutablePointer<z_stream>) -> Int32
    ) -> (status: Int32, roomLeft: Int) {
        let start = output.count
        let room = min(room, 1 << 30)
        // Zeroes first: an array's spare capacity cannot be lent. They cost little beside the call.
        output.appendZeroes(room)
        let status = unsafe output.withUnsafeMutableBufferPointer { bytes in
            // SAFETY: zlib writes at most `avail_out` bytes from here, all of them inside the array.
            unsafe self.pointer.pointee.next_out = unsafe bytes.baseAddress.map { unsafe $0 + start }
            unsafe self.pointer.pointee.avail_out = UInt32(room)
            return unsafe call(self.pointer)
        }
        let roomLeft = unsafe Int(self.pointer.pointee.avail_out)
        output.removeLast(roomLeft)
        return (status, roomLeft)
    }

    /// Lets one call write a byte that nobody wants.
    func writeToOneByte(
        by call: (UnsafeMutablePointer<z_stream>) -> Int32
    ) -> (status: Int32, roomLeft: Int) {
        var byte: UInt8 = 0
        let status = unsafe withUnsafeMutablePointer(to: &byte) { byte in
            // SAFETY: zlib writes at most one byte, during the call.
            unsafe self.pointer.pointee.next_out = unsafe byte
            unsafe self.pointer.pointee.avail_out = 1
            return unsafe call(self.pointer)
        }
        return unsafe (status, Int(self.pointer.pointee.avail_out))
    }
}

extension [UInt8] {
    /// Makes the capacity suffice for `room` more bytes; doubles it, but not beyond `countMax` unless needed.
    ///
    /// A capacity that grows by less each time would make many small messages in one output quadratic.
    mutating func reserveRoom(_ room: Int, growingToAtMost countMax: Int = .max) {
        let needed = self.count + room
        guard needed > self.capacity else { return }
        self.reserveCapacity(Swift.max(needed, Swift.min(self.capacity.multipliedOrMax(by: 2), countMax)))
    }
}

extension [UInt8] {
    private static let zeroes = [UInt8](repeating: 0, count: 4_096)

    /// Appends so many zeroes.
    ///
    /// Block by block, which is a copy; appending a repeated element is a loop, slow in debug builds.
    fileprivate mutating func appendZeroes(_ count: Int) {
        var countLeft = count
        while countLeft > 0 {
            let block = Self.zeroes.prefix(countLeft)
            self.append(contentsOf: block)
            countLeft -= block.count
        }
    }
}

extension Int {
    /// The product, or the greatest number if there is no such number.
    func multipliedOrMax(by factor: Int) -> Int {
        let (product, overflow) = self.multipliedReportingOverflow(by: factor)
        return overflow ? .max : product
    }
}
