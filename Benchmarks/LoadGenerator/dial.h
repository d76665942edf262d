#ifndef LOAD_GENERATOR_DIAL_H
#define LOAD_GENERATOR_DIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Connects to 127.0.0.1 from 127.0.0.`source` with TCP_NODELAY; returns a blocking socket.
///
/// Several sources give more than one range of client ports. Whatever takes longer than five seconds, here or
/// later on the socket, ends the process.
int dial(uint16_t port, unsigned source);

/// `dial`, then a WebSocket opening handshake for `path` whose answer is checked. RFC 6455 §4.1.
int dial_websocket(uint16_t port, unsigned source, const char *path);

/// Begins to connect to 127.0.0.1 from 127.0.0.`source` and does not wait; `connected` says whether it is done already.
int dial_nonblocking(uint16_t port, unsigned source, bool *connected);

/// Writes the request of an opening handshake and returns its byte count.
size_t write_request(char *target, size_t room, uint16_t port, const char *path);

/// Ends the process unless the response's head, which ends with a zero, accepts that request.
void check_response_head(const char *head, const char *path);

/// Makes the socket non-blocking.
void make_nonblocking(int socket);

#endif
