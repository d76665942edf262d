#include "crowd.h"
#include "fail.h"
#include "modes.h"
#include "poller.h"
#include "window.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Stands in an event for standard input, where others have a member's index.
static const uint32_t orders_index = UINT32_MAX;

enum { ORDER_BYTES_MAX = 256, PROGRESS_MILLISECONDS = 500 };

/// What standard input has said, and what is said on standard output about it.
struct dialogue {
    struct crowd *crowd;
    char order[ORDER_BYTES_MAX];
    size_t order_bytes;
    /// Whether somebody waits for all members to be there.
    bool gathering;
    uint64_t said_at;
};

static void flush(void) {
    if (fflush(stdout) != 0) fail_errno("standard output");
}

static void say_progress(struct dialogue *dialogue, const char *event) {
    printf("{\"event\":\"%s\",\"open\":%u}\n", event, dialogue->crowd->open);
    flush();
    dialogue->said_at = now_nanoseconds();
}

static void say_figures(const struct crowd *crowd) {
    printf("{\"event\":\"figures\",\"open\":%u,\"pings\":%" PRIu64 ",\"cut\":%" PRIu64 ",\"duplicates\":%" PRIu64
           ",\"strays\":%" PRIu64 ",\"arrived\":[",
           crowd->open, crowd->pings, crowd->cut, crowd->duplicates, crowd->strays);
    for (int number = 0; number < PUBLICATIONS_MAX; number++) {
        printf("%s%" PRIu64, number > 0 ? "," : "", crowd->arrivals[number].count);
    }
    printf("]}\n");
    flush();
}

// Pairs of a bucket's upper edge in nanoseconds and its count, of those that are not empty.
static void say_latencies(const struct crowd *crowd, unsigned number) {
    if (number >= PUBLICATIONS_MAX) fail("there is no publication %u", number);
    const struct histogram *histogram = &crowd->arrivals[number].latencies;
    printf("{\"event\":\"latencies\",\"buckets\":[");
    const char *separator = "";
    for (uint32_t index = 0; index < HISTOGRAM_OCTAVES * HISTOGRAM_STEPS; index++) {
        if (histogram->counts[index] == 0) continue;
        printf("%s[%" PRIu64 ",%" PRIu64 "]", separator, histogram_upper_edge(index), histogram->counts[index]);
        separator = ",";
    }
    printf("]}\n");
    flush();
}

static void obey(struct dialogue *dialogue, const char *order) {
    struct crowd *crowd = dialogue->crowd;
    unsigned number;
    if (strcmp(order, "open") == 0) {
        for (uint32_t index = 0; index < crowd->options->connections; index++) {
            crowd->wanted[crowd->wanted_count++] = index;
        }
        dialogue->gathering = true;
    } else if (sscanf(order, "drop %u", &number) == 1 && number <= crowd->options->connections) {
        crowd_drop(crowd, number);
        dialogue->gathering = true;
    } else if (strcmp(order, "figures") == 0) {
        say_figures(crowd);
    } else if (sscanf(order, "latencies %u", &number) == 1) {
        say_latencies(crowd, number);
    } else {
        fail("cannot make sense of '%s'", order);
    }
}

// Reads orders; false at the end of standard input.
static bool read_orders(struct dialogue *dialogue) {
    char *end = dialogue->order + dialogue->order_bytes;
    ssize_t count = read(STDIN_FILENO, end, ORDER_BYTES_MAX - 1 - dialogue->order_bytes);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return true;
    if (count <= 0) return false;
    dialogue->order_bytes += (size_t)count;
    dialogue->order[dialogue->order_bytes] = '\0';
    char *line = dialogue->order, *newline;
    while ((newline = strchr(line, '\n')) != NULL) {
        *newline = '\0';
        obey(dialogue, line);
        line = newline + 1;
    }
    dialogue->order_bytes -= (size_t)(line - dialogue->order);
    if (dialogue->order_bytes == ORDER_BYTES_MAX - 1) fail("an order is too long");
    memmove(dialogue->order, line, dialogue->order_bytes);
    return true;
}

static void report_gathering(struct dialogue *dialogue) {
    struct crowd *crowd = dialogue->crowd;
    if (!dialogue->gathering) return;
    if (crowd->underway == 0 && crowd->wanted_count == 0) {
        dialogue->gathering = false;
        say_progress(dialogue, "gathered");
    } else if (now_nanoseconds() - dialogue->said_at > PROGRESS_MILLISECONDS * 1000000ull) {
        say_progress(dialogue, "gathering");
    }
}

void run_crowd(const struct options *options) {
    struct crowd *crowd = calloc(1, sizeof *crowd);
    struct member *members = calloc(options->connections, sizeof *members);
    uint32_t *wanted = calloc(options->connections, sizeof *wanted);
    if (crowd == NULL || members == NULL || wanted == NULL) fail_errno("calloc");
    *crowd = (struct crowd){.options = options, .poller = make_poller(), .members = members, .wanted = wanted};
    for (uint32_t index = 0; index < options->connections; index++) {
        members[index] = (struct member){.socket = -1, .topic = (options->first + index) % options->topics};
    }
    struct epoll_event orders = {.events = EPOLLIN, .data.u32 = orders_index};
    if (epoll_ctl(crowd->poller, EPOLL_CTL_ADD, STDIN_FILENO, &orders) != 0) fail_errno("standard input");

    struct dialogue dialogue = {.crowd = crowd};
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int count = epoll_wait(crowd->poller, events, EVENTS_MAX, dialogue.gathering ? PROGRESS_MILLISECONDS : -1);
        if (count < 0 && errno != EINTR) fail_errno("epoll_wait");
        for (int index = 0; index < count; index++) {
            if (events[index].data.u32 != orders_index) {
                crowd_serve(crowd, events[index].data.u32, events[index].events);
            } else if (!read_orders(&dialogue)) {
                return;
            }
        }
        crowd_dial(crowd);
        report_gathering(&dialogue);
    }
}
