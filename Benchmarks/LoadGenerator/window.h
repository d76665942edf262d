#ifndef LOAD_GENERATOR_WINDOW_H
#define LOAD_GENERATOR_WINDOW_H

#include "histogram.h"
#include "options.h"

#include <stdbool.h>
#include <stdint.h>

/// The stretch of time that is measured: it opens after the warm-up and closes when its seconds are over.
///
/// The server's CPU time is read at the same two moments at which messages begin and cease to count, by the same
/// thread, so that the two belong together however busy the machine is.
struct window {
    enum { WINDOW_AHEAD, WINDOW_OPEN, WINDOW_CLOSED } state;
    uint64_t opens_at;
    uint64_t closes_at;
    uint64_t messages;
    uint64_t wall_nanoseconds;
    uint64_t server_nanoseconds;
    uint64_t generator_nanoseconds;
    struct histogram latencies;
};

/// Nanoseconds of the monotonic clock.
uint64_t now_nanoseconds(void);

/// Plans the window from now on.
void window_plan(struct window *window, const struct options *options);

/// Opens or closes the window when it is time; returns false once it is closed. Call it once per wakeup.
bool window_update(struct window *window, const struct options *options);

/// Counts messages, if the window is open.
static inline void window_count(struct window *window, uint64_t messages) {
    if (window->state == WINDOW_OPEN) window->messages += messages;
}

/// Counts one latency, if the window is open.
static inline void window_latency(struct window *window, uint64_t nanoseconds) {
    if (window->state == WINDOW_OPEN) histogram_record(&window->latencies, nanoseconds);
}

/// Prints the one line of JSON that is the generator's result. CPU time of the servers is 0 if no process was named.
void window_print(const struct window *window, const struct options *options);

#endif
