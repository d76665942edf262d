#if defined(__linux__)

// For memmem.
#define _GNU_SOURCE

#include "COpenSSL.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#if OPENSSL_VERSION_NUMBER < 0x30000000L
#error "Starling needs OpenSSL 3.0 or later"
#endif

// MARK: - The socket BIO

// Everything the BIO knows fits into its data pointer, so that a session costs no allocation of ours.
struct socket_state {
    int32_t descriptor;
    // The errno of the last failed call. errno itself may be overwritten before OpenSSL returns.
    uint16_t error;
    // The first byte ever received tells a TLS peer from one that speaks plain text.
    uint8_t first_byte;
    uint8_t flags;
};

enum { socket_has_first_byte = 1, socket_ended = 2, socket_close_notify_sent = 4 };

_Static_assert(sizeof(struct socket_state) == sizeof(void *), "the state is stored in the BIO's data pointer");

static struct socket_state load_state(BIO *bio) {
    void *data = BIO_get_data(bio);
    struct socket_state state;
    memcpy(&state, &data, sizeof state);
    return state;
}

static void store_state(BIO *bio, struct socket_state state) {
    void *data;
    memcpy(&data, &state, sizeof data);
    BIO_set_data(bio, data);
}

static int socket_read(BIO *bio, char *bytes, int count) {
    struct socket_state state = load_state(bio);
    BIO_clear_retry_flags(bio);
    ssize_t received;
    do {
        // MSG_DONTWAIT: an event loop must not hang even on a descriptor that somebody left blocking.
        received = recv(state.descriptor, bytes, (size_t)count, MSG_DONTWAIT);
    } while (received < 0 && errno == EINTR);

    if (received > 0) {
        if (!(state.flags & socket_has_first_byte)) {
            state.first_byte = (uint8_t)bytes[0];
            state.flags |= socket_has_first_byte;
            store_state(bio, state);
        }
        return (int)received;
    }
    if (received == 0) {
        state.flags |= socket_ended;
        store_state(bio, state);
        return 0;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        BIO_set_retry_read(bio);
    } else {
        state.error = (uint16_t)errno;
        store_state(bio, state);
    }
    return -1;
}

// Where this thread's sessions write instead of to their sockets.
static _Thread_local starling_tls_sink *current_sink;

void starling_tls_redirect(starling_tls_sink *sink) { current_sink = sink; }

static int sink_write(BIO *bio, const char *bytes, int count) {
    starling_tls_sink *sink = current_sink;
    if (sink->capacity - sink->count < (size_t)count) {
        BIO_set_retry_write(bio);
        return -1;
    }
    memcpy(sink->bytes + sink->count, bytes, (size_t)count);
    sink->count += (size_t)count;
    return count;
}

static int socket_write(BIO *bio, const char *bytes, int count) {
    struct socket_state state = load_state(bio);
    BIO_clear_retry_flags(bio);
    if (current_sink) return sink_write(bio, bytes, count);
    ssize_t sent;
    do {
        sent = send(state.descriptor, bytes, (size_t)count, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);

    if (sent >= 0) return (int)sent;
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        BIO_set_retry_write(bio);
    } else {
        state.error = (uint16_t)errno;
        store_state(bio, state);
    }
    return -1;
}

static long socket_control(BIO *bio, int command, long number, void *pointer) {
    (void)number;
    struct socket_state state = load_state(bio);
    switch (command) {
    case BIO_CTRL_FLUSH:
    case BIO_CTRL_DUP:
        return 1;
    case BIO_CTRL_EOF:
        // OpenSSL tells a truncated connection from a system error by this.
        return (state.flags & socket_ended) != 0;
    case BIO_C_GET_FD:
        if (pointer) *(int *)pointer = state.descriptor;
        return state.descriptor;
    default:
        return 0;
    }
}

