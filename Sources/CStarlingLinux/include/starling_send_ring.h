// Many sends in one system call: an io_uring that only sends, for kernels that have one and allow it.
#pragma once

#include <stddef.h>

typedef struct starling_send_ring starling_send_ring;

typedef struct {
    const void *bytes;
    size_t count;
    int descriptor;
    // The number of bytes sent, or a negated errno.
    int result;
} starling_batched_send;

// A ring for batches of up to `entries` sends, a power of two; for the thread that calls this alone. NULL, with errno set, where there
// is none: before Linux 6.1, and wherever the administrator or a sandbox forbids it.
starling_send_ring *starling_send_ring_open(unsigned entries);
void starling_send_ring_close(starling_send_ring *ring);

// Makes the sends, to different sockets, as starling_send would one by one: none of them waits, and all are over when this returns.
void starling_send_ring_send(starling_send_ring *ring, starling_batched_send *sends, unsigned count);
