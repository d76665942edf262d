#ifndef LOAD_GENERATOR_MESSAGES_H
#define LOAD_GENERATOR_MESSAGES_H

#include "options.h"

#include <stddef.h>
#include <stdint.h>

/// Bytes of an unmasked frame with `payload` bytes, which is what a server sends. RFC 6455 §5.2.
size_t server_frame_bytes(size_t payload);

/// The first byte of a frame that holds a whole message of `content`, uncompressed.
unsigned char message_opcode(enum content content);

/// Writes the header of a whole message's frame: two bytes and the extended length. Returns what follows it.
unsigned char *write_frame_header(unsigned char *target, unsigned char first_byte, size_t payload,
                                  unsigned char mask_bit);

/// Writes the payload of message number `number`: different numbers, up to 850,000, are different payloads.
void write_payload(const struct options *options, uint32_t number, unsigned char *target);

/// Masked frames in one block, which lives as long as the process.
struct frames {
    const unsigned char *bytes;
    size_t byte_count;
};

/// Frames of the messages `first` to `first + count - 1`, compressed if the options say so.
///
/// The key is fixed: making a new one for each message would cost the generator time and tell nothing about a
/// server. It follows from `first`, so that connections differ.
struct frames make_client_frames(const struct options *options, uint32_t first, uint32_t count);

#endif
