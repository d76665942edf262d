#include "tls.h"

#include "fail.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <string.h>

// What the next connection resumes: the newest ticket that a server has sent.
static SSL_SESSION *ticket;

static _Noreturn void fail_tls(const char *what, const SSL *tls, int result) {
    int reason = SSL_get_error(tls, result);
    unsigned long error = ERR_get_error();
    if (error != 0) fail("%s: %s", what, ERR_reason_error_string(error));
    if (reason == SSL_ERROR_SYSCALL && errno != 0) fail_errno(what);
    fail("%s: the server hung up", what);
}

static int keep_ticket(SSL *tls, SSL_SESSION *session) {
    (void)tls;
    SSL_SESSION_free(ticket);
    // A copy: a server that hangs up without a farewell spoils the connection's own.
    ticket = SSL_SESSION_dup(session);
    return 0;
}

static SSL_CTX *make_context(const struct options *options) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") || !SSL_CTX_set1_groups_list(context, "X25519")) {
        fail("OpenSSL does not start");
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    if (options->security == SECURITY_TLS_RESUMED) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, keep_ticket);
    }
    // OpenSSL writes with write(2).
    signal(SIGPIPE, SIG_IGN);
    return context;
}

SSL *tls_start(const struct options *options, int socket) {
    static SSL_CTX *context;
    if (context == NULL) context = make_context(options);
    SSL *tls = SSL_new(context);
    if (tls == NULL || !SSL_set_fd(tls, socket)) fail("OpenSSL makes no connection");
    if (ticket != NULL) {
        // A copy of its own: OpenSSL marks a session as used up when a newer ticket arrives on its connection.
        SSL_SESSION *session = SSL_SESSION_dup(ticket);
        if (session == NULL || !SSL_set_session(tls, session)) fail("OpenSSL takes no ticket");
        SSL_SESSION_free(session);
    }
    SSL_set_connect_state(tls);
    return tls;
}

// Whether the call is to be made again when the socket is ready.
static bool has_to_wait(SSL *tls, int result) {
    int reason = SSL_get_error(tls, result);
    return reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE;
}

bool tls_shake_hands(SSL *tls) {
    // The queue belongs to the thread: an error of another connection must not pass for this one's.
    ERR_clear_error();
    bool is_resuming = ticket != NULL;
    int result = SSL_do_handshake(tls);
    if (result != 1) {
        if (has_to_wait(tls, result)) return false;
        fail_tls("TLS handshake", tls, result);
    }
    if (is_resuming && !SSL_session_reused(tls)) fail("the server does not resume TLS sessions");
    return true;
}

size_t tls_receive(SSL *tls, unsigned char *buffer, size_t count, bool *has_ended) {
    ERR_clear_error();
    errno = 0;
    int received = SSL_read(tls, buffer, (int)count);
    if (received > 0) return (size_t)received;
    if (has_to_wait(tls, received)) return 0;
    int reason = SSL_get_error(tls, received);
    // A server may leave out its farewell, or reset a connection that it has closed.
    *has_ended = reason == SSL_ERROR_ZERO_RETURN || (reason == SSL_ERROR_SYSCALL && (errno == 0 || errno == ECONNRESET)) ||
                 ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
    if (*has_ended) return 0;
    fail_tls("receiving with TLS", tls, received);
}

size_t tls_send(SSL *tls, const unsigned char *bytes, size_t count) {
    ERR_clear_error();
    int sent = SSL_write(tls, bytes, (int)count);
    if (sent > 0) return (size_t)sent;
    if (has_to_wait(tls, sent)) return 0;
    fail_tls("sending with TLS", tls, sent);
}

bool tls_has_ticket(void) {
    return ticket != NULL;
}

void tls_free(SSL *tls) {
    ERR_clear_error();
    SSL_shutdown(tls);
    SSL_free(tls);
}
