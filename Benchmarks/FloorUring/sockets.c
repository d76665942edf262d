#define _GNU_SOURCE
#include "sockets.h"

#include "batch.h"
#include "protocol.h"

#include <errno.h>
#include <sys/socket.h>

// More than that is sent at once: by the end of the tick it would have left the processor's cache.
enum { BATCHED_BYTES_MAX = 4096 };

static unsigned char received_bytes[RECEIVE_BYTES_MAX];
static unsigned char reply[REPLY_BYTES_MAX];

// Bytes that the socket took, or -1 if it is broken.
static ssize_t send_some(uint32_t index, const unsigned char *bytes, size_t count) {
    ssize_t sent = send((int)index, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    return sent;
}

bool socket_send(uint32_t index, const unsigned char *bytes, size_t count) {
    struct bytes *stalled = &connections[index].stalled;
    size_t sent = 0;
    bool has_earlier = connections[index].reply.count > 0;
    if (stalled->count == 0 && batch_is_open() && (count <= BATCHED_BYTES_MAX || has_earlier)) {
        batch_add_copy(index, bytes, count);
        return true;
    }
    if (stalled->count == 0) {
        ssize_t part = send_some(index, bytes, count);
        if (part < 0) return false;
        sent = (size_t)part;
    }
    if (sent == count) return true;
    bytes_append(stalled, bytes + sent, count - sent);
    return stalled->count <= WAITING_BYTES_MAX;
}

bool socket_send_stalled(uint32_t index) {
    struct bytes *stalled = &connections[index].stalled;
    ssize_t sent = send_some(index, stalled->start, stalled->count);
    if (sent < 0) return false;
    struct bytes rest = {0};
    bytes_append(&rest, stalled->start + sent, stalled->count - (size_t)sent);
    bytes_clear(stalled);
    *stalled = rest;
    return true;
}

bool socket_answer(uint32_t index, bool has_ended) {
    ssize_t received;
    do {
        received = recv((int)index, received_bytes, sizeof received_bytes, MSG_DONTWAIT);
        if (received == 0) return false;
        if (received < 0) return errno == EAGAIN || errno == EINTR;
        ssize_t count = connection_receive(index, received_bytes, (size_t)received, reply);
        if (count < 0) return false;
        if (count > 0 && !socket_send(index, reply, (size_t)count)) return false;
    } while (has_ended || received == sizeof received_bytes);
    return true;
}
