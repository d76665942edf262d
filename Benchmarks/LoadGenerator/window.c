#define _GNU_SOURCE
#include "window.h"

#include "fail.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

static uint64_t read_clock(clockid_t clock) {
    struct timespec time;
    if (clock_gettime(clock, &time) != 0) fail_errno("clock_gettime");
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint64_t now_nanoseconds(void) {
    return read_clock(CLOCK_MONOTONIC);
}

// User and system time of all threads of the servers: what /proc/PID/stat counts in hundredths of a second, as
// nanoseconds.
static uint64_t server_nanoseconds(const struct options *options) {
    uint64_t sum = 0;
    for (uint32_t index = 0; index < options->server_pid_count; index++) {
        clockid_t clock;
        errno = clock_getcpuclockid(options->server_pids[index], &clock);
        if (errno != 0) fail_errno("the server's CPU clock");
        sum += read_clock(clock);
    }
    return sum;
}

void window_plan(struct window *window, const struct options *options) {
    *window = (struct window){.state = WINDOW_AHEAD};
    window->opens_at = now_nanoseconds() + options->warmup_nanoseconds;
    window->closes_at = window->opens_at + options->measured_nanoseconds;
}

bool window_update(struct window *window, const struct options *options) {
    uint64_t now = now_nanoseconds();
    switch (window->state) {
    case WINDOW_AHEAD:
        if (now >= window->opens_at) {
            window->state = WINDOW_OPEN;
            window->wall_nanoseconds = now;
            window->server_nanoseconds = server_nanoseconds(options);
            window->generator_nanoseconds = read_clock(CLOCK_PROCESS_CPUTIME_ID);
        }
        return true;
    case WINDOW_OPEN:
        if (now >= window->closes_at) {
            window->state = WINDOW_CLOSED;
            window->wall_nanoseconds = now - window->wall_nanoseconds;
            window->server_nanoseconds = server_nanoseconds(options) - window->server_nanoseconds;
            window->generator_nanoseconds =
                read_clock(CLOCK_PROCESS_CPUTIME_ID) - window->generator_nanoseconds;
        }
        return window->state == WINDOW_OPEN;
    case WINDOW_CLOSED:
        return false;
    }
}

void window_print(const struct window *window, const struct options *options) {
    printf("{\"mode\":\"%s\",\"connections\":%u,\"depth\":%u,\"payload\":%zu,\"messages\":%" PRIu64
           ",\"wallNanoseconds\":%" PRIu64 ",\"serverNanoseconds\":%" PRIu64 ",\"generatorNanoseconds\":%" PRIu64
           ",\"p50Nanoseconds\":%" PRIu64 ",\"p99Nanoseconds\":%" PRIu64 "}\n",
           mode_name(options->mode), options->connections, options->depth, options->payload, window->messages,
           window->wall_nanoseconds, window->server_nanoseconds, window->generator_nanoseconds,
           histogram_quantile(&window->latencies, 0.5), histogram_quantile(&window->latencies, 0.99));
    if (fflush(stdout) != 0) fail_errno("standard output");
}
