// A reconnect storm, and what those feel who are connected already.
//
//   StormClient PORT PATH CLIENTS ESTABLISHED TRIES_MAX LATENCY_MS_MAX
//
// ESTABLISHED clients send a message every 100 ms and measure how long its echo takes, on a thread of their own. After two calm
// seconds CLIENTS others connect within one second. Whoever is refused with 503 and Retry-After comes back when it was told to.
// Prints how everybody fared; fails if somebody is not connected in the end, was neither let in nor told when to come back, needed
// more than TRIES_MAX tries, or if p99 of the echoes during the storm is not below LATENCY_MS_MAX.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_BYTES_MAX = 1024,
    EVENTS = 512,
    // A source address has about 28,000 ports, and those of closed connections stay taken for a minute.
    CLIENTS_PER_SOURCE = 5000,
    ECHO_INTERVAL_MS = 100,
    CALM_MS = 2000,
    STORM_MS = 1000,
    // No answer for so long is a failure, and so is a storm that lasts longer than the second one.
    ANSWER_MS_MAX = 15000,
    RUN_MS_MAX = 90000,
    LATENCIES_MAX = 4 << 20,
    TRIES_COUNTED = 8,
};

static uint16_t port;
static const char *path;

static _Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "FAILED  ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

static uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

// Begins to connect from an address of the loopback network; the connection is made when it is writable.
static int begin_connect(unsigned source, int flags) {
    int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (socket_ < 0) fail("socket: %s", strerror(errno));
    int on = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(socket_, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + source)};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(socket_, (struct sockaddr *)&from, sizeof from) != 0) fail("bind: %s", strerror(errno));
    if (connect(socket_, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) fail("connect: %s", strerror(errno));
    return socket_;
}

