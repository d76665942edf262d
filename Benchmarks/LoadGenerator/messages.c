#include "messages.h"

#include "fail.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { TEXT_FRAME = 0x81, BINARY_FRAME = 0x82, COMPRESSED = 0x40, MASKED = 0x80, HEADER_BYTES_MAX = 14 };

size_t server_frame_bytes(size_t payload) {
    return payload + (payload <= 125 ? 2 : payload <= 65535 ? 4 : 10);
}

unsigned char message_opcode(enum content content) {
    return content == CONTENT_JSON ? TEXT_FRAME : BINARY_FRAME;
}

unsigned char *write_frame_header(unsigned char *target, unsigned char first_byte, size_t payload,
                                  unsigned char mask_bit) {
    *target++ = first_byte;
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

// Printable, and different at each place within any short distance, so that shifted or swapped bytes show; the
// number stands in front.
static void write_bytes(size_t payload, uint32_t number, unsigned char *target) {
    for (size_t index = 0; index < payload; index++) {
        target[index] = (unsigned char)(' ' + (index * 7 + index / 95) % 95);
    }
    for (size_t index = 0; index < 3 && index < payload; index++) {
        target[index] = (unsigned char)(' ' + number % 95);
        number /= 95;
    }
}

// What a chat sends: a third of it keys and identifiers, the rest words.
static void write_json(size_t payload, uint32_t number, unsigned char *target) {
    static const char *const words[] = {
        "the",  "release", "is",    "ready",  "for",  "review",   "when", "you",  "have", "time", "we",   "can",
        "ship", "after",   "lunch", "please", "look", "at",       "this", "once", "more", "and",  "tell", "everybody",
        "that", "tests",   "are",   "green",  "on",   "machines", "but",  "not",  "in",   "café", "where", "it",
    };
    enum { WORDS = sizeof words / sizeof *words };
    uint32_t mixed = number * 2654435761u + 12345;
    char head[320];
    int head_bytes = snprintf(head, sizeof head,
                              "{\"type\":\"message\",\"id\":\"%08x%08x\",\"number\":%u,\"room\":\"team-%u\","
                              "\"sender\":{\"id\":%u,\"name\":\"member %u\",\"roles\":[\"member\",\"editor\"]},"
                              "\"sentAt\":\"2026-01-%02uT%02u:%02u:07.%03uZ\",\"mentions\":[%u,%u],\"text\":\"",
                              mixed, mixed * 31u, number, mixed % 50, mixed % 90000, mixed % 1000, 1 + mixed % 28,
                              mixed % 24, mixed % 60, mixed % 1000, mixed % 70001, mixed % 70003);
    static const char tail[] = "\"}";
    if (payload < (size_t)head_bytes + sizeof tail) fail("JSON takes a payload of %d bytes or more", head_bytes + 8);
    memcpy(target, head, (size_t)head_bytes);
    size_t end = payload - (sizeof tail - 1), at = (size_t)head_bytes;
    while (at < end) {
        mixed = mixed * 1664525u + 1013904223u;
        const char *word = words[(mixed >> 16) % WORDS];
        size_t length = strlen(word);
        // A word that does not fit would be cut within a character.
        if (at + length + 1 > end) break;
        memcpy(target + at, word, length);
        target[at + length] = ' ';
        at += length + 1;
    }
    memset(target + at, '.', end - at);
    memcpy(target + end, tail, sizeof tail - 1);
}

void write_payload(const struct options *options, uint32_t number, unsigned char *target) {
    switch (options->content) {
    case CONTENT_BYTES:
        write_bytes(options->payload, number, target);
        break;
    case CONTENT_JSON:
        write_json(options->payload, number, target);
        break;
    }
}

// RFC 7692 §7.2.1: a sync flush without its last four bytes.
static size_t compress_payload(const unsigned char *payload, size_t count, unsigned char *target, size_t target_bytes) {
    z_stream stream = {0};
    if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        fail("zlib does not start");
    }
    stream.next_in = (unsigned char *)payload;
    stream.avail_in = (uInt)count;
    stream.next_out = target;
    stream.avail_out = (uInt)target_bytes;
    if (deflate(&stream, Z_SYNC_FLUSH) != Z_OK || stream.avail_out == 0) fail("zlib does not compress");
    size_t compressed = target_bytes - stream.avail_out;
    deflateEnd(&stream);
    return compressed - 4;
}

struct frames make_client_frames(const struct options *options, uint32_t first, uint32_t count) {
    size_t payload_max = options->payload + options->payload / 1000 + 64;
    unsigned char *frames = malloc((payload_max + HEADER_BYTES_MAX) * count), *target = frames;
    unsigned char *plain = malloc(payload_max), *compressed = malloc(payload_max);
    if (frames == NULL || plain == NULL || compressed == NULL) fail_errno("malloc");

    uint32_t mixed = (first + 1) * 2654435761u;
    unsigned char key[4] = {(unsigned char)(mixed >> 24), (unsigned char)(mixed >> 16), (unsigned char)(mixed >> 8),
                            (unsigned char)mixed};
    for (uint32_t number = first; number < first + count; number++) {
        write_payload(options, number, plain);
        const unsigned char *payload = plain;
        size_t payload_bytes = options->payload;
        unsigned char first_byte = message_opcode(options->content);
        if (options->deflate) {
            payload_bytes = compress_payload(plain, options->payload, compressed, payload_max);
            payload = compressed;
            first_byte |= COMPRESSED;
        }
        target = write_frame_header(target, first_byte, payload_bytes, MASKED);
        memcpy(target, key, sizeof key);
        target += sizeof key;
        for (size_t index = 0; index < payload_bytes; index++) {
            *target++ = payload[index] ^ key[index % 4];
        }
    }
    free(plain);
    free(compressed);
    return (struct frames){.bytes = frames, .byte_count = (size_t)(target - frames)};
}
