#ifndef FLOOR_URING_BATCH_H
#define FLOOR_URING_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A ring that sends and does nothing else: many calls of send(2) for one system call. Whatever waits stays with epoll.

void batch_open(void);
bool batch_is_open(void);

/// Adds bytes to what a connection is sent by the next `batch_send`.
void batch_add_copy(uint32_t index, const unsigned char *bytes, size_t count);
/// As `batch_add_copy`, for bytes that stay where they are until then.
void batch_add(uint32_t index, unsigned char *bytes, size_t count);

/// Sends. What a socket does not take is in the connection's `stalled`; each such connection is reported, and each that is
/// broken.
void batch_send(void (*stalled)(uint32_t index), void (*broken)(uint32_t index));

#endif