static int socket_create(BIO *bio) {
    BIO_set_init(bio, 1);
    BIO_set_shutdown(bio, BIO_NOCLOSE);
    return 1;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static BIO_METHOD *socket_method;
static int names_index = -1;

static void free_names(void *parent, void *pointer, CRYPTO_EX_DATA *data, int index, long number, void *argument);

static void initialize(void) {
    names_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_names);
    int type = BIO_get_new_index();
    if (type == -1) return;
    BIO_METHOD *method =
        BIO_meth_new(type | BIO_TYPE_SOURCE_SINK | BIO_TYPE_DESCRIPTOR, "Starling's non-blocking socket");
    if (!method) return;
    BIO_meth_set_read(method, socket_read);
    BIO_meth_set_write(method, socket_write);
    BIO_meth_set_ctrl(method, socket_control);
    BIO_meth_set_create(method, socket_create);
    socket_method = method;
}

// MARK: - Contexts

SSL_CTX *starling_tls_context_create(starling_tls_role role) {
    ERR_clear_error();
    pthread_once(&once, initialize);
    if (!socket_method || names_index < 0) return NULL;
    SSL_CTX *context = SSL_CTX_new(role == starling_tls_role_server ? TLS_server_method() : TLS_client_method());
    if (!context) return NULL;

    // RELEASE_BUFFERS: an idle connection holds no record buffers (about 34 kB).
    // PARTIAL_WRITE: a write returns after the record that filled the socket.
    // MOVING_WRITE_BUFFER: an outbound buffer may be reallocated between two tries.
    SSL_CTX_set_mode(
        context,
        SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
            SSL_MODE_AUTO_RETRY);
    // NO_RENEGOTIATION: a client could make a server of TLS 1.2 do handshakes for the price of a packet.
    // NO_COMPRESSION: CRIME. SERVER_PREFERENCE with PRIORITIZE_CHACHA: our order, except for clients without
    // AES instructions.
    SSL_CTX_set_options(
        context,
        SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
            SSL_OP_PRIORITIZE_CHACHA);
    // One recv takes as many records as fit, instead of two for each (its header, its body).
    SSL_CTX_set_read_ahead(context, 1);
    // Resumption is by tickets alone: the client keeps the state, so that it costs the server no memory. One
    // ticket per handshake, for a client opens one connection at a time.
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    static const unsigned char name[] = "starling";
    if (role == starling_tls_role_server &&
        (!SSL_CTX_set_num_tickets(context, 1) ||
         // Without it a server that asks for client certificates refuses every resumption.
         !SSL_CTX_set_session_id_context(context, name, sizeof name - 1))) {
        SSL_CTX_free(context);
        return NULL;
    }
    return context;
}

void starling_tls_context_release(SSL_CTX *context) { SSL_CTX_free(context); }

bool starling_tls_context_set_versions(SSL_CTX *context, uint16_t min, uint16_t max) {
    ERR_clear_error();
    return SSL_CTX_set_min_proto_version(context, min) && SSL_CTX_set_max_proto_version(context, max);
}

bool starling_tls_context_set_ciphers(SSL_CTX *context, const char *list) {
    ERR_clear_error();
    return SSL_CTX_set_cipher_list(context, list);
}

X509 *starling_tls_context_certificate(SSL_CTX *context) { return SSL_CTX_get0_certificate(context); }

// MARK: - ALPN

// What the callbacks of a server's context look up: its names for SNI, sorted, and its protocols. It hangs on
// the context as ex data and lives exactly as long, for sessions may hold a context that a reload has
// replaced.
struct names {
    size_t count, capacity;
    struct name {
        char *text;
        SSL_CTX *context;
    } *entries;
    size_t protocols_count;
    uint8_t *protocols;
};

static struct names *get_names(SSL_CTX *context) {
    struct names *names = SSL_CTX_get_ex_data(context, names_index);
    if (names) return names;
    names = OPENSSL_zalloc(sizeof *names);
    if (names && !SSL_CTX_set_ex_data(context, names_index, names)) {
        OPENSSL_free(names);
        return NULL;
    }
    return names;
}

static void free_names(void *parent, void *pointer, CRYPTO_EX_DATA *data, int index, long number, void *argument) {
    (void)parent, (void)data, (void)index, (void)number, (void)argument;
    struct names *names = pointer;
    if (!names) return;
    for (size_t i = 0; i < names->count; i++) {
        OPENSSL_free(names->entries[i].text);
        SSL_CTX_free(names->entries[i].context);
    }
    OPENSSL_free(names->entries);
    OPENSSL_free(names->protocols);
    OPENSSL_free(names);
}

