#ifndef FLOOR_URING_PROTOCOL_H
#define FLOOR_URING_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// As little of WebSocket as the load generator needs, so that it can check every byte: it is the same for all kinds
// of I/O, performs none, and is not fit for any other client.

enum {
    CONNECTIONS_MAX = 1 << 16,
    /// Bytes that are fed to a connection at once.
    RECEIVE_BYTES_MAX = 256 * 1024,
    PAYLOAD_BYTES_MAX = 128 * 1024,
    /// What a connection may answer to bytes that it is fed: never more than it was fed, and was fed before.
    RESPONSE_BYTES_MAX = 256,
    REPLY_BYTES_MAX = RECEIVE_BYTES_MAX + PAYLOAD_BYTES_MAX + RESPONSE_BYTES_MAX,
    /// Publications of one tick; a publisher that sends more is cut off.
    BLOCK_BYTES_MAX = 64 * 1024,
    /// Bytes that wait for a client that takes none; at more it is cut off.
    WAITING_BYTES_MAX = 1 << 20,
};

struct bytes {
    unsigned char *start;
    size_t count;
};

enum role { ROLE_NONE, ROLE_OPENING, ROLE_ECHO, ROLE_SUBSCRIBER, ROLE_PUBLISHER };

/// A connection's place in the table, whose index is its descriptor.
struct connection {
    enum role role;
    /// A request or frame that is not complete yet.
    struct bytes part;
    /// Where it stands among the subscribers.
    uint32_t subscription;

    // What follows is of the I/O.

    /// Bytes owed to the client that its socket did not take.
    struct bytes stalled;
    /// Of io_uring: what came after `stalled`, which is the kernel's until it is sent.
    struct bytes waiting;
    /// Of io_uring: what is to be sent in this tick, and what was sent at the end of the last one.
    struct bytes reply, sent;
    /// Of io_uring: the requests that are under way, and whether their end is all that is waited for.
    bool is_receiving, is_sending, is_dropped;
};

extern struct connection connections[CONNECTIONS_MAX];

/// Connections that get every publication, by index.
struct subscribers {
    uint32_t indexes[CONNECTIONS_MAX];
    uint32_t count;
};

extern struct subscribers subscribers;

/// Frames that were published and are to be sent to all subscribers. Who sends it empties it.
extern struct bytes block;

void connection_open(uint32_t index);

/// Takes received bytes, and writes the answer at `reply`. Returns its length, or -1 if the client is to be cut off.
ssize_t connection_receive(uint32_t index, const unsigned char *bytes, size_t count, unsigned char *reply);

/// Forgets the connection. The I/O has given its own buffers up.
void connection_close(uint32_t index);

/// Adds a copy of bytes to others. Ends the process if there is no memory.
void bytes_append(struct bytes *bytes, const unsigned char *start, size_t count);
void bytes_clear(struct bytes *bytes);

_Noreturn void fail(const char *what);

#endif
