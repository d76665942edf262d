// The floor: what an echo costs before it speaks any protocol.
//
// One thread, level-triggered epoll, TCP_NODELAY. It receives the bytes that a WebSocket client would send and
// sends as many bytes as a WebSocket server would answer with, and looks at none of them: no handshake, no
// frames, no masking. Each wakeup of a connection is one recv and one send, and all whole messages in the buffer
// are answered at once. A server with a protocol can come close to this figure, and cannot honestly pass it.
//
//     BenchmarkFloor --payload N [--port P]
//
// Port 0, the default, lets the kernel choose; the choice is printed as `listening on PORT`. It serves
// 127.0.0.1 until it is terminated.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 512,
    RECEIVE_BYTES = 256 * 1024,
    DESCRIPTORS_MAX = 1 << 16,
    PAYLOAD_BYTES_MAX = RECEIVE_BYTES / 2,
};

struct connection {
    size_t received;    // Bytes of a message that is not complete yet.
    size_t unsent;      // Bytes owed to the client that its socket did not take.
    bool waits_to_send;
};

static struct connection connections[DESCRIPTORS_MAX];
static unsigned char buffer[RECEIVE_BYTES];

static _Noreturn void fail(const char *what) {
    perror(what);
    exit(1);
}

// RFC 6455 §5.2: two bytes, then 0, 2 or 8 of length. A client's frame also carries four bytes of key.
static size_t server_frame_bytes(size_t payload) {
    return payload + (payload <= 125 ? 2 : payload <= 65535 ? 4 : 10);
}

static size_t client_frame_bytes(size_t payload) {
    return server_frame_bytes(payload) + 4;
}

static void watch(int poller, int operation, int socket, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = socket};
    if (epoll_ctl(poller, operation, socket, &event) != 0) fail("epoll_ctl");
}

static int listen_on(uint16_t port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0) fail("socket");
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
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
    fflush(stdout);
    return listener;
}

static void accept_all(int poller, int listener) {
    for (;;) {
        int socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket < 0) {
            if (errno == EAGAIN) return;
            if (errno == ECONNABORTED || errno == EINTR) continue;
            fail("accept4");
        }
        if (socket >= DESCRIPTORS_MAX) {
            close(socket);
            continue;
        }
        int on = 1;
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connections[socket] = (struct connection){0};
        watch(poller, EPOLL_CTL_ADD, socket, EPOLLIN);
    }
}

// Sends what is owed, and asks to hear of room in the socket only while something is left. False: it is gone.
static bool send_owed(int poller, int socket, struct connection *connection) {
    while (connection->unsent > 0) {
        size_t part = connection->unsent < RECEIVE_BYTES ? connection->unsent : RECEIVE_BYTES;
        ssize_t sent = send(socket, buffer, part, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return false;
            break;
        }
        connection->unsent -= (size_t)sent;
    }
    bool waits = connection->unsent > 0;
    if (waits != connection->waits_to_send) {
        connection->waits_to_send = waits;
        watch(poller, EPOLL_CTL_MOD, socket, waits ? EPOLLOUT : EPOLLIN);
    }
    return true;
}

// One recv, one send. False: the connection is gone.
static bool answer(int poller, int socket, size_t message_bytes, size_t reply_bytes) {
    struct connection *connection = &connections[socket];
    if (!connection->waits_to_send) {
        ssize_t received = recv(socket, buffer, sizeof buffer, 0);
        if (received <= 0) return received < 0 && errno == EAGAIN;
        connection->received += (size_t)received;
        connection->unsent = connection->received / message_bytes * reply_bytes;
        connection->received %= message_bytes;
    }
    return send_owed(poller, socket, connection);
}

static void serve(int listener, size_t payload) {
    size_t message_bytes = client_frame_bytes(payload);
    size_t reply_bytes = server_frame_bytes(payload);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0) fail("epoll_create1");
    watch(poller, EPOLL_CTL_ADD, listener, EPOLLIN);

    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR) fail("epoll_wait");
        for (int index = 0; index < count; index++) {
            int socket = events[index].data.fd;
            if (socket == listener) {
                accept_all(poller, listener);
            } else if (!answer(poller, socket, message_bytes, reply_bytes)) {
                close(socket);
            }
        }
    }
}

// The whole of `text` as a number up to `max`, or false.
static bool parse_number(const char *text, unsigned long max, unsigned long *number) {
    char *end;
    errno = 0;
    *number = strtoul(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *text != '-' && *number <= max;
}

int main(int count, char **arguments) {
    unsigned long port = 0, payload = 0;
    bool understood = count % 2 == 1;
    for (int index = 1; understood && index + 1 < count; index += 2) {
        if (strcmp(arguments[index], "--port") == 0) {
            understood = parse_number(arguments[index + 1], UINT16_MAX, &port);
        } else if (strcmp(arguments[index], "--payload") == 0) {
            understood = parse_number(arguments[index + 1], PAYLOAD_BYTES_MAX, &payload);
        } else {
            understood = false;
        }
    }
    if (!understood || payload == 0) {
        fprintf(stderr, "usage: BenchmarkFloor --payload N [--port P], N from 1 to %d\n", PAYLOAD_BYTES_MAX);
        return 2;
    }
    serve(listen_on((uint16_t)port), payload);
}
