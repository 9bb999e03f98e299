/* A closed-loop load over UDP on 127.0.0.1: on each of SOCKETS so many questions are under way that together they are
 * IN_FLIGHT; each answer makes room for the next question. Key and asset are drawn from two lists. Prints one line of
 * JSON.
 *
 *   udpasker PORT IN_FLIGHT SOCKETS SECONDS KEYS ASSETS
 *
 * An answer belongs to the oldest question under way on its socket that was for its asset: datagrams have no order. It is
 * bad if there is none. A question that has no answer after 200 ms is lost; after a loss the assets are not compared,
 * since a late answer may be to a question that was given up. It says "ready" and waits for a line before it begins, and
 * says "done" when the time is over; then nothing more is asked, and what is under way is waited for.
 */
#define _GNU_SOURCE
#include "asking.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#define BATCH 64
#define MOST_SOCKETS 256
#define MOST_IN_FLIGHT 65536
#define LARGEST 2048
#define LOST_AFTER_MS 200
#define LONGEST_WORD 200
#define ROOM (8 << 20)

typedef struct {
    int64_t at;
    word asset;
} question;

typedef struct {
    question *ring; /* those under way, the oldest at `first` */
    uint32_t first, under_way;
    int has_lost;
} line;

static struct pollfd fds[MOST_SOCKETS];
static line lines[MOST_SOCKETS];
static int sockets, window;
static words keys, assets;
static long sent, answered, answered_ever, bad, lost, unasked;
static int64_t ends_at;

static struct mmsghdr going[BATCH], coming[BATCH];
static struct iovec going_parts[BATCH], coming_parts[BATCH];
static char going_bytes[BATCH][2 * LONGEST_WORD + 8], coming_bytes[BATCH][LARGEST];

static void fill(int place) {
    line *one = &lines[place];
    while (one->under_way < (uint32_t)window) {
        int room = window - (int)one->under_way, wanted = room < BATCH ? room : BATCH;
        word chosen[BATCH];
        for (int at = 0; at < wanted; at++) {
            word key = one_of(&keys);
            char *text = going_bytes[at];
            chosen[at] = one_of(&assets);
            memcpy(text, key.text, key.length);
            text[key.length] = '|';
            memcpy(text + key.length + 1, chosen[at].text, chosen[at].length);
            going_parts[at].iov_len = key.length + 1 + chosen[at].length;
        }
        int64_t now = now_ns();
        int went = sendmmsg(fds[place].fd, going, wanted, MSG_DONTWAIT);
        if (went <= 0) return;
        for (int at = 0; at < went; at++)
            one->ring[(one->first + one->under_way++) % window] = (question){now, chosen[at]};
        sent += went;
    }
}

static void give_up_on_late(int place, int64_t now) {
    line *one = &lines[place];
    while (one->under_way && now - one->ring[one->first].at > LOST_AFTER_MS * INT64_C(1000000)) {
        one->first = (one->first + 1) % window;
        one->under_way--;
        one->has_lost = 1;
        lost++;
    }
}

static const char beginning[] = "{\"asset\":\"";
#define BEFORE (sizeof beginning - 1)

static int is_answer(const char *text, unsigned length) { return length > BEFORE && !memcmp(text, beginning, BEFORE); }

static int is_of(const char *text, unsigned length, word asset) {
    return length > BEFORE + asset.length && !memcmp(text + BEFORE, asset.text, asset.length) &&
           text[BEFORE + asset.length] == '"';
}

/* Take out the question that this answers; there is one under way. */
static question taken(line *one, const char *text, unsigned length) {
    uint32_t age = 0;
    if (!is_answer(text, length))
        bad++;
    else if (!one->has_lost) {
        while (age < one->under_way && !is_of(text, length, one->ring[(one->first + age) % window].asset)) age++;
        if (age == one->under_way) age = 0, bad++;
    }
    question asked = one->ring[(one->first + age) % window];
    for (; age; age--) one->ring[(one->first + age) % window] = one->ring[(one->first + age - 1) % window];
    one->first = (one->first + 1) % window;
    one->under_way--;
    return asked;
}

static void hear(int place) {
    line *one = &lines[place];
    int came = recvmmsg(fds[place].fd, coming, BATCH, MSG_DONTWAIT, NULL);
    int64_t now = now_ns();
    give_up_on_late(place, now);
    for (int at = 0; at < came; at++) {
        if (!one->under_way) { /* the answer of a question that was given up */
            unasked++;
            continue;
        }
        question asked = taken(one, coming_bytes[at], coming[at].msg_len);
        answered_ever++;
        if (now <= ends_at) {
            answered++;
            keep_latency(now - asked.at);
        }
    }
}

static int turn(void) {
    int ready = poll(fds, sockets, LOST_AFTER_MS);
    int under_way = 0;
    int64_t now = ready > 0 ? 0 : now_ns();
    for (int place = 0; place < sockets; place++) {
        if (ready > 0 && fds[place].revents)
            hear(place);
        else if (ready <= 0)
            give_up_on_late(place, now);
        under_way += (int)lines[place].under_way;
    }
    return under_way;
}

int main(int count, char **arguments) {
    if (count != 7) {
        fprintf(stderr, "usage: udpasker PORT IN_FLIGHT SOCKETS SECONDS KEYS ASSETS\n");
        return 2;
    }
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(number_of(arguments[1], 65535, "PORT"))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int in_flight = number_of(arguments[2], MOST_IN_FLIGHT, "IN_FLIGHT");
    sockets = number_of(arguments[3], MOST_SOCKETS, "SOCKETS");
    if (sockets > in_flight) sockets = in_flight;
    window = in_flight / sockets;
    double seconds = seconds_of(arguments[4]);
    keys = read_words(arguments[5], LONGEST_WORD);
    assets = read_words(arguments[6], LONGEST_WORD);

    for (int place = 0; place < sockets; place++) {
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = ROOM;
        if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server)) give_up("socket");
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        fds[place] = (struct pollfd){fd, POLLIN, 0};
        lines[place].ring = calloc(window, sizeof(question));
        if (!lines[place].ring) give_up("memory");
    }
    for (int at = 0; at < BATCH; at++) {
        going_parts[at].iov_base = going_bytes[at];
        going[at].msg_hdr.msg_iov = &going_parts[at];
        going[at].msg_hdr.msg_iovlen = 1;
        coming_parts[at] = (struct iovec){coming_bytes[at], LARGEST};
        coming[at].msg_hdr.msg_iov = &coming_parts[at];
        coming[at].msg_hdr.msg_iovlen = 1;
    }
    wait_for_the_word();
    int64_t began = now_ns(), busy = busy_ns();
    ends_at = began + (int64_t)(seconds * 1e9);
    while (now_ns() < ends_at) {
        for (int place = 0; place < sockets; place++) fill(place);
        turn();
    }
    tell("done");
    double took = (now_ns() - began) / 1e9;
    busy = busy_ns() - busy;
    while (turn() > 0) continue;
    printf("{\"seconds\": %.6f, \"answered\": %ld, \"asked\": %ld, \"bad\": %ld, \"closed\": 0, \"lost\": %ld, \"busy\": %.3f, ",
           seconds, answered, sent, bad, sent - answered_ever - unasked, busy / 1e9 / took);
    print_latencies();
    printf("}\n");
    return 0;
}
