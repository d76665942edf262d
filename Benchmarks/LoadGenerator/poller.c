#define _GNU_SOURCE
#include "poller.h"

#include "fail.h"

#include <errno.h>
#include <sys/socket.h>

enum { SILENCE_MILLISECONDS_MAX = 5000 };

int make_poller(void) {
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) fail_errno("epoll_create1");
    return poller;
}

void watch(int poller, int socket, uint32_t index) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.u32 = index};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event) != 0) fail_errno("epoll_ctl");
}

int wait_for_events(int poller, struct epoll_event *events) {
    int count;
    do {
        count = epoll_wait(poller, events, EVENTS_MAX, SILENCE_MILLISECONDS_MAX);
    } while (count < 0 && errno == EINTR);
    if (count < 0) fail_errno("epoll_wait");
    if (count == 0) fail("the server has been silent for %d ms", SILENCE_MILLISECONDS_MAX);
    return count;
}

size_t receive(int socket, unsigned char *buffer) {
    ssize_t received = recv(socket, buffer, RECEIVE_BYTES, 0);
    if (received > 0) return (size_t)received;
    if (received == 0) fail("the server closed a connection");
    if (errno == EAGAIN || errno == EINTR) return 0;
    fail_errno("recv");
}

size_t send_some(int socket, const unsigned char *bytes, size_t count) {
    ssize_t sent = send(socket, bytes, count, MSG_NOSIGNAL);
    if (sent >= 0) return (size_t)sent;
    if (errno == EAGAIN || errno == EINTR) return 0;
    fail_errno("send");
}
