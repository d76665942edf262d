// Subscribers of a PressureServer: some of them stop reading, all latencies are measured, and what comes is compared with the numbers
// of the publications.
//
//   PressureCrowd PORT TOPICS SUBSCRIBERS_PER_TOPIC STOPPED_PER_TOPIC KEYS
//
// Reads commands from its standard input, a line each: `stop` (the given number of each topic's subscribers read no more),
// `sip BYTES` (each of them reads so much, and stops again), `go` (they read again), `report` (prints what was counted so far as one
// line of JSON; latencies are those since `stop`, of the others), `quit`.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 256 << 10, BUCKETS = 64 * 32, PUBLICATION_HEAD = 12, GAP_MAX = 63 };

struct peer {
    int fd;
    int topic;
    int may_stop;           // whether it is one of those that `stop` is for
    int stopped;
    int closed;
    int told_to_close;      // a close frame has come
    uint64_t sips;          // bytes that it may read before it stops again; 0 for one that does not sip
    uint8_t head[10 + GAP_MAX]; // what has come of a frame's header and of the payload's beginning
    unsigned head_count;
    uint64_t left;          // bytes of the payload that are to be skipped
    uint32_t last;          // the number of the last publication that has come, or that a gap says is left out
    uint32_t *newest;       // of each key, for those that may stop
};

static struct peer *peers;
static int peer_count, epoll_fd, topics, stopped_each, keys, sipping;
static uint32_t *newest_of_topics; // of each topic and key
static struct {
    uint64_t received;      // publications, by those that never stop
    uint64_t late;          // publications, by the others
    uint64_t bytes;
    uint64_t gaps;
    uint64_t in_gaps;       // publications that gaps say are left out
    uint64_t odd_gaps;      // that do not begin where the subscriber stood
    uint64_t holes;         // publications that are left out, and no gap says so
    uint64_t repeated;      // that had come before, or were in a gap
    uint64_t closes_1013;
    uint64_t other_closes;
    uint64_t behind_close;  // frames behind a close frame
    uint64_t cuts;          // ends without a close frame
} figures;
static uint64_t histogram[BUCKETS], count_measured, longest;
static uint8_t buffer[BUFFER];

