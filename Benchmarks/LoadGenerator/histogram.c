#include "histogram.h"

enum { STEP_BITS = 6, LAST = HISTOGRAM_OCTAVES * HISTOGRAM_STEPS - 1 };

// Octave 0 holds 0 to 63 exactly; each later one doubles the width of its 64 buckets.
static uint32_t bucket(uint64_t nanoseconds) {
    if (nanoseconds < HISTOGRAM_STEPS) return (uint32_t)nanoseconds;
    uint32_t octave = 63u - (uint32_t)__builtin_clzll(nanoseconds) - STEP_BITS;
    uint32_t index = ((octave + 1) << STEP_BITS) + (uint32_t)(nanoseconds >> octave) - HISTOGRAM_STEPS;
    return index < LAST ? index : LAST;
}

uint64_t histogram_upper_edge(uint32_t index) {
    if (index < HISTOGRAM_STEPS) return index;
    uint32_t octave = (index >> STEP_BITS) - 1;
    uint64_t step = (index & (HISTOGRAM_STEPS - 1)) + HISTOGRAM_STEPS;
    return ((step + 1) << octave) - 1;
}

void histogram_record(struct histogram *histogram, uint64_t nanoseconds) {
    histogram->counts[bucket(nanoseconds)]++;
    histogram->total++;
}

uint64_t histogram_quantile(const struct histogram *histogram, double fraction) {
    uint64_t seen = 0;
    uint64_t wanted = (uint64_t)((double)histogram->total * fraction);
    if (histogram->total == 0) return 0;
    for (uint32_t index = 0; index < LAST; index++) {
        seen += histogram->counts[index];
        if (seen > wanted) return histogram_upper_edge(index);
    }
    return histogram_upper_edge(LAST);
}