static int select_protocol(
    SSL *session, const unsigned char **chosen, unsigned char *chosen_count, const unsigned char *offered,
    unsigned int offered_count, void *argument) {
    (void)session;
    const struct names *names = argument;
    int result = SSL_select_next_proto(
        (unsigned char **)chosen, chosen_count, names->protocols, (unsigned int)names->protocols_count, offered,
        offered_count);
    // RFC 7301 §3.2: without a common protocol the server sends a fatal no_application_protocol alert.
    return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

bool starling_tls_context_set_protocols(
    SSL_CTX *context, starling_tls_role role, const uint8_t *bytes, size_t count) {
    ERR_clear_error();
    if (role == starling_tls_role_client) {
        return SSL_CTX_set_alpn_protos(context, bytes, (unsigned int)count) == 0;  // 0 is success here
    }
    struct names *names = get_names(context);
    uint8_t *copy = OPENSSL_memdup(bytes, count);
    if (!names || !copy) {
        OPENSSL_free(copy);
        return false;
    }
    OPENSSL_free(names->protocols);
    names->protocols = copy;
    names->protocols_count = count;
    SSL_CTX_set_alpn_select_cb(context, select_protocol, names);
    return true;
}

// MARK: - SNI

// Where `text` is, or where it would have to be inserted.
static size_t find_name(const struct names *names, const char *text, bool *found) {
    size_t low = 0, high = names->count;
    *found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcasecmp(text, names->entries[middle].text);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0) high = middle; else low = middle + 1;
    }
    return low;
}

static int select_context(SSL *session, int *alert, void *argument) {
    (void)alert;
    const struct names *names = argument;
    const char *asked = SSL_get_servername(session, TLSEXT_NAMETYPE_host_name);
    if (!asked) return SSL_TLSEXT_ERR_NOACK;

    bool found;
    size_t place = find_name(names, asked, &found);
    const char *rest = strchr(asked, '.');
    char wildcard[258];  // A host name has at most 255 bytes: TLSEXT_MAXLEN_host_name.
    if (!found && rest && rest != asked && strlen(rest) < sizeof wildcard - 1) {
        wildcard[0] = '*';
        strcpy(wildcard + 1, rest);
        place = find_name(names, wildcard, &found);
    }
    // RFC 6066 §3 lets a server go on with its default certificate; the client then decides.
    if (!found) return SSL_TLSEXT_ERR_NOACK;
    SSL_CTX *chosen = names->entries[place].context;
    if (chosen && !SSL_set_SSL_CTX(session, chosen)) return SSL_TLSEXT_ERR_ALERT_FATAL;
    return SSL_TLSEXT_ERR_OK;
}

bool starling_tls_context_add_name(SSL_CTX *context, const char *text, SSL_CTX *other) {
    ERR_clear_error();
    struct names *names = get_names(context);
    if (!names) return false;
    bool found;
    size_t place = find_name(names, text, &found);
    if (found) return true;
    if (names->count == names->capacity) {
        size_t capacity = names->capacity ? names->capacity * 2 : 8;
        void *entries = OPENSSL_realloc(names->entries, capacity * sizeof *names->entries);
        if (!entries) return false;
        names->entries = entries;
        names->capacity = capacity;
    }
    char *copy = OPENSSL_strdup(text);
    if (!copy) return false;
    memmove(
        names->entries + place + 1, names->entries + place, (names->count - place) * sizeof *names->entries);
    if (other) SSL_CTX_up_ref(other);
    names->entries[place] = (struct name){copy, other};
    names->count++;
    SSL_CTX_set_tlsext_servername_callback(context, select_context);
    SSL_CTX_set_tlsext_servername_arg(context, names);
    return true;
}

// MARK: - PEM

