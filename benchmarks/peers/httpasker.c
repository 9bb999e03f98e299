/* A closed-loop load over HTTP on 127.0.0.1: each of CONNECTIONS asks GET /price, waits for the whole answer, and asks
 * again. Key and asset of each question are drawn from two lists. Prints one line of JSON.
 *
 *   httpasker PORT CONNECTIONS SECONDS KEYS ASSETS [HEADERS]
 *
 * KEYS, ASSETS and HEADERS are files: a key, an asset, a further line of the request's head on each line.
 *
 * When every connection has had one answer it says "ready" and waits for a line; when the time is over it says "done".
 * Then nothing more is asked, and what is under way is waited for, so that what a server was asked and what it has
 * recorded can be compared to the last one. An answer is bad if its status is not 200, or if its body does not begin
 * with the asset that was asked for.
 */
#define _GNU_SOURCE
#include "asking.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST_CONNECTIONS 100000
#define AT_A_TIME 32 /* connections that are opened together: fewer than any listener's queue */
#define BLOCK 16384
#define PATIENCE_MS 5000
#define LONGEST_WORD 200
#define LONGEST_MORE 2048

typedef struct {
    int fd, have, waiting;
    int64_t asked_at;
    word asset;
    char *held; /* the beginning of an answer that came in pieces */
} connection;

static struct sockaddr_in server;
static words keys, assets;
static char more[LONGEST_MORE];
static int more_length, poll_fd, asking, counting, under_way;
static int64_t ends_at;
static connection *connections;
static long asked, answered, bad, closed, answered_ever;

static int open_one(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0) give_up("socket");
    if (connect(fd, (struct sockaddr *)&server, sizeof server)) give_up("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static void begin(connection *one) {
    one->fd = open_one();
    one->have = one->waiting = 0;
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = one};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, one->fd, &wanted)) give_up("epoll_ctl");
}

static void lose(connection *one) {
    closed++;
    under_way -= one->waiting;
    close(one->fd);
    begin(one);
}

#define PUT(text, length) (memcpy(at, text, length), at += (length))
#define PUT_TEXT(text) PUT(text, sizeof text - 1)

static void ask(connection *one, int64_t now) {
    char head[2 * LONGEST_WORD + LONGEST_MORE + 256], *at = head;
    word key = one_of(&keys);
    one->asset = one_of(&assets);
    PUT_TEXT("GET /price?asset=");
    PUT(one->asset.text, one->asset.length);
    PUT_TEXT(" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ");
    PUT(key.text, key.length);
    PUT_TEXT("\r\n");
    PUT(more, more_length);
    PUT_TEXT("\r\n");
    /* asked only when nothing is under way, so it always fits; if not, the connection is as good as closed */
    if (send(one->fd, head, at - head, MSG_NOSIGNAL | MSG_DONTWAIT) != at - head) {
        lose(one);
        return;
    }
    one->asked_at = now;
    one->waiting = 1;
    under_way++;
    asked++;
}

/* The length of the answer that begins at `text`: 0 if more must come, -1 if it cannot be read. */
static int whole(const char *text, int length, const char **body) {
    const char *end = memmem(text, length, "\r\n\r\n", 4), *line = text;
    if (!end) return 0;
    while (line && line < end) {
        line = memchr(line, '\n', end - line);
        if (line && (*++line | 32) == 'c' && !strncasecmp(line, "content-length:", 15)) {
            long size = strtol(line + 15, NULL, 10);
            if (size < 0 || size > BLOCK) return -1;
            *body = end + 4;
            int all = (int)(end + 4 - text + size);
            return all <= length ? all : 0;
        }
    }
    return -1;
}

static int is_good(const connection *one, const char *text, const char *body, int all) {
    static const char first[] = "{\"asset\":\"";
    const int before = sizeof first - 1, length = one->asset.length;
    return !memcmp(text, "HTTP/1.1 200 ", 13) && text + all - body > before + length &&
           !memcmp(body, first, before) && !memcmp(body + before, one->asset.text, length) &&
           body[before + length] == '"';
}

