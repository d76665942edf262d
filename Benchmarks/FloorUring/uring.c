// A tick: wait, and submit what the last tick had to send with the same system call; handle all completions; queue what
// is to be sent.
//
// A send must not outlive the memory it reads. MSG_DONTWAIT makes it complete while it is submitted, as send(2) would,
// and MSG_WAITALL makes a send that was cut short a failure, so that IOSQE_CQE_SKIP_SUCCESS need not be told of it. All
// failures are seen before anything else is sent: a reply can neither overtake another nor be overwritten.

#define _GNU_SOURCE
#include "arena.h"
#include "poller.h"
#include "protocol.h"
#include "replies.h"
#include "sockets.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

// Later than liburing 2.3.
#ifndef IORING_RECVSEND_BUNDLE
#define IORING_RECVSEND_BUNDLE (1u << 4)
#endif
#ifndef IOU_PBUF_RING_INC
#define IOU_PBUF_RING_INC 2
#endif
#ifndef IORING_CQE_F_BUF_MORE
#define IORING_CQE_F_BUF_MORE (1u << 4)
#endif

enum {
    SUBMISSIONS = 1024,
    COMPLETIONS = 8192,
    FIXED_FILES = 16384,
    BUFFERS = 512,
    // Not a multiple of a page: the beginnings of all buffers would share few places in the processor's cache.
    BUFFER_BYTES = 4096 + 64,
    INCREMENTAL_BUFFERS = 16,
    INCREMENTAL_BUFFER_BYTES = 64 * 1024,
    BUFFER_GROUP = 0,
};

enum tag { TAG_ACCEPT, TAG_RECEIVE, TAG_SEND, TAG_SEND_STALLED, TAG_ROOM, TAG_IGNORED };

static const struct io *io;
static int listener;
static struct io_uring ring;

static struct io_uring_buf_ring *buffer_ring;
static unsigned char *buffers;
static uint32_t buffer_count, buffer_bytes;
static uint32_t buffers_returned;                          // In this tick.
static uint32_t buffer_offsets[INCREMENTAL_BUFFERS];       // How far they are filled.

// Replies of this tick, and of the last one, whose failures may still ask for them.
static struct arena arenas[2];
static unsigned char blocks[2][BLOCK_BYTES_MAX];
static unsigned parity;

static void check(int result, const char *what) {
    if (result >= 0) return;
    errno = -result;
    fail(what);
}

static struct io_uring_sqe *next_submission(enum tag tag, uint32_t index) {
    struct io_uring_sqe *submission = io_uring_get_sqe(&ring);
    if (submission == NULL) {
        check(io_uring_submit(&ring), "io_uring_submit");
        submission = io_uring_get_sqe(&ring);
        if (submission == NULL) fail("io_uring_get_sqe");
    }
    // The preparations of liburing leave the user data alone.
    submission->user_data = (uint64_t)tag << 32 | index;
    return submission;
}

static void on_connection(struct io_uring_sqe *submission) {
    if (io->has_fixed_files) submission->flags |= IOSQE_FIXED_FILE;
}

// MARK: - Requests

static void start_accepting(void) {
    struct io_uring_sqe *submission = next_submission(TAG_ACCEPT, 0);
    if (io->has_fixed_files) io_uring_prep_multishot_accept_direct(submission, listener, NULL, NULL, 0);
    else io_uring_prep_multishot_accept(submission, listener, NULL, NULL, SOCK_CLOEXEC);
}

static void start_receiving(uint32_t index) {
    struct io_uring_sqe *submission = next_submission(TAG_RECEIVE, index);
    connections[index].is_receiving = true;
    if (io->receive == RECEIVE_BY_POLL) {
        io_uring_prep_poll_multishot(submission, (int)index, POLLIN | POLLRDHUP);
        return;
    }
    io_uring_prep_recv_multishot(submission, (int)index, NULL, 0, 0);
    submission->flags |= IOSQE_BUFFER_SELECT;
    submission->buf_group = BUFFER_GROUP;
    if (io->receive == RECEIVE_BUNDLES) submission->ioprio |= IORING_RECVSEND_BUNDLE;
    on_connection(submission);
}