// Without a callback of ours OpenSSL would ask for the passphrase at the terminal.
static int refuse_passphrase(char *buffer, int capacity, int writing, void *asked) {
    (void)buffer, (void)capacity, (void)writing;
    *(bool *)asked = true;
    return -1;
}

static bool ran_out_of_pem(void) {
    unsigned long error = ERR_peek_last_error();
    return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}

static BIO *open_pem(const uint8_t *pem, size_t count) {
    ERR_clear_error();
    return count <= INT32_MAX ? BIO_new_mem_buf(pem, (int)count) : NULL;
}

starling_tls_pem starling_tls_context_set_chain(SSL_CTX *context, const uint8_t *pem, size_t count) {
    BIO *source = open_pem(pem, count);
    if (!source) return starling_tls_pem_invalid;
    starling_tls_pem result = starling_tls_pem_loaded;
    bool asked = false;
    X509 *leaf = PEM_read_bio_X509_AUX(source, NULL, refuse_passphrase, &asked);
    if (!leaf) {
        result = ran_out_of_pem() ? starling_tls_pem_absent : starling_tls_pem_invalid;
    } else if (!SSL_CTX_use_certificate(context, leaf) || !SSL_CTX_clear_chain_certs(context)) {
        result = starling_tls_pem_invalid;
    } else {
        X509 *issuer;
        while ((issuer = PEM_read_bio_X509(source, NULL, refuse_passphrase, &asked))) {
            if (!SSL_CTX_add0_chain_cert(context, issuer)) {
                X509_free(issuer);
                result = starling_tls_pem_invalid;
                break;
            }
        }
        if (!issuer && !ran_out_of_pem()) result = starling_tls_pem_invalid;
    }
    X509_free(leaf);
    BIO_free(source);
    if (result == starling_tls_pem_loaded) ERR_clear_error();
    return result;
}

starling_tls_pem starling_tls_context_set_key(SSL_CTX *context, const uint8_t *pem, size_t count) {
    BIO *source = open_pem(pem, count);
    if (!source) return starling_tls_pem_invalid;
    starling_tls_pem result = starling_tls_pem_loaded;
    bool asked = false;
    EVP_PKEY *key = PEM_read_bio_PrivateKey(source, NULL, refuse_passphrase, &asked);
    X509 *leaf = SSL_CTX_get0_certificate(context);
    if (!key) {
        // OpenSSL's decoders do not tell the absence of a key from a broken one.
        bool is_present = memmem(pem, count, "PRIVATE KEY-----", strlen("PRIVATE KEY-----")) != NULL;
        result = asked ? starling_tls_pem_encrypted
            : is_present ? starling_tls_pem_invalid
                         : starling_tls_pem_absent;
    } else if (!leaf || !X509_check_private_key(leaf, key)) {
        // SSL_CTX_check_private_key would look for a certificate of the key's type and report its absence.
        result = starling_tls_pem_mismatched;
    } else if (!SSL_CTX_use_PrivateKey(context, key)) {
        result = starling_tls_pem_invalid;
    }
    EVP_PKEY_free(key);
    BIO_free(source);
    if (result == starling_tls_pem_loaded) ERR_clear_error();
    return result;
}

// MARK: - Trust

X509_STORE *starling_tls_store_create(void) {
    ERR_clear_error();
    return X509_STORE_new();
}

void starling_tls_store_release(X509_STORE *store) { X509_STORE_free(store); }

bool starling_tls_store_add_system(X509_STORE *store) {
    ERR_clear_error();
    return X509_STORE_set_default_paths(store);
}

starling_tls_pem starling_tls_store_add_pem(X509_STORE *store, const uint8_t *pem, size_t count) {
    BIO *source = open_pem(pem, count);
    if (!source) return starling_tls_pem_invalid;
    bool asked = false;
    size_t added = 0;
    starling_tls_pem result = starling_tls_pem_loaded;
    X509 *root;
    while ((root = PEM_read_bio_X509_AUX(source, NULL, refuse_passphrase, &asked))) {
        int stored = X509_STORE_add_cert(store, root);
        X509_free(root);
        if (!stored) {
            result = starling_tls_pem_invalid;
            break;
        }
        added++;
    }
    BIO_free(source);
    if (!root && !ran_out_of_pem()) {
        result = starling_tls_pem_invalid;
    } else if (result == starling_tls_pem_loaded && added == 0) {
        result = starling_tls_pem_absent;
    }
    if (result == starling_tls_pem_loaded) ERR_clear_error();
    return result;
}