static void hear(connection *one) {
    static char shared[2 * BLOCK];
    char *text = shared;
    if (one->have) memcpy(text, one->held, one->have);
    ssize_t got = recv(one->fd, text + one->have, BLOCK, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0 || !one->waiting) {
        lose(one);
        if (asking) ask(one, now_ns());
        return;
    }
    int have = one->have + (int)got;
    const char *body = NULL;
    int all = whole(text, have, &body);
    if (all == 0 && have < BLOCK) {
        if (!one->held && !(one->held = malloc(BLOCK))) give_up("memory");
        memcpy(one->held, text, have);
        one->have = have;
        return;
    }
    int64_t now = now_ns();
    one->have = 0;
    answered_ever++;
    int good = all == have && is_good(one, text, body, all);
    bad += !good;
    if (counting && now <= ends_at) {
        answered++;
        keep_latency(now - one->asked_at);
    }
    if (all != have) { /* not to be read, or more than was asked for: what comes after it means nothing */
        lose(one);
    } else {
        one->waiting = 0;
        under_way--;
    }
    if (asking) ask(one, now);
}

static int turn(int timeout_ms) {
    struct epoll_event ready[512];
    int count = epoll_wait(poll_fd, ready, 512, timeout_ms);
    if (count < 0 && errno != EINTR) give_up("epoll_wait");
    for (int place = 0; place < count; place++) hear(ready[place].data.ptr);
    return count;
}

static void wait_for_all(void) {
    int64_t until = now_ns() + PATIENCE_MS * INT64_C(1000000);
    while (under_way > 0 && now_ns() < until) turn(100);
}

static void read_more(const char *path) {
    words lines = read_words(path, LONGEST_MORE);
    for (uint32_t place = 0; place < lines.count; place++) {
        word line = lines.words[place];
        if (more_length + line.length + 2 > LONGEST_MORE) give_up("the headers are too long");
        more_length += sprintf(more + more_length, "%s\r\n", line.text);
    }
}

int main(int count, char **arguments) {
    if (count != 6 && count != 7) {
        fprintf(stderr, "usage: httpasker PORT CONNECTIONS SECONDS KEYS ASSETS [HEADERS]\n");
        return 2;
    }
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(number_of(arguments[1], 65535, "PORT"))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int wide = number_of(arguments[2], MOST_CONNECTIONS, "CONNECTIONS");
    double seconds = seconds_of(arguments[3]);
    keys = read_words(arguments[4], LONGEST_WORD);
    assets = read_words(arguments[5], LONGEST_WORD);
    if (count == 7) read_more(arguments[6]);

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(wide, sizeof *connections);
    if (poll_fd < 0 || !connections) give_up("start");

    for (int opened = 0; opened < wide;) {
        int from = opened;
        while (opened < wide && opened < from + AT_A_TIME) begin(&connections[opened++]);
        for (int place = from; place < opened; place++) ask(&connections[place], now_ns());
        wait_for_all();
        if (under_way) {
            errno = 0;
            give_up("the server does not answer");
        }
    }
    wait_for_the_word();
    int64_t began = now_ns(), busy = busy_ns();
    ends_at = began + (int64_t)(seconds * 1e9);
    asking = counting = 1;
    for (int place = 0; place < wide; place++) ask(&connections[place], now_ns());
    while (now_ns() < ends_at) turn(100);
    asking = counting = 0;
    tell("done");
    double took = (now_ns() - began) / 1e9;
    busy = busy_ns() - busy;
    wait_for_all();
    printf("{\"seconds\": %.6f, \"answered\": %ld, \"asked\": %ld, \"bad\": %ld, \"closed\": %ld, \"lost\": %ld, \"busy\": %.3f, ",
           seconds, answered, asked, bad, closed, asked - answered_ever, busy / 1e9 / took);
    print_latencies();
    printf("}\n");
    return 0;
}
