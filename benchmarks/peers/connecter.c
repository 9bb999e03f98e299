/* A flood of connects: connecter PORT CONNECTS RATE DELAY
 *
 * Waits DELAY seconds, and then connects CONNECTS times, RATE a second, to PORT on the loopback, from several of its
 * addresses, with no more than AT_A_TIME under way. Each reads what it is told to the end, and closes. Ends early with
 * SIGTERM. Prints "ready" at the beginning; at the end how many were told whole that there is no room, how many were
 * not, and in how many seconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { AT_A_TIME = 64, SOURCES = 16, ROOM = 4096, DESCRIPTORS = 1024 };
static const double HOPELESS_SECONDS = 2.0;

static struct {
    int open;
    double since;
    size_t length;
    char text[ROOM + 1];
} under_way[DESCRIPTORS];
static volatile sig_atomic_t ended;

static void end(int number) { ended = number; }

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

/* Begin one; its descriptor, or -1. */
static int begin(int port, long number) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000101 + (uint32_t)(number % SOURCES))};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    if (one < 0) return -1;
    setsockopt(one, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (one >= DESCRIPTORS || bind(one, (struct sockaddr *)&from, sizeof from) ||
        (connect(one, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)) {
        close(one);
        return -1;
    }
    return one;
}

int main(int count, char **words) {
    if (count != 5) return 2;
    int port = atoi(words[1]), running = 0, poll = epoll_create1(0);
    long connects = atol(words[2]), begun = 0, told = 0, failed = 0;
    double rate = atof(words[3]), delay = atof(words[4]);
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    puts("ready");
    fflush(stdout);
    usleep((useconds_t)(delay * 1e6));
    double began = now(), looked = began;
    while (!ended && (begun < connects || running)) {
        double at = now();
        while (begun < connects && (double)begun < (at - began) * rate && running < AT_A_TIME) {
            int one = begin(port, begun++);
            struct epoll_event event = {.events = EPOLLIN, .data.fd = one};
            if (one < 0) {
                failed++;
                continue;
            }
            epoll_ctl(poll, EPOLL_CTL_ADD, one, &event);
            under_way[one].open = 1;
            under_way[one].since = at;
            under_way[one].length = 0;
            running++;
        }
        struct epoll_event events[AT_A_TIME];
        int ready = epoll_wait(poll, events, AT_A_TIME, 1);
        for (int place = 0; place < DESCRIPTORS + ready; place++) {
            int one = place < ready ? events[place].data.fd : place - ready;
            if (place >= ready && (at - looked < 0.5 || !under_way[one].open || at - under_way[one].since < HOPELESS_SECONDS))
                continue;
            char *text = under_way[one].text;
            if (place < ready) {
                ssize_t more = recv(one, text + under_way[one].length, ROOM - under_way[one].length, 0);
                if (more > 0) {
                    under_way[one].length += (size_t)more;
                    continue;
                }
            }
            text[under_way[one].length] = 0;
            if (!strncmp(text, "HTTP/1.1 503 ", 13) && strstr(text, "\r\nRetry-After: ") && text[under_way[one].length - 1] == '}')
                told++;
            else
                failed++;
            under_way[one].open = 0;
            close(one);
            running--;
        }
        if (at - looked >= 0.5) looked = at;
    }
    printf("%ld %ld %.3f\n", told, failed, now() - began);
    return 0;
}