static void send_reply(uint32_t index) {
    struct connection *connection = &connections[index];
    connection->sent = connection->reply;
    connection->reply = (struct bytes){0};
    struct io_uring_sqe *submission = next_submission(TAG_SEND, index);
    io_uring_prep_send(submission, (int)index, connection->sent.start, connection->sent.count,
                       MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL);
    if (!io->completes_sends) submission->flags |= IOSQE_CQE_SKIP_SUCCESS;
    on_connection(submission);
}

static void send_stalled(uint32_t index) {
    struct connection *connection = &connections[index];
    struct io_uring_sqe *submission = next_submission(TAG_SEND_STALLED, index);
    io_uring_prep_send(submission, (int)index, connection->stalled.start, connection->stalled.count,
                       MSG_NOSIGNAL | MSG_WAITALL);
    connection->is_sending = true;
    on_connection(submission);
}

static void wait_for_room(uint32_t index) {
    struct io_uring_sqe *submission = next_submission(TAG_ROOM, index);
    io_uring_prep_poll_add(submission, (int)index, POLLOUT);
    connections[index].is_sending = true;
}

// MARK: - The end of a connection

// The descriptor lives until its last request has ended, so that nothing that completes can mean a successor.
static void close_when_still(uint32_t index) {
    struct connection *connection = &connections[index];
    if (!connection->is_dropped || connection->is_receiving || connection->is_sending) return;
    connection_close(index);
    if (io->has_fixed_files) {
        io_uring_prep_close_direct(next_submission(TAG_IGNORED, index), index);
    } else {
        close((int)index);
    }
}

static void drop(uint32_t index) {
    struct connection *connection = &connections[index];
    if (connection->is_dropped) return;
    connection->is_dropped = true;
    if (connection->is_receiving) {
        io_uring_prep_cancel64(next_submission(TAG_IGNORED, index), (uint64_t)TAG_RECEIVE << 32 | index, 0);
    }
    if (connection->is_sending) {
        struct io_uring_sqe *submission = next_submission(TAG_IGNORED, index);
        io_uring_prep_shutdown(submission, (int)index, SHUT_RDWR);
        on_connection(submission);
    }
    close_when_still(index);
}

// MARK: - Replies

static void take_received(uint32_t index, const unsigned char *bytes, size_t count) {
    if (connections[index].is_dropped) return;
    struct arena *arena = &arenas[parity];
    size_t room = connections[index].part.count + count + RESPONSE_BYTES_MAX;
    unsigned char *reply = arena_reserve(arena, room);
    ssize_t reply_bytes = connection_receive(index, bytes, count, reply);
    if (reply_bytes < 0) {
        drop(index);
    } else if (reply_bytes > 0 && io->sends_directly) {
        bool was_stalled = connections[index].stalled.count > 0;
        if (!socket_send(index, reply, (size_t)reply_bytes)) drop(index);
        else if (!was_stalled && connections[index].stalled.count > 0) wait_for_room(index);
    } else if (reply_bytes > 0) {
        arena_take(arena, (size_t)reply_bytes);
        reply_with(arena, index, reply, (size_t)reply_bytes);
    }
}

static void reply_with_block(void) {
    // Backwards: who is dropped gives its place to the last.
    for (uint32_t place = subscribers.count; place-- > 0;) {
        uint32_t index = subscribers.indexes[place];
        if (connections[index].is_dropped) continue;
        if (!io->sends_directly) {
            reply_with(&arenas[parity], index, block.start, block.count);
            continue;
        }
        bool was_stalled = connections[index].stalled.count > 0;
        if (!socket_send(index, block.start, block.count)) drop(index);
        else if (!was_stalled && connections[index].stalled.count > 0) wait_for_room(index);
    }
}

