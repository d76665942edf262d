// Load for tests of restarts: connections that each have one message on its way at a time, some of it cut in the middle of a
// frame, and subscribers of what a few others publish. Every reply is checked for its number. Some connections compress, each
// message with what came before it: whoever has lost that cannot read it.
//
//   RestartLoad PORT ECHOES SUBSCRIBERS PUBLISHERS PERIOD_MILLISECONDS [PUBLISHERS_PORT]
//
// With a port of their own, of a server that is not restarted, publishers go on during restarts, and five times as often.
//
// Prints "ready" when all are connected. A line "mark" on standard input prints a line of JSON about the time since the last one;
// "stop", or the input's end, lets what is on its way arrive, prints the last line and ends.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

enum { header_bytes = 16, payload_max = 400, out_max = 1024, in_max = 1024, publishers_max = 64 };
// Echoes and subscribers that compress: a server's windows for each take 300 kB.
enum { deflating_echoes_max = 200, deflating_subscribers_max = 50 };

enum role { ECHO, SUBSCRIBER, PUBLISHER };

struct connection {
    int descriptor;
    enum role role;
    bool is_gone;
    bool is_writable_awaited;
    // Echo and publisher: the number of the last message, and when it was sent; 0 once it was answered.
    uint64_t number;
    uint64_t sent_at;
    // Bytes to be written, of which the last `held` wait for another tick.
    uint8_t out[out_max];
    unsigned out_count, held;
    uint64_t held_until;
    uint8_t in[in_max];
    unsigned in_count;
    // Subscriber: the last number of each publisher, and when the last publication came.
    uint64_t *numbers;
    uint64_t heard_at;
    // With permessage-deflate.
    z_stream *deflater, *inflater;
};

static struct connection *connections;
static unsigned connection_count, publisher_count;
static int epoll;
static struct {
    uint64_t sent, received, duplicated, reordered, disconnected, published, heard;
    // Messages that were sent compressed, with references to earlier ones, and those that came compressed.
    uint64_t referring, inflated;
    uint64_t pause, gap;
} figures;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "RestartLoad: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void lost(struct connection *connection, const char *how) {
    if (connection->is_gone) return;
    connection->is_gone = true;
    figures.disconnected++;
    if (figures.disconnected <= 5) fprintf(stderr, "RestartLoad: a connection is gone: %s\n", how);
    close(connection->descriptor);
}

// A byte of a message behind its head. Where messages are compressed it is noise, which only an earlier message makes shorter.
static uint8_t content(uint64_t index, unsigned i) {
    if (connections[index].deflater == NULL) return (uint8_t)index;
    uint64_t word = (index << 16 | i) * 0x9E3779B97F4A7C15u;
    return (uint8_t)(word ^ word >> 29 ^ word >> 47);
}

static z_stream *make_stream(bool deflates) {
    z_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) fail("calloc");
    int status = deflates ? deflateInit2(stream, 1, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) : inflateInit2(stream, -15);
    if (status != Z_OK) fail("zlib");
    return stream;
}

// RFC 7692 §7.2.1: a message is flushed, and goes without the last four bytes of that.
static unsigned compress_message(z_stream *stream, const uint8_t *payload, unsigned count, uint8_t *out, unsigned room) {
    stream->next_in = (uint8_t *)payload;
    stream->avail_in = count;
    stream->next_out = out;
    stream->avail_out = room;
    if (deflate(stream, Z_SYNC_FLUSH) != Z_OK || stream->avail_in > 0 || stream->avail_out == 0) fail("deflate");
    return room - stream->avail_out - 4;
}

// The message's size, or -1 if it does not inflate.
static int inflate_message(z_stream *stream, const uint8_t *payload, unsigned count, uint8_t *out, unsigned room) {
    static const uint8_t tail[] = {0, 0, 0xFF, 0xFF};
    stream->next_out = out;
    stream->avail_out = room;
    for (int part = 0; part < 2; part++) {
        stream->next_in = part == 0 ? (uint8_t *)payload : (uint8_t *)tail;
        stream->avail_in = part == 0 ? count : sizeof tail;
        int status = inflate(stream, Z_SYNC_FLUSH);
        if ((status != Z_OK && status != Z_BUF_ERROR) || stream->avail_in > 0) return -1;
    }
    return (int)(room - stream->avail_out);
}

static void await_writable(struct connection *connection, bool awaits) {
    if (connection->is_writable_awaited == awaits) return;
    connection->is_writable_awaited = awaits;
    struct epoll_event event = {.events = EPOLLIN | (awaits ? EPOLLOUT : 0u),
                                .data.u64 = (uint64_t)(connection - connections)};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, connection->descriptor, &event) != 0) fail("epoll_ctl");
}

