#ifndef LOAD_GENERATOR_DIAL_H
#define LOAD_GENERATOR_DIAL_H

#include "link.h"
#include "options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HEAD_BYTES_MAX = 4096, REQUEST_BYTES_MAX = 512 };

/// Writes the request of an opening handshake for `path` and returns its byte count. RFC 6455 §4.1.
size_t write_request(const struct options *options, const char *path, char *request);

/// Whether the head of the response is complete; if so, it has been checked.
///
/// What is not the right answer, or more than it, ends the process. `head` ends with a zero byte.
bool check_response(const struct options *options, const char *path, const char *head, size_t byte_count);

/// Ends the process unless the response's head, which ends with a zero byte, accepts the request.
void check_response_head(const char *path, const char *head);

/// A connection whose opening handshake for `path` is over; it blocks.
struct link dial_websocket(const struct options *options, uint16_t port, unsigned source, const char *path);

/// The source address for connection number `index`: one has 28,000 ports by default, and other programs want some.
unsigned source_of(uint32_t index);

#endif
