#include "poller.h"

#include "fail.h"

#include <errno.h>
#include <inttypes.h>

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

int wait_for_events(int poller, struct epoll_event *events, uint64_t waiting, const char *what) {
    int count;
    do {
        count = epoll_wait(poller, events, EVENTS_MAX, SILENCE_MILLISECONDS_MAX);
    } while (count < 0 && errno == EINTR);
    if (count < 0) fail_errno("epoll_wait");
    if (count == 0) {
        fail("the server has been silent for %d ms: %" PRIu64 " %s", SILENCE_MILLISECONDS_MAX, waiting, what);
    }
    return count;
}
