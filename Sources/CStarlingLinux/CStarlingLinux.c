#define _GNU_SOURCE
#include "CStarlingLinux.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { events_max = 512 };

int starling_epoll_create(void) {
    return epoll_create1(EPOLL_CLOEXEC);
}

int starling_epoll_control(int epoll, starling_epoll_operation operation, int descriptor, uint64_t token, _Bool reading,
                           _Bool writing, starling_trigger trigger) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = (reading ? EPOLLIN : 0u) | (writing ? EPOLLOUT : 0u);
    if (trigger == starling_trigger_exclusive) event.events |= EPOLLEXCLUSIVE;
    // The peer's end must be told apart: who has read all the bytes before it would not ask again.
    if (trigger == starling_trigger_edge) event.events |= EPOLLET | (reading ? EPOLLRDHUP : 0u);
    event.data.u64 = token;
    static const int operations[] = {EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL};
    return epoll_ctl(epoll, operations[operation], descriptor, &event) == 0 ? 0 : errno;
}

int starling_epoll_once(int epoll, _Bool is_new, int descriptor, uint64_t token, _Bool reading, _Bool writing) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLONESHOT | (reading ? EPOLLIN : 0u) | (writing ? EPOLLOUT : 0u);
    event.data.u64 = token;
    return epoll_ctl(epoll, is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, descriptor, &event) == 0 ? 0 : errno;
}

int starling_epoll_wait(int epoll, starling_event *events, int count, int milliseconds) {
    struct epoll_event ready[events_max];
    int got = epoll_wait(epoll, ready, count < events_max ? count : events_max, milliseconds);
    if (got < 0) return -errno;
    for (int i = 0; i < got; i++) {
        events[i].token = ready[i].data.u64;
        events[i].readable = (ready[i].events & EPOLLIN) != 0;
        events[i].writable = (ready[i].events & EPOLLOUT) != 0;
        events[i].ended = (ready[i].events & EPOLLRDHUP) != 0;
        events[i].hung_up = (ready[i].events & (EPOLLERR | EPOLLHUP)) != 0;
    }
    return got;
}

int starling_eventfd_create(void) {
    return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

void starling_eventfd_signal(int descriptor) {
    uint64_t one = 1;
    // Fails only if the counter is full, and then the loop is about to wake anyway.
    ssize_t ignored = write(descriptor, &one, sizeof one);
    (void)ignored;
}

void starling_eventfd_clear(int descriptor) {
    uint64_t count;
    ssize_t ignored = read(descriptor, &count, sizeof count);
    (void)ignored;
}

int starling_accept(int listener, struct sockaddr_storage *address, socklen_t *length) {
    int descriptor = accept4(listener, (struct sockaddr *)address, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return descriptor >= 0 ? descriptor : -errno;
}

// Straight to the kernel: the C library's functions are cancellation points, which costs two atomic operations a call.
ssize_t starling_receive(int descriptor, void *buffer, size_t bytes) {
    return syscall(SYS_recvfrom, descriptor, buffer, bytes, 0, NULL, NULL);
}

ssize_t starling_send(int descriptor, const void *buffer, size_t bytes) {
    return syscall(SYS_sendto, descriptor, buffer, bytes, MSG_NOSIGNAL, NULL, 0);
}

ssize_t starling_send_together(int descriptor, const void *head, size_t head_bytes, const void *body,
                               size_t body_bytes) {
    // sendmsg only reads what an iovec points to.
    struct iovec parts[2] = {{(void *)head, head_bytes}, {(void *)body, body_bytes}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return sendmsg(descriptor, &message, MSG_NOSIGNAL);
}

ssize_t starling_send_descriptors(int descriptor, const void *buffer, size_t bytes, const int *descriptors, size_t count) {
    struct iovec part = {(void *)buffer, bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * starling_descriptors_max)];
    } control;
    if (count > starling_descriptors_max) return -EINVAL;
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
    }
    ssize_t sent = sendmsg(descriptor, &message, MSG_NOSIGNAL);
    return sent >= 0 ? sent : -errno;
}

ssize_t starling_receive_descriptors(int descriptor, void *buffer, size_t bytes, int *descriptors, size_t *count) {
    struct iovec part = {buffer, bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * starling_descriptors_max)];
    } control;
    message.msg_control = control.space;
    message.msg_controllen = sizeof control.space;
    *count = 0;
    ssize_t received = recvmsg(descriptor, &message, MSG_CMSG_CLOEXEC);
    if (received < 0) return -errno;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t found = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        if (found > starling_descriptors_max - *count) found = starling_descriptors_max - *count;
        memcpy(descriptors + *count, CMSG_DATA(header), sizeof(int) * found);
        *count += found;
    }
    if (message.msg_flags & MSG_CTRUNC) {
        for (size_t i = 0; i < *count; i++) close(descriptors[i]);
        *count = 0;
        return -EMFILE;
    }
    return received;
}

_Bool starling_peer_user(int descriptor, uid_t *user) {
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return 0;
    *user = credentials.uid;
    return 1;
}
