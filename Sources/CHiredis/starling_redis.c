#include "starling_redis.h"

#include <stdlib.h>

long starling_redis_format(char **command, int count, const char *bytes, const size_t *byte_counts) {
    const char **arguments = malloc(sizeof(char *) * (size_t)count);
    if (arguments == NULL) return -1;
    for (int index = 0; index < count; index++) {
        arguments[index] = bytes;
        bytes += byte_counts[index];
    }
    long length = (long)redisFormatCommandArgv(command, count, arguments, byte_counts);
    free(arguments);
    return length;
}

void starling_redis_free(char *command) {
    redisFreeCommand(command);
}
