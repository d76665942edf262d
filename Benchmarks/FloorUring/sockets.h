#ifndef FLOOR_URING_SOCKETS_H
#define FLOOR_URING_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// I/O by system calls, for epoll and for the kinds of io_uring that leave some of it to them. False always says that
// the connection is gone, or is to be cut off.

/// Receives once, and again if the buffer was full or the end stands behind the bytes; sends the answers.
bool socket_answer(uint32_t index, bool has_ended);

/// Sends bytes, or keeps them in `stalled` if the socket takes no more. If a batch is open, adds a copy of
/// them to it instead, unless they are many.
bool socket_send(uint32_t index, const unsigned char *bytes, size_t count);

/// Sends what is in `stalled`, as far as the socket takes it.
bool socket_send_stalled(uint32_t index);

#endif
