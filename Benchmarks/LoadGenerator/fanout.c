#include "dial.h"
#include "fail.h"
#include "frames.h"
#include "modes.h"
#include "poller.h"
#include "window.h"

#include <stdlib.h>
#include <string.h>

struct subscriber {
    int socket;
    uint64_t received;    // Bytes since the start.
};

// A publication in flight. Every subscriber gets publications in one order, so they are also complete in order,
// and number n can reuse the place of number n - depth.
struct publication {
    uint64_t sent_at;
    uint32_t undelivered;
};

struct fanout {
    const struct options *options;
    const unsigned char *frame;
    size_t frame_bytes;
    struct reply_stream deliveries;
    int *publishers;
    struct subscriber *subscribers;
    struct publication *in_flight;
    uint64_t published;
    uint64_t completed;
    struct window window;
};

static unsigned char buffer[RECEIVE_BYTES];

static void publish(struct fanout *fanout, uint64_t now) {
    struct publication *publication = &fanout->in_flight[fanout->published % fanout->options->depth];
    *publication = (struct publication){.sent_at = now, .undelivered = fanout->options->connections};
    int publisher = fanout->publishers[fanout->published % fanout->options->publishers];
    fanout->published++;
    // The publishers' sockets block, with a timeout: nothing but publications travels on them.
    for (size_t sent = 0; sent < fanout->frame_bytes;) {
        size_t part = send_some(publisher, fanout->frame + sent, fanout->frame_bytes - sent);
        if (part == 0) fail("the server took no publication for five seconds");
        sent += part;
    }
}

static void deliver(struct fanout *fanout, uint64_t number, uint64_t now) {
    struct publication *publication = &fanout->in_flight[number % fanout->options->depth];
    window_count(&fanout->window, 1);
    window_latency(&fanout->window, now - publication->sent_at);
    publication->undelivered--;
    if (publication->undelivered > 0) return;
    fanout->completed++;
    if (fanout->window.state != WINDOW_CLOSED) publish(fanout, now);
}

static void handle(struct fanout *fanout, struct subscriber *subscriber) {
    size_t received;
    do {
        received = receive(subscriber->socket, buffer);
        if (received == 0) return;
        check_reply(&fanout->deliveries, subscriber->received, buffer, received);
        uint64_t first = subscriber->received / fanout->deliveries.frame_bytes;
        subscriber->received += received;
        uint64_t end = subscriber->received / fanout->deliveries.frame_bytes;
        if (subscriber->received > fanout->published * fanout->deliveries.frame_bytes) {
            fail("a subscriber received more than was published");
        }
        uint64_t now = now_nanoseconds();
        for (uint64_t number = first; number < end; number++) {
            deliver(fanout, number, now);
        }
    } while (received == RECEIVE_BYTES);
}

static void *allocate(size_t count, size_t size) {
    void *block = calloc(count, size);
    if (block == NULL) fail_errno("calloc");
    return block;
}

static void open_connections(struct fanout *fanout, int poller) {
    const struct options *options = fanout->options;
    fanout->subscribers = allocate(options->connections, sizeof *fanout->subscribers);
    for (uint32_t index = 0; index < options->connections; index++) {
        int socket = dial_websocket(options->port, 1, "/subscribe");
        fanout->subscribers[index].socket = socket;
        make_nonblocking(socket);
        watch(poller, socket, index);
    }
    fanout->publishers = allocate(options->publishers, sizeof *fanout->publishers);
    for (uint32_t index = 0; index < options->publishers; index++) {
        fanout->publishers[index] = dial_websocket(options->port, 1, "/publish");
    }
}

void run_fanout(const struct options *options) {
    int poller = make_poller();
    struct fanout fanout = {
        .options = options,
        .frame = make_client_frames(options->payload, 1, 0),
        .frame_bytes = client_frame_bytes(options->payload),
        .deliveries = make_reply_stream(options->payload, RECEIVE_BYTES),
        .in_flight = allocate(options->depth, sizeof *fanout.in_flight),
    };
    open_connections(&fanout, poller);
    window_plan(&fanout.window, options);
    for (uint32_t count = 0; count < options->depth; count++) {
        publish(&fanout, now_nanoseconds());
    }

    // After the window every publication in flight must still reach everybody.
    struct epoll_event events[EVENTS_MAX];
    while (window_update(&fanout.window, options) || fanout.completed < fanout.published) {
        int count = wait_for_events(poller, events);
        for (int index = 0; index < count; index++) {
            handle(&fanout, &fanout.subscribers[events[index].data.u32]);
        }
    }
    window_print(&fanout.window, options);
}
