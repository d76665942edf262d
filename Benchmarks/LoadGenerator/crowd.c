#define _GNU_SOURCE
#include "crowd.h"

#include "crowd_dial.h"
#include "dial.h"
#include "fail.h"
#include "modes.h"
#include "poller.h"
#include "window.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PONG = 0x8a,
    TEXT = 0x81,
    /// Handshakes at a time: many processes dial at once, and a server's queue of connections holds 4,096.
    UNDERWAY_MAX = 32,
    PUBLICATION_BYTES_MIN = 16,
    /// The kernel looks for a port of one parity first, and searches all of those in vain once they are used: from one source to
    /// one port, connecting is a hundred times slower from 14,000 connections on.
    SOURCES = 2,
};

static unsigned char buffer[RECEIVE_BYTES + 1];

// MARK: Members

static void set_events(struct crowd *crowd, int operation, uint32_t index, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = index};
    if (epoll_ctl(crowd->poller, operation, crowd->members[index].socket, &event) != 0) fail_errno("epoll_ctl");
}

// What the crowd sends is small, and nothing waits before it: a socket that does not take it is a fault.
static void send_all(struct member *member, const void *bytes, size_t count) {
    ssize_t sent = send(member->socket, bytes, count, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) return;    // The next receive says so.
    if (sent < 0) fail_errno("send");
    if ((size_t)sent != count) fail("a socket took %zd of %zu bytes", sent, count);
}

static void leave(struct crowd *crowd, struct member *member) {
    if (member->state == MEMBER_OPEN) crowd->open--;
    else crowd->underway--;
    close(member->socket);
    free(member->held);
    *member = (struct member){.socket = -1, .topic = member->topic};
}

static void request_upgrade(struct crowd *crowd, struct member *member) {
    char request[REQUEST_BYTES_MAX];
    send_all(member, request, write_request(crowd->options, "/crowd", request));
    member->state = MEMBER_UPGRADING;
}

void crowd_dial(struct crowd *crowd) {
    while (crowd->underway < UNDERWAY_MAX && crowd->next_wanted < crowd->wanted_count) {
        uint32_t index = crowd->wanted[crowd->next_wanted++];
        struct member *member = &crowd->members[index];
        bool connected;
        member->socket = dial_nonblocking(crowd->options->port, crowd->options->source + index % SOURCES, &connected);
        member->state = MEMBER_CONNECTING;
        crowd->underway++;
        set_events(crowd, EPOLL_CTL_ADD, index, connected ? EPOLLIN : EPOLLOUT);
        if (connected) request_upgrade(crowd, member);
    }
    if (crowd->next_wanted == crowd->wanted_count) crowd->next_wanted = crowd->wanted_count = 0;
}

void crowd_drop(struct crowd *crowd, uint32_t count) {
    uint64_t total = crowd->options->connections;
    for (uint64_t number = 0; number < count; number++) {
        uint32_t index = (uint32_t)(number * total / count);
        struct member *member = &crowd->members[index];
        if (member->state != MEMBER_OPEN) fail("a connection that is to be dropped is not open");
        if (number % 2 == 0) {
            struct linger reset = {.l_onoff = 1, .l_linger = 0};
            setsockopt(member->socket, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        }
        leave(crowd, member);
        crowd->wanted[crowd->wanted_count++] = index;
    }
}

// MARK: What arrives

static uint64_t little_endian(const unsigned char *bytes, size_t count) {
    uint64_t value = 0;
    for (size_t index = count; index > 0; index--) value = value << 8 | bytes[index - 1];
    return value;
}

static void count_publication(struct crowd *crowd, struct member *member, const unsigned char *payload, size_t bytes) {
    if (bytes < PUBLICATION_BYTES_MIN) fail("a publication of %zu bytes arrived", bytes);
    uint64_t sent_at = little_endian(payload, 8);
    uint32_t number = (uint32_t)little_endian(payload + 8, 4), topic = (uint32_t)little_endian(payload + 12, 4);
    if (number >= PUBLICATIONS_MAX) fail("publication %u arrived", number);
    uint32_t bit = 1u << number;
    if (topic != topic_of_all && topic != member->topic) {
        crowd->strays++;
    } else if ((member->seen & bit) != 0) {
        crowd->duplicates++;
    } else {
        member->seen |= bit;
        crowd->arrivals[number].count++;
        histogram_record(&crowd->arrivals[number].latencies, now_nanoseconds() - sent_at);
    }
}

static void join(struct member *member) {
    char topic[16];
    unsigned char frame[32];
    int digits = snprintf(topic, sizeof topic, "%u", member->topic);
    send_all(member, frame, crowd_frame(frame, TEXT, topic, (size_t)digits));
    member->state = MEMBER_JOINING;
}

// Serves what is complete in the buffer; returns its byte count, or that of everything if the connection is over.
static size_t consume(struct crowd *crowd, struct member *member, unsigned char *bytes, size_t count) {
    size_t position = 0;
    while (position < count) {
        size_t used = 0, payload_bytes = 0;
        unsigned char *payload = NULL;
        switch (crowd_parse(member->state, bytes + position, count - position, &used, &payload, &payload_bytes)) {
        case PARSED_PART:
            return position;
        case PARSED_UPGRADED:
            join(member);
            break;
        case PARSED_JOINED:
            member->state = MEMBER_OPEN;
            crowd->underway--;
            crowd->open++;
            break;
        case PARSED_PUBLICATION:
            count_publication(crowd, member, payload, payload_bytes);
            break;
        case PARSED_PING: {
            unsigned char frame[160];
            crowd->pings++;
            send_all(member, frame, crowd_frame(frame, PONG, payload, payload_bytes));
            break;
        }
        case PARSED_CLOSE:
            crowd->cut++;
            leave(crowd, member);
            return count;
        }
        position += used;
    }
    return position;
}

static void read_member(struct crowd *crowd, struct member *member) {
    if (member->held_bytes > 0) memcpy(buffer, member->held, member->held_bytes);
    size_t room = RECEIVE_BYTES - member->held_bytes;
    ssize_t received = recv(member->socket, buffer + member->held_bytes, room, 0);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (received <= 0) {
        crowd->cut++;
        leave(crowd, member);
        return;
    }
    size_t count = member->held_bytes + (size_t)received;
    buffer[count] = '\0';
    free(member->held);
    member->held = NULL;
    member->held_bytes = 0;
    size_t used = consume(crowd, member, buffer, count);
    if (used == count) return;
    member->held_bytes = count - used;
    member->held = malloc(member->held_bytes);
    if (member->held == NULL) fail_errno("malloc");
    memcpy(member->held, buffer + used, member->held_bytes);
}

void crowd_serve(struct crowd *crowd, uint32_t index, uint32_t events) {
    struct member *member = &crowd->members[index];
    switch (member->state) {
    case MEMBER_AWAY:
        // The event was for a connection that has been dropped since.
        return;
    case MEMBER_CONNECTING: {
        int error = 0;
        socklen_t bytes = sizeof error;
        getsockopt(member->socket, SOL_SOCKET, SO_ERROR, &error, &bytes);
        if (error != 0) fail("connect: %s", strerror(error));
        if ((events & EPOLLOUT) == 0) return;
        set_events(crowd, EPOLL_CTL_MOD, index, EPOLLIN);
        request_upgrade(crowd, member);
        return;
    }
    case MEMBER_UPGRADING:
    case MEMBER_JOINING:
    case MEMBER_OPEN:
        read_member(crowd, member);
        return;
    }
}
