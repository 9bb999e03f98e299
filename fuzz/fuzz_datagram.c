/* Datagrams: hot_datagram against the text form of tbeast/codecs/datagrams.py, cut at its bars. */
#include "fuzz.h"

#include <ctype.h>

/* An integer as JSON writes it, of at most 18 digits. */
static int is_number(const uint8_t *text, size_t length) {
    if (length && *text == '-') text++, length--;
    if (!length || length > 18 || (*text == '0' && length > 1)) return 0;
    for (size_t at = 0; at < length; at++)
        if (!isdigit(text[at])) return 0;
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *parts[3] = {data, NULL, NULL};
    size_t lengths[3] = {0, 0, 0}, length = size;
    int count = 1, plain;
    hot_question question;

    while (length && (data[length - 1] == '\r' || data[length - 1] == '\n')) length--;
    for (size_t at = 0; at < length; at++) {
        if (data[at] == '|' && count < 3) {
            parts[count++] = data + at + 1;
        } else {
            lengths[count - 1]++;
        }
    }
    plain = size <= 1200 && length && data[0] != '{' && data[0] != '~' && count >= 2;
    plain = plain && lengths[0] >= 4 && lengths[0] <= 128 && lengths[1] >= 1 && lengths[1] <= 16;
    for (size_t at = 0; plain && at < lengths[0]; at++) plain = parts[0][at] >= '!' && parts[0][at] <= '~';
    for (size_t at = 0; plain && at < lengths[1]; at++) plain = isalnum(parts[1][at]) != 0;
    if (count == 3 && lengths[2]) plain = plain && is_number(parts[2], lengths[2]);

    CHECK(hot_datagram(data, size, &question) == plain);
    if (!plain) return 0;
    CHECK(question.key == data && question.key_length == lengths[0]);
    CHECK(question.asset_length == lengths[1]);
    for (size_t at = 0; at < HOT_LONGEST_ASSET; at++)
        CHECK(question.asset[at] == (at < lengths[1] ? toupper(parts[1][at]) : 0));
    CHECK(question.id_length == (count == 3 ? lengths[2] : 0));
    if (question.id_length) CHECK(question.id == parts[2]);
    return 0;
}
