/* Heads: hot_recognise against the grammar of tbeast/codecs/hotrequests.py, read here in the slowest and plainest way:
 * cut into lines first, and then each line looked at for itself. Also, what is recognised does not depend on what follows
 * it, and nothing shorter is recognised. */
#include "fuzz.h"

#include <ctype.h>
#include <strings.h>

typedef struct {
    const char *text;
    size_t length;
} piece;

static int is(piece one, const char *word) { return one.length == strlen(word) && !strncasecmp(one.text, word, one.length); }

static piece stripped(piece one) {
    while (one.length && strchr(" \t", one.text[0])) one.text++, one.length--;
    while (one.length && strchr(" \t", one.text[one.length - 1])) one.length--;
    return one;
}

static int is_key(piece one) {
    if (one.length < 4 || one.length > 128) return 0;
    for (size_t at = 0; at < one.length; at++)
        if (one.text[at] < '!' || one.text[at] > '~') return 0;
    return 1;
}

static int is_name(piece one) {
    for (size_t at = 0; at < one.length; at++)
        if (!one.text[at] || !(isalnum((unsigned char)one.text[at]) || strchr("!#$%&'*+-.^_`|~", one.text[at]))) return 0;
    return one.length > 0;
}

static int is_value(piece one) {
    for (size_t at = 0; at < one.length; at++)
        if (one.text[at] != '\t' && (one.text[at] < ' ' || one.text[at] > '~')) return 0;
    return 1;
}

/* The length of the head by the grammar's word; 0: none. */
static size_t read_plainly(const char *data, size_t size, piece *key, piece *asset) {
    static const char *const declined[] = {"content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer",
                                           "http2-settings", NULL};
    int fields = 0, hosts = 0, keys = 0, connections = 0;
    size_t at = 0, began = 0;
    for (;; began = at) {
        while (at + 1 < size && !(data[at] == '\r' && data[at + 1] == '\n')) at++;
        if (at + 1 >= size) return 0;
        piece line = {data + began, at - began};
        at += 2;
        if (!began) {
            if (line.length < 26 || strncmp(line.text, "GET /price?asset=", 17)) return 0;
            if (strncmp(line.text + line.length - 9, " HTTP/1.1", 9)) return 0;
            *asset = (piece){line.text + 17, line.length - 26};
            if (asset->length < 1 || asset->length > 16) return 0;
            for (size_t place = 0; place < asset->length; place++)
                if (!isalnum((unsigned char)asset->text[place])) return 0;
            continue;
        }
        if (!line.length) break;
        const char *colon = memchr(line.text, ':', line.length);
        if (colon == NULL || ++fields > 100) return 0;
        piece name = {line.text, (size_t)(colon - line.text)};
        piece value = {colon + 1, line.length - name.length - 1};
        if (!is_name(name) || !is_value(value)) return 0;
        value = stripped(value);
        for (int place = 0; declined[place] != NULL; place++)
            if (is(name, declined[place])) return 0;
        hosts += is(name, "host");
        if (is(name, "connection") && (++connections > 1 || !is(value, "keep-alive"))) return 0;
        if (is(name, "authorization")) {
            if (value.length < 7 || strncasecmp(value.text, "bearer ", 7)) return 0;
            value = stripped((piece){value.text + 7, value.length - 7});
        }
        if (is(name, "authorization") || is(name, "x-api-key")) {
            if (++keys > 1 || !is_key(value)) return 0;
            *key = value;
        }
    }
    return hosts == 1 && keys == 1 && at <= 16384 ? at : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    piece key, asset;
    hot_question question;
    size_t wanted = read_plainly((const char *)data, size, &key, &asset);
    size_t length = hot_recognise(data, size, &question);
    CHECK(length == wanted);
    if (!length) return 0;
    CHECK(!memcmp(data + length - 4, "\r\n\r\n", 4));
    CHECK(question.key == (const uint8_t *)key.text && question.key_length == key.length);
    CHECK(question.asset_length == asset.length);
    for (size_t at = 0; at < HOT_LONGEST_ASSET; at++)
        CHECK(question.asset[at] == (at < asset.length ? toupper((unsigned char)asset.text[at]) : 0));
    CHECK(hot_recognise(data, length, &question) == length);
    CHECK(!hot_recognise(data, length - 1, &question) && !hot_recognise(data, length / 2, &question));
    return 0;
}
