#define _GNU_SOURCE
#include "dial.h"

#include "fail.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { HEAD_BYTES_MAX = 4096, TIMEOUT_SECONDS = 5 };

// The key and the accept value of the example in RFC 6455 §1.3: a known pair saves the generator a SHA-1.
static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char accept_value[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static struct sockaddr_in loopback(unsigned last_byte, uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl((INADDR_LOOPBACK & 0xffffff00u) | last_byte),
    };
}

// A socket that comes from 127.0.0.`source`.
static int bound_socket(int flags, unsigned source) {
    int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (socket_ < 0) fail_errno("socket");
    int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // The port is chosen by connect, when the other end is known; otherwise one source could dial only once per
    // ephemeral port, whatever the destination.
    setsockopt(socket_, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in from = loopback(source, 0);
    if (bind(socket_, (struct sockaddr *)&from, sizeof from) != 0) fail_errno("bind");
    return socket_;
}

int dial(uint16_t port, unsigned source) {
    int socket_ = bound_socket(0, source);
    struct timeval timeout = {.tv_sec = TIMEOUT_SECONDS};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    struct sockaddr_in to = loopback(1, port);
    if (connect(socket_, (struct sockaddr *)&to, sizeof to) != 0) fail_errno("connect");
    return socket_;
}

int dial_nonblocking(uint16_t port, unsigned source, bool *connected) {
    int socket = bound_socket(SOCK_NONBLOCK, source);
    struct sockaddr_in to = loopback(1, port);
    *connected = connect(socket, (struct sockaddr *)&to, sizeof to) == 0;
    if (!*connected && errno != EINPROGRESS) fail_errno("connect");
    return socket;
}

size_t write_request(char *target, size_t room, uint16_t port, const char *path) {
    int byte_count = snprintf(target, room,
                              "GET %s HTTP/1.1\r\n"
                              "Host: 127.0.0.1:%d\r\n"
                              "Upgrade: websocket\r\n"
                              "Connection: Upgrade\r\n"
                              "Sec-WebSocket-Key: %s\r\n"
                              "Sec-WebSocket-Version: 13\r\n\r\n",
                              path, port, key);
    if (byte_count < 0 || (size_t)byte_count >= room) fail("the path %s is too long", path);
    return (size_t)byte_count;
}

void check_response_head(const char *head, const char *path) {
    if (strncmp(head, "HTTP/1.1 101", 12) != 0) {
        fail("%s was answered with '%.*s'", path, (int)strcspn(head, "\r\n"), head);
    }
    if (strstr(head, accept_value) == NULL) fail("%s: the server's Sec-WebSocket-Accept is wrong", path);
}

int dial_websocket(uint16_t port, unsigned source, const char *path) {
    int socket = dial(port, source);
    char request[512];
    size_t request_bytes = write_request(request, sizeof request, port, path);
    if (send(socket, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes) fail_errno("send");

    char head[HEAD_BYTES_MAX + 1];
    size_t received = 0;
    char *end = NULL;
    while (end == NULL) {
        if (received == HEAD_BYTES_MAX) fail("%s: the response head is over %d bytes", path, HEAD_BYTES_MAX);
        ssize_t part = recv(socket, head + received, HEAD_BYTES_MAX - received, 0);
        if (part < 0) fail_errno("waiting for the response head");
        if (part == 0) fail("%s: the server hung up during the handshake", path);
        received += (size_t)part;
        head[received] = '\0';
        end = strstr(head, "\r\n\r\n");
    }
    check_response_head(head, path);
    if (end + 4 != head + received) fail("%s: the server sent something before it was asked", path);
    return socket;
}

void make_nonblocking(int socket) {
    int flags = fcntl(socket, F_GETFL);
    if (flags < 0 || fcntl(socket, F_SETFL, flags | O_NONBLOCK) != 0) fail_errno("fcntl");
}
