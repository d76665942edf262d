#ifndef STARLING_ALLOCATION_COUNTER_H
#define STARLING_ALLOCATION_COUNTER_H

#include <stdbool.h>
#include <stdint.h>

// Whether allocations are counted in this process: on Linux with glibc, and not under a sanitizer, which replaces the
// allocator itself.
bool starling_allocations_are_counted(void);

// How many times the calling thread has asked for memory since it began.
uint64_t starling_allocation_count(void);

// Whether each allocation of the calling thread prints the stack that it comes from.
void starling_allocations_print(bool is_on);

#endif
