// A load generator for WebSocket echo, fan-out, idle connections and churn: one thread, epoll, one line of JSON.
//
// It must cost less CPU per message than the servers it measures, so everything that it sends is made beforehand
// and what it receives is compared in one go. Start it with a wrong option to see the right ones.

#include "modes.h"

int main(int count, char **arguments) {
    struct options options = parse_options(count, arguments);
    switch (options.mode) {
    case MODE_ECHO:
    case MODE_RAW:
        run_echo(&options);
        break;
    case MODE_FANOUT:
        run_fanout(&options);
        break;
    case MODE_IDLE:
        run_idle(&options);
        break;
    case MODE_CHURN:
        run_churn(&options);
        break;
    case MODE_CROWD:
        run_crowd(&options);
        break;
    }
}
