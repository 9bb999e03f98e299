#include "hotcore.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- questions ---- */

/* What a byte may be. */
enum { TOKEN = 1, VALUE = 2, CODE = 4, KEY = 8, ID = 16 };

static uint8_t kinds[256];

__attribute__((constructor)) static void make_kinds(void) {
    for (int byte = 0x21; byte < 0x7f; byte++) kinds[byte] |= VALUE | KEY;
    kinds[' '] |= VALUE;
    kinds['\t'] |= VALUE;
    for (int byte = '0'; byte <= '9'; byte++) kinds[byte] |= TOKEN | CODE | ID;
    for (int byte = 'A'; byte <= 'Z'; byte++) {
        kinds[byte] |= TOKEN | CODE;
        kinds[byte | 0x20] |= TOKEN | CODE;
    }
    for (const char *mark = "!#$%&'*+-.^_`|~"; *mark; mark++) kinds[(uint8_t)*mark] |= TOKEN;
}

static uint8_t upper(uint8_t byte) { return byte >= 'a' && byte <= 'z' ? byte - 0x20 : byte; }

/* Whether these bytes are this word (given in lower case), in any case. */
static int is_word(const uint8_t *bytes, size_t length, const char *word, size_t word_length) {
    if (length != word_length) return 0;
    for (size_t at = 0; at < length; at++) {
        uint8_t byte = bytes[at];
        if (byte >= 'A' && byte <= 'Z') byte |= 0x20;
        if (byte != (uint8_t)word[at]) return 0;
    }
    return 1;
}

#define IS(bytes, length, word) is_word(bytes, length, word, sizeof word - 1)

static int take_asset(const uint8_t *bytes, const uint8_t *end, hot_question *question) {
    size_t length = 0;
    memset(question->asset, 0, sizeof question->asset);
    while (bytes + length < end && kinds[bytes[length]] & CODE) {
        if (length == HOT_LONGEST_ASSET) return 0;
        question->asset[length] = upper(bytes[length]);
        length++;
    }
    question->asset_length = length;
    return length > 0;
}

/* What becomes of a header. */
enum { PASSED, DECLINED };

static int take_header(const uint8_t *name, size_t name_length, const uint8_t *value, size_t value_length,
                       hot_question *question, int *hosts, int *connections) {
    switch (name_length) {
    case 2:
        return IS(name, name_length, "te") ? DECLINED : PASSED;
    case 4:
        if (IS(name, name_length, "host") && ++*hosts > 1) return DECLINED;
        return PASSED;
    case 6:
        return IS(name, name_length, "expect") ? DECLINED : PASSED;
    case 7:
        return IS(name, name_length, "upgrade") || IS(name, name_length, "trailer") ? DECLINED : PASSED;
    case 9:
        if (!IS(name, name_length, "x-api-key")) return PASSED;
        break;
    case 10:
        if (!IS(name, name_length, "connection")) return PASSED;
        return IS(value, value_length, "keep-alive") && ++*connections == 1 ? PASSED : DECLINED;
    case 13:
        if (!IS(name, name_length, "authorization")) return PASSED;
        if (value_length < 7 || !is_word(value, 7, "bearer ", 7)) return DECLINED;
        value += 7;
        value_length -= 7;
        while (value_length && (*value == ' ' || *value == '\t')) value++, value_length--;
        break;
    case 14:
        if (IS(name, name_length, "content-length") || IS(name, name_length, "http2-settings")) return DECLINED;
        return PASSED;
    case 17:
        return IS(name, name_length, "transfer-encoding") ? DECLINED : PASSED;
    default:
        return PASSED;
    }
    /* it says who asks, which nothing before may have said */
    if (question->key != NULL || value_length < HOT_SHORTEST_KEY || value_length > HOT_LONGEST_KEY) return DECLINED;
    for (size_t at = 0; at < value_length; at++)
        if (!(kinds[value[at]] & KEY)) return DECLINED;
    question->key = value;
    question->key_length = value_length;
    return PASSED;
}

