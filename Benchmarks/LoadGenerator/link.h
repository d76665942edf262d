#ifndef LOAD_GENERATOR_LINK_H
#define LOAD_GENERATOR_LINK_H

#include "options.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Bytes that one call of `link_receive` takes at most.
enum { RECEIVE_BYTES = 256 * 1024 };

/// A connection to the server, encrypted or not.
struct link {
    int socket;
    struct ssl_st *tls;
};

/// 127.0.0.`last_byte`.
struct sockaddr_in link_address(unsigned last_byte, uint16_t port);

/// A socket with TCP_NODELAY that comes from 127.0.0.`source`; `flags` as of `socket`.
int link_socket(int flags, unsigned source);

/// Connects to 127.0.0.1 from 127.0.0.`source` with TCP_NODELAY, and has TLS ready to shake hands.
///
/// Several sources give more than one range of client ports. The socket blocks; whatever takes longer than five
/// seconds then, here or later, ends the process.
struct link link_open(const struct options *options, uint16_t port, unsigned source);

/// Goes on with the handshake of TLS. Returns whether there is nothing left of it; a blocking socket sees to that at
/// once.
bool link_shake_hands(struct link *link);

/// From now on nothing blocks.
void link_make_nonblocking(struct link *link);

/// Receives once. Returns 0 if nothing has arrived; an end or an error of the connection ends the process.
size_t link_receive(struct link *link, unsigned char *buffer);

/// Whether a call that received `received` bytes may have left some. A socket has been drained unless it filled the
/// buffer, which saves a call; TLS hands out records one by one.
bool link_may_hold_more(const struct link *link, size_t received);

/// Whether the server has ended the connection; nothing but the end may arrive.
bool link_has_ended(struct link *link);

/// Sends what the socket takes, and returns the byte count; an error ends the process.
size_t link_send(struct link *link, const unsigned char *bytes, size_t count);

/// Lets go of the connection.
void link_close(struct link *link);

#endif
