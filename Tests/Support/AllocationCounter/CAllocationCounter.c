// For backtrace_symbols_fd, and for the names below to be those of glibc.
#define _GNU_SOURCE

#include "CAllocationCounter.h"

#include <stddef.h>
#include <stdlib.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

#if defined(__GLIBC__) && !defined(SANITIZED)

#include <errno.h>
#include <execinfo.h>
#include <unistd.h>

// glibc exports its allocator under these names too, so that a program that replaces malloc can still reach it: no
// dlsym, which itself allocates.
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *pointer, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

// A thread's own, so that tests on other threads do not disturb the count.
static __thread uint64_t allocation_count;
static __thread bool is_printing;

static void count_allocation(void) {
    allocation_count += 1;
    if (!is_printing) return;
    // What is called here may allocate, too.
    is_printing = false;
    static const char heading[] = "allocation from:\n";
    (void)!write(STDERR_FILENO, heading, sizeof heading - 1);
    void *frames[32];
    backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
    is_printing = true;
}

// These stand in for glibc's everywhere in the process, because the program comes first where the linker looks.

void *malloc(size_t size) {
    count_allocation();
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    count_allocation();
    return __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size) {
    count_allocation();
    return __libc_realloc(pointer, size);
}

void *memalign(size_t alignment, size_t size) {
    count_allocation();
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    count_allocation();
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size) {
    if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) return EINVAL;
    count_allocation();
    void *memory = __libc_memalign(alignment, size);
    if (memory == NULL) return ENOMEM;
    *pointer = memory;
    return 0;
}

bool starling_allocations_are_counted(void) { return true; }
uint64_t starling_allocation_count(void) { return allocation_count; }
void starling_allocations_print(bool is_on) { is_printing = is_on; }

#else

bool starling_allocations_are_counted(void) { return false; }
uint64_t starling_allocation_count(void) { return 0; }
void starling_allocations_print(bool is_on) { (void)is_on; }

#endif
