// Subscribers of a PressureServer: some of them stop reading, and all latencies are measured.
//
//   PressureCrowd PORT TOPICS SUBSCRIBERS_PER_TOPIC STOPPED_PER_TOPIC
//
// Reads commands from its standard input, a line each: `stop` (the given number of each topic's subscribers read no more),
// `go` (they read again), `report` (prints figures since the last report as one line of JSON), `quit`.
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

enum { BUFFER = 256 << 10, BUCKETS = 64 * 32 };

struct peer {
    int fd;
    int topic;
    int stopped;
    int closed;
    uint8_t head[20];       // what has come of a frame's header and of the time behind it
    unsigned head_count;
    uint64_t left;          // bytes of the payload that are to be skipped
};

static struct peer *peers;
static int peer_count, epoll_fd;
static uint64_t received, bytes_received, gaps, closes, histogram[BUCKETS], count_measured, longest;
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

static void dial(struct peer *peer, int port, int will_stop) {
    peer->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (peer->fd < 0) fail("socket");
    // What the kernel takes for a peer that reads nothing is no measure of the server: megabytes, otherwise.
    int small = 16 << 10;
    if (will_stop && setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) != 0) fail("setsockopt");
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
        unsigned wanted = header > 0 ? header + (payload < 8 ? (unsigned)payload : 8) : peer->head_count + 1;
        if (header == 0 || peer->head_count < wanted) {
            peer->head[peer->head_count++] = *bytes++;
            count--;
            header = header_length(peer);
            if (header == 0) continue;
            payload = payload_length(peer);
            wanted = header + (payload < 8 ? (unsigned)payload : 8);
            if (peer->head_count < wanted) continue;
        }
        uint8_t opcode = peer->head[0] & 15;
        if (opcode == 8) {
            closes++;
        } else if (payload < 64) {
            gaps++;
        } else {
            received++;
            uint64_t sent = 0;
            for (unsigned i = 0; i < 8; i++) sent |= (uint64_t)peer->head[header + i] << (8 * i);
            if (!peer->stopped) {
                uint64_t latency = now - sent;
                histogram[bucket_of(latency)]++;
                count_measured++;
                if (latency > longest) longest = latency;
            }
        }
        peer->left = payload - (peer->head_count - header);
        peer->head_count = 0;
    }
}

static void watch(struct peer *peer, int events, int operation) {
    struct epoll_event event = {.events = (uint32_t)events, .data.ptr = peer};
    if (epoll_ctl(epoll_fd, operation, peer->fd, &event) != 0) fail("epoll_ctl");
}

static void serve(struct peer *peer) {
    ssize_t count = read(peer->fd, buffer, BUFFER);
    if (count > 0) {
        bytes_received += (uint64_t)count;
        take(peer, buffer, (size_t)count);
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
        peer->closed = 1;
        close(peer->fd);
    }
}

static void report(void) {
    int open = 0;
    for (int i = 0; i < peer_count; i++) open += !peers[i].closed;
    printf("{\"received\": %llu, \"bytes\": %llu, \"gaps\": %llu, \"closes\": %llu, \"open\": %d, \"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}\n",
        (unsigned long long)received, (unsigned long long)bytes_received, (unsigned long long)gaps, (unsigned long long)closes,
        open, quantile_ms(0.5), quantile_ms(0.99), (double)longest / 1e6);
    fflush(stdout);
    received = bytes_received = gaps = closes = count_measured = longest = 0;
    memset(histogram, 0, sizeof histogram);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: PressureCrowd PORT TOPICS SUBSCRIBERS_PER_TOPIC STOPPED_PER_TOPIC\n");
        return 2;
    }
    int port = atoi(argv[1]), topics = atoi(argv[2]), each = atoi(argv[3]), stopped_each = atoi(argv[4]);
    peer_count = topics * each;
    peers = calloc((size_t)peer_count, sizeof *peers);
    epoll_fd = epoll_create1(0);
    struct epoll_event commands = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &commands) != 0) fail("standard input");
    for (int i = 0; i < peer_count; i++) {
        peers[i].topic = i % topics;
        dial(&peers[i], port, i / topics < stopped_each);
        watch(&peers[i], EPOLLIN, EPOLL_CTL_ADD);
    }
    printf("connected\n");
    fflush(stdout);
    struct epoll_event events[512];
    for (;;) {
        int count = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer != NULL) {
                serve(peer);
                continue;
            }
            char line[64];
            if (fgets(line, sizeof line, stdin) == NULL || strcmp(line, "quit\n") == 0) return 0;
            if (strcmp(line, "report\n") == 0) report();
            for (int p = 0; p < peer_count; p++) {
                if (peers[p].closed || p / topics >= stopped_each) continue;
                if (strcmp(line, "stop\n") == 0) {
                    peers[p].stopped = 1;
                    watch(&peers[p], 0, EPOLL_CTL_MOD);
                } else if (strcmp(line, "go\n") == 0) {
                    watch(&peers[p], EPOLLIN, EPOLL_CTL_MOD);
                }
            }
            if (strcmp(line, "stop\n") == 0 || strcmp(line, "go\n") == 0) {
                printf("done\n");
                fflush(stdout);
            }
        }
    }
}
