#include "dial.h"
#include "fail.h"
#include "link.h"
#include "messages.h"
#include "modes.h"
#include "poller.h"
#include "replies.h"
#include "window.h"

#include <stdlib.h>

// Connections in turn send the messages of one of so many sets, so that a reply on a wrong connection shows. A set has
// two batches, which take turns, so that a reply that comes twice shows.
enum { SETS = 16, BATCHES = 2 };

struct set {
    struct frames batches[BATCHES];
    struct expected replies;
};

struct client {
    struct link link;
    const struct set *set;
    uint32_t batch;    // Which of the set's batches is in flight, or will be next.
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
    const struct frames *batch = &client->set->batches[client->batch];
    const unsigned char *rest = batch->bytes + batch->byte_count - client->unsent;
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
    client->unsent = client->set->batches[client->batch].byte_count;
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
        client->batch = (client->batch + 1) % BATCHES;
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

static void open_clients(struct echo *echo, int poller) {
    const struct options *options = echo->options;
    for (uint32_t index = 0; index < SETS; index++) {
        uint32_t first = index * BATCHES * options->depth;
        struct set *set = &echo->sets[index];
        for (uint32_t batch = 0; batch < BATCHES; batch++) {
            set->batches[batch] = make_client_frames(options, first + batch * options->depth, options->depth);
        }
        set->replies = make_expected(options, first, BATCHES * options->depth);
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
