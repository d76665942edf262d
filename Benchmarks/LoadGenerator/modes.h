#ifndef LOAD_GENERATOR_MODES_H
#define LOAD_GENERATOR_MODES_H

#include "options.h"

/// Echo, and with `MODE_RAW` the same bytes without WebSocket: each connection sends `depth` messages at once,
/// waits for all the replies, and starts again. A latency is that of a whole batch.
void run_echo(const struct options *options);

/// Fan-out: keeps `depth` publications in flight in each topic; a message is one delivery to one subscriber, and its
/// latency is counted from the publication.
void run_fanout(const struct options *options);

/// Idle: opens connections, prints the line, and holds them until standard input ends.
void run_idle(const struct options *options);

/// Churn: opens a connection, closes it with a closing handshake, waits until the server hangs up, and opens the
/// next, `connections` at a time. A message is such a visit, and its latency the whole of it.
void run_churn(const struct options *options);

/// Crowd: opens connections, holds them, drops some, and counts what arrives, as the lines of standard input say, until it
/// ends: `open`, `drop COUNT`, `figures`, `latencies PUBLICATION`. Answers are lines of JSON.
void run_crowd(const struct options *options);

#endif