static void fail(const char *what) {
    fprintf(stderr, "PressureCrowd: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// 32 buckets for each power of two: within 3 %.
static unsigned bucket_of(uint64_t ns) {
    if (ns < 32) return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - 5u;
    return (shift + 1) * 32 + (unsigned)((ns >> shift) & 31);
}

static uint64_t value_of(unsigned bucket) {
    if (bucket < 32) return bucket;
    unsigned shift = bucket / 32 - 1;
    return ((uint64_t)(32 + bucket % 32)) << shift;
}

static double quantile_ms(double q) {
    uint64_t wanted = (uint64_t)((double)count_measured * q), seen = 0;
    for (unsigned b = 0; b < BUCKETS; b++) {
        seen += histogram[b];
        if (seen > wanted) return (double)value_of(b) / 1e6;
    }
    return 0;
}

static void dial(struct peer *peer, int port) {
    peer->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (peer->fd < 0) fail("socket");
    // What the kernel takes for a peer that reads nothing is no measure of the server: megabytes, otherwise.
    int small = 16 << 10;
    if (peer->may_stop && setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) != 0) fail("setsockopt");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    if (connect(peer->fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
    char text[256];
    int length = snprintf(text, sizeof text,
        "GET /topics/%d HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", peer->topic);
    if (write(peer->fd, text, (size_t)length) != length) fail("write");
    // The response, byte by byte, so that nothing behind it is taken.
    char last[4] = {0};
    do {
        memmove(last, last + 1, 3);
        if (read(peer->fd, last + 3, 1) != 1) fail("the server did not upgrade");
    } while (memcmp(last, "\r\n\r\n", 4) != 0);
    fcntl(peer->fd, F_SETFL, O_NONBLOCK);
}

// The length of a frame's header, or 0 if too little of it has come.
static unsigned header_length(const struct peer *peer) {
    if (peer->head_count < 2) return 0;
    unsigned length = peer->head[1] & 127;
    unsigned needed = length < 126 ? 2 : length == 126 ? 4 : 10;
    return peer->head_count < needed ? 0 : needed;
}

static uint64_t payload_length(const struct peer *peer) {
    unsigned length = peer->head[1] & 127;
    if (length < 126) return length;
    uint64_t value = 0;
    unsigned count = length == 126 ? 2 : 8;
    for (unsigned i = 0; i < count; i++) value = value << 8 | peer->head[2 + i];
    return value;
}

// How much of a payload is looked at: all of what is short, and the beginning of a publication.
static unsigned head_of(uint64_t payload) {
    return payload <= GAP_MAX ? (unsigned)payload : PUBLICATION_HEAD;
}

static uint64_t number_at(const uint8_t *bytes, unsigned count) {
    uint64_t number = 0;
    while (count-- > 0) number = number << 8 | bytes[count];
    return number;
}

static void take_publication(struct peer *peer, const uint8_t *payload, uint64_t now) {
    uint32_t number = (uint32_t)number_at(payload + 8, 4);
    if (peer->may_stop) figures.late++;
    else figures.received++;
    if (number <= peer->last) figures.repeated++;
    else figures.holes += number - peer->last - 1;
    if (number > peer->last) peer->last = number;
    uint32_t *newest = &newest_of_topics[peer->topic * keys + (int)(number % (uint32_t)keys)];
    if (number > *newest) *newest = number;
    if (peer->may_stop) peer->newest[number % (uint32_t)keys] = number;
    if (peer->stopped) return;
    uint64_t latency = now - number_at(payload, 8);
    histogram[bucket_of(latency)]++;
    count_measured++;
    if (latency > longest) longest = latency;
}

static void take_gap(struct peer *peer, const uint8_t *payload, unsigned count) {
    char text[GAP_MAX + 1] = "";
    unsigned after, newest;
    memcpy(text, payload, count);
    figures.gaps++;
    if (sscanf(text, "gap %u %u", &after, &newest) != 2 || after != peer->last || newest < after) {
        figures.odd_gaps++;
        return;
    }
    // Whoever conflates is sent some of what is in the gap; how much, its numbers say.
    if (keys > 1) return;
    figures.in_gaps += newest - after;
    peer->last = newest;
}

static void take_close(struct peer *peer, const uint8_t *payload, unsigned count) {
    if (count >= 2 && (payload[0] << 8 | payload[1]) == 1013) figures.closes_1013++;
    else figures.other_closes++;
    peer->told_to_close = 1;
    const uint8_t answer[] = {0x88, 0x82, 0, 0, 0, 0, 1013 >> 8, 1013 & 255};
    if (write(peer->fd, answer, sizeof answer) != sizeof answer) fail("a close frame");
}

static void take(struct peer *peer, const uint8_t *bytes, size_t count) {
    uint64_t now = now_ns();
    while (count > 0) {
        if (peer->left > 0) {
            size_t skipped = peer->left < count ? (size_t)peer->left : count;
            peer->left -= skipped;
            bytes += skipped;
            count -= skipped;
            continue;
        }
        unsigned header = header_length(peer);
        uint64_t payload = header > 0 ? payload_length(peer) : 0;
        if (header == 0 || peer->head_count < header + head_of(payload)) {
            peer->head[peer->head_count++] = *bytes++;
            count--;
            header = header_length(peer);
            if (header == 0) continue;
            payload = payload_length(peer);
            if (peer->head_count < header + head_of(payload)) continue;
        }
        if (peer->told_to_close) figures.behind_close++;
        else if ((peer->head[0] & 15) == 8) take_close(peer, peer->head + header, head_of(payload));
        else if (payload <= GAP_MAX) take_gap(peer, peer->head + header, head_of(payload));
        else take_publication(peer, peer->head + header, now);
        peer->left = payload - (peer->head_count - header);
        peer->head_count = 0;
    }
}

static void watch(struct peer *peer, int events, int operation) {
    struct epoll_event event = {.events = (uint32_t)events, .data.ptr = peer};
    if (epoll_ctl(epoll_fd, operation, peer->fd, &event) != 0) fail("epoll_ctl");
}

static void answer(const char *word) {
    printf("%s\n", word);
    fflush(stdout);
}

static void end_sips(struct peer *peer) {
    peer->sips = 0;
    if (--sipping == 0) answer("done");
}

static void serve(struct peer *peer) {
    ssize_t count = read(peer->fd, buffer, peer->sips > 0 && peer->sips < BUFFER ? peer->sips : BUFFER);
    if (count > 0) {
        figures.bytes += (uint64_t)count;
        take(peer, buffer, (size_t)count);
        if (peer->sips > 0 && (peer->sips -= (uint64_t)count) == 0) {
            watch(peer, 0, EPOLL_CTL_MOD);
            end_sips(peer);
        }
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
        if (!peer->told_to_close) figures.cuts++;
        peer->closed = 1;
        close(peer->fd);
        if (peer->sips > 0) end_sips(peer);
    }
}

// How often one of those that may stop has not had the newest of a key that another one of its topic has had.
static uint64_t stale_count(void) {
    uint64_t stale = 0;
    for (int i = 0; i < peer_count; i++) {
        if (!peers[i].may_stop || peers[i].closed) continue;
        for (int key = 0; key < keys; key++) stale += peers[i].newest[key] != newest_of_topics[peers[i].topic * keys + key];
    }
    return stale;
}

static void report(void) {
    int open = 0;
    for (int i = 0; i < peer_count; i++) open += !peers[i].closed;
#define FIGURE(name) printf("\"" #name "\": %llu, ", (unsigned long long)figures.name)
    printf("{");
    FIGURE(received);
    FIGURE(late);
    FIGURE(bytes);
    FIGURE(gaps);
    FIGURE(in_gaps);
    FIGURE(odd_gaps);
    FIGURE(holes);
    FIGURE(repeated);
    FIGURE(closes_1013);
    FIGURE(other_closes);
    FIGURE(behind_close);
    FIGURE(cuts);
#undef FIGURE
    printf("\"stale\": %llu, \"open\": %d, \"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}\n", (unsigned long long)stale_count(),
        open, quantile_ms(0.5), quantile_ms(0.99), (double)longest / 1e6);
    fflush(stdout);
}

// Latencies are those since then; all else is counted from the beginning.
static void forget_latencies(void) {
    count_measured = longest = 0;
    memset(histogram, 0, sizeof histogram);
}

static void obey(const char *line) {
    unsigned long long sips = 0;
    int stops = strcmp(line, "stop\n") == 0, goes = strcmp(line, "go\n") == 0;
    if (strcmp(line, "report\n") == 0) return report();
    if (!stops && !goes && (sscanf(line, "sip %llu", &sips) != 1 || sips == 0)) fail("an unknown command");
    if (stops) forget_latencies();
    sipping = 0;
    for (int i = 0; i < peer_count; i++) {
        struct peer *peer = &peers[i];
        if (peer->closed || !peer->may_stop) continue;
        if (stops) peer->stopped = 1;
        peer->sips = sips;
        sipping += sips > 0;
        watch(peer, stops ? 0 : EPOLLIN, EPOLL_CTL_MOD);
    }
    // Whoever sips is done when all have.
    if (sipping == 0) answer("done");
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: PressureCrowd PORT TOPICS SUBSCRIBERS_PER_TOPIC STOPPED_PER_TOPIC KEYS\n");
        return 2;
    }
    int port = atoi(argv[1]), each = atoi(argv[3]);
    topics = atoi(argv[2]);
    stopped_each = atoi(argv[4]);
    keys = atoi(argv[5]);
    if (topics < 1 || keys < 1) return 2;
    peer_count = topics * each;
    peers = calloc((size_t)peer_count, sizeof *peers);
    newest_of_topics = calloc((size_t)(topics * keys), sizeof *newest_of_topics);
    epoll_fd = epoll_create1(0);
    struct epoll_event commands = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &commands) != 0) fail("standard input");
    for (int i = 0; i < peer_count; i++) {
        peers[i].topic = i % topics;
        peers[i].may_stop = i / topics < stopped_each;
        if (peers[i].may_stop) peers[i].newest = calloc((size_t)keys, sizeof(uint32_t));
        dial(&peers[i], port);
        watch(&peers[i], EPOLLIN, EPOLL_CTL_ADD);
    }
    answer("connected");
    struct epoll_event events[512];
    for (;;) {
        int count = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer != NULL) {
                if (!peer->closed) serve(peer);
                continue;
            }
            char line[64];
            if (fgets(line, sizeof line, stdin) == NULL || strcmp(line, "quit\n") == 0) return 0;
            obey(line);
        }
    }
}
