#include "crowd.h"
#include "dial.h"
#include "fail.h"

#include <string.h>

enum {
    TEXT_FRAME = 0x81,
    BINARY_FRAME = 0x82,
    CLOSE_FRAME = 0x88,
    PING_FRAME = 0x89,
    MASKED = 0x80,
};

size_t crowd_frame(unsigned char *target, unsigned char first_byte, const void *payload, size_t payload_bytes) {
    if (payload_bytes > 125) fail("a frame of %zu bytes was to be sent", payload_bytes);
    // The key is fixed, as `make_client_frames` explains.
    static const unsigned char key[4] = {0x5a, 0xc3, 0x96, 0x0f};
    target[0] = first_byte;
    target[1] = (unsigned char)(MASKED | payload_bytes);
    memcpy(target + 2, key, sizeof key);
    for (size_t index = 0; index < payload_bytes; index++) {
        target[6 + index] = ((const unsigned char *)payload)[index] ^ key[index % 4];
    }
    return 6 + payload_bytes;
}

static enum parsed parse_head(unsigned char *bytes, size_t count, size_t *used) {
    char *end = strstr((char *)bytes, "\r\n\r\n");
    if (end == NULL) {
        if (count > HEAD_BYTES_MAX) fail("the response head is over %d bytes", HEAD_BYTES_MAX);
        return PARSED_PART;
    }
    end[2] = '\0';
    check_response_head("the crowd", (char *)bytes);
    *used = (size_t)(end + 4 - (char *)bytes);
    return PARSED_UPGRADED;
}

enum parsed crowd_parse(enum member_state state, unsigned char *bytes, size_t count, size_t *used,
                        unsigned char **payload, size_t *payload_bytes) {
    if (state == MEMBER_UPGRADING) return parse_head(bytes, count, used);
    if (count < 2) return PARSED_PART;
    size_t header_bytes = bytes[1] < 126 ? 2 : 4;
    if (count < header_bytes) return PARSED_PART;
    if (bytes[1] > 126) fail("the server sent a frame that is masked or over 64 KiB");
    *payload_bytes = header_bytes == 2 ? bytes[1] : (size_t)bytes[2] << 8 | bytes[3];
    if (count < header_bytes + *payload_bytes) return PARSED_PART;
    *payload = bytes + header_bytes;
    *used = header_bytes + *payload_bytes;
    switch (bytes[0]) {
    case TEXT_FRAME:
        if (state != MEMBER_JOINING || *payload_bytes != 6 || memcmp(*payload, "joined", 6) != 0) {
            fail("the server sent '%.*s' unasked", (int)*payload_bytes, (char *)*payload);
        }
        return PARSED_JOINED;
    case BINARY_FRAME:
        return PARSED_PUBLICATION;
    case PING_FRAME:
        return PARSED_PING;
    case CLOSE_FRAME:
        return PARSED_CLOSE;
    default:
        fail("the server sent a frame that begins with 0x%02x", bytes[0]);
    }
}
