#define _GNU_SOURCE
#include "crowd_dial.h"

#include "fail.h"
#include "link.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

int dial_nonblocking(uint16_t port, unsigned source, bool *connected) {
    int socket_ = link_socket(SOCK_NONBLOCK, source);
    struct sockaddr_in to = link_address(1, port);
    *connected = connect(socket_, (struct sockaddr *)&to, sizeof to) == 0;
    if (!*connected && errno != EINPROGRESS) fail_errno("connect");
    return socket_;
}