static void flush(struct connection *connection) {
    if (connection->is_gone) return;
    while (connection->out_count > connection->held) {
        ssize_t count = send(connection->descriptor, connection->out, connection->out_count - connection->held, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EAGAIN) return await_writable(connection, true);
            return lost(connection, strerror(errno));
        }
        connection->out_count -= (unsigned)count;
        memmove(connection->out, connection->out + count, connection->out_count);
    }
    await_writable(connection, false);
}

static void append_frame(struct connection *connection, uint8_t opcode, const uint8_t *payload, unsigned count) {
    uint8_t *out = connection->out + connection->out_count;
    if (connection->out_count + count + 8 > out_max) {
        fprintf(stderr, "RestartLoad: too much waits for a connection\n");
        exit(1);
    }
    unsigned length = 0;
    out[length++] = 0x80 | opcode;
    if (count < 126) {
        out[length++] = 0x80 | (uint8_t)count;
    } else {
        out[length++] = 0x80 | 126;
        out[length++] = (uint8_t)(count >> 8);
        out[length++] = (uint8_t)count;
    }
    const uint8_t key[4] = {0x12, 0x34, 0x56, 0x78};
    memcpy(out + length, key, 4);
    length += 4;
    // Shifts, because clang's vectorizer makes of `key[i & 3]`, where this is inlined, a mask for the first four bytes alone.
    for (unsigned i = 0; i < count; i++) out[length + i] = payload[i] ^ (uint8_t)(0x78563412u >> 8 * (i & 3));
    connection->out_count += length + count;
}

static void send_message(struct connection *connection, uint64_t time) {
    uint64_t index = (uint64_t)(connection - connections);
    uint8_t payload[payload_max];
    connection->number++;
    unsigned count = header_bytes + (unsigned)((index * 7 + connection->number * 13) % 300);
    for (unsigned i = header_bytes; i < count; i++) payload[i] = content(index, i);
    memcpy(payload, &index, 8);
    memcpy(payload + 8, &connection->number, 8);
    unsigned before = connection->out_count;
    if (connection->deflater != NULL) {
        uint8_t compressed[payload_max + 64];
        unsigned size = compress_message(connection->deflater, payload, count, compressed, sizeof compressed);
        append_frame(connection, 0x42, compressed, size);
        if (size < count / 2) figures.referring++;
    } else {
        append_frame(connection, 2, payload, count);
    }
    connection->sent_at = time;
    if (connection->role == PUBLISHER) figures.published++;
    else figures.sent++;
    // Every third frame stops somewhere, and goes on 20 ms later.
    if ((index + connection->number) % 3 == 0) {
        unsigned frame = connection->out_count - before;
        connection->held = frame - (unsigned)((index * 31 + connection->number * 17) % frame);
        connection->held_until = time + 20000000;
    }
    flush(connection);
}

static void received_message(struct connection *connection, const uint8_t *payload, unsigned count, uint64_t time) {
    uint64_t index, number;
    if (count < header_bytes) return lost(connection, "a message is too short");
    memcpy(&index, payload, 8);
    memcpy(&number, payload + 8, 8);
    if (index >= connection_count) return lost(connection, "nobody's message");
    for (unsigned i = header_bytes; i < count; i++) {
        if (payload[i] != content(index, i)) return lost(connection, "a message is not what was sent");
    }
    if (connection->role == ECHO) {
        if (index != (uint64_t)(connection - connections)) return lost(connection, "another one's message");
        if (connection->sent_at == 0 || number < connection->number) {
            figures.duplicated++;
        } else if (number > connection->number) {
            figures.reordered++;
        } else {
            if (time - connection->sent_at > figures.pause) figures.pause = time - connection->sent_at;
            connection->sent_at = 0;
            figures.received++;
        }
        return;
    }
    uint64_t publisher = connection_count - 1 - index;
    if (connection->role != SUBSCRIBER || publisher >= publisher_count) return lost(connection, "nobody's message");
    uint64_t *last = &connection->numbers[publisher];
    if (number <= *last) figures.duplicated++;
    else if (number > *last + 1) figures.reordered++;
    if (number > *last) *last = number;
    figures.heard++;
    if (connection->heard_at != 0 && time - connection->heard_at > figures.gap) figures.gap = time - connection->heard_at;
    connection->heard_at = time;
}

static void received_compressed(struct connection *connection, const uint8_t *payload, unsigned count, uint64_t time) {
    uint8_t message[payload_max];
    if (connection->inflater == NULL) return lost(connection, "a compressed message, which was not agreed on");
    int size = inflate_message(connection->inflater, payload, count, message, sizeof message);
    if (size < 0) return lost(connection, "a message that does not inflate");
    figures.inflated++;
    received_message(connection, message, (unsigned)size, time);
}

