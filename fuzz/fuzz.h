/* What the fuzz targets share. Each checks properties of hotcore on whatever bytes it is given; libFuzzer drives them
 * (tools/fuzz.py), and replay.c runs them on files where there is no clang. */
#ifndef TBEAST_FUZZ_H
#define TBEAST_FUZZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hotcore.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                    \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                        \
        }                                                                                   \
    } while (0)

/* The input, taken from the front; what is missing is zero. */
typedef struct {
    const uint8_t *at, *end;
} input;

static inline void take(input *from, void *to, size_t length) {
    size_t there = (size_t)(from->end - from->at) < length ? (size_t)(from->end - from->at) : length;
    memset(to, 0, length);
    if (there) memcpy(to, from->at, there);
    from->at += there;
}

static inline uint64_t take_whole(input *from, size_t bytes) {
    uint64_t value = 0;
    take(from, &value, bytes);
    return value;
}

static inline double take_double(input *from) {
    double value;
    take(from, &value, sizeof value);
    return value;
}

#endif
