#include "replies.h"

#include "protocol.h"

#include <string.h>

static uint32_t indexes[2 * CONNECTIONS_MAX];

struct ready ready = {.indexes = indexes};

void reply_with(struct arena *arena, uint32_t index, unsigned char *start, size_t count) {
    struct bytes *reply = &connections[index].reply;
    if (reply->count == 0) {
        *reply = (struct bytes){.start = start, .count = count};
        ready.indexes[ready.count++] = index;
    } else if (reply->start + reply->count == start) {
        reply->count += count;
    } else {
        unsigned char *together = arena_reserve(arena, reply->count + count);
        memcpy(together, reply->start, reply->count);
        memcpy(together + reply->count, start, count);
        *reply = (struct bytes){.start = together, .count = reply->count + count};
        arena_take(arena, reply->count);
    }
}
