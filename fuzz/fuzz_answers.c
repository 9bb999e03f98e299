/* Answers: they stay within the room that is promised, say their own length, and are put together of the reply and of an
 * age as printf writes it.
 *
 * The input: three times (8 each), three terms (8 each), wishes, the id, and what the reply consists of. */
#include "fuzz.h"

static uint8_t *room(void) {
    uint8_t *to = malloc(HOT_LONGEST_ANSWER); /* of exactly that size, so that one byte more is noticed */
    CHECK(to != NULL);
    return to;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t date[HOT_DATE + 1] = "Sun, 12 Apr 2026 14:23:01 GMT";
    input from = {data, data + size};
    hot_reply reply = {.number = 2};
    hot_question question = {.id = NULL};
    hot_terms terms;
    char age[400], head[HOT_LONGEST_ANSWER], id[HOT_LONGEST_ID + 2];

    double now = take_double(&from);
    reply.observed_at = take_double(&from);
    uint8_t wishes = (uint8_t)take_whole(&from, 1);
    if (wishes & 1) reply.observed_at = now - (double)take_whole(&from, 5) / 4194304.0; /* as times of today are apart */
    if (wishes & 2) reply.observed_at = now - ((double)take_whole(&from, 3) + 0.5) / 1000.0;
    terms.limit = (long long)take_whole(&from, 8);
    terms.remaining = (long long)take_whole(&from, 8);
    terms.reset = (long long)take_whole(&from, 8);
    reply.head_length = (uint16_t)(take_whole(&from, 2) % (SHELF_LONGEST_TEXT + 1));
    reply.tail_length = (uint16_t)(take_whole(&from, 2) % (SHELF_LONGEST_TEXT + 1u - reply.head_length));
    if (wishes & 4) { /* as long as it may be */
        question.id_length = HOT_LONGEST_ID + 1;
        memcpy(id, "-999999999999999999", question.id_length);
    } else {
        question.id_length = take_whole(&from, 1) % (HOT_LONGEST_ID + 2);
        take(&from, id, question.id_length);
    }
    question.id = (const uint8_t *)id;
    take(&from, reply.text, (size_t)reply.head_length + reply.tail_length);

    double seconds = now - reply.observed_at;
    if (!(seconds > 0.0)) seconds = 0.0;
    /* longer ages than this world has are not shown to the millisecond */
    int exact = seconds < 4e12;
    int age_length = snprintf(age, sizeof age, "%.3f", seconds);
    uint8_t *to = room();
    int last = !!(wishes & 8);
    size_t length = hot_http_answer(to, &reply, &terms, date, now, last);
    CHECK(length <= HOT_LONGEST_ANSWER);
    const uint8_t *body = memmem(to, length, "\r\n\r\n", 4);
    CHECK(body != NULL);
    body += 4;
    size_t body_length = length - (size_t)(body - to);
    CHECK(!memcmp(body, reply.text, reply.head_length));
    CHECK(!memcmp(to + length - reply.tail_length, reply.text + reply.head_length, reply.tail_length));
    if (exact) {
        CHECK(body_length == (size_t)reply.head_length + reply.tail_length + (size_t)age_length);
        CHECK(!memcmp(body + reply.head_length, age, (size_t)age_length));
    }
    int head_length = snprintf(
        head, sizeof head,
        "HTTP/1.1 200 OK\r\nServer: tbeast\r\nDate: %s\r\nRatelimit-Limit: %lld\r\nRatelimit-Remaining: %lld\r\n"
        "Ratelimit-Reset: %lld\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n%s\r\n",
        date, terms.limit, terms.remaining, terms.reset, body_length, last ? "Connection: close\r\n" : "");
    CHECK(body - to == head_length && !memcmp(to, head, (size_t)head_length));

    uint8_t *datagram = room();
    size_t datagram_length = hot_udp_answer(datagram, &reply, &question, now);
    CHECK(datagram_length <= HOT_LONGEST_ANSWER && datagram_length <= 1200);
    if (question.id_length) {
        size_t plain = body_length - 1; /* the last byte makes room for the id, and is a brace behind it */
        CHECK(datagram_length == body_length + question.id_length + 6 && datagram[datagram_length - 1] == '}');
        CHECK(!memcmp(datagram, body, plain) && !memcmp(datagram + plain, ",\"id\":", 6));
        CHECK(!memcmp(datagram + plain + 6, id, question.id_length));
    } else {
        CHECK(datagram_length == body_length && !memcmp(datagram, body, body_length));
    }
    free(datagram);
    free(to);
    return 0;
}
