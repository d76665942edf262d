#ifndef LOAD_GENERATOR_REPLIES_H
#define LOAD_GENERATOR_REPLIES_H

#include "options.h"

#include <stddef.h>
#include <stdint.h>

/// What a server sends when it behaves: the messages `first` to `first + count - 1`, over and over.
struct expected {
    const struct options *options;
    uint32_t first;
    uint32_t count;
    /// Uncompressed, the frames twice and a bit more, so that a part can be compared from any byte on.
    unsigned char *cycle;
    size_t cycle_bytes;
    size_t frame_bytes;
    /// Compressed, the frame of each message that was last inflated and found right.
    struct verified *verified;
};

/// Prepares to check an endless stream of replies.
struct expected make_expected(const struct options *options, uint32_t first, uint32_t count);

/// How much of a stream has arrived on one connection.
struct reader {
    /// Bytes; with compression those of frames that have not been checked yet.
    uint64_t received;
    /// Messages.
    uint64_t messages;
    unsigned char *part;
    size_t part_bytes;
};

/// Takes what arrived next and returns how many messages are complete with it.
///
/// Ends the process with an explanation unless they are what was expected. A compressed message must be compressed;
/// one that is byte by byte what was inflated before is not inflated again, because no message refers to another.
uint64_t read_replies(struct reader *reader, const struct expected *expected, const unsigned char *bytes,
                      size_t count);

/// Whether a part of a message has arrived.
bool is_within_message(const struct reader *reader, const struct expected *expected);

#endif
