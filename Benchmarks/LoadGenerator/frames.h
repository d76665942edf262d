#ifndef LOAD_GENERATOR_FRAMES_H
#define LOAD_GENERATOR_FRAMES_H

#include <stddef.h>
#include <stdint.h>

/// Bytes of an unmasked binary frame with `payload` bytes, which is what a server sends. RFC 6455 §5.2.
size_t server_frame_bytes(size_t payload);

/// Bytes of a masked frame with `payload` bytes, which is what a client sends. RFC 6455 §5.2 and §5.3.
size_t client_frame_bytes(size_t payload);

/// Returns `count` masked binary frames in one block, which lives as long as the process.
///
/// The key is fixed: making a new one for each message would cost the generator time and tell nothing about a
/// server. `key_number` picks one of many keys, so that connections differ.
const unsigned char *make_client_frames(size_t payload, uint32_t count, uint32_t key_number);

/// What a server sends when it behaves: the same unmasked frame without end.
struct reply_stream {
    unsigned char *bytes;
    size_t frame_bytes;
};

/// Prepares to check up to `part_max` bytes at a time of an endless stream of replies.
struct reply_stream make_reply_stream(size_t payload, size_t part_max);

/// Ends the process with an explanation unless `part` is what comes at byte `position` of the stream.
void check_reply(const struct reply_stream *stream, uint64_t position, const unsigned char *part, size_t count);

#endif
