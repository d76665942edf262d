#include "options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const mode_names[] = {
    [MODE_ECHO] = "echo", [MODE_RAW] = "raw", [MODE_FANOUT] = "fanout", [MODE_IDLE] = "idle", [MODE_CHURN] = "churn",
    [MODE_CROWD] = "crowd",
};
static const char *const content_names[] = {[CONTENT_BYTES] = "bytes", [CONTENT_JSON] = "json"};
static const char *const security_names[] = {
    [SECURITY_NONE] = "none",
    [SECURITY_TLS] = "tls",
    [SECURITY_TLS_RESUMED] = "tls-resumed",
};
static const char *const compression_names[] = {"none", "deflate"};

static const char usage[] =
    "usage: LoadGenerator MODE --port P [OPTION VALUE]...\n"
    "\n"
    "MODE\n"
    "  echo      WebSocket connections to /echo; every reply is compared byte by byte\n"
    "  raw       the same byte counts without a handshake and without a look at the replies, for the floor\n"
    "  fanout    subscribers at /subscribe/T receive what the publisher at /publish/T sends, for each topic T\n"
    "  idle      opens connections to /idle, prints its line, holds them until standard input ends\n"
    "  churn     connections to /echo that open, close with a handshake, and are followed by the next\n"
    "  crowd     connections to /crowd that obey standard input, and count publications\n"
    "\n"
    "OPTION\n"
    "  --connections C    connections, or subscribers (200)\n"
    "  --depth D          messages in flight per connection, or publications in flight per topic (1)\n"
    "  --payload N        bytes of a message (20)\n"
    "  --content C        bytes or json (bytes)\n"
    "  --security S       none, tls or, for churn, tls-resumed (none)\n"
    "  --compression C    none or deflate: permessage-deflate without context takeover (none)\n"
    "  --topics T         fanout and crowd: topics, to which the subscribers are dealt out (1)\n"
    "  --source N         crowd: the connections come from 127.0.0.N and the address after it (2)\n"
    "  --first F          crowd: the number of the first connection, modulo T its topic (0)\n"
    "  --publish-port P   fanout: where publishers connect (as --port)\n"
    "  --messages M       idle: messages echoed on each connection first (0)\n"
    "  --warmup S         seconds before measuring, decimals allowed (0.5)\n"
    "  --seconds S        seconds measured (2)\n"
    "  --server-pid PID   a process whose CPU time is reported; up to four times, for their sum\n";

static _Noreturn void misused(const char *argument) {
    fprintf(stderr, "LoadGenerator: cannot make sense of '%s'\n\n%s", argument, usage);
    exit(2);
}

static uint64_t number(const char *text, uint64_t min, uint64_t max) {
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || value < min || value > max) misused(text);
    return value;
}

static uint64_t seconds(const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0 && value <= 3600)) misused(text);
    return (uint64_t)(value * 1e9);
}

static int choice(const char *text, const char *const *names, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (strcmp(text, names[index]) == 0) return (int)index;
    }
    misused(text);
}

#define CHOICE(text, names) choice(text, names, sizeof(names) / sizeof *(names))

const char *mode_name(enum mode mode) {
    return mode_names[mode];
}

static void add_server_pid(struct options *options, const char *value) {
    if (options->server_pid_count == SERVER_PIDS_MAX) misused(value);
    options->server_pids[options->server_pid_count++] = (pid_t)number(value, 1, INT32_MAX);
}

static void check(const struct options *options) {
    if (options->port == 0) misused("no --port");
    if ((uint64_t)options->depth * options->payload > 32 << 20) misused("--depth times --payload over 32 MiB");
    if (options->topics > options->connections) misused("more --topics than --connections");
    if (options->security == SECURITY_TLS_RESUMED && options->mode != MODE_CHURN) misused("tls-resumed");
    if (options->mode == MODE_RAW && (options->deflate || options->security != SECURITY_NONE)) misused("raw");
}

struct options parse_options(int count, char **arguments) {
    if (count < 2) misused("");
    struct options options = {
        .mode = (enum mode)CHOICE(arguments[1], mode_names),
        .connections = 200,
        .depth = 1,
        .payload = 20,
        .topics = 1,
        .source = 2,
        .warmup_nanoseconds = 500000000,
        .measured_nanoseconds = 2000000000,
    };
    for (int index = 2; index < count; index += 2) {
        const char *name = arguments[index];
        if (index + 1 == count) misused(name);
        const char *value = arguments[index + 1];
        if (strcmp(name, "--port") == 0) options.port = (uint16_t)number(value, 1, UINT16_MAX);
        else if (strcmp(name, "--publish-port") == 0) options.publish_port = (uint16_t)number(value, 1, UINT16_MAX);
        else if (strcmp(name, "--connections") == 0) options.connections = (uint32_t)number(value, 1, 60000);
        else if (strcmp(name, "--depth") == 0) options.depth = (uint32_t)number(value, 1, 1024);
        else if (strcmp(name, "--payload") == 0) options.payload = number(value, 1, 1 << 20);
        else if (strcmp(name, "--content") == 0) options.content = (enum content)CHOICE(value, content_names);
        else if (strcmp(name, "--security") == 0) options.security = (enum security)CHOICE(value, security_names);
        else if (strcmp(name, "--compression") == 0) options.deflate = CHOICE(value, compression_names) == 1;
        else if (strcmp(name, "--topics") == 0) options.topics = (uint32_t)number(value, 1, 1000000);
        else if (strcmp(name, "--messages") == 0) options.messages = (uint32_t)number(value, 0, 1000);
        else if (strcmp(name, "--source") == 0) options.source = (uint32_t)number(value, 1, 253);
        else if (strcmp(name, "--first") == 0) options.first = (uint32_t)number(value, 0, 100000000);
        else if (strcmp(name, "--warmup") == 0) options.warmup_nanoseconds = seconds(value);
        else if (strcmp(name, "--seconds") == 0) options.measured_nanoseconds = seconds(value);
        else if (strcmp(name, "--server-pid") == 0) add_server_pid(&options, value);
        else misused(name);
    }
    check(&options);
    if (options.publish_port == 0) options.publish_port = options.port;
    return options;
}
