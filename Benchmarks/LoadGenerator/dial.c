#define _GNU_SOURCE
#include "dial.h"

#include "fail.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { SOURCES = 64 };

// The key and the accept value of the example in RFC 6455 §1.3: a known pair saves the generator a SHA-1.
static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char accept_value[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

unsigned source_of(uint32_t index) {
    return 1 + index % SOURCES;
}

size_t write_request(const struct options *options, const char *path, char *request) {
    static const char offer[] =
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";
    int byte_count = snprintf(request, REQUEST_BYTES_MAX,
                              "GET %s HTTP/1.1\r\n"
                              "Host: 127.0.0.1:%d\r\n"
                              "Upgrade: websocket\r\n"
                              "Connection: Upgrade\r\n"
                              "%s"
                              "Sec-WebSocket-Key: %s\r\n"
                              "Sec-WebSocket-Version: 13\r\n\r\n",
                              path, options->port, options->deflate ? offer : "", key);
    return (size_t)byte_count;
}

static void check_extensions(const struct options *options, const char *path, const char *head) {
    const char *extensions = strcasestr(head, "\r\nsec-websocket-extensions:");
    if (!options->deflate) {
        if (extensions != NULL) fail("%s: the server agreed to an extension that nobody offered", path);
        return;
    }
    if (extensions == NULL || strstr(extensions, "permessage-deflate") == NULL) {
        fail("%s: the server declined permessage-deflate", path);
    }
    // Messages that refer to each other would have to be inflated all, by a generator that must be cheap.
    if (strstr(extensions, "server_no_context_takeover") == NULL) {
        fail("%s: the server insists on context takeover, which was ruled out", path);
    }
}

void check_response_head(const char *path, const char *head) {
    if (strncmp(head, "HTTP/1.1 101", 12) != 0) {
        fail("%s was answered with '%.*s'", path, (int)strcspn(head, "\r\n"), head);
    }
    if (strstr(head, accept_value) == NULL) fail("%s: the server's Sec-WebSocket-Accept is wrong", path);
}

bool check_response(const struct options *options, const char *path, const char *head, size_t byte_count) {
    const char *end = strstr(head, "\r\n\r\n");
    if (end == NULL) {
        if (byte_count >= HEAD_BYTES_MAX) fail("%s: the response head is over %d bytes", path, HEAD_BYTES_MAX);
        return false;
    }
    check_response_head(path, head);
    check_extensions(options, path, head);
    if (end + 4 != head + byte_count) fail("%s: the server sent something before it was asked", path);
    return true;
}

struct link dial_websocket(const struct options *options, uint16_t port, unsigned source, const char *path) {
    struct link link = link_open(options, port, source);
    if (!link_shake_hands(&link)) fail("%s: the TLS handshake takes longer than five seconds", path);
    char request[REQUEST_BYTES_MAX];
    size_t request_bytes = write_request(options, path, request);
    if (link_send(&link, (unsigned char *)request, request_bytes) != request_bytes) fail("the request was not taken");

    static unsigned char head[HEAD_BYTES_MAX + RECEIVE_BYTES + 1];
    size_t received = 0;
    do {
        size_t part = link_receive(&link, head + received);
        if (part == 0) fail("%s: no answer to the opening handshake within five seconds", path);
        received += part;
        if (received > HEAD_BYTES_MAX) fail("%s: the response head is over %d bytes", path, HEAD_BYTES_MAX);
        head[received] = '\0';
    } while (!check_response(options, path, (char *)head, received));
    return link;
}