size_t hot_recognise(const uint8_t *bytes, size_t length, hot_question *question) {
    static const char line[] = "GET /price?asset=", version[] = " HTTP/1.1\r\n";
    const uint8_t *at = bytes, *end = bytes + (length < HOT_LONGEST_HEAD ? length : HOT_LONGEST_HEAD);
    int hosts = 0, connections = 0, headers = 0;

    if ((size_t)(end - at) < sizeof line - 1 || memcmp(at, line, sizeof line - 1)) return 0;
    at += sizeof line - 1;
    if (!take_asset(at, end, question)) return 0;
    at += question->asset_length;
    if ((size_t)(end - at) < sizeof version - 1 || memcmp(at, version, sizeof version - 1)) return 0;
    at += sizeof version - 1;
    question->key = NULL;
    for (;;) {
        const uint8_t *name = at, *value, *last;
        size_t name_length;
        if (end - at < 2) return 0;
        if (*at == '\r') break;
        while (at < end && kinds[*at] & TOKEN) at++;
        name_length = at - name;
        if (!name_length || at == end || *at++ != ':' || ++headers > HOT_MOST_HEADERS) return 0;
        while (at < end && (*at == ' ' || *at == '\t')) at++;
        value = at;
        while (at < end && kinds[*at] & VALUE) at++;
        if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return 0;
        last = at;
        while (last > value && (last[-1] == ' ' || last[-1] == '\t')) last--;
        if (take_header(name, name_length, value, last - value, question, &hosts, &connections) == DECLINED) return 0;
        at += 2;
    }
    if (at[1] != '\n' || hosts != 1 || question->key == NULL) return 0;
    return at + 2 - bytes;
}

int hot_datagram(const uint8_t *bytes, size_t length, hot_question *question) {
    const uint8_t *at = bytes, *end = bytes + length;
    if (length > 1200) return 0;
    while (end > at && (end[-1] == '\n' || end[-1] == '\r')) end--;
    if (at == end || *at == '{' || *at == '~') return 0;
    while (at < end && *at != '|') {
        if (!(kinds[*at] & KEY)) return 0;
        at++;
    }
    question->key = bytes;
    question->key_length = at - bytes;
    if (at == end || question->key_length < HOT_SHORTEST_KEY || question->key_length > HOT_LONGEST_KEY) return 0;
    at++;
    if (!take_asset(at, end, question)) return 0;
    at += question->asset_length;
    question->id = NULL;
    question->id_length = 0;
    if (at == end) return 1;
    if (*at++ != '|') return 0;
    if (at == end) return 1;
    /* an integer as JSON writes it */
    question->id = at;
    question->id_length = end - at;
    if (*at == '-') at++;
    if (at == end || end - at > HOT_LONGEST_ID || (*at == '0' && end - at > 1)) return 0;
    for (; at < end; at++)
        if (!(kinds[*at] & ID)) return 0;
    return 1;
}

/* ---- the shelf ---- */

static uint32_t crc_table[256];

__attribute__((constructor)) static void make_crc_table(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++) value = value & 1 ? value >> 1 ^ 0xEDB88320u : value >> 1;
        crc_table[byte] = value;
    }
}

static uint32_t crc32_of(const uint8_t *bytes, size_t length, uint32_t before) {
    uint32_t value = ~before;
    for (size_t at = 0; at < length; at++) value = value >> 8 ^ crc_table[(value ^ bytes[at]) & 0xff];
    return ~value;
}

enum { FIELDS_AT = 8, SUMMED = 40, CRC_AT = FIELDS_AT + SUMMED };
enum { OBSERVED_AT = 24, FRESH_AT = 32, LENGTHS_AT = 40 };

int hot_shelf_open(hot_shelf *shelf, const uint8_t *memory) {
    shelf->memory = memory;
    shelf->copies = calloc(SHELF_SLOTS, sizeof *shelf->copies);
    if (shelf->copies == NULL) return -1;
    for (unsigned slot = 0; slot < SHELF_SLOTS; slot++) shelf->copies[slot].number = 1;
    return 0;
}

void hot_shelf_close(hot_shelf *shelf) {
    free(shelf->copies);
    shelf->copies = NULL;
}

/* Copy a slot that was written anew; if it is being written just now, what was copied last stays. */
static void read_slot(const uint8_t *at, hot_reply *copy) {
    const volatile uint64_t *number_at = (const volatile uint64_t *)at;
    for (int attempt = 0; attempt < 3; attempt++) {
        uint8_t slot[SHELF_SLOT_BYTES];
        uint16_t lengths[3];
        uint32_t crc;
        uint64_t number = __atomic_load_n(number_at, __ATOMIC_ACQUIRE);
        if (number & 1) continue;
        memcpy(slot, at, sizeof slot);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(number_at, __ATOMIC_RELAXED) != number) continue;
        memcpy(lengths, slot + LENGTHS_AT, sizeof lengths);
        memcpy(&crc, slot + CRC_AT, sizeof crc);
        size_t length = (size_t)lengths[0] + lengths[1] + lengths[2];
        if (length > SHELF_LONGEST_TEXT) continue;
        if (crc32_of(slot + SHELF_TEXT_AT, length, crc32_of(slot + FIELDS_AT, SUMMED, 0)) != crc) continue;
        memcpy(&copy->observed_at, slot + OBSERVED_AT, 8);
        memcpy(&copy->fresh_until, slot + FRESH_AT, 8);
        copy->head_length = lengths[0];
        copy->tail_length = lengths[1];
        copy->source_length = lengths[2];
        memcpy(copy->text, slot + SHELF_TEXT_AT, length);
        copy->number = number;
        return;
    }
}

