#define _GNU_SOURCE
#include "protocol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUEST_BYTES_MAX = 1024, OPCODE_BITS = 0x0f, OPCODE_CLOSE = 8 };

struct connection connections[CONNECTIONS_MAX];
struct subscribers subscribers;
struct bytes block;

// The accept value for the key of the example in RFC 6455 §1.3, which is the only one that the load generator sends.
static const char response[] =
    "HTTP/1.1 101 Switching Protocols\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

_Noreturn void fail(const char *what) {
    perror(what);
    exit(1);
}

void bytes_append(struct bytes *bytes, const unsigned char *start, size_t count) {
    if (count == 0) return;
    unsigned char *grown = realloc(bytes->start, bytes->count + count);
    if (grown == NULL) fail("realloc");
    memcpy(grown + bytes->count, start, count);
    *bytes = (struct bytes){.start = grown, .count = bytes->count + count};
}

void bytes_clear(struct bytes *bytes) {
    free(bytes->start);
    *bytes = (struct bytes){0};
}

void connection_open(uint32_t index) {
    connections[index] = (struct connection){.role = ROLE_OPENING};
}

void connection_close(uint32_t index) {
    struct connection *connection = &connections[index];
    if (connection->role == ROLE_SUBSCRIBER) {
        uint32_t last = subscribers.indexes[--subscribers.count];
        subscribers.indexes[connection->subscription] = last;
        connections[last].subscription = connection->subscription;
    }
    bytes_clear(&connection->part);
    bytes_clear(&connection->stalled);
    bytes_clear(&connection->waiting);
    *connection = (struct connection){0};
}

struct frame {
    const unsigned char *payload;
    const unsigned char *key;
    size_t payload_bytes;
    size_t frame_bytes;
    unsigned char first_byte;
};

enum outcome { COMPLETE, INCOMPLETE, REFUSED };

// RFC 6455 §5.2, for frames with a mask.
static enum outcome read_frame(const unsigned char *bytes, size_t count, struct frame *frame) {
    if (count < 6) return INCOMPLETE;
    if ((bytes[1] & 0x80) == 0) return REFUSED;
    size_t payload_bytes = bytes[1] & 0x7f;
    size_t length_bytes = payload_bytes < 126 ? 0 : payload_bytes == 126 ? 2 : 8;
    size_t head_bytes = 2 + length_bytes + 4;
    if (count < head_bytes) return INCOMPLETE;
    if (length_bytes > 0) payload_bytes = 0;
    for (size_t index = 0; index < length_bytes; index++) payload_bytes = payload_bytes << 8 | bytes[2 + index];
    if (payload_bytes > PAYLOAD_BYTES_MAX) return REFUSED;
    if (count < head_bytes + payload_bytes) return INCOMPLETE;
    *frame = (struct frame){
        .payload = bytes + head_bytes,
        .key = bytes + head_bytes - 4,
        .payload_bytes = payload_bytes,
        .frame_bytes = head_bytes + payload_bytes,
        .first_byte = bytes[0],
    };
    return COMPLETE;
}

// The frame as a server sends it: four bytes shorter than it came.
static size_t write_frame(const struct frame *frame, unsigned char *target) {
    size_t head_bytes = frame->payload_bytes <= 125 ? 2 : frame->payload_bytes <= 65535 ? 4 : 10;
    target[0] = frame->first_byte;
    target[1] = (unsigned char)(head_bytes == 2 ? frame->payload_bytes : head_bytes == 4 ? 126 : 127);
    for (size_t index = 2; index < head_bytes; index++) {
        target[index] = (unsigned char)(frame->payload_bytes >> 8 * (head_bytes - 1 - index));
    }
    uint32_t key;
    memcpy(&key, frame->key, sizeof key);
    unsigned char *payload = target + head_bytes;
    size_t offset = 0;
    for (; offset + sizeof key <= frame->payload_bytes; offset += sizeof key) {
        uint32_t word;
        memcpy(&word, frame->payload + offset, sizeof word);
        word ^= key;
        memcpy(payload + offset, &word, sizeof word);
    }
    for (; offset < frame->payload_bytes; offset++) payload[offset] = frame->payload[offset] ^ frame->key[offset % 4];
    return head_bytes + frame->payload_bytes;
}

static bool publish(const struct frame *frame) {
    if (block.count + frame->frame_bytes > BLOCK_BYTES_MAX) return false;
    block.count += write_frame(frame, block.start + block.count);
    return true;
}

static void subscribe(uint32_t index) {
    connections[index].subscription = subscribers.count;
    subscribers.indexes[subscribers.count++] = index;
}

// Answers a request. Returns its length; 0 if it is not complete, -1 if it is refused.
static ssize_t open_websocket(uint32_t index, const unsigned char *bytes, size_t count) {
    const unsigned char *end = memmem(bytes, count, "\r\n\r\n", 4);
    if (end == NULL) return count < REQUEST_BYTES_MAX ? 0 : -1;
    static const struct {
        const char *start;
        enum role role;
    } paths[] = {
        {"GET /echo ", ROLE_ECHO},
        {"GET /idle ", ROLE_ECHO},
        {"GET /subscribe/0 ", ROLE_SUBSCRIBER},
        {"GET /publish/0 ", ROLE_PUBLISHER},
    };
    for (size_t path = 0; path < sizeof paths / sizeof *paths; path++) {
        size_t length = strlen(paths[path].start);
        if (count < length || memcmp(bytes, paths[path].start, length) != 0) continue;
        connections[index].role = paths[path].role;
        if (paths[path].role == ROLE_SUBSCRIBER) subscribe(index);
        return end + 4 - bytes;
    }
    return -1;
}

// Takes one request or frame. Returns its length; 0 if it is not complete, -1 if it is refused.
static ssize_t take(uint32_t index, const unsigned char *bytes, size_t count, unsigned char *reply, size_t *written) {
    struct connection *connection = &connections[index];
    if (connection->role == ROLE_OPENING) {
        ssize_t taken = open_websocket(index, bytes, count);
        if (taken <= 0) return taken;
        memcpy(reply, response, sizeof response - 1);
        *written = sizeof response - 1;
        return taken;
    }
    struct frame frame;
    enum outcome outcome = read_frame(bytes, count, &frame);
    if (outcome != COMPLETE) return outcome == INCOMPLETE ? 0 : -1;
    if ((frame.first_byte & OPCODE_BITS) == OPCODE_CLOSE) return -1;
    if (connection->role == ROLE_ECHO) {
        *written = write_frame(&frame, reply);
    } else if (connection->role != ROLE_PUBLISHER || !publish(&frame)) {
        return -1;
    }
    return (ssize_t)frame.frame_bytes;
}

ssize_t connection_receive(uint32_t index, const unsigned char *bytes, size_t count, unsigned char *reply) {
    struct bytes *part = &connections[index].part;
    bool continues = part->count > 0;
    if (continues) {
        bytes_append(part, bytes, count);
        bytes = part->start;
        count = part->count;
    }
    size_t offset = 0, reply_bytes = 0;
    while (offset < count) {
        size_t written = 0;
        ssize_t taken = take(index, bytes + offset, count - offset, reply + reply_bytes, &written);
        if (taken < 0) return -1;
        if (taken == 0) break;
        offset += (size_t)taken;
        reply_bytes += written;
    }
    struct bytes rest = {0};
    if (offset < count && !(continues && offset == 0)) bytes_append(&rest, bytes + offset, count - offset);
    if (offset > 0 || !continues) {
        bytes_clear(part);
        *part = rest;
    }
    return (ssize_t)reply_bytes;
}
