#ifndef LOAD_GENERATOR_POLLER_H
#define LOAD_GENERATOR_POLLER_H

#include <stdint.h>
#include <sys/epoll.h>

enum { EVENTS_MAX = 512 };

/// Makes an epoll instance.
int make_poller(void);

/// Watches a socket for bytes to read and room to write, edge-triggered: one notice per change saves the kernel
/// from looking at every socket twice, and the generator must be cheaper than the server.
void watch(int poller, int socket, uint32_t index);

/// Waits for events; five seconds without one end the process, because the load never pauses that long.
///
/// `waiting` and `what` say for how much the generator waits, for the words of the failure.
int wait_for_events(int poller, struct epoll_event *events, uint64_t waiting, const char *what);

#endif
