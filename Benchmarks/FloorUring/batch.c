#define _GNU_SOURCE
#include "batch.h"

#include "arena.h"
#include "protocol.h"
#include "replies.h"

#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/socket.h>

enum { SUBMISSIONS = 1024, COMPLETIONS = 2048 };

static struct io_uring ring;
static bool is_open;
static struct arena arena;

static void check(int result, const char *what) {
    if (result >= 0) return;
    errno = -result;
    fail(what);
}

void batch_open(void) {
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_CQSIZE,
        .cq_entries = COMPLETIONS,
    };
    check(io_uring_queue_init_params(SUBMISSIONS, &ring, &parameters), "io_uring_queue_init_params");
    check(io_uring_register_ring_fd(&ring), "io_uring_register_ring_fd");
    is_open = true;
}

bool batch_is_open(void) {
    return is_open;
}

void batch_add(uint32_t index, unsigned char *bytes, size_t count) {
    reply_with(&arena, index, bytes, count);
}

void batch_add_copy(uint32_t index, const unsigned char *bytes, size_t count) {
    unsigned char *copy = arena_reserve(&arena, count);
    memcpy(copy, bytes, count);
    arena_take(&arena, count);
    reply_with(&arena, index, copy, count);
}

// See uring.c for the flags: a send has ended when io_uring_submit returns, and is completed only if it failed.
static void submit(void (*stalled)(uint32_t index), void (*broken)(uint32_t index)) {
    check(io_uring_submit(&ring), "io_uring_submit");
    unsigned head, count = 0;
    struct io_uring_cqe *completion;
    io_uring_for_each_cqe(&ring, head, completion) {
        count++;
        uint32_t index = (uint32_t)completion->user_data;
        struct connection *connection = &connections[index];
        if (completion->res < 0 && completion->res != -EAGAIN) {
            broken(index);
            continue;
        }
        size_t sent = completion->res < 0 ? 0 : (size_t)completion->res;
        bytes_append(&connection->stalled, connection->sent.start + sent, connection->sent.count - sent);
        stalled(index);
    }
    io_uring_cq_advance(&ring, count);
}

void batch_send(void (*stalled)(uint32_t index), void (*broken)(uint32_t index)) {
    for (uint32_t number = 0; number < ready.count; number++) {
        uint32_t index = ready.indexes[number];
        struct connection *connection = &connections[index];
        // Closed in this tick.
        if (connection->reply.count == 0) continue;
        struct io_uring_sqe *submission = io_uring_get_sqe(&ring);
        if (submission == NULL) {
            submit(stalled, broken);
            submission = io_uring_get_sqe(&ring);
            if (submission == NULL) fail("io_uring_get_sqe");
        }
        connection->sent = connection->reply;
        connection->reply = (struct bytes){0};
        io_uring_prep_send(submission, (int)index, connection->sent.start, connection->sent.count,
                           MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL);
        submission->flags |= IOSQE_CQE_SKIP_SUCCESS;
        submission->user_data = index;
    }
    if (ready.count > 0) submit(stalled, broken);
    ready.count = 0;
    arena_reset(&arena);
}
