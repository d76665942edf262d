#include "replies.h"

#include "fail.h"
#include "messages.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { CLOSE_FRAME = 0x88, PING_FRAME = 0x89, COMPRESSED = 0x40, STRETCH_BYTES = 4096 };

// A frame that was inflated and compared.
struct verified {
    unsigned char *frame;
    size_t frame_bytes;
};

static void *allocate(size_t count) {
    void *block = calloc(1, count);
    if (block == NULL) fail_errno("calloc");
    return block;
}

struct expected make_expected(const struct options *options, uint32_t first, uint32_t count) {
    struct expected expected = {.options = options, .first = first, .count = count};
    if (options->deflate) {
        expected.verified = allocate(count * sizeof *expected.verified);
        return expected;
    }
    expected.frame_bytes = server_frame_bytes(options->payload);
    expected.cycle_bytes = expected.frame_bytes * count;
    size_t byte_count = 2 * expected.cycle_bytes + STRETCH_BYTES;
    expected.cycle = allocate(byte_count);
    unsigned char *target = expected.cycle;
    for (uint32_t number = first; number < first + count; number++) {
        target = write_frame_header(target, message_opcode(options->content), options->payload, 0);
        write_payload(options, number, target);
        target += options->payload;
    }
    for (size_t index = expected.cycle_bytes; index < byte_count; index++) {
        expected.cycle[index] = expected.cycle[index - expected.cycle_bytes];
    }
    return expected;
}

static _Noreturn void explain(uint64_t message, uint64_t byte, unsigned char found, unsigned char wanted) {
    if (byte == 0 && found == CLOSE_FRAME) fail("the server closed the connection at message %" PRIu64, message);
    if (byte == 0 && found == PING_FRAME) fail("the server sent a ping: start it with pings switched off");
    fail("byte %" PRIu64 " of the reply to message %" PRIu64 " is 0x%02x and should be 0x%02x", byte, message, found,
         wanted);
}

static size_t first_difference(const unsigned char *left, const unsigned char *right) {
    size_t offset = 0;
    while (left[offset] == right[offset]) offset++;
    return offset;
}

static void compare(const struct expected *expected, uint64_t position, const unsigned char *bytes, size_t count) {
    while (count > 0) {
        const unsigned char *wanted = expected->cycle + position % expected->cycle_bytes;
        size_t stretch = expected->cycle_bytes + STRETCH_BYTES;
        if (stretch > count) stretch = count;
        if (memcmp(bytes, wanted, stretch) != 0) {
            size_t offset = first_difference(bytes, wanted);
            explain((position + offset) / expected->frame_bytes, (position + offset) % expected->frame_bytes,
                    bytes[offset], wanted[offset]);
        }
        position += stretch;
        bytes += stretch;
        count -= stretch;
    }
}

// The payload that a message should have, compared with what its frame inflates to.
static void inflate_and_compare(const struct expected *expected, uint64_t message, const unsigned char *payload,
                                size_t payload_bytes) {
    static z_stream stream;
    static bool is_ready;
    if (!is_ready && inflateInit2(&stream, -15) != Z_OK) fail("zlib does not start");
    is_ready = true;
    inflateReset(&stream);

    size_t size = expected->options->payload;
    unsigned char *wanted = allocate(size), *found = allocate(size + 1);
    write_payload(expected->options, expected->first + (uint32_t)(message % expected->count), wanted);
    stream.next_out = found;
    stream.avail_out = (uInt)size + 1;
    // RFC 7692 §7.2.2: four bytes that the sender left out.
    static const unsigned char tail[4] = {0, 0, 0xff, 0xff};
    const unsigned char *const parts[] = {payload, tail};
    const size_t counts[] = {payload_bytes, sizeof tail};
    for (int part = 0; part < 2; part++) {
        stream.next_in = (unsigned char *)parts[part];
        stream.avail_in = (uInt)counts[part];
        int result = inflate(&stream, Z_SYNC_FLUSH);
        if (result != Z_OK && result != Z_BUF_ERROR && result != Z_STREAM_END) {
            fail("the reply to message %" PRIu64 " does not inflate: %s", message, stream.msg ? stream.msg : "?");
        }
        if (result == Z_STREAM_END) break;
    }
    size_t inflated = size + 1 - stream.avail_out;
    if (inflated != size) {
        fail("the reply to message %" PRIu64 " inflates to %s%zu bytes and should have %zu", message,
             inflated > size ? "more than " : "", inflated > size ? size : inflated, size);
    }
    if (memcmp(wanted, found, size) != 0) {
        size_t offset = first_difference(wanted, found);
        explain(message, offset, found[offset], wanted[offset]);
    }
    free(wanted);
    free(found);
}