static void receive(struct connection *connection, uint64_t time) {
    while (!connection->is_gone) {
        ssize_t count = recv(connection->descriptor, connection->in + connection->in_count, in_max - connection->in_count, 0);
        if (count < 0 && errno == EAGAIN) return;
        if (count <= 0) return lost(connection, count == 0 ? "the stream has ended" : strerror(errno));
        connection->in_count += (unsigned)count;
        unsigned start = 0;
        while (connection->in_count - start >= 2 && !connection->is_gone) {
            const uint8_t *frame = connection->in + start;
            unsigned available = connection->in_count - start, length = frame[1] & 0x7F, head = 2;
            if (frame[1] & 0x80 || length == 127) return lost(connection, "a frame that no server sends");
            if (length == 126) {
                if (available < 4) break;
                length = (unsigned)frame[2] << 8 | frame[3];
                head = 4;
            }
            if (head + length > in_max) return lost(connection, "a frame is too long");
            if (available < head + length) break;
            switch (frame[0]) {
            case 0x82: received_message(connection, frame + head, length, time); break;
            case 0xC2: received_compressed(connection, frame + head, length, time); break;
            case 0x89: append_frame(connection, 10, frame + head, length); break;
            case 0x88: return lost(connection, "the server has closed it");
            default: return lost(connection, "a frame that was not asked for");
            }
            start += head + length;
        }
        memmove(connection->in, connection->in + start, connection->in_count - start);
        connection->in_count -= start;
    }
}

static void open_connection(struct connection *connection, uint16_t port, const char *path, bool deflates) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->descriptor < 0) fail("socket");
    if (connect(connection->descriptor, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
    char request[512];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                          path, deflates ? "Sec-WebSocket-Extensions: permessage-deflate\r\n" : "");
    if (send(connection->descriptor, request, (size_t)length, MSG_NOSIGNAL) != length) fail("send");
    char response[1024] = "";
    size_t count = 0;
    // Byte by byte: what follows the head belongs to the frames.
    while (strstr(response, "\r\n\r\n") == NULL) {
        if (count + 1 == sizeof response) fail("the response");
        if (recv(connection->descriptor, response + count, 1, 0) != 1) fail("recv");
        response[++count] = 0;
    }
    if (strncmp(response, "HTTP/1.1 101", 12) != 0) {
        fprintf(stderr, "RestartLoad: refused: %.60s\n", response);
        exit(1);
    }
    if (deflates) {
        if (strstr(response, "permessage-deflate\r\n") == NULL) {
            fprintf(stderr, "RestartLoad: no permessage-deflate with all its context: %s\n", response);
            exit(1);
        }
        connection->deflater = make_stream(true);
        connection->inflater = make_stream(false);
    }
    int one = 1;
    setsockopt(connection->descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(connection->descriptor, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)(connection - connections)};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->descriptor, &event) != 0) fail("epoll_ctl");
}

static void report(void) {
    uint64_t unanswered = 0, unheard = 0;
    for (unsigned i = 0; i < connection_count; i++) {
        struct connection *connection = &connections[i];
        if (connection->role == ECHO && connection->sent_at != 0) unanswered++;
        if (connection->role != SUBSCRIBER) continue;
        for (unsigned publisher = 0; publisher < publisher_count; publisher++) {
            unheard += connections[connection_count - 1 - publisher].number - connection->numbers[publisher];
        }
    }
    printf("{\"sent\": %llu, \"received\": %llu, \"unanswered\": %llu, \"published\": %llu, \"heard\": %llu, "
           "\"unheard\": %llu, \"duplicated\": %llu, \"reordered\": %llu, \"disconnected\": %llu, "
           "\"referring\": %llu, \"inflated\": %llu, "
           "\"pause_ms\": %.1f, \"gap_ms\": %.1f}\n",
           (unsigned long long)figures.sent, (unsigned long long)figures.received, (unsigned long long)unanswered,
           (unsigned long long)figures.published, (unsigned long long)figures.heard, (unsigned long long)unheard,
           (unsigned long long)figures.duplicated, (unsigned long long)figures.reordered,
           (unsigned long long)figures.disconnected, (unsigned long long)figures.referring,
           (unsigned long long)figures.inflated, (double)figures.pause / 1e6, (double)figures.gap / 1e6);
    fflush(stdout);
    figures.pause = figures.gap = 0;
}