bool starling_tls_context_set_verification(
    SSL_CTX *context, X509_STORE *store, starling_tls_verification verification, bool announces_authorities) {
    ERR_clear_error();
    SSL_CTX_set1_cert_store(context, store);
    int mode = SSL_VERIFY_NONE;
    switch (verification) {
    case starling_tls_verification_none: break;
    case starling_tls_verification_optional: mode = SSL_VERIFY_PEER; break;
    case starling_tls_verification_required: mode = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT; break;
    }
    SSL_CTX_set_verify(context, mode, NULL);
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);
    // The names are part of every handshake, and must fit into 65,535 bytes (RFC 5246 §7.4.4).
    if (!announces_authorities || sk_X509_OBJECT_num(objects) > 100) return true;
    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        X509 *root = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        if (root && !SSL_CTX_add_client_CA(context, root)) return false;
    }
    return true;
}

// MARK: - Sessions

SSL *starling_tls_session_create(
    SSL_CTX *context, starling_tls_role role, int descriptor, const char *name, bool checks_name) {
    ERR_clear_error();
    SSL *session = SSL_new(context);
    BIO *bio = session ? BIO_new(socket_method) : NULL;
    if (!bio) {
        SSL_free(session);
        return NULL;
    }
    store_state(bio, (struct socket_state){.descriptor = descriptor});
    SSL_set_bio(session, bio, bio);
    if (role == starling_tls_role_server) {
        SSL_set_accept_state(session);
        return session;
    }
    SSL_set_connect_state(session);
    if (!name) return session;

    uint8_t address[16];
    bool is_address = inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
    bool succeeded = true;
    // RFC 6066 §3: literal addresses are not permitted in SNI.
    if (!is_address) succeeded = SSL_set_tlsext_host_name(session, name);
    if (succeeded && checks_name) {
        SSL_set_hostflags(session, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        succeeded = is_address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session), name)
                               : SSL_set1_host(session, name);
    }
    if (succeeded) return session;
    SSL_free(session);
    return NULL;
}

void starling_tls_session_free(SSL *session) { SSL_free(session); }

static starling_tls_failure classify(SSL *session, unsigned long error, struct socket_state state, int32_t *detail) {
    if (ERR_GET_LIB(error) != ERR_LIB_SSL) return starling_tls_failure_internal;
    int reason = ERR_GET_REASON(error);
    if (reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256) {
        *detail = reason - SSL_AD_REASON_OFFSET;
        return starling_tls_failure_peer_alert;
    }
    // A TLS record begins with its content type, 20 to 23. A letter is the beginning of a line of HTTP.
    if ((state.flags & socket_has_first_byte) && (state.first_byte < 20 || state.first_byte > 23)) {
        uint8_t upper = state.first_byte & 0xdf;
        return upper >= 'A' && upper <= 'Z' ? starling_tls_failure_plaintext : starling_tls_failure_not_tls;
    }
    switch (reason) {
    case SSL_R_WRONG_VERSION_NUMBER:
        // Once a cipher was chosen, the peer does speak TLS, or did.
        return SSL_get_current_cipher(session) ? starling_tls_failure_protocol : starling_tls_failure_not_tls;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
    case SSL_R_VERSION_TOO_HIGH:
    case SSL_R_NO_PROTOCOLS_AVAILABLE:
    case SSL_R_WRONG_SSL_VERSION:
        return starling_tls_failure_version;
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SUITABLE_KEY_SHARE:
    case SSL_R_NO_SUITABLE_GROUPS:
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
    case SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS:
        return starling_tls_failure_no_common_cipher;
    case SSL_R_NO_APPLICATION_PROTOCOL:
        return starling_tls_failure_no_application_protocol;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return starling_tls_failure_certificate_missing;
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        *detail = (int32_t)SSL_get_verify_result(session);
        return starling_tls_failure_certificate_rejected;
    case SSL_R_PROTOCOL_IS_SHUTDOWN:
        return starling_tls_failure_shut_down;
    case ERR_R_MALLOC_FAILURE:
    case ERR_R_INTERNAL_ERROR:
        return starling_tls_failure_internal;
    default:
        return starling_tls_failure_protocol;
    }
}

