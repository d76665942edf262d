#ifndef FLOOR_URING_REPLIES_H
#define FLOOR_URING_REPLIES_H

#include "arena.h"

#include <stddef.h>
#include <stdint.h>

/// Connections that are to be sent something at the end of the tick, each once unless it was closed and opened meanwhile.
struct ready {
    uint32_t *indexes;
    uint32_t count;
};

extern struct ready ready;

/// Adds to what the connection is sent at the end of the tick. The bytes must stay where they are until then; those that
/// are added to others are copied into the arena.
void reply_with(struct arena *arena, uint32_t index, unsigned char *start, size_t count);

#endif