const hot_reply *hot_shelf_find(hot_shelf *shelf, const uint8_t *asset, double now, unsigned *slot) {
    uint32_t hash = 2166136261u;
    for (int at = 0; at < HOT_LONGEST_ASSET && asset[at]; at++) hash = (hash ^ asset[at]) * 16777619u;
    for (unsigned step = 0; step < SHELF_SLOTS - 1; step++) {
        unsigned here = (hash + step) % SHELF_SLOTS;
        const uint8_t *at = shelf->memory + (size_t)here * SHELF_SLOT_BYTES;
        if (!memcmp(at + FIELDS_AT, asset, HOT_LONGEST_ASSET)) {
            hot_reply *copy = &shelf->copies[here];
            uint64_t number = __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE);
            if (number != copy->number) read_slot(at, copy);
            *slot = here;
            return !(copy->number & 1) && now <= copy->fresh_until ? copy : NULL;
        }
        if (!at[FIELDS_AT]) return NULL;
    }
    return NULL;
}

/* ---- the keys ---- */

static char gone;
#define HOT_GONE ((void *)&gone)

#define ROTATED(value, by) ((value) << (by) | (value) >> (64 - (by)))
#define SIP_ROUND                                                                                                     \
    do {                                                                                                              \
        v0 += v1, v1 = ROTATED(v1, 13), v1 ^= v0, v0 = ROTATED(v0, 32);                                               \
        v2 += v3, v3 = ROTATED(v3, 16), v3 ^= v2;                                                                     \
        v0 += v3, v3 = ROTATED(v3, 21), v3 ^= v0;                                                                     \
        v2 += v1, v1 = ROTATED(v1, 17), v1 ^= v2, v2 = ROTATED(v2, 32);                                               \
    } while (0)

static uint64_t little_endian(const uint8_t *bytes, size_t length) {
    uint64_t value = 0;
    for (size_t at = 0; at < length; at++) value |= (uint64_t)bytes[at] << 8 * at;
    return value;
}

/* SipHash-2-4 with a result of 128 bits, after Aumasson and Bernstein (2012). */
void hot_hash(const hot_keys *keys, const uint8_t *text, size_t length, uint64_t hash[2]) {
    uint64_t v0 = keys->secret[0] ^ 0x736f6d6570736575u, v1 = keys->secret[1] ^ 0x646f72616e646f6du ^ 0xee;
    uint64_t v2 = keys->secret[0] ^ 0x6c7967656e657261u, v3 = keys->secret[1] ^ 0x7465646279746573u;
    const uint8_t *whole = text + (length & ~(size_t)7);
    uint64_t word;
    for (; text < whole; text += 8) {
        memcpy(&word, text, 8);
        v3 ^= word;
        SIP_ROUND;
        SIP_ROUND;
        v0 ^= word;
    }
    word = (uint64_t)length << 56 | little_endian(text, length & 7);
    v3 ^= word;
    SIP_ROUND;
    SIP_ROUND;
    v0 ^= word;
    v2 ^= 0xee;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    hash[0] = v0 ^ v1 ^ v2 ^ v3;
    v1 ^= 0xdd;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    hash[1] = v0 ^ v1 ^ v2 ^ v3;
}

enum { KEYS_AT_FIRST = 1024 };

int hot_keys_open(hot_keys *keys, const uint8_t secret[16]) {
    keys->secret[0] = little_endian(secret, 8);
    keys->secret[1] = little_endian(secret + 8, 8);
    keys->size = KEYS_AT_FIRST;
    keys->used = keys->live = 0;
    keys->places = calloc(keys->size, sizeof *keys->places);
    return keys->places == NULL ? -1 : 0;
}

void hot_keys_close(hot_keys *keys) {
    free(keys->places);
    keys->places = NULL;
}

static hot_key *key_place(const hot_keys *keys, const uint64_t hash[2], hot_key **free_place) {
    hot_key *first_free = NULL;
    for (size_t at = hash[0];; at++) {
        hot_key *place = &keys->places[at & (keys->size - 1)];
        if (place->whose == NULL || place->whose == HOT_GONE) {
            if (first_free == NULL) first_free = place;
            if (place->whose == NULL) break;
        } else if (place->low == hash[0] && place->high == hash[1]) {
            return place;
        }
    }
    if (free_place != NULL) *free_place = first_free;
    return NULL;
}

