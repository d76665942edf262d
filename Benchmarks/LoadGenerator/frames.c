#include "frames.h"

#include "fail.h"

#include <stdlib.h>
#include <string.h>

enum { BINARY_FRAME = 0x82, CLOSE_FRAME = 0x88, PING_FRAME = 0x89, MASKED = 0x80 };

size_t server_frame_bytes(size_t payload) {
    return payload + (payload <= 125 ? 2 : payload <= 65535 ? 4 : 10);
}

size_t client_frame_bytes(size_t payload) {
    return server_frame_bytes(payload) + 4;
}

// Printable, and different at each place within any short distance, so that shifted or swapped bytes show.
static unsigned char payload_byte(size_t index) {
    return (unsigned char)(' ' + (index * 7 + index / 95) % 95);
}

// Writes the first two bytes and the extended length; returns what follows them.
static unsigned char *write_header(unsigned char *target, size_t payload, unsigned char mask_bit) {
    *target++ = BINARY_FRAME;
    if (payload <= 125) {
        *target++ = (unsigned char)(payload | mask_bit);
        return target;
    }
    int length_bytes = payload <= 65535 ? 2 : 8;
    *target++ = (unsigned char)((length_bytes == 2 ? 126 : 127) | mask_bit);
    for (int shift = (length_bytes - 1) * 8; shift >= 0; shift -= 8) {
        *target++ = (unsigned char)((uint64_t)payload >> shift);
    }
    return target;
}

const unsigned char *make_client_frames(size_t payload, uint32_t count, uint32_t key_number) {
    size_t frame_bytes = client_frame_bytes(payload);
    unsigned char *frames = malloc(frame_bytes * count);
    if (frames == NULL) fail_errno("malloc");

    uint32_t mixed = (key_number + 1) * 2654435761u;
    unsigned char key[4] = {(unsigned char)(mixed >> 24), (unsigned char)(mixed >> 16), (unsigned char)(mixed >> 8),
                            (unsigned char)mixed};
    unsigned char *target = write_header(frames, payload, MASKED);
    memcpy(target, key, sizeof key);
    target += sizeof key;
    for (size_t index = 0; index < payload; index++) {
        target[index] = payload_byte(index) ^ key[index % 4];
    }
    for (uint32_t copy = 1; copy < count; copy++) {
        memcpy(frames + copy * frame_bytes, frames, frame_bytes);
    }
    return frames;
}

struct reply_stream make_reply_stream(size_t payload, size_t part_max) {
    // A part may start at any byte of a frame: with one frame to spare, any part is one stretch of the block.
    size_t frame_bytes = server_frame_bytes(payload);
    size_t byte_count = part_max + 2 * frame_bytes;
    unsigned char *bytes = malloc(byte_count);
    if (bytes == NULL) fail_errno("malloc");
    unsigned char *target = write_header(bytes, payload, 0);
    for (size_t index = 0; index < payload; index++) {
        target[index] = payload_byte(index);
    }
    for (size_t index = frame_bytes; index < byte_count; index++) {
        bytes[index] = bytes[index - frame_bytes];
    }
    return (struct reply_stream){.bytes = bytes, .frame_bytes = frame_bytes};
}

static _Noreturn void explain(const struct reply_stream *stream, uint64_t position, const unsigned char *part,
                              const unsigned char *expected) {
    size_t offset = 0;
    while (part[offset] == expected[offset]) offset++;
    uint64_t message = (position + offset) / stream->frame_bytes;
    uint64_t byte = (position + offset) % stream->frame_bytes;
    if (byte == 0 && part[offset] == CLOSE_FRAME) fail("the server closed the connection at message %lu", message);
    if (byte == 0 && part[offset] == PING_FRAME) fail("the server sent a ping: start it with pings switched off");
    fail("byte %lu of the reply to message %lu is 0x%02x and should be 0x%02x", byte, message, part[offset],
         expected[offset]);
}

void check_reply(const struct reply_stream *stream, uint64_t position, const unsigned char *part, size_t count) {
    const unsigned char *expected = stream->bytes + position % stream->frame_bytes;
    if (memcmp(part, expected, count) != 0) explain(stream, position, part, expected);
}
