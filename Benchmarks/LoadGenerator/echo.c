#include "dial.h"
#include "fail.h"
#include "frames.h"
#include "modes.h"
#include "poller.h"
#include "window.h"

#include <stdlib.h>

enum { KEYS = 16 };

struct client {
    int socket;
    const unsigned char *batch;
    size_t unsent;
    size_t unanswered;    // Bytes of replies still to come for the batch.
    uint64_t received;    // Bytes of replies since the start.
    uint64_t sent_at;
};

struct echo {
    const struct options *options;
    size_t batch_bytes;
    size_t reply_bytes;    // Of a whole batch.
    struct reply_stream replies;
    struct client *clients;
    uint32_t busy;    // Clients with a batch in flight.
    struct window window;
};

static unsigned char buffer[RECEIVE_BYTES];

static void push(struct echo *echo, struct client *client) {
    const unsigned char *rest = client->batch + echo->batch_bytes - client->unsent;
    client->unsent -= send_some(client->socket, rest, client->unsent);
}

static void start_batch(struct echo *echo, struct client *client, uint64_t now) {
    client->unsent = echo->batch_bytes;
    client->unanswered = echo->reply_bytes;
    client->sent_at = now;
    push(echo, client);
}

static void finish_batch(struct echo *echo, struct client *client) {
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
    if (client->unsent > 0) push(echo, client);
    size_t received;
    do {
        received = receive(client->socket, buffer);
        if (echo->options->mode == MODE_ECHO) check_reply(&echo->replies, client->received, buffer, received);
        if (received > client->unanswered) fail("the server sent more than it was asked for");
        client->received += received;
        client->unanswered -= received;
        // Once a batch is answered nothing more can come, so the edge need not be read to its end.
        if (received > 0 && client->unanswered == 0) {
            finish_batch(echo, client);
            return;
        }
    } while (received == RECEIVE_BYTES);
}

static struct client *open_clients(const struct options *options, int poller) {
    const unsigned char *batches[KEYS];
    for (uint32_t index = 0; index < KEYS; index++) {
        batches[index] = make_client_frames(options->payload, options->depth, index);
    }
    struct client *clients = calloc(options->connections, sizeof *clients);
    if (clients == NULL) fail_errno("calloc");
    for (uint32_t index = 0; index < options->connections; index++) {
        struct client *client = &clients[index];
        client->socket =
            options->mode == MODE_RAW ? dial(options->port, 1) : dial_websocket(options->port, 1, "/echo");
        client->batch = batches[index % KEYS];
        make_nonblocking(client->socket);
        watch(poller, client->socket, index);
    }
    return clients;
}

void run_echo(const struct options *options) {
    int poller = make_poller();
    struct echo echo = {
        .options = options,
        .batch_bytes = client_frame_bytes(options->payload) * options->depth,
        .reply_bytes = server_frame_bytes(options->payload) * options->depth,
        .replies = make_reply_stream(options->payload, RECEIVE_BYTES),
        .clients = open_clients(options, poller),
        .busy = options->connections,
    };
    window_plan(&echo.window, options);
    for (uint32_t index = 0; index < options->connections; index++) {
        start_batch(&echo, &echo.clients[index], now_nanoseconds());
    }

    // After the window every batch in flight must still be answered: a lost reply is an error, not a pause.
    struct epoll_event events[EVENTS_MAX];
    while (window_update(&echo.window, options) || echo.busy > 0) {
        int count = wait_for_events(poller, events);
        for (int index = 0; index < count; index++) {
            handle(&echo, &echo.clients[events[index].data.u32]);
        }
    }
    window_print(&echo.window, options);
}