void *hot_keys_find(const hot_keys *keys, const uint8_t *text, size_t length) {
    uint64_t hash[2];
    hot_hash(keys, text, length, hash);
    hot_key *place = key_place(keys, hash, NULL);
    return place == NULL ? NULL : place->whose;
}

static int grow(hot_keys *keys) {
    hot_key *old = keys->places;
    size_t old_size = keys->size;
    size_t size = keys->live * 4 > old_size ? old_size * 2 : old_size;
    hot_key *places = calloc(size, sizeof *places);
    if (places == NULL) return -1;
    keys->places = places;
    keys->size = size;
    keys->used = keys->live;
    for (size_t at = 0; at < old_size; at++) {
        if (old[at].whose == NULL || old[at].whose == HOT_GONE) continue;
        uint64_t hash[2] = {old[at].low, old[at].high};
        hot_key *place;
        key_place(keys, hash, &place);
        *place = old[at];
    }
    free(old);
    return 0;
}

int hot_keys_put(hot_keys *keys, const uint64_t hash[2], void *whose, void **before) {
    hot_key *free_place, *place = key_place(keys, hash, &free_place);
    *before = NULL;
    if (place != NULL) {
        *before = place->whose;
        place->whose = whose;
        return 0;
    }
    if (keys->used * 2 >= keys->size) {
        if (grow(keys)) return -1;
        key_place(keys, hash, &free_place);
    }
    if (free_place->whose == NULL) keys->used++;
    keys->live++;
    *free_place = (hot_key){hash[0], hash[1], whose};
    return 0;
}

void *hot_keys_take(hot_keys *keys, const uint64_t hash[2]) {
    hot_key *place = key_place(keys, hash, NULL);
    if (place == NULL) return NULL;
    void *whose = place->whose;
    place->whose = HOT_GONE;
    keys->live--;
    return whose;
}

/* ---- the tally ---- */

enum { INDEX_SIZE = 2 * TALLY_MOST };

