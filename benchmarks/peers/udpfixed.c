/* The limit on UDP: takes up to 64 datagrams with one call and answers all of them with another, with the same bytes
 * whatever was asked.
 *
 *   udpfixed PORT FILE PROCESSES      the answer is what the file holds; one process for each core
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <signal.h>
#include <unistd.h>

#define BATCH 64
#define LARGEST 2048
#define ROOM (8 << 20)

static char question[BATCH][LARGEST], answer[LARGEST];
static struct sockaddr_in from[BATCH];
static struct iovec in[BATCH], out;
static struct mmsghdr messages[BATCH];

int main(int count, char **arguments) {
    FILE *file = count == 4 ? fopen(arguments[2], "rb") : NULL;
    if (!file) {
        fprintf(stderr, "usage: udpfixed PORT FILE PROCESSES\n");
        return 2;
    }
    out = (struct iovec){answer, fread(answer, 1, sizeof answer, file)};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int more = atoi(arguments[3]); more > 1; more--)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            break;
        }
    int fd = socket(AF_INET, SOCK_DGRAM, 0), room = ROOM, yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (bind(fd, (struct sockaddr *)&at, sizeof at)) {
        perror("bind");
        return 1;
    }
    for (int place = 0; place < BATCH; place++) {
        in[place] = (struct iovec){question[place], LARGEST};
        messages[place].msg_hdr.msg_name = &from[place];
    }
    for (;;) {
        for (int place = 0; place < BATCH; place++) {
            messages[place].msg_hdr.msg_namelen = sizeof from[place];
            messages[place].msg_hdr.msg_iov = &in[place];
            messages[place].msg_hdr.msg_iovlen = 1;
        }
        int came = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int place = 0; place < came; place++) messages[place].msg_hdr.msg_iov = &out;
        for (int gone = 0; gone < came;) {
            int went = sendmmsg(fd, messages + gone, came - gone, 0);
            if (went <= 0) break;
            gone += went;
        }
    }
}
