// hiredis' parser and formatter, in a form that is the same for 0.14 and 1.x.
#pragma once

#include <hiredis/hiredis.h>
#include <stddef.h>

// Formats a command whose arguments stand one behind the other in `bytes`. Returns its length, or -1; the caller frees
// `*command` with starling_redis_free.
long starling_redis_format(char **command, int count, const char *bytes, const size_t *byte_counts);
void starling_redis_free(char *command);