static void send_replies(void) {
    for (uint32_t number = 0; number < ready.count; number++) {
        uint32_t index = ready.indexes[number];
        struct connection *connection = &connections[index];
        // Gone in this tick, and the place is free or has been taken again: then it has no reply.
        if (connection->reply.count == 0 || connection->is_dropped) continue;
        if (!connection->is_sending) {
            send_reply(index);
            continue;
        }
        bytes_append(&connection->waiting, connection->reply.start, connection->reply.count);
        connection->reply = (struct bytes){0};
        if (connection->waiting.count > WAITING_BYTES_MAX) drop(index);
    }
    ready.count = 0;
}

// MARK: - Completions

static void return_buffer(uint32_t id) {
    io_uring_buf_ring_add(buffer_ring, buffers + (size_t)id * buffer_bytes, buffer_bytes, (unsigned short)id,
                          io_uring_buf_ring_mask(buffer_count), (int)buffers_returned++);
}

static void take_buffers(uint32_t index, const struct io_uring_cqe *completion) {
    uint32_t id = completion->flags >> IORING_CQE_BUFFER_SHIFT;
    size_t count = (size_t)completion->res;
    if (io->receive == RECEIVE_INCREMENTAL) {
        take_received(index, buffers + (size_t)id * buffer_bytes + buffer_offsets[id], count);
        if ((completion->flags & IORING_CQE_F_BUF_MORE) != 0) {
            buffer_offsets[id] += (uint32_t)count;
        } else {
            buffer_offsets[id] = 0;
            return_buffer(id);
        }
        return;
    }
    // A bundle fills buffers in the order of the ring, which is that of their numbers: they are returned as they came.
    while (count > 0) {
        size_t part = count < buffer_bytes ? count : buffer_bytes;
        take_received(index, buffers + (size_t)id * buffer_bytes, part);
        return_buffer(id);
        id = (id + 1) % buffer_count;
        count -= part;
    }
}

static void accepted(const struct io_uring_cqe *completion) {
    if ((completion->flags & IORING_CQE_F_MORE) == 0) start_accepting();
    if (completion->res == -ECONNABORTED || completion->res == -EINTR) return;
    check(completion->res, "accept");
    uint32_t index = (uint32_t)completion->res;
    if (index >= CONNECTIONS_MAX) {
        close((int)index);
        return;
    }
    connection_open(index);
    start_receiving(index);
}

static void received(uint32_t index, const struct io_uring_cqe *completion) {
    bool goes_on = (completion->flags & IORING_CQE_F_MORE) != 0;
    connections[index].is_receiving = goes_on;
    if (io->receive == RECEIVE_BY_POLL) {
        if (completion->res < 0) {
            drop(index);
        } else if (!connections[index].is_dropped) {
            bool was_stalled = connections[index].stalled.count > 0;
            if (!socket_answer(index, (completion->res & (POLLRDHUP | POLLHUP | POLLERR)) != 0)) drop(index);
            else if (!was_stalled && connections[index].stalled.count > 0) wait_for_room(index);
        }
    } else if (completion->res > 0) {
        take_buffers(index, completion);
    } else if (completion->res != -ENOBUFS) {
        // The end, an error, or a cancellation.
        drop(index);
    }
    if (!goes_on && !connections[index].is_dropped && connections[index].role != ROLE_NONE) start_receiving(index);
    close_when_still(index);
}

// Only what has not been sent whole matters: without `completes_sends` nothing else comes here.
static void sent(uint32_t index, int result) {
    struct connection *connection = &connections[index];
    if (connection->is_dropped || connection->role == ROLE_NONE) return;
    if (result < 0 && result != -EAGAIN) {
        drop(index);
        return;
    }
    size_t count = result < 0 ? 0 : (size_t)result;
    if (count == connection->sent.count) return;
    bytes_append(&connection->stalled, connection->sent.start + count, connection->sent.count - count);
    send_stalled(index);
}

