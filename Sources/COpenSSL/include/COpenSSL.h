// What Starling needs of OpenSSL 3, and nothing else: no OpenSSL header is visible to Swift.
//
// The shim exists for three reasons. About fifty of OpenSSL's calls are macros, which Swift cannot import.
// Its stock socket BIO writes with write(2), which raises SIGPIPE when the peer has gone. And every call has
// to clear and read a thread's error queue, which is safer next to the call than around it.
//
// Conventions: a function that returns bool leaves its reason in the thread's OpenSSL error queue, from which
// starling_tls_take_reason fetches it. Nothing here blocks. Reading and writing allocate nothing beyond the
// record buffers that OpenSSL takes and gives back (SSL_MODE_RELEASE_BUFFERS).

#pragma once

#if defined(__linux__)

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

// The same names that OpenSSL declares, so that both can be seen by one C file.
typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct x509_st X509;
typedef struct x509_store_st X509_STORE;

// Swift sees such an enumeration as one of its own: it can switch over it without a default.
#define STARLING_CLOSED_ENUM(name, type) \
    enum __attribute__((enum_extensibility(closed))) name : type; \
    typedef enum name name; \
    enum name : type

// MARK: - Contexts

STARLING_CLOSED_ENUM(starling_tls_role, uint8_t) {
    starling_tls_role_server,
    starling_tls_role_client,
};

/// How a PEM text was taken.
STARLING_CLOSED_ENUM(starling_tls_pem, uint8_t) {
    starling_tls_pem_loaded,
    /// The text holds no block of the kind that was looked for.
    starling_tls_pem_absent,
    /// A block is there and cannot be decoded, or OpenSSL does not accept what it says.
    starling_tls_pem_invalid,
    /// The private key asks for a passphrase.
    starling_tls_pem_encrypted,
    /// The private key is not the one of the chain's first certificate.
    starling_tls_pem_mismatched,
};

/// Whether the peer must show a certificate.
STARLING_CLOSED_ENUM(starling_tls_verification, uint8_t) {
    starling_tls_verification_none,
    starling_tls_verification_optional,
    starling_tls_verification_required,
};

/// A context with every setting that does not depend on the user's configuration; NULL without memory.
SSL_CTX *_Nullable starling_tls_context_create(starling_tls_role role);
void starling_tls_context_release(SSL_CTX *context);

/// Versions as on the wire: 0x0303 is TLS 1.2, 0x0304 is TLS 1.3.
bool starling_tls_context_set_versions(SSL_CTX *context, uint16_t min, uint16_t max);
/// The cipher list of TLS 1.2, in OpenSSL's notation. The suites of TLS 1.3 stay OpenSSL's own.
bool starling_tls_context_set_ciphers(SSL_CTX *context, const char *list);
/// ALPN names in wire form (each one preceded by its length), in order of preference.
bool starling_tls_context_set_protocols(
    SSL_CTX *context, starling_tls_role role, const uint8_t *names, size_t count);
starling_tls_pem starling_tls_context_set_chain(SSL_CTX *context, const uint8_t *pem, size_t count);
/// To be called after the chain was set, against which the key is checked.
starling_tls_pem starling_tls_context_set_key(SSL_CTX *context, const uint8_t *pem, size_t count);
/// Verifies peers against `store`. A server names the store's certificates to its clients if
/// `announcesAuthorities`.
bool starling_tls_context_set_verification(
    SSL_CTX *context, X509_STORE *store, starling_tls_verification verification, bool announcesAuthorities);
/// A client that asks `context` for `name` (lower case, "*." in front for any one label) is served by
/// `other`, which is retained, or by `context` itself if `other` is NULL. A name that is already taken stays
/// as it is.
bool starling_tls_context_add_name(SSL_CTX *context, const char *name, SSL_CTX *_Nullable other);
/// The first certificate of the context's chain, valid as long as the context; NULL if it has none.
X509 *_Nullable starling_tls_context_certificate(SSL_CTX *context);

X509_STORE *_Nullable starling_tls_store_create(void);
void starling_tls_store_release(X509_STORE *store);
/// Trusts what the operating system trusts.
bool starling_tls_store_add_system(X509_STORE *store);
starling_tls_pem starling_tls_store_add_pem(X509_STORE *store, const uint8_t *pem, size_t count);

// MARK: - Sessions

/// How a call on a session ended.
STARLING_CLOSED_ENUM(starling_tls_outcome, uint8_t) {
    starling_tls_outcome_done,
    starling_tls_outcome_wants_read,
    starling_tls_outcome_wants_write,
    /// The peer sent close_notify: what it wanted to say is complete.
    starling_tls_outcome_closed,
    /// The connection ended without close_notify: something may be missing.
    starling_tls_outcome_truncated,
    starling_tls_outcome_failed,
};

