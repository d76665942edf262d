#ifndef LOAD_GENERATOR_HISTOGRAM_H
#define LOAD_GENERATOR_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 64, HISTOGRAM_OCTAVES = 40 };

/// Counts of nanoseconds in buckets at most 1/64 wide, relative to their value.
///
/// Memory is fixed and recording is an addition. Values past about nine hours share the last bucket.
struct histogram {
    uint64_t counts[HISTOGRAM_OCTAVES * HISTOGRAM_STEPS];
    uint64_t total;
};

/// Counts one value.
void histogram_record(struct histogram *histogram, uint64_t nanoseconds);

/// The greatest value that counts in the bucket at `index` of `counts`.
uint64_t histogram_upper_edge(uint32_t index);

/// The upper edge of the bucket in which `fraction` of the values are at or below; 0 without values.
uint64_t histogram_quantile(const struct histogram *histogram, double fraction);

#endif
