#define _GNU_SOURCE
#include "batch.h"
#include "poller.h"
#include "protocol.h"
#include "sockets.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = 512, READING = EPOLLIN | EPOLLRDHUP };

static int poller;
static uint32_t trigger;

static void watch(int operation, int socket, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = socket};
    if (epoll_ctl(poller, operation, socket, &event) != 0) fail("epoll_ctl");
}

static void accept_all(int listener) {
    for (;;) {
        int socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket < 0) {
            if (errno == EAGAIN) return;
            if (errno == ECONNABORTED || errno == EINTR) continue;
            fail("accept4");
        }
        if (socket >= CONNECTIONS_MAX) {
            close(socket);
            continue;
        }
        connection_open((uint32_t)socket);
        watch(EPOLL_CTL_ADD, socket, READING | trigger);
    }
}

static void wait_for_room(uint32_t index, bool waits) {
    watch(EPOLL_CTL_MOD, (int)index, (waits ? READING | EPOLLOUT : READING) | trigger);
}

static void drop(uint32_t index) {
    close((int)index);
    connection_close(index);
}

// Reads and answers. False: the connection is gone.
static bool handle(uint32_t index, uint32_t events) {
    if ((events & EPOLLOUT) != 0 && connections[index].stalled.count > 0) {
        if (!socket_send_stalled(index)) return false;
        if (connections[index].stalled.count == 0) wait_for_room(index, false);
    }
    if ((events & ~(uint32_t)EPOLLOUT) == 0) return true;
    bool was_stalled = connections[index].stalled.count > 0;
    if (!socket_answer(index, (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)) return false;
    if (!was_stalled && connections[index].stalled.count > 0) wait_for_room(index, true);
    return true;
}

static void send_block(void) {
    // Backwards: who is dropped gives its place to the last.
    for (uint32_t place = subscribers.count; place-- > 0;) {
        uint32_t index = subscribers.indexes[place];
        bool was_stalled = connections[index].stalled.count > 0;
        if (!was_stalled && batch_is_open()) batch_add(index, block.start, block.count);
        else if (!socket_send(index, block.start, block.count)) drop(index);
        else if (!was_stalled && connections[index].stalled.count > 0) wait_for_room(index, true);
    }
}

static void stalled(uint32_t index) {
    wait_for_room(index, true);
}

_Noreturn void serve_by_epoll(const struct io *io, int listener) {
    static unsigned char block_bytes[BLOCK_BYTES_MAX];
    block.start = block_bytes;
    trigger = io->is_edge_triggered ? EPOLLET : 0;
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) fail("epoll_create1");
    if (io->batches_sends) batch_open();
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);

    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR) fail("epoll_wait");
        for (int number = 0; number < count; number++) {
            int socket = events[number].data.fd;
            if (socket == listener) accept_all(listener);
            else if (!handle((uint32_t)socket, events[number].events)) drop((uint32_t)socket);
        }
        if (block.count > 0) send_block();
        if (io->batches_sends) batch_send(stalled, drop);
        block.count = 0;
    }
}
