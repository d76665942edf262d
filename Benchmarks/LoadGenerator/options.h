#ifndef LOAD_GENERATOR_OPTIONS_H
#define LOAD_GENERATOR_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum mode { MODE_ECHO, MODE_RAW, MODE_FANOUT, MODE_IDLE, MODE_CHURN, MODE_CROWD };

/// What the messages hold.
enum content { CONTENT_BYTES, CONTENT_JSON };

/// What lies between the frames and TCP.
enum security {
    SECURITY_NONE,
    SECURITY_TLS,
    /// Each connection after the first resumes a session by its ticket. Churn mode only.
    SECURITY_TLS_RESUMED,
};

enum { SERVER_PIDS_MAX = 4 };

/// What the command line asked for.
struct options {
    enum mode mode;
    uint16_t port;
    /// Where publishers connect: another node than the subscribers', or the same.
    uint16_t publish_port;
    /// Connections that echo, subscribe, idle, or come and go.
    uint32_t connections;
    /// Messages in flight on each connection; in fan-out mode publications in flight in each topic.
    uint32_t depth;
    size_t payload;
    enum content content;
    enum security security;
    /// Whether permessage-deflate is asked for, without context takeover, and must be used for every message.
    bool deflate;
    /// Topics, to which the subscribers are dealt out in turn; each has a publisher in fan-out mode. Crowd mode too.
    uint32_t topics;
    /// Messages echoed on each connection before it idles. Idle mode only.
    uint32_t messages;
    /// The first of the connections' two addresses is 127.0.0.`source`. Crowd mode only.
    uint32_t source;
    /// The number of the first connection, which says which topic is whose. Crowd mode only.
    uint32_t first;
    uint64_t warmup_nanoseconds;
    uint64_t measured_nanoseconds;
    /// The processes whose CPU time is measured, as one sum.
    pid_t server_pids[SERVER_PIDS_MAX];
    uint32_t server_pid_count;
};

/// Reads the command line; on a mistake prints the usage and ends the process with status 2.
struct options parse_options(int count, char **arguments);

/// The mode's name, as on the command line.
const char *mode_name(enum mode mode);

#endif