static bool is_all_answered(void) {
    for (unsigned i = 0; i < connection_count; i++) {
        struct connection *connection = &connections[i];
        if (connection->role == ECHO && connection->sent_at != 0 && !connection->is_gone) return false;
        if (connection->out_count > 0 && !connection->is_gone) return false;
        if (connection->role != SUBSCRIBER || connection->is_gone) continue;
        for (unsigned publisher = 0; publisher < publisher_count; publisher++) {
            if (connection->numbers[publisher] != connections[connection_count - 1 - publisher].number) return false;
        }
    }
    return true;
}

static void tick(unsigned *position, unsigned target, bool is_sending, uint64_t time) {
    for (unsigned i = 0; i < connection_count; i++) {
        struct connection *connection = &connections[i];
        if (connection->held > 0 && time >= connection->held_until) {
            connection->held = 0;
            flush(connection);
        }
    }
    for (; *position != target; (*position)++) {
        struct connection *connection = &connections[*position % connection_count];
        if (!is_sending || connection->is_gone || connection->out_count > 0) continue;
        if (connection->role == ECHO && connection->sent_at == 0) send_message(connection, time);
    }
}

int main(int count, char **arguments) {
    if (count != 6 && count != 7) {
        fprintf(stderr, "usage: RestartLoad PORT ECHOES SUBSCRIBERS PUBLISHERS PERIOD_MILLISECONDS [PUBLISHERS_PORT]\n");
        return 2;
    }
    uint16_t port = (uint16_t)atoi(arguments[1]), publishers_port = count == 7 ? (uint16_t)atoi(arguments[6]) : port;
    uint64_t publishing_period = count == 7 ? 10000000 : 50000000;
    unsigned echoes = (unsigned)atoi(arguments[2]), subscribers = (unsigned)atoi(arguments[3]);
    uint64_t period = (uint64_t)atoi(arguments[5]) * 1000000;
    publisher_count = (unsigned)atoi(arguments[4]);
    connection_count = echoes + subscribers + publisher_count;
    if (publisher_count > publishers_max || connection_count == 0 || period == 0) return 2;
    connections = calloc(connection_count, sizeof *connections);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (connections == NULL || epoll < 0) fail("epoll_create1");
    for (unsigned i = 0; i < connection_count; i++) {
        struct connection *connection = &connections[i];
        connection->role = i < echoes ? ECHO : i < echoes + subscribers ? SUBSCRIBER : PUBLISHER;
        if (connection->role == SUBSCRIBER) connection->numbers = calloc(publishers_max, sizeof(uint64_t));
        const char *path = connection->role == ECHO ? (i % 2 == 0 ? "/async" : "/sync")
                           : connection->role == SUBSCRIBER ? "/subscribe" : "/publish";
        bool deflates = connection->role == ECHO         ? i % 5 < 2 && i / 5 * 2 < deflating_echoes_max
                        : connection->role == SUBSCRIBER ? (i - echoes) % 2 == 0 && (i - echoes) / 2 < deflating_subscribers_max
                                                         : false;
        open_connection(connection, connection->role == PUBLISHER ? publishers_port : port, path, deflates);
    }
    printf("ready\n");
    fflush(stdout);
    fcntl(0, F_SETFL, O_NONBLOCK);

    bool is_sending = true, is_input_open = true;
    uint64_t begin = now(), stopped_at = 0, published_at = 0;
    unsigned position = 0;
    while (true) {
        struct epoll_event events[512];
        int ready = epoll_wait(epoll, events, 512, 2);
        uint64_t time = now();
        for (int i = 0; i < ready; i++) {
            struct connection *connection = &connections[events[i].data.u64];
            if (connection->is_gone) continue;
            if (events[i].events & EPOLLOUT) flush(connection);
            receive(connection, time);
            // A pong may have been added, behind a frame that is whole.
            if (!connection->is_gone && connection->held == 0) flush(connection);
        }
        unsigned target = (unsigned)((time - begin) * connection_count / period);
        if (target - position > connection_count) position = target - connection_count;
        tick(&position, target, is_sending, time);
        if (is_sending && time - published_at >= publishing_period) {
            published_at = time;
            for (unsigned i = 0; i < publisher_count; i++) {
                struct connection *connection = &connections[connection_count - 1 - i];
                if (!connection->is_gone && connection->out_count == 0) send_message(connection, time);
            }
        }
        char line[64];
        ssize_t got = is_input_open ? read(0, line, sizeof line - 1) : -1;
        if (got > 0) {
            line[got] = 0;
            if (strstr(line, "mark") != NULL) report();
            if (strstr(line, "stop") != NULL) got = 0;
        }
        if (got == 0) {
            is_input_open = is_sending = false;
            stopped_at = time;
        }
        if (!is_sending && (is_all_answered() || time - stopped_at > 5000000000u)) break;
    }
    report();
    return 0;
}