static void send_request(int socket_) {
    char request[512];
    int count = snprintf(request, sizeof request,
                         "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                         path, port);
    if (send(socket_, request, (size_t)count, MSG_NOSIGNAL) != count) fail("send: %s", strerror(errno));
}

static void watch(int poller, int socket_, uint32_t events, uint64_t token, int operation) {
    struct epoll_event event = {.events = events, .data.u64 = token};
    if (epoll_ctl(poller, operation, socket_, &event) != 0) fail("epoll_ctl: %s", strerror(errno));
}

// MARK: Those who are connected already

struct echo {
    int socket;
    uint64_t due_us, sent_us;
    unsigned received;
};

static unsigned established;
static struct echo *echoes;
static _Atomic uint64_t storm_began_us, storm_ended_us;
static uint32_t *calm_us, *storm_us;
static size_t calm_count, storm_count;

// A text of 16 bytes with a mask of zero, and its echo.
static const unsigned char message[] = {0x81, 0x90, 0, 0, 0, 0, 's', 't', 'i', 'l', 'l', ' ', 't', 'h', 'e', 'r', 'e', '?', ' ', ' ', ' ', ' '};
enum { ECHO_BYTES = 18 };

static void count_latency(uint64_t since_us, uint64_t until_us) {
    uint64_t began = atomic_load(&storm_began_us), ended = atomic_load(&storm_ended_us);
    // What was under way at any moment of the storm is counted to it.
    bool is_storm = began != 0 && until_us >= began && (ended == 0 || since_us <= ended);
    uint32_t **list = is_storm ? &storm_us : &calm_us;
    size_t *count = is_storm ? &storm_count : &calm_count;
    if (*count < LATENCIES_MAX) (*list)[(*count)++] = (uint32_t)(until_us - since_us);
}

static void *echo_forever(void *unused) {
    (void)unused;
    int poller = epoll_create1(EPOLL_CLOEXEC);
    uint64_t start = now_us();
    for (unsigned index = 0; index < established; index++) {
        echoes[index].due_us = start + (uint64_t)index * ECHO_INTERVAL_MS * 1000 / established;
        watch(poller, echoes[index].socket, EPOLLIN, index, EPOLL_CTL_ADD);
    }
    unsigned next = 0;
    for (;;) {
        struct epoll_event events[EVENTS];
        uint64_t now = now_us();
        // If the next one still waits for its echo, that wakes us.
        int timeout = echoes[next].sent_us != 0 ? -1 : echoes[next].due_us <= now ? 0 : (int)((echoes[next].due_us - now + 999) / 1000);
        int count = epoll_wait(poller, events, EVENTS, timeout);
        now = now_us();
        for (int position = 0; position < count; position++) {
            struct echo *echo = &echoes[events[position].data.u64];
            char buffer[256];
            ssize_t received = recv(echo->socket, buffer, sizeof buffer, 0);
            if (received <= 0) fail("a connection that was established is lost");
            echo->received += (unsigned)received;
            if (echo->received < ECHO_BYTES) continue;
            if (echo->received > ECHO_BYTES) fail("an echo is longer than its message, or a ping came");
            count_latency(echo->sent_us, now_us());
            echo->received = 0;
            echo->sent_us = 0;
        }
        // In turn: their intervals are the same. Who still waits for its echo sends when that has come, and the time counts
        // from when it should have sent.
        for (unsigned looked = 0; looked < established && echoes[next].due_us <= now; looked++) {
            struct echo *echo = &echoes[next];
            if (echo->sent_us != 0) break;
            echo->sent_us = echo->due_us;
            if (send(echo->socket, message, sizeof message, MSG_NOSIGNAL) != sizeof message) fail("send: %s", strerror(errno));
            echo->due_us += ECHO_INTERVAL_MS * 1000;
            next = (next + 1) % established;
        }
    }
    return NULL;
}

static void establish(void) {
    echoes = calloc(established, sizeof *echoes);
    calm_us = malloc(LATENCIES_MAX * sizeof *calm_us);
    storm_us = malloc(LATENCIES_MAX * sizeof *storm_us);
    if (!echoes || !calm_us || !storm_us) fail("no memory");
    for (unsigned index = 0; index < established; index++) {
        int socket_ = begin_connect(0, 0);
        char head[HEAD_BYTES_MAX + 1];
        size_t length = 0;
        send_request(socket_);
        do {
            ssize_t count = recv(socket_, head + length, HEAD_BYTES_MAX - length, 0);
            if (count <= 0) fail("a connection before the storm was not answered");
            length += (size_t)count;
            head[length] = 0;
        } while (strstr(head, "\r\n\r\n") == NULL);
        if (strncmp(head, "HTTP/1.1 101", 12) != 0) fail("a connection before the storm was answered with '%.40s'", head);
        echoes[index].socket = socket_;
    }
}

// MARK: The storm

enum phase { PLANNED, CONNECTING, ASKED, OPEN };

struct client {
    int socket;
    enum phase phase;
    uint16_t tries, length;
    // When it is to connect; later, when it began to.
    uint64_t at_us;
    char *head;
};

static struct client *clients;
static unsigned client_count, open_count, told_count, unanswered_count, odd_count;
static unsigned tries_of_open[TRIES_COUNTED + 1];
static uint32_t *handshake_us, *told_seconds;
static size_t handshakes;
static int storm_poller;

static void start_client(unsigned index) {
    struct client *client = &clients[index];
    client->tries++;
    client->phase = CONNECTING;
    client->length = 0;
    client->socket = begin_connect(1 + index / CLIENTS_PER_SOURCE, SOCK_NONBLOCK);
    watch(storm_poller, client->socket, EPOLLOUT, index, EPOLL_CTL_ADD);
}

static void end_try(struct client *client, uint64_t again_us) {
    close(client->socket);
    client->socket = -1;
    client->phase = PLANNED;
    client->at_us = again_us;
}

static void read_answer(struct client *client) {
    if (client->head == NULL && (client->head = malloc(HEAD_BYTES_MAX + 1)) == NULL) fail("no memory");
    ssize_t count = recv(client->socket, client->head + client->length, HEAD_BYTES_MAX - client->length, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
        // Neither let in nor told.
        unanswered_count++;
        end_try(client, now_us() + 1000000);
        return;
    }
    client->length += (uint16_t)count;
    client->head[client->length] = 0;
    if (strstr(client->head, "\r\n\r\n") == NULL) return;
    uint64_t now = now_us();
    if (strncmp(client->head, "HTTP/1.1 101", 12) == 0) {
        client->phase = OPEN;
        handshake_us[handshakes++] = (uint32_t)(now - client->at_us);
        tries_of_open[client->tries < TRIES_COUNTED ? client->tries : TRIES_COUNTED]++;
        open_count++;
        free(client->head);
        client->head = NULL;
        return;
    }
    const char *field = strcasestr(client->head, "\r\nretry-after: ");
    int seconds = field ? atoi(field + 15) : 0;
    if (strncmp(client->head, "HTTP/1.1 503", 12) == 0 && seconds > 0) {
        told_seconds[told_count++ % (client_count * 4)] = (uint32_t)seconds;
    } else {
        odd_count++;
        seconds = 1;
    }
    end_try(client, now + (uint64_t)seconds * 1000000);
}

static void serve_storm(uint64_t start) {
    storm_poller = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned index = 0; index < client_count; index++) {
        clients[index] = (struct client){.socket = -1, .at_us = start + (uint64_t)index * STORM_MS * 1000 / client_count};
    }
    uint64_t looked_us = 0;
    while (open_count < client_count) {
        uint64_t now = now_us();
        if (now - start > (uint64_t)RUN_MS_MAX * 1000) fail("%u of %u are not connected", client_count - open_count, client_count);
        if (now - looked_us >= 1000) {
            looked_us = now;
            for (unsigned index = 0; index < client_count; index++) {
                struct client *client = &clients[index];
                if (client->phase == PLANNED && client->at_us <= now) start_client(index);
                if ((client->phase == CONNECTING || client->phase == ASKED) && now > client->at_us + (uint64_t)ANSWER_MS_MAX * 1000) {
                    fail("a client was not answered within %d s", ANSWER_MS_MAX / 1000);
                }
            }
        }
        struct epoll_event events[EVENTS];
        int count = epoll_wait(storm_poller, events, EVENTS, 1);
        for (int position = 0; position < count; position++) {
            struct client *client = &clients[events[position].data.u64];
            if (client->phase == CONNECTING) {
                int error = 0;
                socklen_t size = sizeof error;
                getsockopt(client->socket, SOL_SOCKET, SO_ERROR, &error, &size);
                if (error != 0) {
                    unanswered_count++;
                    end_try(client, now_us() + 1000000);
                    continue;
                }
                send_request(client->socket);
                client->phase = ASKED;
                watch(storm_poller, client->socket, EPOLLIN, events[position].data.u64, EPOLL_CTL_MOD);
            } else if (client->phase == ASKED) {
                read_answer(client);
            } else if (client->phase == OPEN) {
                fail("a connection that was let in was closed, or sent what nobody asked for");
            }
        }
    }
}

