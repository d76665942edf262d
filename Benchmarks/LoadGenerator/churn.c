#include "dial.h"
#include "fail.h"
#include "link.h"
#include "modes.h"
#include "poller.h"
#include "tls.h"
#include "window.h"

#include <stdlib.h>
#include <string.h>

static const char path[] = "/echo";
// A masked close frame with code 1000: RFC 6455 §5.5.1, with a key of 0.
static const unsigned char close_frame[] = {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8};

// One connection, from its first byte to its end.
struct visit {
    struct link link;
    enum { VISIT_SHAKING_HANDS, VISIT_UPGRADING, VISIT_CLOSING, VISIT_ENDING } state;
    uint64_t started_at;
    size_t received;    // Bytes of the head, or of the close frame.
    char answer[HEAD_BYTES_MAX + 1];
};

struct churn {
    const struct options *options;
    int poller;
    struct visit *visits;
    uint32_t busy;
    uint32_t started;
    char request[REQUEST_BYTES_MAX];
    size_t request_bytes;
    struct window window;
};

static unsigned char buffer[RECEIVE_BYTES];

// What is sent here is small, and the first on its connection in a while: the socket takes it whole.
static void send_whole(struct visit *visit, const void *bytes, size_t count) {
    if (link_send(&visit->link, bytes, count) != count) fail("the socket of a new connection takes nothing");
    visit->received = 0;
}

static void start(struct churn *churn, struct visit *visit) {
    *visit = (struct visit){
        .state = VISIT_SHAKING_HANDS,
        .started_at = now_nanoseconds(),
        .link = link_open(churn->options, churn->options->port, source_of(churn->started++)),
    };
    link_make_nonblocking(&visit->link);
    // The socket is writable, so the poller has an event for it at once.
    watch(churn->poller, visit->link.socket, (uint32_t)(visit - churn->visits));
}

static void receive_answer(struct visit *visit) {
    size_t received = link_receive(&visit->link, buffer);
    if (received > HEAD_BYTES_MAX - visit->received) fail("the server answers with more than %d bytes", HEAD_BYTES_MAX);
    memcpy(visit->answer + visit->received, buffer, received);
    visit->received += received;
    visit->answer[visit->received] = '\0';
}

// Whether the close frame is there, whole, with the code that it answers. RFC 6455 §5.5.1.
static bool check_close_reply(const struct visit *visit) {
    const unsigned char *reply = (const unsigned char *)visit->answer;
    if (visit->received > 0 && reply[0] != 0x88) fail("a close frame was answered with 0x%02x", reply[0]);
    if (visit->received < 2 || visit->received < 2u + reply[1]) return false;
    if (reply[1] > 125 || visit->received > 2u + reply[1]) fail("the server sent more than a close frame");
    if (reply[1] >= 2 && (reply[2] != 0x03 || reply[3] != 0xe8)) {
        fail("a close frame with code 1000 was answered with %d", reply[2] << 8 | reply[3]);
    }
    return true;
}

static void finish(struct churn *churn, struct visit *visit) {
    link_close(&visit->link);
    window_count(&churn->window, 1);
    window_latency(&churn->window, now_nanoseconds() - visit->started_at);
    if (churn->window.state == WINDOW_CLOSED) {
        churn->busy--;
    } else {
        start(churn, visit);
    }
}

// Takes the next step, if what it waits for has happened; returns whether it has.
static bool advance(struct churn *churn, struct visit *visit) {
    switch (visit->state) {
    case VISIT_SHAKING_HANDS:
        if (!link_shake_hands(&visit->link)) return false;
        send_whole(visit, churn->request, churn->request_bytes);
        visit->state = VISIT_UPGRADING;
        return true;
    case VISIT_UPGRADING:
        receive_answer(visit);
        if (!check_response(churn->options, path, visit->answer, visit->received)) return false;
        send_whole(visit, close_frame, sizeof close_frame);
        visit->state = VISIT_CLOSING;
        return true;
    case VISIT_CLOSING:
        receive_answer(visit);
        if (!check_close_reply(visit)) return false;
        visit->state = VISIT_ENDING;
        return true;
    case VISIT_ENDING:
        // RFC 6455 §7.1.1: the server hangs up first, so that it is the one who has to remember the connection.
        if (!link_has_ended(&visit->link)) return false;
        finish(churn, visit);
        return false;
    }
    return false;
}

// The ticket comes with the answer, and is what the first connections that count resume.
static void take_first_ticket(const struct options *options) {
    struct link link = dial_websocket(options, options->port, 1, path);
    link_close(&link);
    if (!tls_has_ticket()) fail("the server gives no TLS session ticket");
}

void run_churn(const struct options *options) {
    struct churn churn = {
        .options = options,
        .poller = make_poller(),
        .visits = calloc(options->connections, sizeof *churn.visits),
        .busy = options->connections,
    };
    if (churn.visits == NULL) fail_errno("calloc");
    churn.request_bytes = write_request(options, path, churn.request);
    if (options->security == SECURITY_TLS_RESUMED) take_first_ticket(options);
    window_plan(&churn.window, options);
    for (uint32_t index = 0; index < options->connections; index++) {
        start(&churn, &churn.visits[index]);
    }

    struct epoll_event events[EVENTS_MAX];
    while (window_update(&churn.window, options) || churn.busy > 0) {
        int count = wait_for_events(churn.poller, events, churn.busy, "connections have not come to their end");
        for (int index = 0; index < count; index++) {
            struct visit *visit = &churn.visits[events[index].data.u32];
            if (visit->link.socket < 0) continue;
            while (advance(&churn, visit)) continue;
        }
    }
    window_print(&churn.window, options);
}
