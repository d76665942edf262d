#include "dial.h"
#include "fail.h"
#include "link.h"
#include "messages.h"
#include "modes.h"
#include "replies.h"
#include "window.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned char buffer[RECEIVE_BYTES];

// One message there and back on a blocking socket.
static void exchange(struct link *link, struct frames frame, const struct expected *replies) {
    for (size_t sent = 0; sent < frame.byte_count;) {
        size_t part = link_send(link, frame.bytes + sent, frame.byte_count - sent);
        if (part == 0) fail("the server took no message for five seconds");
        sent += part;
    }
    struct reader reader = {0};
    while (reader.messages == 0) {
        size_t part = link_receive(link, buffer);
        if (part == 0) fail("the server has not answered for five seconds");
        read_replies(&reader, replies, buffer, part);
    }
    if (reader.messages > 1 || is_within_message(&reader, replies)) fail("the server sent more than it was asked for");
    free(reader.part);
}

static void hold_until_told(void) {
    ssize_t count;
    do {
        count = read(STDIN_FILENO, buffer, sizeof buffer);
    } while (count > 0 || (count < 0 && errno == EINTR));
}

// A connection that the server cut cost no memory, and would make the figure too good.
static void check_open(struct link *links, uint32_t count) {
    uint32_t cut = 0;
    for (uint32_t index = 0; index < count; index++) {
        link_make_nonblocking(&links[index]);
        cut += link_has_ended(&links[index]);
    }
    if (cut > 0) fail("the server cut %u of %u idle connections", cut, count);
}

void run_idle(const struct options *options) {
    struct frames frame = make_client_frames(options, 0, 1);
    struct expected replies = make_expected(options, 0, 1);
    struct link *links = calloc(options->connections, sizeof *links);
    if (links == NULL) fail_errno("calloc");

    struct window window = {0};
    uint64_t started_at = now_nanoseconds();
    for (uint32_t index = 0; index < options->connections; index++) {
        links[index] = dial_websocket(options, options->port, source_of(index), "/idle");
        for (uint32_t message = 0; message < options->messages; message++) {
            exchange(&links[index], frame, &replies);
        }
    }
    window.messages = (uint64_t)options->connections * options->messages;
    window.wall_nanoseconds = now_nanoseconds() - started_at;
    window_print(&window, options);

    hold_until_told();
    check_open(links, options->connections);
}
