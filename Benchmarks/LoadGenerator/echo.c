#include "dial.h"
#include "fail.h"
#include "link.h"
#include "messages.h"
#include "modes.h"
#include "poller.h"
#include "replies.h"
#include "window.h"

#include <stdlib.h>

// Connections in turn send the messages of one of so many sets, so that a reply on a wrong connection shows.
enum { SETS = 16, MESSAGES_PER_SET = 16 };

struct set {
    struct frames batch;
    struct expected replies;
};

struct client {
    struct link link;
    const struct set *set;
    size_t unsent;
    uint64_t unanswered;    // Replies still to come for the batch.
    struct reader reader;
    uint64_t sent_at;
};

struct echo {
    const struct options *options;
    struct set sets[SETS];
    struct client *clients;
    uint32_t busy;    // Clients with a batch in flight.
    struct window window;
};

static unsigned char buffer[RECEIVE_BYTES];

static void push(struct client *client) {
    const unsigned char *rest = client->set->batch.bytes + client->set->batch.byte_count - client->unsent;
    client->unsent -= link_send(&client->link, rest, client->unsent);
}

// Sends until the socket takes no more: with TLS a call takes one record's worth.
static void push_all(struct client *client) {
    size_t before;
    do {
        before = client->unsent;
        push(client);
    } while (client->unsent > 0 && client->unsent < before && client->link.tls != NULL);
}

static void start_batch(struct echo *echo, struct client *client, uint64_t now) {
    client->unsent = client->set->batch.byte_count;
    client->unanswered = echo->options->depth;
    client->sent_at = now;
    push_all(client);
}

static void finish_batch(struct echo *echo, struct client *client) {
    if (is_within_message(&client->reader, &client->set->replies)) fail("the server sent more than it was asked for");
    uint64_t now = now_nanoseconds();
    window_count(&echo->window, echo->options->depth);
    window_latency(&echo->window, now - client->sent_at);
    if (echo->window.state == WINDOW_CLOSED) {
        echo->busy--;
    } else {
        start_batch(echo, client, now);
    }
}

static void handle(struct echo *echo, struct client *client) {
    if (client->unsent > 0) push_all(client);
    size_t received;
    do {
        received = link_receive(&client->link, buffer);
        uint64_t answered = read_replies(&client->reader, &client->set->replies, buffer, received);
        if (answered > client->unanswered) fail("the server sent more than it was asked for");
        client->unanswered -= answered;
        // Once a batch is answered nothing more can come, so the edge need not be read to its end.
        if (answered > 0 && client->unanswered == 0) {
            finish_batch(echo, client);
            return;
        }
    } while (link_may_hold_more(&client->link, received));
}

// A batch repeats after `depth` messages, and what comes back with it.
static uint32_t cycle_of(uint32_t depth) {
    uint32_t cycle = MESSAGES_PER_SET;
    while (depth % cycle != 0) cycle /= 2;
    return cycle;
}

// Sends a batch of the first messages of the set, over and over.
static struct frames repeat(struct frames frames, uint32_t times) {
    if (times == 1) return frames;
    unsigned char *bytes = malloc(frames.byte_count * times);
    if (bytes == NULL) fail_errno("malloc");
    for (size_t index = 0; index < frames.byte_count * times; index++) {
        bytes[index] = frames.bytes[index % frames.byte_count];
    }
    return (struct frames){.bytes = bytes, .byte_count = frames.byte_count * times};
}

static void open_clients(struct echo *echo, int poller) {
    const struct options *options = echo->options;
    uint32_t cycle = cycle_of(options->depth);
    for (uint32_t index = 0; index < SETS; index++) {
        uint32_t first = index * MESSAGES_PER_SET;
        echo->sets[index] = (struct set){
            .batch = repeat(make_client_frames(options, first, cycle), options->depth / cycle),
            .replies = make_expected(options, first, cycle),
        };
    }
    echo->clients = calloc(options->connections, sizeof *echo->clients);
    if (echo->clients == NULL) fail_errno("calloc");
    for (uint32_t index = 0; index < options->connections; index++) {
        struct client *client = &echo->clients[index];
        client->link = options->mode == MODE_RAW
                           ? link_open(options, options->port, 1)
                           : dial_websocket(options, options->port, source_of(index), "/echo");
        client->set = &echo->sets[index % SETS];
        link_make_nonblocking(&client->link);
        watch(poller, client->link.socket, index);
    }
}

// Whatever is there after the last reply was not asked for.
static void check_silence(struct echo *echo) {
    for (uint32_t index = 0; index < echo->options->connections; index++) {
        if (link_receive(&echo->clients[index].link, buffer) > 0) fail("the server sent more than it was asked for");
    }
}

void run_echo(const struct options *options) {
    int poller = make_poller();
    struct echo echo = {.options = options, .busy = options->connections};
    open_clients(&echo, poller);
    window_plan(&echo.window, options);
    for (uint32_t index = 0; index < options->connections; index++) {
        start_batch(&echo, &echo.clients[index], now_nanoseconds());
    }

    // After the window every batch in flight must still be answered: a lost reply is an error, not a pause.
    struct epoll_event events[EVENTS_MAX];
    while (window_update(&echo.window, options) || echo.busy > 0) {
        int count = wait_for_events(poller, events, echo.busy, "connections wait for replies");
        for (int index = 0; index < count; index++) {
            handle(&echo, &echo.clients[events[index].data.u32]);
        }
    }
    check_silence(&echo);
    window_print(&echo.window, options);
}
