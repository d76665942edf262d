#include "dial.h"
#include "fail.h"
#include "frames.h"
#include "modes.h"
#include "poller.h"
#include "window.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

// One source address has 28,000 ports by default, and other programs want some of them.
enum { SOURCES = 8 };

static unsigned char buffer[RECEIVE_BYTES];

// One message there and back on a blocking socket.
static void exchange(const struct options *options, int socket, const unsigned char *frame,
                     const struct reply_stream *replies) {
    size_t unsent = client_frame_bytes(options->payload);
    while (unsent > 0) {
        size_t sent = send_some(socket, frame + client_frame_bytes(options->payload) - unsent, unsent);
        if (sent == 0) fail("the server took no message for five seconds");
        unsent -= sent;
    }
    size_t received = 0;
    while (received < replies->frame_bytes) {
        size_t part = receive(socket, buffer);
        if (part == 0) fail("the server has not answered for five seconds");
        if (part > replies->frame_bytes - received) fail("the server sent more than it was asked for");
        check_reply(replies, received, buffer, part);
        received += part;
    }
}

static void hold_until_told(void) {
    ssize_t count;
    do {
        count = read(STDIN_FILENO, buffer, sizeof buffer);
    } while (count > 0 || (count < 0 && errno == EINTR));
}

// A connection that the server cut cost no memory, and would make the figure too good.
static void check_open(const int *sockets, uint32_t count) {
    uint32_t cut = 0;
    for (uint32_t index = 0; index < count; index++) {
        unsigned char byte;
        ssize_t received = recv(sockets[index], &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        cut += received == 0 || (received < 0 && errno != EAGAIN);
    }
    if (cut > 0) fail("the server cut %u of %u idle connections", cut, count);
}

void run_idle(const struct options *options) {
    const unsigned char *frame = make_client_frames(options->payload, 1, 0);
    struct reply_stream replies = make_reply_stream(options->payload, RECEIVE_BYTES);
    int *sockets = calloc(options->connections, sizeof *sockets);
    if (sockets == NULL) fail_errno("calloc");

    struct window window = {0};
    uint64_t started_at = now_nanoseconds();
    for (uint32_t index = 0; index < options->connections; index++) {
        sockets[index] = dial_websocket(options->port, 1 + index % SOURCES, "/idle");
        for (uint32_t message = 0; message < options->messages; message++) {
            exchange(options, sockets[index], frame, &replies);
        }
    }
    window.messages = (uint64_t)options->connections * options->messages;
    window.wall_nanoseconds = now_nanoseconds() - started_at;
    window_print(&window, options);

    hold_until_told();
    check_open(sockets, options->connections);
}
