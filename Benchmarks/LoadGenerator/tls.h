#ifndef LOAD_GENERATOR_TLS_H
#define LOAD_GENERATOR_TLS_H

#include "options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ssl_st;

/// A client's TLS 1.3 on a connected socket, before the handshake.
///
/// One cipher suite and one group are offered, AES-128-GCM and X25519, so that every server does the same
/// arithmetic. The certificate is not checked: that would cost the generator, not the server.
struct ssl_st *tls_start(const struct options *options, int socket);

/// Goes on with the handshake; returns whether it is over.
bool tls_shake_hands(struct ssl_st *tls);

/// Receives; 0 if nothing has arrived, or if `has_ended` is set.
size_t tls_receive(struct ssl_st *tls, unsigned char *buffer, size_t count, bool *has_ended);

/// Sends; 0 if the socket takes nothing now. The same bytes must be offered again then.
size_t tls_send(struct ssl_st *tls, const unsigned char *bytes, size_t count);

/// Whether a server has sent a ticket, which connections resume from then on.
bool tls_has_ticket(void);

/// Lets go of it, with a farewell if there is room for one.
void tls_free(struct ssl_st *tls);

#endif
