// What io_uring would save: a WebSocket server with as little in it as possible, whose I/O can be chosen.
//
// One thread. /echo and /idle answer every message with itself, /publish/0 sends to all at /subscribe/0. All that the
// kinds of I/O do not have to do differently is the same code.
//
//     FloorUring --io KIND [--port P]
//
// Port 0, the default, lets the kernel choose; the choice is printed as `listening on PORT`. It serves 127.0.0.1 until
// it is terminated.

#define _GNU_SOURCE
#include "poller.h"
#include "protocol.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const struct io kinds[] = {
    {.name = "epoll-level", .kind = IO_EPOLL, .meaning = "level-triggered epoll"},
    {.name = "epoll-edge", .kind = IO_EPOLL, .is_edge_triggered = true, .meaning = "edge-triggered epoll"},
    {.name = "batch", .kind = IO_EPOLL, .is_edge_triggered = true, .batches_sends = true,
     .meaning = "edge-triggered epoll, sends of a tick together through a ring"},
    {.name = "poll", .kind = IO_URING, .receive = RECEIVE_BY_POLL, .sends_directly = true,
     .meaning = "multishot poll in place of epoll, recv and send"},
    {.name = "receive", .kind = IO_URING, .receive = RECEIVE_MULTISHOT, .sends_directly = true,
     .meaning = "multishot receive, send"},
    {.name = "full", .kind = IO_URING, .receive = RECEIVE_MULTISHOT,
     .meaning = "multishot receive, sends of a tick together, completed only if they fail"},
    {.name = "completed", .kind = IO_URING, .receive = RECEIVE_MULTISHOT, .completes_sends = true,
     .meaning = "as full, every send completed"},
    {.name = "fixed", .kind = IO_URING, .receive = RECEIVE_MULTISHOT, .has_fixed_files = true,
     .meaning = "as full, without descriptors"},
    {.name = "bundles", .kind = IO_URING, .receive = RECEIVE_BUNDLES, .meaning = "as full, several buffers at once"},
    {.name = "incremental", .kind = IO_URING, .receive = RECEIVE_INCREMENTAL,
     .meaning = "as full, large buffers that are filled little by little"},
};

static int listen_on(uint16_t port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0) fail("socket");
    int on = 1;
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) fail("SO_REUSEADDR");
    // Accepted sockets inherit it: one without a descriptor could not be told otherwise so simply.
    if (setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) fail("TCP_NODELAY");
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, length) != 0) fail("bind");
    if (listen(listener, 4096) != 0) fail("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &length) != 0) fail("getsockname");
    printf("listening on %d\n", ntohs(address.sin_port));
    if (fflush(stdout) != 0) fail("standard output");
    return listener;
}

static const struct io *find_kind(const char *name) {
    for (size_t index = 0; index < sizeof kinds / sizeof *kinds; index++) {
        if (strcmp(kinds[index].name, name) == 0) return &kinds[index];
    }
    return NULL;
}

static _Noreturn void misused(void) {
    fprintf(stderr, "usage: FloorUring --io KIND [--port P]\n\nKIND\n");
    for (size_t index = 0; index < sizeof kinds / sizeof *kinds; index++) {
        fprintf(stderr, "  %-12s %s\n", kinds[index].name, kinds[index].meaning);
    }
    exit(2);
}

static uint16_t parse_port(const char *text) {
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || number > UINT16_MAX) misused();
    return (uint16_t)number;
}

int main(int count, char **arguments) {
    const struct io *io = NULL;
    uint16_t port = 0;
    for (int index = 1; index < count; index += 2) {
        if (index + 1 == count) misused();
        if (strcmp(arguments[index], "--io") == 0) io = find_kind(arguments[index + 1]);
        else if (strcmp(arguments[index], "--port") == 0) port = parse_port(arguments[index + 1]);
        else misused();
    }
    if (io == NULL) misused();
    int listener = listen_on(port);
    switch (io->kind) {
    case IO_EPOLL: serve_by_epoll(io, listener);
    case IO_URING: serve_by_uring(io, listener);
    }
}
