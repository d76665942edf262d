#ifndef LOAD_GENERATOR_POLLER_H
#define LOAD_GENERATOR_POLLER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

enum {
    EVENTS_MAX = 512,
    /// Bytes that one receive call takes at most.
    RECEIVE_BYTES = 256 * 1024,
};

/// Makes an epoll instance.
int make_poller(void);

/// Watches a socket for bytes to read and room to write, edge-triggered: one notice per change saves the kernel
/// from looking at every socket twice, and the generator must be cheaper than the server.
void watch(int poller, int socket, uint32_t index);

/// Waits for events; five seconds without one end the process, because the load never pauses that long.
int wait_for_events(int poller, struct epoll_event *events);

/// Receives once. Returns 0 if nothing has arrived; an end or an error of the connection ends the process.
size_t receive(int socket, unsigned char *buffer);

/// Sends what the socket takes, and returns the byte count; an error ends the process.
size_t send_some(int socket, const unsigned char *bytes, size_t count);

#endif