// The bytes of the frame's header and of its payload; false if the header is not complete.
static bool parse_header(const unsigned char *bytes, size_t count, size_t *header_bytes, uint64_t *payload_bytes) {
    if (count < 2) return false;
    size_t length_bytes = bytes[1] < 126 ? 0 : bytes[1] == 126 ? 2 : 8;
    *header_bytes = 2 + length_bytes;
    if (count < *header_bytes) return false;
    *payload_bytes = length_bytes == 0 ? bytes[1] : 0;
    for (size_t index = 0; index < length_bytes; index++) {
        *payload_bytes = *payload_bytes << 8 | bytes[2 + index];
    }
    return true;
}

static void check_frame(const struct expected *expected, uint64_t message, const unsigned char *frame,
                        size_t header_bytes, size_t payload_bytes) {
    struct verified *verified = &expected->verified[message % expected->count];
    size_t frame_bytes = header_bytes + payload_bytes;
    if (verified->frame_bytes == frame_bytes && memcmp(verified->frame, frame, frame_bytes) == 0) return;

    unsigned char opcode = message_opcode(expected->options->content);
    if (frame[0] == opcode) fail("the reply to message %" PRIu64 " is not compressed", message);
    if (frame[0] != (opcode | COMPRESSED)) explain(message, 0, frame[0], opcode | COMPRESSED);
    inflate_and_compare(expected, message, frame + header_bytes, payload_bytes);
    free(verified->frame);
    verified->frame = allocate(frame_bytes);
    verified->frame_bytes = frame_bytes;
    memcpy(verified->frame, frame, frame_bytes);
}

// Checks the whole frames at the front, and returns how many bytes they have.
static size_t check_frames(struct reader *reader, const struct expected *expected, const unsigned char *bytes,
                           size_t count) {
    size_t at = 0, header_bytes;
    uint64_t payload_bytes;
    while (parse_header(bytes + at, count - at, &header_bytes, &payload_bytes)) {
        if (payload_bytes > expected->options->payload + 1024) {
            fail("the reply to message %" PRIu64 " has %" PRIu64 " compressed bytes for %zu", reader->messages,
                 payload_bytes, expected->options->payload);
        }
        if (count - at < header_bytes + payload_bytes) break;
        check_frame(expected, reader->messages, bytes + at, header_bytes, (size_t)payload_bytes);
        reader->messages++;
        at += header_bytes + (size_t)payload_bytes;
    }
    return at;
}

static void read_frames(struct reader *reader, const struct expected *expected, const unsigned char *bytes,
                        size_t count) {
    if (reader->part_bytes == 0) {
        size_t checked = check_frames(reader, expected, bytes, count);
        bytes += checked;
        count -= checked;
    }
    if (count == 0) return;
    // The rest of a frame has yet to come, or has come now.
    reader->part = realloc(reader->part, reader->part_bytes + count);
    if (reader->part == NULL) fail_errno("realloc");
    memcpy(reader->part + reader->part_bytes, bytes, count);
    reader->part_bytes += count;
    size_t checked = check_frames(reader, expected, reader->part, reader->part_bytes);
    reader->part_bytes -= checked;
    memmove(reader->part, reader->part + checked, reader->part_bytes);
}

uint64_t read_replies(struct reader *reader, const struct expected *expected, const unsigned char *bytes,
                      size_t count) {
    uint64_t before = reader->messages;
    if (expected->options->deflate) {
        read_frames(reader, expected, bytes, count);
    } else {
        if (expected->options->mode != MODE_RAW) compare(expected, reader->received, bytes, count);
        reader->received += count;
        reader->messages = reader->received / expected->frame_bytes;
    }
    return reader->messages - before;
}

bool is_within_message(const struct reader *reader, const struct expected *expected) {
    return expected->options->deflate ? reader->part_bytes > 0 : reader->received % expected->frame_bytes != 0;
}
