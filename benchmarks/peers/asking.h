/* What both load programs share: clocks, latencies by size, lists of words from files, and chance. */
#ifndef ASKING_H
#define ASKING_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_SECONDS 600

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

/* Processor time of this process so far: beside the time on the clock it tells how busy it was. */
static int64_t busy_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static void give_up(const char *why) {
    fprintf(stderr, "%s%s%s\n", why, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

/* Latencies: each power of two of nanoseconds is cut into 64 equal steps, so a value is known to 1.6 %. */
#define STEPS 64
#define SIZES (58 * STEPS + STEPS)
static long latencies[SIZES];

static inline void keep_latency(int64_t ns) {
    uint64_t size = ns < 0 ? 0 : (uint64_t)ns;
    int place = (int)size;
    if (size >= STEPS) {
        int top = 63 - __builtin_clzll(size);
        place = (top - 5) * STEPS + (int)((size >> (top - 6)) & (STEPS - 1));
    }
    latencies[place]++;
}

/* The middle of a step, in ns. */
static double size_of(int place) {
    if (place < STEPS) return place;
    int top = place / STEPS + 5;
    double step = (double)(UINT64_C(1) << (top - 6));
    return (STEPS + place % STEPS + 0.5) * step;
}

static void print_latencies(void) {
    const char *comma = "";
    printf("\"latencies\": [");
    for (int place = 0; place < SIZES; place++)
        if (latencies[place]) {
            printf("%s[%.3f, %ld]", comma, size_of(place) / 1000.0, latencies[place]);
            comma = ", ";
        }
    printf("]");
}

typedef struct {
    char *text;
    int length;
} word;

typedef struct {
    word *words;
    uint32_t count;
} words;

/* One word a line; the file is short and ours. */
static words read_words(const char *path, int longest) {
    FILE *file = fopen(path, "r");
    words all = {NULL, 0};
    char line[4096];
    if (!file) give_up(path);
    while (fgets(line, sizeof line, file)) {
        int length = (int)strcspn(line, "\r\n");
        if (!length) continue;
        if (length > longest) {
            errno = 0;
            give_up("a line is too long");
        }
        line[length] = 0;
        all.words = realloc(all.words, (all.count + 1) * sizeof *all.words);
        if (!all.words) give_up("memory");
        all.words[all.count++] = (word){strdup(line), length};
    }
    fclose(file);
    if (!all.count) {
        errno = 0;
        give_up("an empty list");
    }
    return all;
}

/* xorshift: which word comes next, the same in every run. */
static uint64_t chance = UINT64_C(0x9E3779B97F4A7C15);

static inline word one_of(const words *all) {
    if (all->count == 1) return all->words[0];
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return all->words[(uint32_t)(chance >> 32) % all->count];
}

/* Tells who started us how far we are: to look at a clock then, and to let several begin together. */
static void tell(const char *what) {
    printf("%s\n", what);
    fflush(stdout);
}

static void wait_for_the_word(void) {
    tell("ready");
    if (getchar() == EOF) exit(1);
}

static double seconds_of(const char *text) {
    double seconds = atof(text);
    if (!(seconds > 0 && seconds <= MOST_SECONDS)) {
        errno = 0;
        give_up("SECONDS is above 0, and at most 600");
    }
    return seconds;
}

static int number_of(const char *text, int most, const char *what) {
    char *end;
    long number = strtol(text, &end, 10);
    if (*end || number < 1 || number > most) {
        fprintf(stderr, "%s is 1 to %d\n", what, most);
        exit(2);
    }
    return (int)number;
}

#endif
