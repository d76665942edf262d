// What Glibc's Swift module lacks: epoll, eventfd and accept4.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "starling_send_ring.h"

// One readiness event, without epoll_event's packed layout.
typedef struct {
    uint64_t token;
    _Bool readable;
    _Bool writable;
    // The peer sends no more; only told with starling_trigger_edge.
    _Bool ended;
    // The peer is gone or the descriptor failed: reading tells which.
    _Bool hung_up;
} starling_event;

typedef enum {
    // Reports what is ready, again and again.
    starling_trigger_level,
    // Reports what becomes ready, once.
    starling_trigger_edge,
    // As level, to one of the epolls that share a descriptor.
    starling_trigger_exclusive,
} starling_trigger;

typedef enum {
    starling_epoll_add,
    starling_epoll_change,
    starling_epoll_remove,
} starling_epoll_operation;

int starling_epoll_create(void);
// Returns 0, or an errno.
int starling_epoll_control(int epoll, starling_epoll_operation operation, int descriptor, uint64_t token, _Bool reading,
                           _Bool writing, starling_trigger trigger);
// The same, for one event: then the descriptor is silent, hang-ups included, until it is modified.
int starling_epoll_once(int epoll, _Bool is_new, int descriptor, uint64_t token, _Bool reading, _Bool writing);
// Returns the number of events, or a negated errno.
int starling_epoll_wait(int epoll, starling_event *events, int count, int milliseconds);

int starling_eventfd_create(void);
void starling_eventfd_signal(int descriptor);
void starling_eventfd_clear(int descriptor);

// Non-blocking and close-on-exec. Returns a descriptor, or a negated errno.
int starling_accept(int listener, struct sockaddr_storage *address, socklen_t *length);

// As recv and send, which raises no signal; with errno set.
ssize_t starling_receive(int descriptor, void *buffer, size_t bytes);
ssize_t starling_send(int descriptor, const void *buffer, size_t bytes);

// Sends two buffers as one. Returns what send does, with errno set.
ssize_t starling_send_together(int descriptor, const void *head, size_t head_bytes, const void *body, size_t body_bytes);

// Descriptors that one message over a Unix socket carries at most.
enum { starling_descriptors_max = 253 };

// Sends bytes over a Unix socket together with descriptors, none for 0. Returns what send does, or a negated errno.
ssize_t starling_send_descriptors(int descriptor, const void *buffer, size_t bytes, const int *descriptors, size_t count);
// Receives bytes, and the descriptors that came with them, close-on-exec: room for starling_descriptors_max. Returns what recv
// does, or a negated errno; EMFILE if the process could not take all the descriptors, of which it then has none.
ssize_t starling_receive_descriptors(int descriptor, void *buffer, size_t bytes, int *descriptors, size_t *count);
// The user that the other end of a Unix socket runs as; false if it is not known.
_Bool starling_peer_user(int descriptor, uid_t *user);
