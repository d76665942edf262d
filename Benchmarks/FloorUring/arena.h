#ifndef FLOOR_URING_ARENA_H
#define FLOOR_URING_ARENA_H

#include <stddef.h>

struct chunk;

/// Memory that is given out bit by bit and taken back as a whole. Starts as zeroes.
struct arena {
    struct chunk *first, *current;
};

/// Room for so many bytes, of which `arena_take` keeps the first. Until then nobody else may ask.
unsigned char *arena_reserve(struct arena *arena, size_t count);
void arena_take(struct arena *arena, size_t count);

void arena_reset(struct arena *arena);

#endif
