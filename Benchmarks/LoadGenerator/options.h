#ifndef LOAD_GENERATOR_OPTIONS_H
#define LOAD_GENERATOR_OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum mode { MODE_ECHO, MODE_RAW, MODE_FANOUT, MODE_IDLE, MODE_CROWD };

/// What the command line asked for.
struct options {
    enum mode mode;
    uint16_t port;
    /// Connections that echo, subscribe or idle.
    uint32_t connections;
    /// Messages in flight on each connection; in fan-out mode publications in flight in all.
    uint32_t depth;
    size_t payload;
    /// Connections that publish, in turn. Fan-out mode only.
    uint32_t publishers;
    /// Messages echoed on each connection before it idles. Idle mode only.
    uint32_t messages;
    /// The first of the connections' two addresses is 127.0.0.`source`. Crowd mode only.
    uint32_t source;
    /// How many topics there are, and the number of the first connection, which says which one is whose. Crowd mode only.
    uint32_t topics;
    uint32_t first;
    uint64_t warmup_nanoseconds;
    uint64_t measured_nanoseconds;
    /// The process whose CPU time is measured, or 0.
    pid_t server_pid;
};

/// Reads the command line; on a mistake prints the usage and ends the process with status 2.
struct options parse_options(int count, char **arguments);

/// The mode's name, as on the command line.
const char *mode_name(enum mode mode);

#endif
