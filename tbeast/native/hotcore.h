/* The hot way of a question without sockets and without Python: bytes in, bytes out, counts kept.
 *
 * Nothing in here allocates on the way of a question, waits, or reads beyond the lengths that it is handed. Everything
 * that is not recognised is declined, which costs nobody anything: the caller has it answered in Python.
 */
#ifndef TBEAST_HOTCORE_H
#define TBEAST_HOTCORE_H

#include <stddef.h>
#include <stdint.h>

/* Questions. */

enum { HOT_LONGEST_HEAD = 16384, HOT_MOST_HEADERS = 100, HOT_LONGEST_ASSET = 16 };
enum { HOT_SHORTEST_KEY = 4, HOT_LONGEST_KEY = 128, HOT_LONGEST_ID = 18 };

typedef struct {
    const uint8_t *key;
    size_t key_length;
    uint8_t asset[HOT_LONGEST_ASSET]; /* upper case, zeros behind */
    size_t asset_length;
    const uint8_t *id; /* of a datagram: JSON as it is to be echoed */
    size_t id_length;
} hot_question;

/* One whole simple GET /price at the beginning of these bytes: its length; 0: declined. */
size_t hot_recognise(const uint8_t *bytes, size_t length, hot_question *question);

/* The whole datagram as a plain question: 1; 0: declined. */
int hot_datagram(const uint8_t *bytes, size_t length, hot_question *question);

/* The shelf, as tbeast.domain.sharedshelf lays it out. */

enum { SHELF_SLOTS = 1024, SHELF_SLOT_BYTES = 1024, SHELF_TEXT_AT = 64 };
enum { SHELF_BYTES = SHELF_SLOTS * SHELF_SLOT_BYTES, SHELF_LONGEST_TEXT = SHELF_SLOT_BYTES - SHELF_TEXT_AT };

typedef struct {
    uint64_t number; /* of the writing that this is a copy of; odd: of none */
    double observed_at, fresh_until;
    uint16_t head_length, tail_length, source_length;
    uint8_t text[SHELF_LONGEST_TEXT];
} hot_reply;

typedef struct {
    const uint8_t *memory; /* SHELF_BYTES, written by somebody else */
    hot_reply *copies;     /* SHELF_SLOTS: what was read last, and found whole */
} hot_shelf;

int hot_shelf_open(hot_shelf *shelf, const uint8_t *memory);
void hot_shelf_close(hot_shelf *shelf);

/* The reply for an asset (16 bytes, zeros behind) and its slot; NULL: there is none that may be given out. */
const hot_reply *hot_shelf_find(hot_shelf *shelf, const uint8_t *asset, double now, unsigned *slot);

/* The keys: who was told to be good. Found by SipHash-2-4 with 128 bits under a secret of the process, so that no key is
 * kept, and nobody outside can make two that meet. */

typedef struct {
    uint64_t low, high;
    void *whose; /* NULL: a free place; HOT_GONE: one that was taken */
} hot_key;

typedef struct {
    uint64_t secret[2];
    hot_key *places;
    size_t size, used, live; /* size is a power of two; used counts what was taken, too */
} hot_keys;

int hot_keys_open(hot_keys *keys, const uint8_t secret[16]);
void hot_keys_close(hot_keys *keys);
void hot_hash(const hot_keys *keys, const uint8_t *text, size_t length, uint64_t hash[2]);
void *hot_keys_find(const hot_keys *keys, const uint8_t *text, size_t length);
/* 0: put; -1: no memory. *before gets whose it was, or NULL. */
int hot_keys_put(hot_keys *keys, const uint64_t hash[2], void *whose, void **before);
void *hot_keys_take(hot_keys *keys, const uint64_t hash[2]);

/* The tally: answered questions by kind, until somebody takes them out. */

enum { TALLY_MOST = 65536 };
enum { HOT_HTTP = 0, HOT_UDP = 1 };

typedef struct {
    void *whose;
    uint32_t place; /* in the index */
    uint16_t slot, hour;
    uint64_t writing; /* which reply: its source may be another one in the next */
    uint16_t protocol, source_length;
    uint8_t source[32];
    double at;
    uint64_t requests, sum_us, max_us;
    uint64_t told_requests, told_us; /* of these, so many were told of before the entry was taken out */
} hot_tally;

typedef struct {
    hot_tally *entries;
    uint32_t *index; /* 2 * TALLY_MOST: place of an entry + 1 */
    uint32_t count;
} hot_tallies;

int hot_tallies_open(hot_tallies *tallies);
void hot_tallies_close(hot_tallies *tallies);
/* Whether there is room for one more, of this reply. */
int hot_tallies_room(const hot_tallies *tallies, const hot_reply *reply);
/* The entry of this kind, made if it is new; only where there is room. A new one has no requests yet. */
hot_tally *hot_tallies_entry(hot_tallies *tallies, void *whose, unsigned slot, const hot_reply *reply, int protocol,
                             double now);
void hot_tallies_clear(hot_tallies *tallies);
/* Take out all entries at once, *count of them, which are the caller's from then on. NULL: no memory, and nothing was. */
hot_tally *hot_tallies_take(hot_tallies *tallies, uint32_t *count);
void hot_tallies_free(hot_tally *entries);

static inline void hot_count(hot_tally *entry, uint64_t took_us) {
    entry->requests++;
    entry->sum_us += took_us;
    if (took_us > entry->max_us) entry->max_us = took_us;
}

/* Answers. */

enum { HOT_DATE = 29, HOT_LONGEST_ANSWER = 1536 };

typedef struct {
    long long limit, remaining, reset;
} hot_terms;

/* Write the answer over HTTP, at most HOT_LONGEST_ANSWER bytes; its length. With last it says that the connection ends. */
size_t hot_http_answer(uint8_t *to, const hot_reply *reply, const hot_terms *terms, const uint8_t date[HOT_DATE],
                       double now, int last);
/* Write the answer in a datagram, at most HOT_LONGEST_ANSWER bytes; its length. */
size_t hot_udp_answer(uint8_t *to, const hot_reply *reply, const hot_question *question, double now);

#endif
