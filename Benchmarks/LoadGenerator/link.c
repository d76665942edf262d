#define _GNU_SOURCE
#include "link.h"

#include "fail.h"
#include "tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { TIMEOUT_SECONDS = 5 };

struct sockaddr_in link_address(unsigned last_byte, uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl((INADDR_LOOPBACK & 0xffffff00u) | last_byte),
    };
}

int link_socket(int flags, unsigned source) {
    int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (socket_ < 0) fail_errno("socket");
    int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // The port is chosen by connect, when the other end is known; otherwise one source could dial only once per
    // ephemeral port, whatever the destination.
    setsockopt(socket_, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in from = link_address(source, 0);
    if (bind(socket_, (struct sockaddr *)&from, sizeof from) != 0) fail_errno("bind");
    return socket_;
}

struct link link_open(const struct options *options, uint16_t port, unsigned source) {
    int socket_ = link_socket(0, source);
    struct timeval timeout = {.tv_sec = TIMEOUT_SECONDS};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    struct sockaddr_in to = link_address(1, port);
    if (connect(socket_, (struct sockaddr *)&to, sizeof to) != 0) fail_errno("connect");
    struct link link = {.socket = socket_};
    if (options->security != SECURITY_NONE) link.tls = tls_start(options, socket_);
    return link;
}

bool link_shake_hands(struct link *link) {
    return link->tls == NULL || tls_shake_hands(link->tls);
}

void link_make_nonblocking(struct link *link) {
    int flags = fcntl(link->socket, F_GETFL);
    if (flags < 0 || fcntl(link->socket, F_SETFL, flags | O_NONBLOCK) != 0) fail_errno("fcntl");
}

size_t link_receive(struct link *link, unsigned char *buffer) {
    bool has_ended = false;
    if (link->tls != NULL) {
        size_t received = tls_receive(link->tls, buffer, RECEIVE_BYTES, &has_ended);
        if (has_ended) fail("the server closed a connection");
        return received;
    }
    ssize_t received = recv(link->socket, buffer, RECEIVE_BYTES, 0);
    if (received > 0) return (size_t)received;
    if (received == 0) fail("the server closed a connection");
    if (errno == EAGAIN || errno == EINTR) return 0;
    fail_errno("recv");
}

bool link_may_hold_more(const struct link *link, size_t received) {
    return link->tls != NULL ? received > 0 : received == RECEIVE_BYTES;
}

bool link_has_ended(struct link *link) {
    unsigned char byte;
    bool has_ended = false;
    if (link->tls != NULL) {
        if (tls_receive(link->tls, &byte, 1, &has_ended) > 0) fail("the server sent something after its close frame");
        return has_ended;
    }
    ssize_t received = recv(link->socket, &byte, 1, MSG_DONTWAIT);
    if (received > 0) fail("the server sent something after its close frame");
    if (received < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNRESET) fail_errno("recv");
    return received == 0 || errno == ECONNRESET;
}

size_t link_send(struct link *link, const unsigned char *bytes, size_t count) {
    if (link->tls != NULL) return tls_send(link->tls, bytes, count);
    ssize_t sent = send(link->socket, bytes, count, MSG_NOSIGNAL);
    if (sent >= 0) return (size_t)sent;
    if (errno == EAGAIN || errno == EINTR) return 0;
    fail_errno("send");
}

void link_close(struct link *link) {
    if (link->tls != NULL) tls_free(link->tls);
    close(link->socket);
    *link = (struct link){.socket = -1};
}
