#ifndef LOAD_GENERATOR_CROWD_H
#define LOAD_GENERATOR_CROWD_H

#include "histogram.h"
#include "options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    /// A publication's number is below it: each member remembers in one word which ones it has received.
    PUBLICATIONS_MAX = 32,
};

/// The topic of a publication to everybody.
static const uint32_t topic_of_all = UINT32_MAX;

/// Where a connection stands.
enum member_state { MEMBER_AWAY, MEMBER_CONNECTING, MEMBER_UPGRADING, MEMBER_JOINING, MEMBER_OPEN };

/// One of the crowd's connections.
struct member {
    int socket;
    enum member_state state;
    uint32_t topic;
    /// One bit for each publication that has arrived.
    uint32_t seen;
    /// A part of a head or a frame, and its byte count.
    unsigned char *held;
    size_t held_bytes;
};

/// What has arrived of one publication.
struct arrivals {
    uint64_t count;
    struct histogram latencies;
};

/// Many connections of one process to one server.
struct crowd {
    const struct options *options;
    int poller;
    struct member *members;
    /// Members that are to be dialled, from `next_wanted` to `wanted_count`.
    uint32_t *wanted;
    uint32_t next_wanted;
    uint32_t wanted_count;
    /// Members that are neither away nor open.
    uint32_t underway;
    uint32_t open;
    uint64_t pings;
    /// Connections that the server ended.
    uint64_t cut;
    /// Publications that arrived twice, or at a member of another topic.
    uint64_t duplicates;
    uint64_t strays;
    struct arrivals arrivals[PUBLICATIONS_MAX];
};

/// Dials members that are wanted, as long as few are underway.
void crowd_dial(struct crowd *crowd);

/// Serves a member's socket.
void crowd_serve(struct crowd *crowd, uint32_t index, uint32_t events);

/// Ends `count` members' connections, spread over all of them, and wants them back: every other one is reset, the rest ends
/// without a close frame.
void crowd_drop(struct crowd *crowd, uint32_t count);

/// What the bytes of a connection are, in the state that its member is in.
enum parsed {
    /// Not all of it is there.
    PARSED_PART,
    PARSED_UPGRADED,
    PARSED_JOINED,
    PARSED_PUBLICATION,
    PARSED_PING,
    PARSED_CLOSE,
};

/// Reads what stands at the beginning of `bytes`, which end with a zero that is not counted; sets how long it is, and what its
/// payload is.
///
/// Whatever a server should not send ends the process.
enum parsed crowd_parse(enum member_state state, unsigned char *bytes, size_t count, size_t *used,
                        unsigned char **payload, size_t *payload_bytes);

/// Writes a masked frame of at most 125 bytes to `target`, and returns its byte count. RFC 6455 §5.2 and §5.3.
size_t crowd_frame(unsigned char *target, unsigned char first_byte, const void *payload, size_t payload_bytes);

#endif
