#ifndef FLOOR_URING_POLLER_H
#define FLOOR_URING_POLLER_H

#include <stdbool.h>

/// How sockets are waited for, read and written.
struct io {
    const char *name;
    const char *meaning;
    enum { IO_EPOLL, IO_URING } kind;
    /// Of epoll: the trigger, and whether the sends of a tick are submitted together to a ring.
    bool is_edge_triggered, batches_sends;
    /// Of io_uring: how it learns of bytes. `RECEIVE_BY_POLL` only waits, and leaves recv and send to system calls.
    enum { RECEIVE_BY_POLL, RECEIVE_MULTISHOT, RECEIVE_BUNDLES, RECEIVE_INCREMENTAL } receive;
    /// Sends are system calls, each when its bytes are there, and not submitted together at the end of a tick.
    bool sends_directly;
    /// Every send is completed, not only one that fails.
    bool completes_sends;
    /// Sockets have places in the ring's table and no descriptors.
    bool has_fixed_files;
};

/// Serves what a listening socket accepts until the process is terminated.
_Noreturn void serve_by_epoll(const struct io *io, int listener);
_Noreturn void serve_by_uring(const struct io *io, int listener);

#endif