static starling_tls_result finish(SSL *session, int returned, size_t count) {
    starling_tls_result result = {.outcome = starling_tls_outcome_done, .value = count};
    if (returned > 0) return result;

    result.value = 0;
    switch (SSL_get_error(session, returned)) {
    case SSL_ERROR_WANT_READ:
        result.outcome = starling_tls_outcome_wants_read;
        return result;
    case SSL_ERROR_WANT_WRITE:
        result.outcome = starling_tls_outcome_wants_write;
        return result;
    case SSL_ERROR_ZERO_RETURN:
        result.outcome = starling_tls_outcome_closed;
        return result;
    default:
        break;
    }
    // The write BIO may be a handshake's buffer; the read BIO is always the socket.
    struct socket_state state = load_state(SSL_get_rbio(session));
    // The earliest error is the cause; later ones tell how it was passed upwards.
    unsigned long error = ERR_peek_error();
    if (state.error == 0 && (state.flags & socket_ended) &&
        (error == 0 ||
         (ERR_GET_LIB(error) == ERR_LIB_SSL && ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING))) {
        result.outcome = starling_tls_outcome_truncated;
    } else if (error == 0) {
        result.outcome = starling_tls_outcome_failed;
        result.failure =
            state.error != 0 ? starling_tls_failure_connection_lost : starling_tls_failure_internal;
        result.detail = state.error;
    } else {
        result.outcome = starling_tls_outcome_failed;
        result.failure = classify(session, error, state, &result.detail);
        result.value = error;
    }
    ERR_clear_error();
    return result;
}

starling_tls_result starling_tls_handshake(SSL *session) {
    ERR_clear_error();
    return finish(session, SSL_do_handshake(session), 0);
}

starling_tls_result starling_tls_read(SSL *session, void *bytes, size_t count) {
    ERR_clear_error();
    size_t read = 0;
    int returned = SSL_read_ex(session, bytes, count, &read);
    return finish(session, returned, read);
}

starling_tls_result starling_tls_write(SSL *session, const void *bytes, size_t count) {
    ERR_clear_error();
    size_t written = 0;
    int returned = SSL_write_ex(session, bytes, count, &written);
    return finish(session, returned, written);
}

starling_tls_result starling_tls_shutdown(SSL *session) {
    ERR_clear_error();
    BIO *bio = SSL_get_rbio(session);
    struct socket_state state = load_state(bio);
    // A second SSL_shutdown would read for the peer's close_notify, and fail at the data before it.
    if (state.flags & socket_close_notify_sent) return finish(session, 1, 0);
    int returned = SSL_shutdown(session);
    if (returned < 0) return finish(session, returned, 0);
    // 0 says that the peer's close_notify has not come, which is for reading to find.
    state.flags |= socket_close_notify_sent;
    store_state(bio, state);
    return finish(session, 1, 0);
}

size_t starling_tls_pending(const SSL *session) { return (size_t)SSL_pending(session); }

bool starling_tls_has_buffered_input(const SSL *session) { return SSL_has_pending(session); }

const uint8_t *starling_tls_protocol(const SSL *session, size_t *count) {
    const unsigned char *name = NULL;
    unsigned int length = 0;
    SSL_get0_alpn_selected(session, &name, &length);
    *count = length;
    return name;
}

uint16_t starling_tls_version(const SSL *session) { return (uint16_t)SSL_version(session); }

const char *starling_tls_server_name(const SSL *session) {
    return SSL_get_servername(session, TLSEXT_NAMETYPE_host_name);
}

const char *starling_tls_cipher(const SSL *session) { return SSL_get_cipher_name(session); }

bool starling_tls_was_resumed(const SSL *session) { return SSL_session_reused(session); }