// MARK: Figures

static int compare(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static uint32_t percentile(uint32_t *values, size_t count, unsigned percent) {
    if (count == 0) return 0;
    qsort(values, count, sizeof *values, compare);
    size_t index = count * percent / 100;
    return values[index < count ? index : count - 1];
}

// A counter of the kernel's, for the whole machine.
static long kernel_counter(const char *name) {
    char names[8192], values[8192];
    long value = -1;
    for (int round = 0; round < 2 && value < 0; round++) {
        FILE *file = fopen(round ? "/proc/net/snmp" : "/proc/net/netstat", "r");
        if (file == NULL) continue;
        while (value < 0 && fgets(names, sizeof names, file) && fgets(values, sizeof values, file)) {
            char *name_state, *value_state;
            char *one = strtok_r(names, " \n", &name_state), *other = strtok_r(values, " \n", &value_state);
            for (; one && other; one = strtok_r(NULL, " \n", &name_state), other = strtok_r(NULL, " \n", &value_state)) {
                if (strcmp(one, name) == 0) value = atol(other);
            }
        }
        fclose(file);
    }
    return value;
}

int main(int count, char **arguments) {
    if (count != 7) fail("usage: StormClient PORT PATH CLIENTS ESTABLISHED TRIES_MAX LATENCY_MS_MAX");
    port = (uint16_t)atoi(arguments[1]);
    path = arguments[2];
    client_count = (unsigned)atoi(arguments[3]);
    established = (unsigned)atoi(arguments[4]);
    int tries_max = atoi(arguments[5]);
    int latency_ms_max = atoi(arguments[6]);
    if (client_count == 0 || established == 0) fail("a storm needs clients");

    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (client_count + established + 32 > limit.rlim_cur) fail("a process may have %lu descriptors", (unsigned long)limit.rlim_cur);

    clients = calloc(client_count, sizeof *clients);
    handshake_us = malloc(client_count * sizeof *handshake_us);
    told_seconds = malloc(4ul * client_count * sizeof *told_seconds);
    if (!clients || !handshake_us || !told_seconds) fail("no memory");

    establish();
    pthread_t thread;
    if (pthread_create(&thread, NULL, echo_forever, NULL) != 0) fail("no thread");
    usleep(CALM_MS * 1000);

    long retransmits = kernel_counter("RetransSegs"), overflows = kernel_counter("ListenOverflows");
    uint64_t start = now_us();
    atomic_store(&storm_began_us, start);
    serve_storm(start);
    uint64_t end = now_us();
    atomic_store(&storm_ended_us, end);
    // Echoes that are under way belong to it.
    usleep(5 * ECHO_INTERVAL_MS * 1000);
    retransmits = kernel_counter("RetransSegs") - retransmits;
    overflows = kernel_counter("ListenOverflows") - overflows;
    pthread_cancel(thread);
    pthread_join(thread, NULL);

    printf("  all %u connected %.1f s after the first began; by tries:", client_count, (double)(end - start) / 1e6);
    int most = 0;
    for (int tries = 1; tries <= TRIES_COUNTED; tries++) {
        if (tries_of_open[tries] == 0) continue;
        most = tries;
        printf(" %d%s: %u", tries, tries == TRIES_COUNTED ? " or more" : "", tries_of_open[tries]);
    }
    size_t told = told_count < client_count * 4 ? told_count : client_count * 4;
    printf("\n  told when to come back: %u, after p50 %u s, p99 %u s; without an answer: %u; other answers: %u\n", told_count,
           percentile(told_seconds, told, 50), percentile(told_seconds, told, 99), unanswered_count, odd_count);
    printf("  handshakes that succeeded: p50 %.0f ms, p99 %.0f ms\n", percentile(handshake_us, handshakes, 50) / 1e3,
           percentile(handshake_us, handshakes, 99) / 1e3);
    uint32_t p99 = percentile(storm_us, storm_count, 99);
    printf("  echoes of the %u connected before: calm p50 %.2f ms, p99 %.2f ms; in the storm p50 %.2f ms, p99 %.2f ms, max %.0f ms (%zu)\n",
           established, percentile(calm_us, calm_count, 50) / 1e3, percentile(calm_us, calm_count, 99) / 1e3,
           percentile(storm_us, storm_count, 50) / 1e3, p99 / 1e3, percentile(storm_us, storm_count, 100) / 1e3, storm_count);
    printf("  on the machine meanwhile: %ld segments sent again, %ld connections over a listener's queue\n", retransmits, overflows);
    fflush(stdout);
    if (unanswered_count + odd_count > 0) fail("%u tries were neither let in nor told when to come back", unanswered_count + odd_count);
    if (most > tries_max) fail("somebody needed %d tries, and %d were enough", most, tries_max);
    if (storm_count < established) fail("hardly an echo was measured");
    if (p99 >= (uint32_t)latency_ms_max * 1000) fail("p99 of the echoes is not below %d ms", latency_ms_max);
    return 0;
}
