#ifndef STARLING_FUZZER_H
#define STARLING_FUZZER_H

#include <stddef.h>
#include <stdint.h>

// libFuzzer, which comes with the compiler's runtime, without a header.
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*try_input)(const uint8_t *data, size_t size));

#endif