static void sent_stalled(uint32_t index, int result) {
    struct connection *connection = &connections[index];
    connection->is_sending = false;
    if (result < 0 || (size_t)result < connection->stalled.count) drop(index);
    if (!connection->is_dropped) {
        bytes_clear(&connection->stalled);
        connection->stalled = connection->waiting;
        connection->waiting = (struct bytes){0};
        if (connection->stalled.count > 0) send_stalled(index);
    }
    close_when_still(index);
}

static void has_room(uint32_t index, int result) {
    struct connection *connection = &connections[index];
    connection->is_sending = false;
    if (!connection->is_dropped) {
        if (result < 0 || !socket_send_stalled(index)) drop(index);
        else if (connection->stalled.count > 0) wait_for_room(index);
    }
    close_when_still(index);
}

static void handle(const struct io_uring_cqe *completion) {
    uint32_t index = (uint32_t)completion->user_data;
    switch ((enum tag)(completion->user_data >> 32)) {
    case TAG_ACCEPT: accepted(completion); break;
    case TAG_RECEIVE: received(index, completion); break;
    case TAG_SEND: sent(index, completion->res); break;
    case TAG_SEND_STALLED: sent_stalled(index, completion->res); break;
    case TAG_ROOM: has_room(index, completion->res); break;
    case TAG_IGNORED: break;
    }
}

// MARK: - The ring

// Populated: a server that has just started would take a page fault for each of its first receives.
static void *map(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    return memory;
}

static void make_buffers(void) {
    bool is_incremental = io->receive == RECEIVE_INCREMENTAL;
    buffer_count = is_incremental ? INCREMENTAL_BUFFERS : BUFFERS;
    buffer_bytes = is_incremental ? INCREMENTAL_BUFFER_BYTES : BUFFER_BYTES;
    buffers = map((size_t)buffer_count * buffer_bytes);
    buffer_ring = map(buffer_count * sizeof(struct io_uring_buf));
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)buffer_ring,
        .ring_entries = buffer_count,
        .bgid = BUFFER_GROUP,
        .pad = is_incremental ? IOU_PBUF_RING_INC : 0,    // Named `flags` in later headers.
    };
    check(io_uring_register_buf_ring(&ring, &registration, 0), "io_uring_register_buf_ring");
    io_uring_buf_ring_init(buffer_ring);
    for (uint32_t id = 0; id < buffer_count; id++) return_buffer(id);
    io_uring_buf_ring_advance(buffer_ring, (int)buffers_returned);
    buffers_returned = 0;
}

static void make_ring(void) {
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN |
                 IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE,
        .cq_entries = COMPLETIONS,
    };
    check(io_uring_queue_init_params(SUBMISSIONS, &ring, &parameters), "io_uring_queue_init_params");
    check(io_uring_register_ring_fd(&ring), "io_uring_register_ring_fd");
    if (io->has_fixed_files) check(io_uring_register_files_sparse(&ring, FIXED_FILES), "io_uring_register_files");
    if (io->receive != RECEIVE_BY_POLL) make_buffers();
}

_Noreturn void serve_by_uring(const struct io *chosen, int listening) {
    io = chosen;
    listener = listening;
    make_ring();
    start_accepting();
    for (;;) {
        int result = io_uring_submit_and_wait(&ring, 1);
        if (result != -EINTR) check(result, "io_uring_submit_and_wait");
        parity ^= 1;
        arena_reset(&arenas[parity]);
        block = (struct bytes){.start = blocks[parity]};

        unsigned head, count = 0;
        struct io_uring_cqe *completion;
        io_uring_for_each_cqe(&ring, head, completion) {
            handle(completion);
            count++;
        }
        io_uring_cq_advance(&ring, count);
        if (buffers_returned > 0) {
            io_uring_buf_ring_advance(buffer_ring, (int)buffers_returned);
            buffers_returned = 0;
        }
        if (block.count > 0) reply_with_block();
        send_replies();
    }
}
