/* The table of keys against a plain list: put, take and find in any order, through any number of growths.
 *
 * The input: the secret (16), then acts of two bytes each: what, and with which of 1,300 keys. */
#include "fuzz.h"

enum { KEYS = 1300 };

static char owners[2][KEYS]; /* pointers to give out: two for each key */

static size_t write_key(unsigned which, uint8_t text[64]) {
    return (size_t)snprintf((char *)text, 64, "key-%u-%0*d", which, (int)(which % 40 + 1), 7);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input from = {data, data + size};
    uint8_t secret[16], text[64];
    void *model[KEYS] = {NULL};
    size_t live = 0;
    hot_keys keys;

    take(&from, secret, sizeof secret);
    CHECK(!hot_keys_open(&keys, secret));
    while (from.at < from.end) {
        unsigned act = (unsigned)take_whole(&from, 1), many = 1;
        unsigned which = (act >> 4 << 8 | (unsigned)take_whole(&from, 1)) % KEYS;
        if ((act & 15) > 12) many = 300; /* a whole row of them */
        for (; many--; which = (which + 1) % KEYS) {
            uint64_t hash[2];
            size_t length = write_key(which, text);
            void *before, *whose = &owners[act & 1][which];
            hot_hash(&keys, text, length, hash);
            switch (act & 3) {
            case 0:
            case 1:
                CHECK(!hot_keys_put(&keys, hash, whose, &before));
                CHECK(before == model[which]);
                live += model[which] == NULL;
                model[which] = whose;
                break;
            case 2:
                CHECK(hot_keys_take(&keys, hash) == model[which]);
                live -= model[which] != NULL;
                model[which] = NULL;
                break;
            default:
                CHECK(hot_keys_find(&keys, text, length) == model[which]);
                CHECK(hot_keys_find(&keys, text, length - 1) == NULL);
            }
            CHECK(keys.live == live && keys.live <= keys.used && keys.used * 2 <= keys.size);
            CHECK(!(keys.size & (keys.size - 1)));
        }
    }
    for (unsigned which = 0; which < KEYS; which++) {
        size_t length = write_key(which, text);
        CHECK(hot_keys_find(&keys, text, length) == model[which]);
    }
    /* no more room than twice what is good for the greatest number of keys that there ever were */
    CHECK(keys.size <= 8 * KEYS);
    hot_keys_close(&keys);
    return 0;
}
