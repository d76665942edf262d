#include "dial.h"
#include "fail.h"
#include "link.h"
#include "messages.h"
#include "modes.h"
#include "poller.h"
#include "replies.h"
#include "window.h"

#include <stdio.h>
#include <stdlib.h>

// Publications of a topic repeat after so many, and no two topics have one in common.
enum { MESSAGES_PER_TOPIC = 16, PATH_BYTES_MAX = 32 };

// A publication in flight. Every subscriber gets publications in one order, so they are also complete in order,
// and number n can reuse the place of number n - depth.
struct publication {
    uint64_t sent_at;
    uint32_t undelivered;
};

struct topic {
    struct link publisher;
    struct frames frames[MESSAGES_PER_TOPIC];
    struct expected deliveries;
    struct publication *in_flight;
    uint32_t subscribers;
    uint64_t published;
    uint64_t completed;
};

struct subscriber {
    struct link link;
    struct topic *topic;
    struct reader reader;
};

struct fanout {
    const struct options *options;
    struct topic *topics;
    struct subscriber *subscribers;
    uint64_t in_flight;    // Publications that somebody has yet to receive.
    struct window window;
};

static unsigned char buffer[RECEIVE_BYTES];

static void publish(struct fanout *fanout, struct topic *topic, uint64_t now) {
    struct publication *publication = &topic->in_flight[topic->published % fanout->options->depth];
    *publication = (struct publication){.sent_at = now, .undelivered = topic->subscribers};
    struct frames frame = topic->frames[topic->published % MESSAGES_PER_TOPIC];
    topic->published++;
    fanout->in_flight++;
    // The publishers' sockets block, with a timeout: nothing but publications travels on them.
    for (size_t sent = 0; sent < frame.byte_count;) {
        size_t part = link_send(&topic->publisher, frame.bytes + sent, frame.byte_count - sent);
        if (part == 0) fail("the server took no publication for five seconds");
        sent += part;
    }
}

static void deliver(struct fanout *fanout, struct topic *topic, uint64_t number, uint64_t now) {
    if (number >= topic->published) fail("a subscriber received more than was published");
    struct publication *publication = &topic->in_flight[number % fanout->options->depth];
    window_count(&fanout->window, 1);
    window_latency(&fanout->window, now - publication->sent_at);
    publication->undelivered--;
    if (publication->undelivered > 0) return;
    topic->completed++;
    fanout->in_flight--;
    if (fanout->window.state != WINDOW_CLOSED) publish(fanout, topic, now);
}

static void handle(struct fanout *fanout, struct subscriber *subscriber) {
    size_t received;
    do {
        received = link_receive(&subscriber->link, buffer);
        if (received == 0) return;
        uint64_t first = subscriber->reader.messages;
        uint64_t count = read_replies(&subscriber->reader, &subscriber->topic->deliveries, buffer, received);
        uint64_t now = now_nanoseconds();
        for (uint64_t number = first; number < first + count; number++) {
            deliver(fanout, subscriber->topic, number, now);
        }
    } while (link_may_hold_more(&subscriber->link, received));
}

static void *allocate(size_t count, size_t size) {
    void *block = calloc(count, size);
    if (block == NULL) fail_errno("calloc");
    return block;
}

static struct link dial_topic(const struct options *options, uint16_t port, uint32_t index, const char *end,
                              uint32_t topic) {
    char path[PATH_BYTES_MAX];
    snprintf(path, sizeof path, "/%s/%u", end, topic);
    return dial_websocket(options, port, source_of(index), path);
}

static void open_connections(struct fanout *fanout, int poller) {
    const struct options *options = fanout->options;
    fanout->topics = allocate(options->topics, sizeof *fanout->topics);
    fanout->subscribers = allocate(options->connections, sizeof *fanout->subscribers);
    for (uint32_t index = 0; index < options->connections; index++) {
        struct subscriber *subscriber = &fanout->subscribers[index];
        subscriber->topic = &fanout->topics[index % options->topics];
        subscriber->topic->subscribers++;
        subscriber->link = dial_topic(options, options->port, index, "subscribe", index % options->topics);
        link_make_nonblocking(&subscriber->link);
        watch(poller, subscriber->link.socket, index);
    }
    for (uint32_t number = 0; number < options->topics; number++) {
        struct topic *topic = &fanout->topics[number];
        uint32_t first = number * MESSAGES_PER_TOPIC;
        for (uint32_t index = 0; index < MESSAGES_PER_TOPIC; index++) {
            topic->frames[index] = make_client_frames(options, first + index, 1);
        }
        topic->deliveries = make_expected(options, first, MESSAGES_PER_TOPIC);
        topic->in_flight = allocate(options->depth, sizeof *topic->in_flight);
        topic->publisher = dial_topic(options, options->publish_port, number, "publish", number);
    }
}

void run_fanout(const struct options *options) {
    int poller = make_poller();
    struct fanout fanout = {.options = options};
    open_connections(&fanout, poller);
    window_plan(&fanout.window, options);
    for (uint32_t index = 0; index < options->topics * options->depth; index++) {
        publish(&fanout, &fanout.topics[index % options->topics], now_nanoseconds());
    }

    // After the window every publication in flight must still reach everybody.
    struct epoll_event events[EVENTS_MAX];
    while (window_update(&fanout.window, options) || fanout.in_flight > 0) {
        int count = wait_for_events(poller, events, fanout.in_flight, "publications have not reached everybody");
        for (int index = 0; index < count; index++) {
            handle(&fanout, &fanout.subscribers[events[index].data.u32]);
        }
    }
    for (uint32_t index = 0; index < options->connections; index++) {
        if (link_receive(&fanout.subscribers[index].link, buffer) > 0) {
            fail("a subscriber received more than was published");
        }
    }
    window_print(&fanout.window, options);
}