STARLING_CLOSED_ENUM(starling_tls_failure, uint8_t) {
    starling_tls_failure_none,
    starling_tls_failure_plaintext,
    starling_tls_failure_not_tls,
    starling_tls_failure_version,
    starling_tls_failure_no_common_cipher,
    starling_tls_failure_no_application_protocol,
    starling_tls_failure_certificate_missing,
    /// `detail` is X509_V_ERR_….
    starling_tls_failure_certificate_rejected,
    /// `detail` is the alert's number.
    starling_tls_failure_peer_alert,
    /// `detail` is errno.
    starling_tls_failure_connection_lost,
    starling_tls_failure_protocol,
    starling_tls_failure_shut_down,
    starling_tls_failure_internal,
};

/// Sixteen bytes, so that it comes back in two registers.
typedef struct {
    starling_tls_outcome outcome;
    starling_tls_failure failure;
    int32_t detail;
    /// Bytes read or written if done, OpenSSL's packed error if failed.
    uint64_t value;
} starling_tls_result;

/// A session over a connected socket, which stays the caller's to close. `name` is what a client asks for by
/// SNI and, if `checksName`, what the server's certificate must be for; it may be an IP address.
SSL *_Nullable starling_tls_session_create(
    SSL_CTX *context, starling_tls_role role, int descriptor, const char *_Nullable name, bool checksName);
void starling_tls_session_free(SSL *session);
starling_tls_result starling_tls_handshake(SSL *session);
starling_tls_result starling_tls_read(SSL *session, void *bytes, size_t count);
starling_tls_result starling_tls_write(SSL *session, const void *bytes, size_t count);
starling_tls_result starling_tls_shutdown(SSL *session);

/// Memory that records are written to. What does not fit is as what a full socket does not take: wants_write.
typedef struct {
    uint8_t *bytes;
    size_t capacity;
    size_t count;
} starling_tls_sink;

/// Makes the calling thread's sessions write to `sink`, or to their sockets again if it is NULL.
void starling_tls_redirect(starling_tls_sink *_Nullable sink);

/// Decrypted bytes that wait to be read.
size_t starling_tls_pending(const SSL *session);
/// Whether bytes received from the socket wait in the session, decrypted or not, a part of a record included.
bool starling_tls_has_buffered_input(const SSL *session);

/// The protocol chosen by ALPN; `*count` is 0 if none.
const uint8_t *_Nullable starling_tls_protocol(const SSL *session, size_t *count);
uint16_t starling_tls_version(const SSL *session);
const char *_Nullable starling_tls_server_name(const SSL *session);
const char *_Nullable starling_tls_cipher(const SSL *session);
bool starling_tls_was_resumed(const SSL *session);
/// The peer's certificate, retained for the caller; NULL if it showed none.
X509 *_Nullable starling_tls_peer_certificate(const SSL *session);

// MARK: - Certificates

STARLING_CLOSED_ENUM(starling_tls_field, uint8_t) {
    starling_tls_field_subject,
    starling_tls_field_common_name,
    starling_tls_field_dns_name,
    starling_tls_field_address,
    starling_tls_field_uri,
    starling_tls_field_email,
    starling_tls_field_sha256,
    starling_tls_field_der,
};

typedef void (*starling_tls_visitor)(
    void *argument, starling_tls_field field, const uint8_t *_Nullable bytes, size_t count);

/// Shows every field of a certificate to `visit`, the repeated ones once each. Texts are UTF-8 without a NUL
/// at the end, and may contain any byte: a certificate's names are whatever its issuer wrote.
bool starling_tls_certificate_describe(X509 *certificate, void *argument, starling_tls_visitor visit);
/// Validity in seconds since 1970.
bool starling_tls_certificate_validity(X509 *certificate, int64_t *notBefore, int64_t *notAfter);
void starling_tls_certificate_release(X509 *certificate);

// MARK: - Reasons

/// Writes why the thread's last call failed, and clears its error queue. Empty if OpenSSL gave no reason.
void starling_tls_take_reason(char *text, size_t capacity);
/// OpenSSL's words for a packed error, for an alert and for a verification error: static texts.
const char *_Nullable starling_tls_error_text(uint64_t error);
const char *starling_tls_alert_text(int32_t alert);
const char *starling_tls_verification_text(int32_t error);

#pragma clang assume_nonnull end

#endif
