/* The shelf: whatever lies in its memory, what is found is of the asset asked for, fresh, whole by its sum, and within its
 * bounds; and it stays as it was found while the slot says that it is being written.
 *
 * The input: a byte of wishes, the asset (16), the time (8), what lies in the slots before (a byte each: nothing, or
 * another asset), and the slot. */
#include "fuzz.h"

enum { NUMBER_AT = 0, CODE_AT = 8, FRESH_AT = 32, LENGTHS_AT = 40, CRC_AT = 48 };
enum { REPAIR_CRC = 1, REPAIR_LENGTHS = 2, REPAIR_CODE = 4, REPAIR_NUMBER = 8, REPAIR_ASSET = 16, BEFORE = 3 };

static uint8_t memory[SHELF_BYTES] __attribute__((aligned(64)));
static hot_shelf shelf;

/* CRC-32, bit by bit. */
static uint32_t plain_crc(const uint8_t *bytes, size_t length, uint32_t crc) {
    crc = ~crc;
    while (length--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

static uint32_t crc_of(const uint8_t *slot, size_t length) {
    return plain_crc(slot + SHELF_TEXT_AT, length, plain_crc(slot + 8, 40, 0));
}

static unsigned place_of(const uint8_t *asset) {
    uint32_t hash = 2166136261u;
    for (size_t at = 0; at < strnlen((const char *)asset, 16); at++) hash = (hash ^ asset[at]) * 16777619u;
    return hash % SHELF_SLOTS;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input from = {data, data + size};
    uint8_t wishes = (uint8_t)take_whole(&from, 1), asset[16], others[BEFORE], *slot;
    unsigned first, steps = 0, where = 0;
    uint16_t lengths[3];
    size_t length;
    double fresh_until;

    take(&from, asset, sizeof asset);
    if (wishes & REPAIR_ASSET)
        for (size_t at = strnlen((const char *)asset, 16); at < 16; at++) asset[at] = 0;
    if (!asset[0]) return 0;
    double now = take_double(&from);
    take(&from, others, sizeof others);
    first = place_of(asset);
    while (steps < BEFORE && others[steps]) {
        memory[(first + steps) % SHELF_SLOTS * SHELF_SLOT_BYTES + CODE_AT] = others[steps];
        steps++;
    }
    slot = memory + (size_t)((first + steps) % SHELF_SLOTS) * SHELF_SLOT_BYTES;
    take(&from, slot, SHELF_SLOT_BYTES);
    if (wishes & REPAIR_CODE) memcpy(slot + CODE_AT, asset, sizeof asset);
    if (wishes & REPAIR_NUMBER) slot[NUMBER_AT] &= 0xfe;
    memcpy(lengths, slot + LENGTHS_AT, sizeof lengths);
    if (wishes & REPAIR_LENGTHS) {
        for (int at = 0; at < 3; at++) lengths[at] %= SHELF_LONGEST_TEXT / 3 + 1;
        memcpy(slot + LENGTHS_AT, lengths, sizeof lengths);
    }
    length = (size_t)lengths[0] + lengths[1] + lengths[2];
    if (wishes & REPAIR_CRC && length <= SHELF_LONGEST_TEXT) {
        uint32_t crc = crc_of(slot, length);
        memcpy(slot + CRC_AT, &crc, sizeof crc);
    }

    if (shelf.memory == NULL) CHECK(!hot_shelf_open(&shelf, memory));
    const hot_reply *reply = hot_shelf_find(&shelf, asset, now, &where);
    if (reply != NULL) {
        const uint8_t *found = memory + (size_t)where * SHELF_SLOT_BYTES;
        uint32_t crc;
        memcpy(&crc, found + CRC_AT, sizeof crc);
        memcpy(lengths, found + LENGTHS_AT, sizeof lengths);
        memcpy(&fresh_until, found + FRESH_AT, sizeof fresh_until);
        length = (size_t)lengths[0] + lengths[1] + lengths[2];
        CHECK(where < SHELF_SLOTS && !memcmp(found + CODE_AT, asset, 16));
        CHECK(!(found[NUMBER_AT] & 1) && length <= SHELF_LONGEST_TEXT && crc == crc_of(found, length));
        CHECK(now <= fresh_until && now <= reply->fresh_until);
        CHECK(reply->head_length == lengths[0] && reply->tail_length == lengths[1]);
        CHECK(reply->source_length == lengths[2] && !memcmp(reply->text, found + SHELF_TEXT_AT, length));
        CHECK(hot_shelf_find(&shelf, asset, now, &where) == reply);
        /* while it is being written */
        hot_reply before = *reply;
        slot[NUMBER_AT] |= 1;
        slot[SHELF_TEXT_AT]++;
        CHECK(hot_shelf_find(&shelf, asset, now, &where) == reply && !memcmp(&before, reply, sizeof before));
        /* and when it was written, with a sum that is of something else */
        slot[NUMBER_AT] += 1;
        const hot_reply *after = hot_shelf_find(&shelf, asset, now, &where);
        if (length && lengths[0]) CHECK(after == reply && !memcmp(&before, after, sizeof before));
    }
    for (unsigned step = 0; step <= BEFORE; step++) {
        unsigned one = (first + step) % SHELF_SLOTS;
        memset(memory + (size_t)one * SHELF_SLOT_BYTES, 0, SHELF_SLOT_BYTES);
        shelf.copies[one].number = 1; /* as nobody had ever read it */
    }
    return 0;
}
