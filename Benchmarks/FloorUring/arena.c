#include "arena.h"

#include "protocol.h"

#include <stdlib.h>

enum { CHUNK_BYTES_MIN = 1 << 20 };

struct chunk {
    struct chunk *next;
    size_t size;
    size_t used;
    unsigned char bytes[];
};

static struct chunk *make_chunk(size_t count) {
    size_t size = count > CHUNK_BYTES_MIN ? count : CHUNK_BYTES_MIN;
    struct chunk *chunk = malloc(sizeof *chunk + size);
    if (chunk == NULL) fail("malloc");
    *chunk = (struct chunk){.size = size};
    return chunk;
}

unsigned char *arena_reserve(struct arena *arena, size_t count) {
    if (arena->current == NULL) arena->first = arena->current = make_chunk(count);
    if (arena->current->size - arena->current->used < count) {
        arena->current->next = make_chunk(count);
        arena->current = arena->current->next;
    }
    return arena->current->bytes + arena->current->used;
}

void arena_take(struct arena *arena, size_t count) {
    arena->current->used += count;
}

// What a busy tick needed beyond the first chunk goes back: the next tick will hardly need it.
void arena_reset(struct arena *arena) {
    if (arena->first == NULL) return;
    while (arena->first->next != NULL) {
        struct chunk *next = arena->first->next;
        arena->first->next = next->next;
        free(next);
    }
    arena->first->used = 0;
    arena->current = arena->first;
}
