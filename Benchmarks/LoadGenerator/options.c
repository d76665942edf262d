#include "options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const mode_names[] = {
    [MODE_ECHO] = "echo",
    [MODE_RAW] = "raw",
    [MODE_FANOUT] = "fanout",
    [MODE_IDLE] = "idle",
    [MODE_CROWD] = "crowd",
};

static const char usage[] =
    "usage: LoadGenerator MODE --port P [OPTION VALUE]...\n"
    "\n"
    "MODE\n"
    "  echo      WebSocket connections to /echo; every reply is compared byte by byte\n"
    "  raw       the same byte counts without a handshake and without a look at the replies, for the floor\n"
    "  fanout    subscribers at /subscribe receive what publishers send to /publish\n"
    "  idle      opens connections, prints its line, holds them until standard input ends\n"
    "  crowd     connections to /crowd that obey standard input, and count publications\n"
    "\n"
    "OPTION\n"
    "  --connections C   connections, or subscribers (200)\n"
    "  --depth D         messages in flight per connection, or publications in flight (1)\n"
    "  --payload N       bytes of a message (20)\n"
    "  --publishers P    connections that publish, in turn (1)\n"
    "  --messages M      idle: messages echoed on each connection first (0)\n"
    "  --source N        crowd: the connections come from 127.0.0.N and the address after it (2)\n"
    "  --topics T        crowd: topics, of which each connection is in one (1000)\n"
    "  --first F         crowd: the number of the first connection, modulo T its topic (0)\n"
    "  --warmup S        seconds before measuring, decimals allowed (0.5)\n"
    "  --seconds S       seconds measured (2)\n"
    "  --server-pid PID  the process whose CPU time is reported\n";

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

static enum mode mode(const char *text) {
    for (size_t index = 0; index < sizeof mode_names / sizeof *mode_names; index++) {
        if (strcmp(text, mode_names[index]) == 0) return (enum mode)index;
    }
    misused(text);
}

const char *mode_name(enum mode mode) {
    return mode_names[mode];
}

struct options parse_options(int count, char **arguments) {
    if (count < 2) misused("");
    struct options options = {
        .mode = mode(arguments[1]),
        .connections = 200,
        .depth = 1,
        .payload = 20,
        .publishers = 1,
        .source = 2,
        .topics = 1000,
        .warmup_nanoseconds = 500000000,
        .measured_nanoseconds = 2000000000,
    };
    for (int index = 2; index < count; index += 2) {
        const char *name = arguments[index];
        if (index + 1 == count) misused(name);
        const char *value = arguments[index + 1];
        if (strcmp(name, "--port") == 0) options.port = (uint16_t)number(value, 1, UINT16_MAX);
        else if (strcmp(name, "--connections") == 0) options.connections = (uint32_t)number(value, 1, 60000);
        else if (strcmp(name, "--depth") == 0) options.depth = (uint32_t)number(value, 1, 1024);
        else if (strcmp(name, "--payload") == 0) options.payload = number(value, 1, 1 << 20);
        else if (strcmp(name, "--publishers") == 0) options.publishers = (uint32_t)number(value, 1, 1000);
        else if (strcmp(name, "--messages") == 0) options.messages = (uint32_t)number(value, 0, 1000);
        else if (strcmp(name, "--source") == 0) options.source = (uint32_t)number(value, 1, 253);
        else if (strcmp(name, "--topics") == 0) options.topics = (uint32_t)number(value, 1, 1000000);
        else if (strcmp(name, "--first") == 0) options.first = (uint32_t)number(value, 0, 100000000);
        else if (strcmp(name, "--warmup") == 0) options.warmup_nanoseconds = seconds(value);
        else if (strcmp(name, "--seconds") == 0) options.measured_nanoseconds = seconds(value);
        else if (strcmp(name, "--server-pid") == 0) options.server_pid = (pid_t)number(value, 1, INT32_MAX);
        else misused(name);
    }
    if (options.port == 0) misused("no --port");
    if ((uint64_t)options.depth * options.payload > 256 << 20) misused("--depth times --payload over 256 MiB");
    return options;
}
