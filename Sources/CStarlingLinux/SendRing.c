#define _GNU_SOURCE
#include "CStarlingLinux.h"

#include <errno.h>

#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// Headers may be older than the kernel.
enum {
    SUBMIT_ALL = 1u << 7,       // IORING_SETUP_SUBMIT_ALL, Linux 5.18
    SINGLE_ISSUER = 1u << 12,   // IORING_SETUP_SINGLE_ISSUER, Linux 6.0
    DEFER_TASKRUN = 1u << 13,   // IORING_SETUP_DEFER_TASKRUN, Linux 6.1
    SKIP_SUCCESS = 1u << 6,     // IOSQE_CQE_SKIP_SUCCESS, Linux 5.17
    NEEDED_FEATURES = (1u << 0) // IORING_FEAT_SINGLE_MMAP, Linux 5.4
                      | 1u << 11, // IORING_FEAT_CQE_SKIP
};

struct starling_send_ring {
    int descriptor;
    unsigned mask;
    unsigned completion_mask;
    // What is shared with the kernel: it moves the head of the submissions and the tail of the completions.
    _Atomic unsigned *submission_head;
    _Atomic unsigned *submission_tail;
    _Atomic unsigned *completion_head;
    _Atomic unsigned *completion_tail;
    struct io_uring_sqe *submissions;
    struct io_uring_cqe *completions;
    void *rings;
    size_t rings_bytes;
    size_t submissions_bytes;
};

static size_t larger(size_t left, size_t right) {
    return left > right ? left : right;
}

static void *map(int descriptor, size_t bytes, off_t offset) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor, offset);
    return memory == MAP_FAILED ? NULL : memory;
}

static _Bool map_rings(starling_send_ring *ring, const struct io_uring_params *parameters) {
    ring->rings_bytes = larger(parameters->sq_off.array + parameters->sq_entries * sizeof(uint32_t),
                               parameters->cq_off.cqes + parameters->cq_entries * sizeof(struct io_uring_cqe));
    ring->submissions_bytes = parameters->sq_entries * sizeof(struct io_uring_sqe);
    ring->rings = map(ring->descriptor, ring->rings_bytes, IORING_OFF_SQ_RING);
    ring->submissions = map(ring->descriptor, ring->submissions_bytes, IORING_OFF_SQES);
    if (ring->rings == NULL || ring->submissions == NULL) return 0;

    char *base = ring->rings;
    ring->submission_head = (_Atomic unsigned *)(base + parameters->sq_off.head);
    ring->submission_tail = (_Atomic unsigned *)(base + parameters->sq_off.tail);
    ring->completion_head = (_Atomic unsigned *)(base + parameters->cq_off.head);
    ring->completion_tail = (_Atomic unsigned *)(base + parameters->cq_off.tail);
    ring->completions = (struct io_uring_cqe *)(base + parameters->cq_off.cqes);
    ring->mask = parameters->sq_entries - 1;
    ring->completion_mask = parameters->cq_entries - 1;
    // Submissions are used in their order.
    unsigned *order = (unsigned *)(base + parameters->sq_off.array);
    for (unsigned position = 0; position < parameters->sq_entries; position++) order[position] = position;
    return 1;
}

starling_send_ring *starling_send_ring_open(unsigned entries) {
    starling_send_ring *ring = calloc(1, sizeof *ring);
    if (ring == NULL) return NULL;
    struct io_uring_params parameters = {.flags = SUBMIT_ALL | SINGLE_ISSUER | DEFER_TASKRUN};
    ring->descriptor = (int)syscall(SYS_io_uring_setup, entries, &parameters);
    if (ring->descriptor < 0) {
        free(ring);
        return NULL;
    }
    errno = ENOSYS;
    if ((parameters.features & NEEDED_FEATURES) != NEEDED_FEATURES || !map_rings(ring, &parameters)) {
        int reason = errno;
        starling_send_ring_close(ring);
        errno = reason;
        return NULL;
    }
    return ring;
}

void starling_send_ring_close(starling_send_ring *ring) {
    if (ring->rings != NULL) munmap(ring->rings, ring->rings_bytes);
    if (ring->submissions != NULL) munmap(ring->submissions, ring->submissions_bytes);
    close(ring->descriptor);
    free(ring);
}

// MSG_DONTWAIT ends a send within the call that submits it. MSG_WAITALL makes one that is short a failure, so that a send without a
// completion has sent everything.
static void prepare(struct io_uring_sqe *submission, const starling_batched_send *send, unsigned number) {
    memset(submission, 0, sizeof *submission);
    submission->opcode = IORING_OP_SEND;
    submission->flags = SKIP_SUCCESS;
    submission->fd = send->descriptor;
    submission->addr = (uint64_t)(uintptr_t)send->bytes;
    submission->len = (uint32_t)send->count;
    submission->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL;
    submission->user_data = number;
}

static void take_completions(starling_send_ring *ring, starling_batched_send *sends, unsigned count) {
    unsigned head = atomic_load_explicit(ring->completion_head, memory_order_relaxed);
    unsigned tail = atomic_load_explicit(ring->completion_tail, memory_order_acquire);
    for (; head != tail; head++) {
        const struct io_uring_cqe *completion = &ring->completions[head & ring->completion_mask];
        if (completion->user_data < count) sends[completion->user_data].result = completion->res;
    }
    atomic_store_explicit(ring->completion_head, head, memory_order_release);
}

void starling_send_ring_send(starling_send_ring *ring, starling_batched_send *sends, unsigned count) {
    unsigned tail = atomic_load_explicit(ring->submission_tail, memory_order_relaxed);
    for (unsigned number = 0; number < count; number++) {
        prepare(&ring->submissions[(tail + number) & ring->mask], &sends[number], number);
        sends[number].result = (int)sends[number].count;
    }
    atomic_store_explicit(ring->submission_tail, tail + count, memory_order_release);
    syscall(SYS_io_uring_enter, ring->descriptor, count, 0, 0, NULL, 0);
    // What the kernel had no memory for is still before the tail, and is taken back: it goes out alone.
    unsigned head = atomic_load_explicit(ring->submission_head, memory_order_acquire);
    atomic_store_explicit(ring->submission_tail, head, memory_order_release);
    take_completions(ring, sends, count);
    for (unsigned number = head - tail; number < count; number++) {
        ssize_t sent = starling_send(sends[number].descriptor, sends[number].bytes, sends[number].count);
        sends[number].result = sent < 0 ? -errno : (int)sent;
    }
}

#else // Headers of a time before io_uring.

starling_send_ring *starling_send_ring_open(unsigned entries) {
    (void)entries;
    errno = ENOSYS;
    return NULL;
}

void starling_send_ring_close(starling_send_ring *ring) {
    (void)ring;
}

void starling_send_ring_send(starling_send_ring *ring, starling_batched_send *sends, unsigned count) {
    (void)ring;
    for (unsigned number = 0; number < count; number++) sends[number].result = -ENOSYS;
}

#endif