/* They come from the system and go back to it, so what only a busy time needed is not kept. */
static hot_tally *new_entries(void) {
    void *entries = mmap(NULL, TALLY_MOST * sizeof(hot_tally), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return entries == MAP_FAILED ? NULL : entries;
}

void hot_tallies_free(hot_tally *entries) {
    if (entries != NULL) munmap(entries, TALLY_MOST * sizeof *entries);
}

int hot_tallies_open(hot_tallies *tallies) {
    tallies->count = 0;
    tallies->entries = new_entries();
    tallies->index = calloc(INDEX_SIZE, sizeof *tallies->index);
    if (tallies->entries != NULL && tallies->index != NULL) return 0;
    hot_tallies_close(tallies);
    return -1;
}

void hot_tallies_close(hot_tallies *tallies) {
    hot_tallies_free(tallies->entries);
    free(tallies->index);
    tallies->entries = NULL;
    tallies->index = NULL;
}

int hot_tallies_room(const hot_tallies *tallies, const hot_reply *reply) {
    return tallies->count < TALLY_MOST && reply->source_length <= sizeof tallies->entries->source;
}

hot_tally *hot_tallies_entry(hot_tallies *tallies, void *whose, unsigned slot, const hot_reply *reply, int protocol,
                             double now) {
    const uint8_t *source = reply->text + reply->head_length + reply->tail_length;
    uint16_t hour = (uint16_t)(int64_t)(now / 3600.0);
    uint64_t mixed = ((uint64_t)(uintptr_t)whose >> 4) * 0x9E3779B97F4A7C15u;
    mixed ^= ((uint64_t)slot << 1 | (uint64_t)protocol) * 0xC2B2AE3D27D4EB4Fu;
    mixed ^= mixed >> 29;
    for (uint32_t step = 0;; step++) {
        uint32_t place = (uint32_t)(mixed + step) & (INDEX_SIZE - 1);
        hot_tally *entry;
        if (!tallies->index[place]) {
            entry = &tallies->entries[tallies->count];
            tallies->index[place] = ++tallies->count;
            entry->whose = whose;
            entry->place = place;
            entry->slot = (uint16_t)slot;
            entry->hour = hour;
            entry->writing = reply->number;
            entry->protocol = (uint16_t)protocol;
            entry->source_length = reply->source_length;
            memcpy(entry->source, source, reply->source_length);
            entry->at = now;
            entry->requests = entry->sum_us = entry->max_us = entry->told_requests = entry->told_us = 0;
            return entry;
        }
        entry = &tallies->entries[tallies->index[place] - 1];
        if (entry->whose != whose || entry->slot != slot || entry->hour != hour || entry->protocol != protocol) continue;
        if (entry->writing != reply->number) {
            if (entry->source_length != reply->source_length || memcmp(entry->source, source, entry->source_length))
                continue;
            entry->writing = reply->number;
        }
        return entry;
    }
}

void hot_tallies_clear(hot_tallies *tallies) {
    for (uint32_t at = 0; at < tallies->count; at++) tallies->index[tallies->entries[at].place] = 0;
    tallies->count = 0;
}

hot_tally *hot_tallies_take(hot_tallies *tallies, uint32_t *count) {
    hot_tally *taken = tallies->entries, *empty = new_entries();
    if (empty == NULL) return NULL;
    *count = tallies->count;
    hot_tallies_clear(tallies);
    tallies->entries = empty;
    return taken;
}

/* ---- answers ---- */

static uint8_t *put(uint8_t *to, const void *bytes, size_t length) {
    memcpy(to, bytes, length);
    return to + length;
}

#define PUT(to, text) put(to, text, sizeof text - 1)

static uint8_t *put_whole(uint8_t *to, unsigned long long value) {
    uint8_t digits[20];
    int at = sizeof digits;
    do digits[--at] = '0' + value % 10;
    while (value /= 10);
    return put(to, digits + at, sizeof digits - at);
}

static uint8_t *put_signed(uint8_t *to, long long value) {
    if (value >= 0) return put_whole(to, value);
    *to++ = '-';
    return put_whole(to, -(unsigned long long)value);
}

enum { LONGEST_AGE = 24 };

/* The age in whole milliseconds: the nearest, of two that are equally near the even one, as printf has it. */
static unsigned long long milliseconds(double age) {
    if (!(age > 0.0 && age < 1e15)) return 0;
    double exact = age * 1000.0;
    unsigned long long whole = (unsigned long long)exact;
    double rest = exact - (double)whole;
    if (rest != 0.5) return whole + (rest > 0.5);
    rest = fma(age, 1000.0, -exact); /* what the product lost when it was rounded to a half */
    return whole + (rest > 0.0 || (rest == 0.0 && whole & 1));
}

/* The age in seconds, with three digits behind the point. */
static size_t write_age(uint8_t *to, double age) {
    uint8_t *at;
    unsigned long long ms = milliseconds(age);
    at = put_whole(to, ms / 1000);
    ms %= 1000;
    *at++ = '.';
    *at++ = '0' + ms / 100;
    *at++ = '0' + ms / 10 % 10;
    *at++ = '0' + ms % 10;
    return at - to;
}

size_t hot_http_answer(uint8_t *to, const hot_reply *reply, const hot_terms *terms, const uint8_t date[HOT_DATE],
                       double now, int last) {
    uint8_t age[LONGEST_AGE], *at = to;
    size_t age_length = write_age(age, now - reply->observed_at);
    at = PUT(at, "HTTP/1.1 200 OK\r\nServer: tbeast\r\nDate: ");
    at = put(at, date, HOT_DATE);
    at = PUT(at, "\r\nRatelimit-Limit: ");
    at = put_signed(at, terms->limit);
    at = PUT(at, "\r\nRatelimit-Remaining: ");
    at = put_signed(at, terms->remaining);
    at = PUT(at, "\r\nRatelimit-Reset: ");
    at = put_signed(at, terms->reset);
    at = PUT(at, "\r\nContent-Type: application/json\r\nContent-Length: ");
    at = put_whole(at, reply->head_length + age_length + reply->tail_length);
    at = PUT(at, "\r\nCache-Control: no-store\r\n");
    if (last) at = PUT(at, "Connection: close\r\n");
    at = PUT(at, "\r\n");
    at = put(at, reply->text, reply->head_length);
    at = put(at, age, age_length);
    at = put(at, reply->text + reply->head_length, reply->tail_length);
    return at - to;
}

size_t hot_udp_answer(uint8_t *to, const hot_reply *reply, const hot_question *question, double now) {
    uint8_t *at = put(to, reply->text, reply->head_length);
    at += write_age(at, now - reply->observed_at);
    at = put(at, reply->text + reply->head_length, reply->tail_length);
    if (question->id_length && at > to) {
        at--; /* the closing brace */
        at = PUT(at, ",\"id\":");
        at = put(at, question->id, question->id_length);
        *at++ = '}';
    }
    return at - to;
}