X509 *starling_tls_peer_certificate(const SSL *session) { return SSL_get1_peer_certificate(session); }

// MARK: - Certificates

void starling_tls_certificate_release(X509 *certificate) { X509_free(certificate); }

static void visit_names(X509 *certificate, void *argument, starling_tls_visitor visit) {
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        const ASN1_STRING *text = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        starling_tls_field field;
        switch (type) {
        case GEN_DNS: field = starling_tls_field_dns_name; break;
        case GEN_URI: field = starling_tls_field_uri; break;
        case GEN_EMAIL: field = starling_tls_field_email; break;
        case GEN_IPADD: field = starling_tls_field_address; break;
        default: continue;
        }
        const uint8_t *bytes = ASN1_STRING_get0_data(text);
        size_t count = (size_t)ASN1_STRING_length(text);
        char address[INET6_ADDRSTRLEN];
        if (type == GEN_IPADD) {
            int family = count == 4 ? AF_INET : count == 16 ? AF_INET6 : AF_UNSPEC;
            if (!inet_ntop(family, bytes, address, sizeof address)) continue;
            bytes = (const uint8_t *)address;
            count = strlen(address);
        }
        visit(argument, field, bytes, count);
    }
    GENERAL_NAMES_free(names);
}

bool starling_tls_certificate_describe(X509 *certificate, void *argument, starling_tls_visitor visit) {
    ERR_clear_error();
    BIO *text = BIO_new(BIO_s_mem());
    if (!text) return false;
    X509_NAME *subject = X509_get_subject_name(certificate);
    char *bytes = NULL;
    // RFC 2253 form, in UTF-8: escapes what would make two different names look the same.
    X509_NAME_print_ex(text, subject, 0, XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB);
    long count = BIO_get_mem_data(text, &bytes);
    visit(argument, starling_tls_field_subject, (uint8_t *)bytes, (size_t)(count > 0 ? count : 0));
    BIO_free(text);

    int place = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (place >= 0) {
        unsigned char *name = NULL;
        int length = ASN1_STRING_to_UTF8(&name, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, place)));
        if (length >= 0) {
            visit(argument, starling_tls_field_common_name, name, (size_t)length);
            OPENSSL_free(name);
        }
    }
    visit_names(certificate, argument, visit);

    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int digest_count = 0;
    if (!X509_digest(certificate, EVP_sha256(), digest, &digest_count)) return false;
    visit(argument, starling_tls_field_sha256, digest, digest_count);

    unsigned char *der = NULL;
    int der_count = i2d_X509(certificate, &der);
    if (der_count < 0) return false;
    visit(argument, starling_tls_field_der, der, (size_t)der_count);
    OPENSSL_free(der);
    // A malformed extension may have left an error behind that belongs to no later call.
    ERR_clear_error();
    return true;
}

static bool seconds_since_1970(const ASN1_TIME *time, int64_t *seconds) {
    struct tm calendar;
    if (!ASN1_TIME_to_tm(time, &calendar)) return false;
    *seconds = timegm(&calendar);
    return true;
}

bool starling_tls_certificate_validity(X509 *certificate, int64_t *not_before, int64_t *not_after) {
    ERR_clear_error();
    return seconds_since_1970(X509_get0_notBefore(certificate), not_before) &&
        seconds_since_1970(X509_get0_notAfter(certificate), not_after);
}

// MARK: - Reasons

void starling_tls_take_reason(char *text, size_t capacity) {
    unsigned long error = ERR_peek_error();
    const char *reason = ERR_reason_error_string(error);
    text[0] = 0;
    if (reason) {
        OPENSSL_strlcpy(text, reason, capacity);
    } else if (error) {
        ERR_error_string_n(error, text, capacity);
    }
    ERR_clear_error();
}

const char *starling_tls_error_text(uint64_t error) { return ERR_reason_error_string((unsigned long)error); }

const char *starling_tls_alert_text(int32_t alert) { return SSL_alert_desc_string_long(alert); }

const char *starling_tls_verification_text(int32_t error) { return X509_verify_cert_error_string(error); }

#endif
