#ifndef LOAD_GENERATOR_CROWD_DIAL_H
#define LOAD_GENERATOR_CROWD_DIAL_H

#include <stdbool.h>
#include <stdint.h>

/// Begins to connect to 127.0.0.1 from 127.0.0.`source` and does not wait; `connected` says whether it is done already.
int dial_nonblocking(uint16_t port, unsigned source, bool *connected);

#endif
