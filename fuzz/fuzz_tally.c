/* The tally against a plain list: what was counted is what is found, each kind once, until it is taken out.
 *
 * The input: acts of five bytes each. */
#include "fuzz.h"

enum { MOST = 4096, SOURCES = 5 };

typedef struct {
    void *whose;
    unsigned slot, source, protocol, hour;
    uint64_t requests, sum, max;
} row;

static char owners[TALLY_MOST + 64];
static row model[MOST];
static hot_tallies tallies;
static const char *const sources[SOURCES] = {"median", "kraken-ws", "", "coinbase-rest", "ssssssssssssssssssssssssssssssss"};

static int is_row(const hot_tally *entry, const row *one) {
    return entry->whose == one->whose && entry->slot == one->slot && entry->protocol == one->protocol &&
           entry->hour == one->hour && entry->source_length == strlen(sources[one->source]) &&
           !memcmp(entry->source, sources[one->source], entry->source_length);
}

static void check_all(unsigned rows) {
    CHECK(tallies.count == rows);
    for (unsigned at = 0; at < rows; at++) { /* both keep the order of coming */
        const hot_tally *entry = &tallies.entries[at];
        CHECK(is_row(entry, &model[at]));
        CHECK(entry->requests == model[at].requests && entry->sum_us == model[at].sum && entry->max_us == model[at].max);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input from = {data, data + size};
    hot_reply reply = {.head_length = 3, .tail_length = 2};
    unsigned rows = 0, fillings = 0;

    if (tallies.entries == NULL) CHECK(!hot_tallies_open(&tallies));
    while (from.at < from.end) {
        uint8_t act[5];
        take(&from, act, sizeof act);
        row one = {
            .whose = &owners[16 * (act[0] % 4)],
            .slot = act[1] % 8 ? act[1] % 8 : SHELF_SLOTS - 1,
            .source = act[2] % SOURCES,
            .protocol = act[3] & 1,
            .hour = 1000u + (act[3] >> 1) % 3,
        };
        if (act[0] > 250) {
            check_all(rows);
            if (act[1] & 1) {
                hot_tallies_clear(&tallies);
            } else {
                uint32_t count;
                hot_tally *taken = hot_tallies_take(&tallies, &count);
                CHECK(taken != NULL && taken != tallies.entries && count == rows && tallies.count == 0);
                for (unsigned at = 0; at < rows; at++) CHECK(is_row(&taken[at], &model[at]) && taken[at].requests == model[at].requests);
                hot_tallies_free(taken);
            }
            rows = 0;
            continue;
        }
        if (act[0] > 248 && !fillings++) { /* as many kinds as there is room for */
            double now = 0.0;
            hot_tallies_clear(&tallies);
            reply.source_length = 0;
            for (unsigned at = 0; at < TALLY_MOST; at++) {
                CHECK(hot_tallies_room(&tallies, &reply));
                hot_tally *entry = hot_tallies_entry(&tallies, &owners[at], act[1], &reply, 0, now);
                CHECK(entry->requests == 0 && entry == &tallies.entries[at]);
                hot_count(entry, 1);
            }
            CHECK(!hot_tallies_room(&tallies, &reply));
            hot_tallies_clear(&tallies);
            for (unsigned at = 0; at < 2 * TALLY_MOST; at++) CHECK(!tallies.index[at]);
            rows = 0;
            continue;
        }
        reply.number = 2u * act[2] + 2u; /* a writing has one source, a source many writings */
        reply.source_length = (uint16_t)strlen(sources[one.source]);
        memcpy(reply.text + 5, sources[one.source], reply.source_length);
        CHECK(hot_tallies_room(&tallies, &reply));
        hot_tally *entry = hot_tallies_entry(&tallies, one.whose, one.slot, &reply, (int)one.protocol, one.hour * 3600.0 + act[4]);
        CHECK(is_row(entry, &one));
        unsigned at = 0;
        while (at < rows && !is_row(entry, &model[at])) at++;
        CHECK((at == rows) == (entry->requests == 0) && entry == &tallies.entries[at]);
        if (at == rows) {
            if (rows == MOST) break;
            model[rows++] = one;
            CHECK(entry->at == one.hour * 3600.0 + act[4]);
        }
        hot_count(entry, act[4]);
        model[at].requests++;
        model[at].sum += act[4];
        if (act[4] > model[at].max) model[at].max = act[4];
    }
    if (rows < MOST) check_all(rows);
    hot_tallies_clear(&tallies);
    reply.source_length = 33; /* longer than is kept */
    CHECK(!hot_tallies_room(&tallies, &reply));
    return 0;
}
