/* The native lanes: sockets around hotcore, and Python around the sockets.
 *
 * A Lanes object has an epoll of its own, and in it a listening TCP socket, its connections, and a UDP socket; the
 * reactor watches that epoll as one descriptor. turn() serves whatever is ready, for a bounded time. A connection has no
 * buffers here: what was received is answered and sent in the same call, or the connection leaves with what was received
 * and what could not be sent, and Python goes on with it. So nothing that a client does can make memory grow here.
 *
 * Where there is no room for one more connection it is refused as it is taken: told so, with bytes that lie ready, and
 * ended. It is held for a moment with our half closed, since to close a socket over unread bytes, or under bytes that
 * still come, resets the connection, and the client would lose what it was told. Few are refused between two looks at
 * those inside, and few are held at a time, so that a flood is no affair of theirs.
 *
 * The limits of a key live in Python, in a Standing; its fields are read and written where they lie, in slots whose
 * places are looked up once. Only the plain case is decided here, as Standing.admit and LeasedStanding.admit would; in
 * every other one they are called.
 *
 * Everything here is called with the lock of the interpreter held, and from one thread.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <structmember.h>

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hotcore.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

/* ---- places of the fields of Python's objects ---- */

static const double NEARLY = 1e-4, MICROSECOND = 1e-6; /* as in tbeast.domain.ratelimits */
#define WHOLE (1.0 - NEARLY)
static const long long NO_LIMIT = 2147483647; /* as in tbeast.domain.admission */

typedef struct {
    PyTypeObject *type;
    Py_ssize_t month_ends_at, free, used, quota, bucket;
} standing_places;

typedef struct {
    PyTypeObject *type;
    Py_ssize_t qps, burst, min_wait_seconds, tokens, read_at, closed_until;
} bucket_places;

typedef struct {
    PyTypeObject *type;
    Py_ssize_t month_ends_at, free, used, quota, line, room, tokens, spent, listed, burst, qps, shared, shared_at;
} leased_places;

typedef struct {
    PyTypeObject *type;
    Py_ssize_t until;
} line_places;

static int place_of(PyTypeObject *type, const char *name, Py_ssize_t *place) {
    PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
    if (found == NULL) return -1;
    if (Py_TYPE(found) != &PyMemberDescr_Type || ((PyMemberDescrObject *)found)->d_member->type != T_OBJECT_EX) {
        PyErr_Format(PyExc_TypeError, "%s.%s is no slot", type->tp_name, name);
        Py_DECREF(found);
        return -1;
    }
    *place = ((PyMemberDescrObject *)found)->d_member->offset;
    Py_DECREF(found);
    return 0;
}

#define FIELD(object, place) (*(PyObject **)((char *)(object) + (place)))

static inline bool read_double(PyObject *object, Py_ssize_t place, double *value) {
    PyObject *field = FIELD(object, place);
    if (field == NULL) return false;
    if (PyFloat_CheckExact(field)) {
        *value = PyFloat_AS_DOUBLE(field);
        return true;
    }
    if (!PyLong_CheckExact(field)) return false;
    *value = PyLong_AsDouble(field);
    if (*value == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
    }
    return true;
}

static inline bool read_whole(PyObject *object, Py_ssize_t place, long long *value) {
    PyObject *field = FIELD(object, place);
    int overflow;
    if (field == NULL || !PyLong_CheckExact(field)) return false;
    *value = PyLong_AsLongLongAndOverflow(field, &overflow);
    return !overflow;
}

static inline void write_field(PyObject *object, Py_ssize_t place, PyObject *value) {
    PyObject *before = FIELD(object, place);
    FIELD(object, place) = value;
    Py_XDECREF(before);
}

/* ---- whose a key is ---- */

typedef struct {
    PyObject_HEAD
    PyObject *key_id, *standing;
    uint64_t hash[2];
} Holder;

static void holder_dealloc(Holder *self) {
    Py_XDECREF(self->key_id);
    Py_XDECREF(self->standing);
    PyObject_Free(self);
}

static PyTypeObject Holder_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tbeast.native._lanes.Holder",
    .tp_basicsize = sizeof(Holder),
    .tp_dealloc = (destructor)holder_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Whose a key is, and how it stands.",
};

/* ---- the lanes ---- */

enum { RECEIVED_MOST = 65536, SENT_MOST = 131072 };
enum { IN_A_ROW_MOST = 320 }; /* so many answers to one client, which leaves with the rest: others want their turn */
enum { REFUSALS_A_ROUND = 4, REFUSED_HELD_MOST = 256 };
enum { ANSWERS_A_REFUSAL = 32 }; /* while those inside ask: a refusal costs as much as a few answers */
static const double REFUSED_HELD_SECONDS = 1.0;
enum { TIMES = 32 }; /* as tbeast.domain.latencies.BUCKETS */
enum { EVENTS_A_ROUND = 256, ACCEPTS_A_ROUND = 64, DATAGRAMS_A_ROUND = 64, ROUNDS_OF_DATAGRAMS = 4 };
enum { LUCK_MOST = 8, LUCK_LOST = 3 };
static const double SOON = 2.0; /* moments between two turns; to be woken takes one of them */
static const double BREATH_SECONDS = 3e-6;
static const double BRIEF_SECONDS = 0.0004;
static const double BRIEF_MOST_SECONDS = 0.008, BRIEF_SHARE = 0.25; /* of all time, and so much at once */
enum { DATAGRAM_ROOM = 2048, SEGMENTS_MOST = 64, SEGMENTED_MOST = 61440 };

typedef struct {
    int before, after; /* in the order of their last request; -1: none */
    bool open;
    uint8_t returns; /* how often it has come back from Python since it was last of any use here */
    double active_at;
} connection;

typedef struct {
    int descriptor;
    double until;
} held;

typedef struct {
    PyObject_HEAD
    standing_places standings;
    bucket_places buckets;
    leased_places leased;
    line_places lines;
    Py_buffer memory;
    hot_shelf shelf;
    hot_keys keys;
    hot_tallies tallies;
    PyObject *holders; /* key id: Holder; also those that no key leads to, until they are drained */
    long long live;
    bool gone; /* whether there may be such */
    char shut, parting;
    int epoll, listener, datagrams;
    int highest; /* descriptor that connections may have; -1: any */
    bool listening, segmenting;
    char watched; /* the datagrams' socket is in the epoll; if not, it is asked in every round */
    connection *connections; /* by descriptor */
    int connections_size, oldest, newest;
    long long open_connections;
    int room;          /* for so many connections; -1: for any */
    PyObject *refusal; /* bytes: what others are told; NULL: nothing */
    held refused_held[REFUSED_HELD_MOST]; /* in a ring, the oldest at first_held */
    int first_held, held_count;
    unsigned long long accepted, idled, left, returned, exhausted, refused, requests, answers, unsendable;
    unsigned long long answered_at_refusal; /* HTTP and UDP, when a refusal was due last */
    unsigned long long microseconds, times[TIMES]; /* that the answers took; how many, by the binary length of those */
    double turn_began, now_at_turn; /* what the clocks said at the beginning of the turn */
    double turn_ended;              /* and at the end of the one before */
    double rested_since;            /* the same, brief ones included */
    double brief_left, brief_at;    /* for so long there may be brief ones now, and when that was so */
    bool turning;
    double budget, linger;
    int luck; /* how well looking again and again went lately; below 0: it is not done */
    uint8_t date[HOT_DATE];
    uint8_t received[RECEIVED_MOST], sent[SENT_MOST];
    struct epoll_event events[EVENTS_A_ROUND];
    struct mmsghdr incoming[DATAGRAMS_A_ROUND], outgoing[DATAGRAMS_A_ROUND];
    struct iovec incoming_at[DATAGRAMS_A_ROUND], outgoing_at[DATAGRAMS_A_ROUND];
    struct sockaddr_storage senders[DATAGRAMS_A_ROUND];
    uint8_t questions[DATAGRAMS_A_ROUND][DATAGRAM_ROOM], replies[DATAGRAMS_A_ROUND][HOT_LONGEST_ANSWER];
    char segment_sizes[DATAGRAMS_A_ROUND][CMSG_SPACE(sizeof(uint16_t))];
} Lanes;

static double uptime(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static inline double now_of(const Lanes *self, double up) { return self->now_at_turn + (up - self->turn_began); }

/* ---- limits ---- */

enum { REFUSED = 0, ADMITTED = 1, FAILED = -1, ASK = 2 };

static int fresh_doubles(PyObject **objects, const double *values, int count) {
    for (int at = 0; at < count; at++) {
        objects[at] = PyFloat_FromDouble(values[at]);
        if (objects[at] == NULL) {
            while (at--) Py_DECREF(objects[at]);
            return -1;
        }
    }
    return 0;
}

static int admit_free(PyObject *standing, Py_ssize_t free_place, Py_ssize_t used_place, hot_terms *terms) {
    long long used;
    if (FIELD(standing, free_place) == NULL || !read_whole(standing, used_place, &used)) return ASK;
    PyObject *more = PyLong_FromLongLong(used + 1);
    if (more == NULL) return FAILED;
    write_field(standing, used_place, more);
    *terms = (hot_terms){NO_LIMIT, NO_LIMIT, 0};
    return ADMITTED;
}

/* As Standing.admit, where it admits. */
static int admit_plain(const Lanes *self, PyObject *standing, double now, hot_terms *terms) {
    const standing_places *at = &self->standings;
    const bucket_places *in = &self->buckets;
    double month_ends_at, qps, tokens, read_at, closed_until, min_wait = 0.0;
    long long used, quota = -1, burst;
    PyObject *bucket, *limit, *objects[3] = {NULL, NULL, NULL};

    if (!read_double(standing, at->month_ends_at, &month_ends_at) || now >= month_ends_at) return ASK;
    if (FIELD(standing, at->free) != Py_None) return admit_free(standing, at->free, at->used, terms);
    if (!read_whole(standing, at->used, &used)) return ASK;
    limit = FIELD(standing, at->quota);
    if (limit != Py_None && (!read_whole(standing, at->quota, &quota) || used >= quota)) return ASK;
    bucket = FIELD(standing, at->bucket);
    if (bucket == Py_None) {
        *terms = (hot_terms){NO_LIMIT, NO_LIMIT, 0};
    } else {
        if (bucket == NULL || Py_TYPE(bucket) != in->type) return ASK;
        if (!read_double(bucket, in->qps, &qps) || !read_whole(bucket, in->burst, &burst) ||
            !read_double(bucket, in->tokens, &tokens) || !read_double(bucket, in->read_at, &read_at) ||
            !read_double(bucket, in->closed_until, &closed_until) ||
            !read_double(bucket, in->min_wait_seconds, &min_wait))
            return ASK;
        if (now < read_at) return ASK;
        tokens += (now - read_at) * qps;
        if (tokens > (double)burst) tokens = (double)burst;
        if (tokens < WHOLE || now < closed_until - MICROSECOND) return ASK;
        tokens -= 1.0;
        bool closes = tokens < WHOLE;
        double values[3] = {tokens, now, now + min_wait};
        if (fresh_doubles(objects, values, closes ? 3 : 2)) return FAILED;
        *terms = (hot_terms){burst, (long long)(tokens + NEARLY), -(long long)floor((tokens - (double)burst) / qps)};
    }
    PyObject *more = PyLong_FromLongLong(used + 1);
    if (more == NULL) {
        for (int place = 0; place < 3; place++) Py_XDECREF(objects[place]);
        return FAILED;
    }
    if (objects[0] != NULL) {
        write_field(bucket, in->tokens, objects[0]);
        write_field(bucket, in->read_at, objects[1]);
        if (objects[2] != NULL) write_field(bucket, in->closed_until, objects[2]);
    }
    write_field(standing, at->used, more);
    if (quota >= 0 && quota - used - 1 < terms->remaining)
        *terms = (hot_terms){quota, quota - used - 1, (long long)ceil(month_ends_at - now)};
    return ADMITTED;
}

/* As LeasedStanding.admit, where it admits out of the lease and there is nobody to tell. */
static int admit_leased(const Lanes *self, PyObject *standing, double now, hot_terms *terms) {
    const leased_places *at = &self->leased;
    double month_ends_at, until, tokens, qps = 0.0, shared = 0.0, shared_at = 0.0;
    long long used, spent, quota = -1, room = 0, burst = 0;

    if (!read_double(standing, at->month_ends_at, &month_ends_at) || now >= month_ends_at) return ASK;
    if (FIELD(standing, at->free) != Py_None) return admit_free(standing, at->free, at->used, terms);
    PyObject *line = FIELD(standing, at->line);
    if (line == NULL || Py_TYPE(line) != self->lines.type || FIELD(standing, at->listed) != Py_True) return ASK;
    if (!read_double(line, self->lines.until, &until) || now > until) return ASK;
    if (!read_whole(standing, at->used, &used) || !read_whole(standing, at->spent, &spent) ||
        !read_double(standing, at->tokens, &tokens))
        return ASK;
    bool has_quota = FIELD(standing, at->quota) != Py_None;
    if (has_quota && (!read_whole(standing, at->quota, &quota) || !read_whole(standing, at->room, &room) ||
                      used >= quota || room <= 1))
        return ASK;
    tokens -= 1.0;
    if (tokens < -NEARLY) return ASK;
    *terms = (hot_terms){NO_LIMIT, NO_LIMIT, 0};
    bool has_bucket = FIELD(standing, at->burst) != Py_None && FIELD(standing, at->qps) != Py_None;
    if (has_bucket) {
        if (!read_whole(standing, at->burst, &burst) || !read_double(standing, at->qps, &qps) ||
            !read_double(standing, at->shared, &shared) || !read_double(standing, at->shared_at, &shared_at))
            return ASK;
        shared -= 1.0;
        double held = shared + (now - shared_at) * qps;
        if (held > (double)burst - 1.0) held = (double)burst - 1.0;
        if (tokens < WHOLE && WHOLE <= held) return ASK;
        *terms = (hot_terms){burst, held > 0.0 ? (long long)(held + NEARLY) : 0,
                             -(long long)floor((held - (double)burst) / qps)};
    }
    PyObject *objects[2], *wholes[3] = {NULL, NULL, NULL};
    double values[2] = {tokens, shared};
    if (fresh_doubles(objects, values, has_bucket ? 2 : 1)) return FAILED;
    wholes[0] = PyLong_FromLongLong(used + 1);
    wholes[1] = PyLong_FromLongLong(spent + 1);
    wholes[2] = PyLong_FromLongLong(room - 1);
    if (wholes[0] == NULL || wholes[1] == NULL || wholes[2] == NULL) {
        Py_DECREF(objects[0]);
        if (has_bucket) Py_DECREF(objects[1]);
        for (int place = 0; place < 3; place++) Py_XDECREF(wholes[place]);
        return FAILED;
    }
    write_field(standing, at->tokens, objects[0]);
    if (has_bucket) write_field(standing, at->shared, objects[1]);
    write_field(standing, at->used, wholes[0]);
    write_field(standing, at->spent, wholes[1]);
    if (has_quota)
        write_field(standing, at->room, wholes[2]);
    else
        Py_DECREF(wholes[2]);
    if (has_quota && quota - used - 1 < terms->remaining)
        *terms = (hot_terms){quota, quota - used - 1, (long long)ceil(month_ends_at - now)};
    return ADMITTED;
}

static long long whole_of(PyObject *verdict, Py_ssize_t place) { return PyLong_AsLongLong(PyTuple_GET_ITEM(verdict, place)); }

/* Decide on one question; with REFUSED *verdict is a new reference to what Python said. */
static int admit(const Lanes *self, Holder *holder, double now, hot_terms *terms, PyObject **verdict) {
    PyObject *standing = holder->standing;
    int said = ASK;
    if (Py_TYPE(standing) == self->standings.type)
        said = admit_plain(self, standing, now, terms);
    else if (Py_TYPE(standing) == self->leased.type)
        said = admit_leased(self, standing, now, terms);
    if (said != ASK) return said;
    PyObject *at = PyFloat_FromDouble(now), *name = PyUnicode_InternFromString("admit"), *answer = NULL;
    Py_INCREF(standing); /* the key may be forgotten meanwhile */
    if (at != NULL && name != NULL) answer = PyObject_CallMethodOneArg(standing, name, at);
    Py_DECREF(standing);
    Py_XDECREF(at);
    Py_XDECREF(name);
    if (answer == NULL) return FAILED;
    if (!PyTuple_Check(answer) || PyTuple_GET_SIZE(answer) != 6) {
        PyErr_SetString(PyExc_TypeError, "admit gave no verdict");
        Py_DECREF(answer);
        return FAILED;
    }
    PyObject *outcome = PyTuple_GET_ITEM(answer, 0);
    if (PyUnicode_Check(outcome) && PyUnicode_CompareWithASCIIString(outcome, "admitted") == 0) {
        *terms = (hot_terms){whole_of(answer, 2), whole_of(answer, 3), whole_of(answer, 4)};
        Py_DECREF(answer);
        return PyErr_Occurred() ? FAILED : ADMITTED;
    }
    *verdict = answer;
    return REFUSED;
}

/* Record an answer, for which there is room. An entry of the tally keeps its holder. */
static void count(Lanes *self, Holder *holder, unsigned slot, const hot_reply *reply, int protocol, double now,
                  double since) {
    hot_tally *tally = hot_tallies_entry(&self->tallies, holder, slot, reply, protocol, now);
    if (tally->requests == 0) Py_INCREF(holder);
    uint64_t took_us = (uint64_t)((uptime() - since) * 1e6);
    int bits = took_us ? 64 - __builtin_clzll(took_us) : 0;
    self->microseconds += took_us;
    self->times[bits < TIMES ? bits : TIMES - 1]++;
    hot_count(tally, took_us);
}

/* ---- connections ---- */

static void unlink_connection(Lanes *self, int descriptor) {
    connection *one = &self->connections[descriptor];
    if (one->before >= 0)
        self->connections[one->before].after = one->after;
    else
        self->oldest = one->after;
    if (one->after >= 0)
        self->connections[one->after].before = one->before;
    else
        self->newest = one->before;
}

static void link_newest(Lanes *self, int descriptor, double at) {
    connection *one = &self->connections[descriptor];
    one->active_at = at;
    one->before = self->newest;
    one->after = -1;
    if (self->newest >= 0)
        self->connections[self->newest].after = descriptor;
    else
        self->oldest = descriptor;
    self->newest = descriptor;
}

static void touch(Lanes *self, int descriptor, double at) {
    if (self->newest == descriptor) {
        self->connections[descriptor].active_at = at;
        return;
    }
    unlink_connection(self, descriptor);
    link_newest(self, descriptor, at);
}

/* Forget a connection, and leave its descriptor open. */
static void forget(Lanes *self, int descriptor) {
    epoll_ctl(self->epoll, EPOLL_CTL_DEL, descriptor, NULL);
    unlink_connection(self, descriptor);
    self->connections[descriptor].open = false;
    self->open_connections--;
}

/* Whether there is a descriptor for one more connection, and those that the rest of the process may need. The system
 * gives the lowest number that is free, so one that is high tells that there are few left. */
static bool has_room(const Lanes *self) {
    if (self->highest < 0) return true;
    int probe = fcntl(self->epoll, F_DUPFD_CLOEXEC, 0);
    if (probe < 0) return false;
    close(probe);
    return probe <= self->highest;
}

static void watch_listener(Lanes *self, bool listening) {
    if (listening && self->listener >= 0 && !self->listening && !has_room(self)) return;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = self->listener};
    if (self->listener < 0 || self->listening == listening) return;
    if (epoll_ctl(self->epoll, listening ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, self->listener, &event) == 0)
        self->listening = listening;
}

static void end_connection(Lanes *self, int descriptor) {
    forget(self, descriptor);
    close(descriptor);
    watch_listener(self, true); /* if there were too many, there is room again */
}

static int room_for(Lanes *self, int descriptor) {
    int size = self->connections_size ? self->connections_size : 256;
    while (size <= descriptor) size *= 2;
    if (size == self->connections_size) return 0;
    connection *more = realloc(self->connections, (size_t)size * sizeof *more);
    if (more == NULL) return -1;
    memset(more + self->connections_size, 0, (size_t)(size - self->connections_size) * sizeof *more);
    self->connections = more;
    self->connections_size = size;
    return 0;
}

/* Watch a connection from now on. */
static int take_connection(Lanes *self, int descriptor, double up) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    if (room_for(self, descriptor) || epoll_ctl(self->epoll, EPOLL_CTL_ADD, descriptor, &event)) return -1;
    self->connections[descriptor].open = true;
    self->connections[descriptor].returns = 0;
    link_newest(self, descriptor, up);
    self->open_connections++;
    return 0;
}

/* Close a connection whose client was told all there is to tell; what it has sent by now is read away before. */
static void close_told(Lanes *self, int descriptor) {
    (void)!recv(descriptor, self->received, RECEIVED_MOST, MSG_DONTWAIT);
    close(descriptor);
}

/* Close those refused whose moment is over, or all of them. */
static void close_held(Lanes *self, double up) {
    while (self->held_count && self->refused_held[self->first_held].until <= up) {
        close_told(self, self->refused_held[self->first_held].descriptor);
        self->first_held = (self->first_held + 1) % REFUSED_HELD_MOST;
        self->held_count--;
    }
}

static void refuse(Lanes *self, int descriptor, double up) {
    Py_ssize_t length = self->refusal == NULL ? 0 : PyBytes_GET_SIZE(self->refusal);
    self->refused++;
    /* with MSG_MORE it leaves together with our end, in one segment */
    if (!length || send(descriptor, PyBytes_AS_STRING(self->refusal), (size_t)length, MSG_NOSIGNAL | MSG_MORE) != length ||
        shutdown(descriptor, SHUT_WR) || (self->highest >= 0 && descriptor >= self->highest)) {
        close_told(self, descriptor);
        return;
    }
    if (self->held_count == REFUSED_HELD_MOST) close_held(self, self->refused_held[self->first_held].until);
    int place = (self->first_held + self->held_count++) % REFUSED_HELD_MOST;
    self->refused_held[place] = (held){descriptor, up + REFUSED_HELD_SECONDS};
}

/* How many may be refused in this round. */
static int refusals_due(Lanes *self, bool others) {
    unsigned long long answered = self->requests + self->answers, more = answered - self->answered_at_refusal;
    if (!others) {
        self->answered_at_refusal = answered;
        return REFUSALS_A_ROUND;
    }
    int due = more / ANSWERS_A_REFUSAL < REFUSALS_A_ROUND ? (int)(more / ANSWERS_A_REFUSAL) : REFUSALS_A_ROUND;
    if (due) self->answered_at_refusal = answered;
    return due;
}

/* others: whether there are others who want something just now. */
static void accept_some(Lanes *self, double up, bool others) {
    int due = -1;
    for (int count = 0; count < ACCEPTS_A_ROUND; count++) {
        bool full = self->room >= 0 && self->open_connections >= self->room;
        if (full && due < 0) due = refusals_due(self, others);
        if (full && !due--) return;
        int descriptor = accept4(self->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                self->exhausted++;
                watch_listener(self, false);
            } else if (errno == ECONNABORTED || errno == EINTR) {
                continue;
            }
            return;
        }
        if (full) {
            refuse(self, descriptor, up);
            continue;
        }
        if (take_connection(self, descriptor, up)) {
            close(descriptor);
            continue;
        }
        self->accepted++;
        if (self->highest >= 0 && descriptor >= self->highest) {
            self->exhausted++;
            watch_listener(self, false);
            return;
        }
    }
}

/* Hand a connection over: (descriptor, received, unsent, verdict or None, returns) is added to *left. */
static int leave(Lanes *self, int descriptor, const uint8_t *received, size_t received_length, const uint8_t *unsent,
                 size_t unsent_length, PyObject *verdict, PyObject **left) {
    if (*left == NULL && (*left = PyList_New(0)) == NULL) return -1;
    PyObject *one = Py_BuildValue("(iy#y#Oi)", descriptor, (const char *)received, (Py_ssize_t)received_length,
                                  (const char *)unsent, (Py_ssize_t)unsent_length, verdict ? verdict : Py_None,
                                  (int)self->connections[descriptor].returns);
    if (one == NULL || PyList_Append(*left, one)) {
        Py_XDECREF(one);
        return -1;
    }
    Py_DECREF(one);
    forget(self, descriptor);
    if (self->room > 0) self->room--; /* it goes on elsewhere: its place is not free */
    self->left++;
    return 0;
}

static size_t send_all(int descriptor, const uint8_t *bytes, size_t length) {
    ssize_t sent = send(descriptor, bytes, length, MSG_NOSIGNAL);
    return sent < 0 ? 0 : (size_t)sent;
}

/* A standing could not decide. That is said here; the ordinary way asks it again, and answers for what it does then. */
static void tell_failure(Holder *holder) { PyErr_WriteUnraisable(holder->standing); }

/* Serve a connection that can be read. -1: a Python error is set, and the connection is ended. */
static int serve(Lanes *self, int descriptor, double up, PyObject **left) {
    ssize_t received = recv(descriptor, self->received, RECEIVED_MOST, 0);
    if (received <= 0) {
        if (received == 0 || (errno != EAGAIN && errno != EINTR)) end_connection(self, descriptor);
        return 0;
    }
    const uint8_t *at = self->received, *end = at + received;
    size_t to_send = 0;
    double now = now_of(self, up);
    PyObject *verdict = NULL;
    bool leaves = false;
    int in_a_row = 0;

    while (at < end) {
        hot_question question;
        hot_terms terms;
        unsigned slot;
        size_t length = hot_recognise(at, (size_t)(end - at), &question);
        Holder *holder;
        const hot_reply *reply;
        if (!length || self->shut || in_a_row++ == IN_A_ROW_MOST ||
            (holder = hot_keys_find(&self->keys, question.key, question.key_length)) == NULL ||
            (reply = hot_shelf_find(&self->shelf, question.asset, now, &slot)) == NULL ||
            !hot_tallies_room(&self->tallies, reply)) {
            leaves = true;
            break;
        }
        Py_INCREF(holder); /* Python may be called, and take it out */
        int said = admit(self, holder, now, &terms, &verdict);
        if (said != ADMITTED) {
            if (said == FAILED) tell_failure(holder);
            Py_DECREF(holder);
            leaves = true;
            break;
        }
        to_send += hot_http_answer(self->sent + to_send, reply, &terms, self->date, now, self->parting);
        count(self, holder, slot, reply, HOT_HTTP, now, up);
        Py_DECREF(holder);
        self->requests++;
        at += length;
        if (self->parting) at = end; /* what came behind it is not answered, as the answer says */
        if (to_send > SENT_MOST - HOT_LONGEST_ANSWER) {
            size_t sent = send_all(descriptor, self->sent, to_send);
            memmove(self->sent, self->sent + sent, to_send - sent);
            to_send -= sent;
            if (to_send) {
                leaves = true;
                break;
            }
        }
    }
    if (at > self->received) self->connections[descriptor].returns = 0;
    if (to_send) {
        size_t sent = send_all(descriptor, self->sent, to_send);
        memmove(self->sent, self->sent + sent, to_send - sent);
        to_send -= sent;
        leaves |= to_send > 0;
    }
    if (self->parting && !leaves) {
        end_connection(self, descriptor);
        return 0;
    }
    if (leaves) {
        int failed = leave(self, descriptor, at, (size_t)(end - at), self->sent, to_send, verdict, left);
        Py_XDECREF(verdict);
        if (failed) end_connection(self, descriptor);
        return failed;
    }
    touch(self, descriptor, up);
    return 0;
}

/* ---- datagrams ---- */

/* The sender as Python's sockets name it. */
static PyObject *sender_of(const struct sockaddr_storage *sender) {
    char host[INET6_ADDRSTRLEN];
    if (sender->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const void *)sender;
        inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
        return Py_BuildValue("(siII)", host, ntohs(six->sin6_port), (unsigned)ntohl(six->sin6_flowinfo),
                             (unsigned)six->sin6_scope_id);
    }
    const struct sockaddr_in *four = (const void *)sender;
    inet_ntop(AF_INET, &four->sin_addr, host, sizeof host);
    return Py_BuildValue("(si)", host, ntohs(four->sin_port));
}

/* Have Python see to a datagram: (datagram, sender, verdict or None) is added to *others. */
static int pass_on(const uint8_t *datagram, size_t length, const struct sockaddr_storage *sender, PyObject *verdict,
                   PyObject **others) {
    if (*others == NULL && (*others = PyList_New(0)) == NULL) return -1;
    PyObject *one = Py_BuildValue("(y#NO)", (const char *)datagram, (Py_ssize_t)length, sender_of(sender),
                                  verdict ? verdict : Py_None);
    if (one == NULL || PyList_Append(*others, one)) {
        Py_XDECREF(one);
        return -1;
    }
    Py_DECREF(one);
    return 0;
}

static bool same_sender(const struct msghdr *one, const struct msghdr *other) {
    return one->msg_namelen == other->msg_namelen && !memcmp(one->msg_name, other->msg_name, one->msg_namelen);
}

/* Whoever names port 0 as its own cannot be answered, however it is sent: EINVAL says nothing of cutting then. */
static bool to_a_port(const struct msghdr *message) {
    const struct sockaddr_in *to = message->msg_name; /* IPv6 has the port in the same place */
    return to->sin_port != 0;
}

/* Send so many answers. Those that go to one sender, one after the other, and are equally long (the last may be shorter)
 * are handed to the system as one message, which it cuts (UDP_SEGMENT, from Linux 4.18 on). */
static void send_answers(Lanes *self, int answers) {
    struct mmsghdr merged[DATAGRAMS_A_ROUND];
    int counts[DATAGRAMS_A_ROUND], messages = 0, first = 0;
    while (first < answers) {
        size_t size = self->outgoing_at[first].iov_len, total = size;
        int next = first + 1;
        if (self->segmenting)
            while (next < answers && next - first < SEGMENTS_MOST &&
                   same_sender(&self->outgoing[first].msg_hdr, &self->outgoing[next].msg_hdr) &&
                   self->outgoing_at[next - 1].iov_len == size && self->outgoing_at[next].iov_len <= size &&
                   total + self->outgoing_at[next].iov_len <= SEGMENTED_MOST)
                total += self->outgoing_at[next++].iov_len;
        struct msghdr *message = &merged[messages].msg_hdr;
        *message = self->outgoing[first].msg_hdr;
        message->msg_iov = &self->outgoing_at[first];
        message->msg_iovlen = (size_t)(next - first);
        message->msg_control = NULL;
        message->msg_controllen = 0;
        if (next - first > 1) {
            uint16_t segment = (uint16_t)size;
            message->msg_control = self->segment_sizes[messages];
            message->msg_controllen = sizeof self->segment_sizes[messages];
            struct cmsghdr *said = CMSG_FIRSTHDR(message);
            said->cmsg_level = IPPROTO_UDP;
            said->cmsg_type = UDP_SEGMENT;
            said->cmsg_len = CMSG_LEN(sizeof segment);
            memcpy(CMSG_DATA(said), &segment, sizeof segment);
        }
        counts[messages++] = next - first;
        first = next;
    }
    int done = 0, answered = 0;
    while (done < messages) {
        int sent = sendmmsg(self->datagrams, merged + done, (unsigned)(messages - done), 0);
        if (sent > 0) {
            while (sent--) answered += counts[done++];
        } else if (errno == EINTR) {
            continue;
        } else if (counts[done] > 1 && to_a_port(&merged[done].msg_hdr) &&
                   (errno == EINVAL || errno == EIO || errno == EMSGSIZE || errno == EOPNOTSUPP)) {
            /* this system, or this way out, does not cut: what is left goes one by one from now on */
            self->segmenting = false;
            for (int at = 0; at < answers - answered; at++) {
                self->outgoing[at].msg_hdr = self->outgoing[at + answered].msg_hdr;
                self->outgoing_at[at] = self->outgoing_at[at + answered];
            }
            self->answers += (unsigned)answered;
            send_answers(self, answers - answered);
            return;
        } else {
            /* no room in the socket's buffer, or nobody to be reached there */
            self->unsendable += (unsigned)counts[done];
            answered += counts[done++];
        }
    }
    self->answers += (unsigned)answered;
}

/* Have the datagrams' socket in the epoll, or not: out of it, whoever sends has nobody to tell, which is much of
 * what sending a datagram costs. */
static void watch_datagrams(Lanes *self, bool watched) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = self->datagrams};
    if (self->datagrams < 0 || self->watched == watched) return;
    if (epoll_ctl(self->epoll, watched ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, self->datagrams, &event) == 0)
        self->watched = watched;
}

/* Serve what datagrams there are, at most so many rounds of them; how many there were. -1: a Python error is set. */
static int serve_datagrams(Lanes *self, int rounds, PyObject **others) {
    int served = 0;
    for (int round = 0; round < rounds; round++) {
        for (int at = 0; at < DATAGRAMS_A_ROUND; at++) {
            self->incoming_at[at] = (struct iovec){self->questions[at], DATAGRAM_ROOM};
            self->incoming[at].msg_hdr = (struct msghdr){
                .msg_name = &self->senders[at],
                .msg_namelen = sizeof self->senders[at],
                .msg_iov = &self->incoming_at[at],
                .msg_iovlen = 1,
            };
        }
        int received = recvmmsg(self->datagrams, self->incoming, DATAGRAMS_A_ROUND, MSG_DONTWAIT, NULL);
        if (received <= 0) break;
        served += received;
        double up = uptime(), now = now_of(self, up);
        int answers = 0, failed = 0;
        for (int at = 0; at < received; at++) {
            const uint8_t *datagram = self->questions[at];
            size_t length = self->incoming[at].msg_len;
            struct msghdr *from = &self->incoming[at].msg_hdr;
            hot_question question;
            hot_terms terms;
            unsigned slot;
            Holder *holder;
            const hot_reply *reply;
            PyObject *verdict = NULL;
            if (self->shut || !hot_datagram(datagram, length, &question) ||
                (holder = hot_keys_find(&self->keys, question.key, question.key_length)) == NULL ||
                (reply = hot_shelf_find(&self->shelf, question.asset, now, &slot)) == NULL ||
                !hot_tallies_room(&self->tallies, reply)) {
                failed |= pass_on(datagram, length, &self->senders[at], NULL, others);
                if (failed) break;
                continue;
            }
            Py_INCREF(holder);
            int said = admit(self, holder, now, &terms, &verdict);
            if (said == ADMITTED) {
                self->outgoing_at[answers].iov_base = self->replies[answers];
                self->outgoing_at[answers].iov_len = hot_udp_answer(self->replies[answers], reply, &question, now);
                self->outgoing[answers].msg_hdr = (struct msghdr){
                    .msg_name = from->msg_name,
                    .msg_namelen = from->msg_namelen,
                    .msg_iov = &self->outgoing_at[answers],
                    .msg_iovlen = 1,
                };
                answers++;
                count(self, holder, slot, reply, HOT_UDP, now, up);
            } else if (said == REFUSED) {
                failed |= pass_on(datagram, length, &self->senders[at], verdict, others);
                Py_DECREF(verdict);
            } else {
                tell_failure(holder);
                failed |= pass_on(datagram, length, &self->senders[at], NULL, others);
            }
            Py_DECREF(holder);
            if (failed) break;
        }
        send_answers(self, answers);
        if (failed) return -1;
        if (received < DATAGRAMS_A_ROUND) break;
    }
    return served;
}

/* ---- what Python sees ---- */

static bool is_closed(const Lanes *self) {
    if (self->epoll >= 0) return false;
    PyErr_SetString(PyExc_ValueError, "the lanes are closed");
    return true;
}

static int look(Lanes *self) { return epoll_wait(self->epoll, self->events, EVENTS_A_ROUND, 0); }

/* Wait a moment, asleep. */
static int wait_asleep(Lanes *self) {
#ifdef SYS_epoll_pwait2
    struct timespec limit = {0, (long)(self->linger * 1e9)};
    return epoll_pwait2(self->epoll, self->events, EVENTS_A_ROUND, &limit, NULL);
#else
    return look(self);
#endif
}

/* Wait a moment, awake: where the next question comes soon, to fall asleep and be woken takes longer than to answer.
 * Whether it comes soon is what the last ones tell. Where the moment passed in vain this is soon given up; and taken up
 * again when, for a while, one turn came right after the other although we slept.
 *
 * Datagrams are served at once, and *datagrams counts them (-1: a Python error is set). Between two looks for them there
 * is a breath: whoever looks without pause gets them one by one, and is in the way of those who send. */
static int wait_awake(Lanes *self, double since, PyObject **others, int *datagrams) {
    int ready;
    double up = uptime();
    do {
        if (!self->watched)
            for (double end = up + BREATH_SECONDS; up < end;) up = uptime();
        ready = look(self);
        if (!self->watched) *datagrams = serve_datagrams(self, ROUNDS_OF_DATAGRAMS, others);
        up = uptime();
    } while (ready <= 0 && !*datagrams && up < since + self->linger);
    if (ready > 0 || *datagrams)
        self->luck += self->luck < LUCK_MOST;
    else if ((self->luck -= LUCK_LOST) < 0)
        self->luck = -LUCK_MOST;
    return ready;
}

PyDoc_STRVAR(turn_doc,
             "turn(now, date, brief=False) -> None or (left, others)\n\n"
             "Serve what is ready, for a bounded time. left: (descriptor, received, unsent, verdict or None, returns)\n"
             "of each connection that is the caller's from now on; returns: see take. others: (datagram, sender, verdict or None) of each datagram\n"
             "that was not answered. With a verdict, a refused question comes first, which was asked at the gate already.\n"
             "A brief turn waits for nothing and is over sooner. Brief ones have a quarter of all time, at most 8 ms of it at\n"
             "once; beyond that they serve nobody. Within a turn another one is none.");

static PyObject *lanes_turn(Lanes *self, PyObject *const *arguments, Py_ssize_t count) {
    if (count < 2 || count > 3 || is_closed(self)) {
        if (count < 2 || count > 3) PyErr_SetString(PyExc_TypeError, "turn takes now, date and brief");
        return NULL;
    }
    double now = PyFloat_AsDouble(arguments[0]);
    if (now == -1.0 && PyErr_Occurred()) return NULL;
    if (!PyBytes_Check(arguments[1]) || PyBytes_GET_SIZE(arguments[1]) != HOT_DATE) {
        PyErr_Format(PyExc_ValueError, "the date has %d bytes", HOT_DATE);
        return NULL;
    }
    int brief = count == 3 ? PyObject_IsTrue(arguments[2]) : 0;
    if (brief < 0) return NULL;
    if (self->turning) Py_RETURN_NONE;
    double up = uptime(), budget = brief ? BRIEF_SECONDS : self->budget;
    if (brief) {
        /* the work that we are in the midst of has the greater part of the time */
        self->brief_left += BRIEF_SHARE * (up - self->brief_at);
        if (self->brief_left > BRIEF_MOST_SECONDS) self->brief_left = BRIEF_MOST_SECONDS;
        self->brief_at = up;
        if (self->brief_left <= 0.0) Py_RETURN_NONE;
    }
    self->turning = true;
    memcpy(self->date, PyBytes_AS_STRING(arguments[1]), HOT_DATE);
    self->turn_began = up;
    self->now_at_turn = now;
    PyObject *left = NULL, *others = NULL;
    bool more = true;

    if (self->luck < 0 && !brief) self->luck = up - self->turn_ended < SOON * self->linger ? self->luck + 1 : -LUCK_MOST;
    while (more) {
        int ready = look(self), datagrams = self->watched ? 0 : serve_datagrams(self, ROUNDS_OF_DATAGRAMS, &others);
        if (ready <= 0 && !datagrams) {
            if (brief || self->linger <= 0.0 || up == self->turn_began) break;
            if (self->luck < 0) watch_datagrams(self, true);
            ready = self->luck >= 0 ? wait_awake(self, up, &others, &datagrams) : wait_asleep(self);
            if (ready <= 0 && !datagrams) break;
            up = uptime();
        } else if (datagrams) {
            up = uptime();
        }
        bool failed = datagrams < 0;
        /* who is left out of a brief turn is ready in the next one, too */
        for (int at = 0; at < ready && !failed && !(brief && up - self->turn_began > budget); at++) {
            int descriptor = self->events[at].data.fd;
            if (descriptor == self->datagrams) {
                failed = serve_datagrams(self, brief ? 1 : ROUNDS_OF_DATAGRAMS, &others) < 0;
                if (self->luck >= 0 && !brief) watch_datagrams(self, false);
            } else if (descriptor == self->listener) {
                accept_some(self, up, ready > 1 || datagrams > 0);
            } else if (descriptor < self->connections_size && self->connections[descriptor].open) {
                failed = serve(self, descriptor, up, &left);
            }
            up = uptime();
        }
        if (failed) {
            /* what has left already is not lost for it */
            PyErr_WriteUnraisable((PyObject *)self);
            break;
        }
        more = left == NULL && others == NULL && up - self->turn_began < budget;
    }
    watch_datagrams(self, true);
    self->rested_since = uptime();
    if (brief)
        self->brief_left -= self->rested_since - self->turn_began;
    else
        self->turn_ended = self->rested_since;
    self->turning = false;
    if (left == NULL && others == NULL) Py_RETURN_NONE;
    return Py_BuildValue("(NN)", left ? left : PyList_New(0), others ? others : PyList_New(0));
}

PyDoc_STRVAR(learn_doc, "learn(key, key_id, standing)\n\nThis key is good, and this is how it stands.");

/* Whether this can stand between quotes in JSON as it is. */
static bool is_plain_text(PyObject *text) {
    if (!PyUnicode_Check(text) || !PyUnicode_IS_ASCII(text) || PyUnicode_GET_LENGTH(text) > HOT_LONGEST_KEY) return false;
    const uint8_t *bytes = PyUnicode_1BYTE_DATA(text), *end = bytes + PyUnicode_GET_LENGTH(text);
    for (; bytes < end; bytes++)
        if (!isalnum(*bytes) && *bytes != '_' && *bytes != '-') return false;
    return true;
}

/* The key does not lead to this holder any more. */
static void turn_away(Lanes *self, Holder *holder) {
    if (holder->standing == NULL) return;
    hot_keys_take(&self->keys, holder->hash);
    Py_CLEAR(holder->standing);
    self->live--;
}

static PyObject *lanes_learn(Lanes *self, PyObject *arguments) {
    const char *key;
    Py_ssize_t length;
    PyObject *key_id, *standing;
    void *before;
    if (!PyArg_ParseTuple(arguments, "y#UO", &key, &length, &key_id, &standing)) return NULL;
    if (!is_plain_text(key_id)) {
        PyErr_SetString(PyExc_ValueError, "a key id has letters, digits, underscores and hyphens");
        return NULL;
    }
    /* a key id has one holder for as long as anything is counted for it, whatever becomes of the key meanwhile */
    Holder *holder = (Holder *)PyDict_GetItemWithError(self->holders, key_id);
    if (holder == NULL) {
        if (PyErr_Occurred() || (holder = PyObject_New(Holder, &Holder_Type)) == NULL) return NULL;
        holder->key_id = Py_NewRef(key_id);
        holder->standing = NULL;
        int failed = PyDict_SetItem(self->holders, key_id, (PyObject *)holder);
        Py_DECREF(holder);
        if (failed) return NULL;
    }
    turn_away(self, holder);
    hot_hash(&self->keys, (const uint8_t *)key, (size_t)length, holder->hash);
    if (hot_keys_put(&self->keys, holder->hash, holder, &before)) return PyErr_NoMemory();
    holder->standing = Py_NewRef(standing);
    self->live++;
    if (before != NULL) { /* one key with two ids: the last one holds */
        Py_CLEAR(((Holder *)before)->standing);
        self->live--;
        self->gone = true;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(forget_doc, "forget(key_id)\n\nWhat is known of this key does not hold any more; nothing happens if it is not known.");

static PyObject *lanes_forget(Lanes *self, PyObject *key_id) {
    Holder *known = (Holder *)PyDict_GetItemWithError(self->holders, key_id);
    if (known == NULL) {
        if (PyErr_Occurred()) return NULL;
        Py_RETURN_NONE;
    }
    turn_away(self, known);
    self->gone = true;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(decide_doc,
             "decide(key, now) -> (limit, remaining, reset), verdict, or None\n\n"
             "Ask as a question would: the terms if it is admitted, what Python said if not, None if the key is not known.");

static PyObject *lanes_decide(Lanes *self, PyObject *arguments) {
    const char *key;
    Py_ssize_t length;
    double now;
    hot_terms terms;
    PyObject *verdict = NULL;
    if (!PyArg_ParseTuple(arguments, "y#d", &key, &length, &now)) return NULL;
    Holder *holder = hot_keys_find(&self->keys, (const uint8_t *)key, (size_t)length);
    if (holder == NULL) Py_RETURN_NONE;
    Py_INCREF(holder);
    int said = admit(self, holder, now, &terms, &verdict);
    Py_DECREF(holder);
    if (said == FAILED) return NULL;
    return said == REFUSED ? verdict : Py_BuildValue("(LLL)", terms.limit, terms.remaining, terms.reset);
}

static const char *const protocols[] = {"http", "udp"};

/* What was taken out of the tally. Python's objects are made of it when they are asked for: there may be very many. */
typedef struct {
    PyObject_HEAD
    Lanes *lanes;
    hot_tally *entries;
    uint32_t count;
} Drained;

static void drained_dealloc(Drained *self) {
    for (uint32_t at = 0; at < self->count; at++) Py_DECREF(self->entries[at].whose);
    hot_tallies_free(self->entries);
    Py_DECREF(self->lanes);
    PyObject_Free(self);
}

static Py_ssize_t drained_length(Drained *self) { return self->count; }

PyDoc_STRVAR(rows_doc,
             "rows(start, stop) -> list of (key id, protocol, asset, source, at, requests, microseconds, longest)\n\n"
             "at: when the first of the requests was answered.");

static PyObject *drained_rows(Drained *self, PyObject *arguments) {
    Py_ssize_t start, stop;
    if (!PyArg_ParseTuple(arguments, "nn", &start, &stop)) return NULL;
    if (start < 0 || stop < start || stop > self->count) {
        PyErr_SetString(PyExc_IndexError, "there are not so many rows");
        return NULL;
    }
    PyObject *rows = PyList_New(stop - start);
    if (rows == NULL) return NULL;
    for (Py_ssize_t at = start; at < stop; at++) {
        const hot_tally *entry = &self->entries[at];
        const char *code = (const char *)self->lanes->memory.buf + (size_t)entry->slot * SHELF_SLOT_BYTES + 8;
        PyObject *row = Py_BuildValue(
            "(Oss#s#dKKK)", ((Holder *)entry->whose)->key_id, protocols[entry->protocol], code,
            (Py_ssize_t)strnlen(code, HOT_LONGEST_ASSET), (const char *)entry->source, (Py_ssize_t)entry->source_length,
            entry->at, (unsigned long long)entry->requests, (unsigned long long)entry->sum_us,
            (unsigned long long)entry->max_us);
        if (row == NULL) {
            Py_DECREF(rows);
            return NULL;
        }
        PyList_SET_ITEM(rows, at - start, row);
    }
    return rows;
}

static PyMethodDef drained_methods[] = {
    {"rows", (PyCFunction)drained_rows, METH_VARARGS, rows_doc},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods drained_sequence = {.sq_length = (lenfunc)drained_length};

static PyTypeObject Drained_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tbeast.native._lanes.Drained",
    .tp_basicsize = sizeof(Drained),
    .tp_dealloc = (destructor)drained_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "What was answered up to a moment, by kind.",
    .tp_methods = drained_methods,
    .tp_as_sequence = &drained_sequence,
};

PyDoc_STRVAR(drain_doc,
             "drain() -> Drained\n\n"
             "Take out what was answered since the last time: len(drained) kinds of it, and see its rows.");

/* Let go of the holders that no key leads to, now that nothing is counted for them. */
static int sweep(Lanes *self) {
    PyObject *kept = PyDict_New(), *key_id, *holder;
    Py_ssize_t at = 0;
    if (kept == NULL) return -1;
    while (PyDict_Next(self->holders, &at, &key_id, &holder))
        if (((Holder *)holder)->standing != NULL && PyDict_SetItem(kept, key_id, holder)) {
            Py_DECREF(kept);
            return -1;
        }
    Py_SETREF(self->holders, kept);
    self->gone = false;
    return 0;
}

static PyObject *lanes_drain(Lanes *self, PyObject *Py_UNUSED(ignored)) {
    Drained *drained = PyObject_New(Drained, &Drained_Type);
    if (drained == NULL) return NULL;
    drained->lanes = (Lanes *)Py_NewRef(self);
    drained->count = 0;
    drained->entries = hot_tallies_take(&self->tallies, &drained->count);
    if (drained->entries == NULL) {
        Py_DECREF(drained);
        return PyErr_NoMemory();
    }
    if (self->gone && sweep(self)) PyErr_Clear(); /* they stay a while longer */
    return (PyObject *)drained;
}

PyDoc_STRVAR(tell_doc,
             "tell() -> bytes\n\n"
             "What was answered since this was asked last, or since drain, which takes it out all the same: JSON, with\n"
             "commas between its parts. What is told of the first time is a row, [[key id, service, protocol, asset,\n"
             "source, cache tier, status, admitted], at, requests, microseconds, longest]; the service is lpo and the tier\n"
             "shelf, 200 the status. What comes to a row later is [number of the row since drain, requests,\n"
             "microseconds, longest].");

enum { TOLD_MOST = 512 };

static PyObject *lanes_tell(Lanes *self, PyObject *Py_UNUSED(ignored)) {
    size_t size = 0, room = 0;
    char *text = NULL;
    for (uint32_t place = 0; place < self->tallies.count; place++) {
        hot_tally *entry = &self->tallies.entries[place];
        if (entry->requests == entry->told_requests) continue;
        if (room - size < TOLD_MOST) {
            room = room ? room * 2 : 16384;
            char *more = PyMem_Realloc(text, room);
            if (more == NULL) {
                PyMem_Free(text);
                return PyErr_NoMemory();
            }
            text = more;
        }
        if (entry->told_requests) {
            size += (size_t)snprintf(text + size, TOLD_MOST, "%s[%" PRIu32 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]",
                                     size ? "," : "", place, entry->requests - entry->told_requests,
                                     entry->sum_us - entry->told_us, entry->max_us);
            continue;
        }
        const char *key_id = PyUnicode_AsUTF8(((Holder *)entry->whose)->key_id);
        char *at = key_id == NULL ? NULL : PyOS_double_to_string(entry->at, 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
        if (at == NULL) {
            PyMem_Free(text);
            return NULL;
        }
        const char *code = (const char *)self->memory.buf + (size_t)entry->slot * SHELF_SLOT_BYTES + 8;
        int written = snprintf(
            text + size, TOLD_MOST, "%s[[\"%s\",\"lpo\",\"%s\",\"%.*s\",\"%.*s\",\"shelf\",200,true],%s,%llu,%llu,%llu]",
            size ? "," : "", key_id, protocols[entry->protocol], (int)strnlen(code, HOT_LONGEST_ASSET), code,
            (int)entry->source_length, (const char *)entry->source, at, (unsigned long long)entry->requests,
            (unsigned long long)entry->sum_us, (unsigned long long)entry->max_us);
        PyMem_Free(at);
        if (written < 0 || written >= TOLD_MOST) {
            PyMem_Free(text);
            PyErr_SetString(PyExc_ValueError, "a row is too long");
            return NULL;
        }
        size += (size_t)written;
    }
    PyObject *told = PyBytes_FromStringAndSize(text, (Py_ssize_t)size);
    PyMem_Free(text);
    if (told == NULL) return NULL;
    for (uint32_t place = 0; place < self->tallies.count; place++) {
        hot_tally *entry = &self->tallies.entries[place];
        entry->told_requests = entry->requests;
        entry->told_us = entry->sum_us;
    }
    return told;
}

PyDoc_STRVAR(expire_doc,
             "expire(seconds) -> int\n\n"
             "End the connections that have asked nothing for so long; how many. Those that were refused a moment ago are\n"
             "closed. To be called once in a while.");

static PyObject *lanes_expire(Lanes *self, PyObject *argument) {
    double seconds = PyFloat_AsDouble(argument), up = uptime();
    long ended = 0;
    if (seconds == -1.0 && PyErr_Occurred()) return NULL;
    while (self->oldest >= 0 && self->connections[self->oldest].active_at <= up - seconds) {
        end_connection(self, self->oldest);
        ended++;
    }
    self->idled += (unsigned long)ended;
    close_held(self, up);
    if (self->epoll >= 0) {
        watch_listener(self, true);
        watch_datagrams(self, true);
    }
    return PyLong_FromLong(ended);
}

static int watch(Lanes *self, PyObject *argument, int *where) {
    long descriptor = PyLong_AsLong(argument);
    if (descriptor == -1 && PyErr_Occurred()) return -1;
    if (is_closed(self)) return -1;
    if (*where >= 0) {
        PyErr_SetString(PyExc_ValueError, "there is one already");
        return -1;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = (int)descriptor};
    if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, (int)descriptor, &event)) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    *where = (int)descriptor;
    return 0;
}

PyDoc_STRVAR(listen_doc, "listen(descriptor)\n\nTake connections from this listening socket, which stays the caller's.");

static PyObject *lanes_listen(Lanes *self, PyObject *argument) {
    if (watch(self, argument, &self->listener)) return NULL;
    self->listening = true;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(take_doc,
             "take(descriptor, returns) -> bool\n\n"
             "Go on with a connection that was handed over before; it is ours from now on. returns: how often it has come\n"
             "back; it is given out with the connection if that leaves with nothing answered. False: there is no room for\n"
             "it, and it stays the caller's.");

static PyObject *lanes_take(Lanes *self, PyObject *arguments) {
    int descriptor, returns;
    if (!PyArg_ParseTuple(arguments, "ii", &descriptor, &returns)) return NULL;
    if (self->epoll < 0 || self->listener < 0 || self->parting || descriptor < 0 ||
        (self->highest >= 0 && descriptor > self->highest) || take_connection(self, descriptor, uptime()))
        Py_RETURN_FALSE;
    self->connections[descriptor].returns = (uint8_t)(returns < 0 ? 0 : returns > 255 ? 255 : returns);
    self->returned++;
    Py_RETURN_TRUE;
}

PyDoc_STRVAR(answer_datagrams_doc, "answer_datagrams(descriptor)\n\nTake datagrams from this socket, which stays the caller's.");

static PyObject *lanes_answer_datagrams(Lanes *self, PyObject *argument) {
    if (watch(self, argument, &self->datagrams)) return NULL;
    self->watched = true;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(end_listening_doc, "end_listening()\n\nTake no more connections, and end those that there are.");

static PyObject *lanes_end_listening(Lanes *self, PyObject *Py_UNUSED(ignored)) {
    if (self->epoll >= 0) watch_listener(self, false);
    self->listener = -1;
    while (self->oldest >= 0) end_connection(self, self->oldest);
    close_held(self, INFINITY);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(end_accepting_doc, "end_accepting()\n\nTake no more connections; those that there are go on.");

static PyObject *lanes_end_accepting(Lanes *self, PyObject *Py_UNUSED(ignored)) {
    if (self->epoll >= 0) watch_listener(self, false);
    self->listener = -1;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(end_datagrams_doc, "end_datagrams()\n\nTake no more datagrams.");

static PyObject *lanes_end_datagrams(Lanes *self, PyObject *Py_UNUSED(ignored)) {
    if (self->datagrams >= 0 && self->epoll >= 0) epoll_ctl(self->epoll, EPOLL_CTL_DEL, self->datagrams, NULL);
    self->datagrams = -1;
    self->watched = true;
    Py_RETURN_NONE;
}

static PyObject *lanes_fileno(Lanes *self, PyObject *Py_UNUSED(ignored)) { return PyLong_FromLong(self->epoll); }

PyDoc_STRVAR(figures_doc,
             "figures() -> dict\n\nconnections (open now), accepted, idled (ended for idleness), left (handed over),\n"
             "returned (taken back), exhausted (times without descriptors), refused (there being no room), requests (answered\n"
             "over HTTP), answers (over UDP, of which unsendable could not be sent), microseconds (that all of these took),\n"
             "times (how many took how long: 32 counts, by the binary length of the microseconds), keys, kinds and waiting\n"
             "(entries and requests that drain would give).");

static PyObject *lanes_figures(Lanes *self, PyObject *Py_UNUSED(ignored)) {
    unsigned long long waiting = 0;
    for (uint32_t at = 0; at < self->tallies.count; at++) waiting += self->tallies.entries[at].requests;
    PyObject *times = PyList_New(TIMES);
    if (times == NULL) return NULL;
    for (int bits = 0; bits < TIMES; bits++) {
        PyObject *number = PyLong_FromUnsignedLongLong(self->times[bits]);
        if (number == NULL) {
            Py_DECREF(times);
            return NULL;
        }
        PyList_SET_ITEM(times, bits, number);
    }
    return Py_BuildValue("{sLsKsKsKsKsKsKsKsKsKsKsNsnsIsK}", "connections", self->open_connections, "accepted",
                         self->accepted, "idled", self->idled, "left", self->left, "returned", self->returned,
                         "exhausted", self->exhausted, "refused", self->refused, "requests", self->requests, "answers",
                         self->answers, "unsendable", self->unsendable, "microseconds", self->microseconds, "times",
                         times, "keys", (Py_ssize_t)self->live, "kinds", self->tallies.count, "waiting", waiting);
}

static void let_go(Lanes *self) {
    while (self->oldest >= 0) end_connection(self, self->oldest);
    close_held(self, INFINITY);
    if (self->epoll >= 0) close(self->epoll);
    self->epoll = self->listener = self->datagrams = -1;
}

PyDoc_STRVAR(close_doc, "close()\n\nEnd everything; drain and figures still work.");

static PyObject *lanes_close(Lanes *self, PyObject *Py_UNUSED(ignored)) {
    let_go(self);
    Py_RETURN_NONE;
}

static int slots_of(PyTypeObject *type, const char *const *names, Py_ssize_t **places) {
    for (int at = 0; names[at] != NULL; at++)
        if (place_of(type, names[at], places[at])) return -1;
    return 0;
}

static int learn_places(Lanes *self) {
    standing_places *standing = &self->standings;
    bucket_places *bucket = &self->buckets;
    leased_places *leased = &self->leased;
    line_places *line = &self->lines;
    static const char *const of_standing[] = {"_month_ends_at", "_free", "used", "_quota", "_bucket", NULL};
    static const char *const of_bucket[] = {"qps", "burst", "min_wait_seconds", "tokens", "_read_at", "_closed_until", NULL};
    static const char *const of_leased[] = {"_month_ends_at", "_free", "used", "_quota", "_line", "_room", "_tokens",
                                            "_spent", "_listed", "_burst", "_qps", "_shared", "_shared_at", NULL};
    static const char *const of_line[] = {"until", NULL};
    return slots_of(standing->type, of_standing,
                    (Py_ssize_t *[]){&standing->month_ends_at, &standing->free, &standing->used, &standing->quota,
                                     &standing->bucket}) ||
           slots_of(bucket->type, of_bucket,
                    (Py_ssize_t *[]){&bucket->qps, &bucket->burst, &bucket->min_wait_seconds, &bucket->tokens,
                                     &bucket->read_at, &bucket->closed_until}) ||
           slots_of(leased->type, of_leased,
                    (Py_ssize_t *[]){&leased->month_ends_at, &leased->free, &leased->used, &leased->quota, &leased->line,
                                     &leased->room, &leased->tokens, &leased->spent, &leased->listed, &leased->burst,
                                     &leased->qps, &leased->shared, &leased->shared_at}) ||
           slots_of(line->type, of_line, (Py_ssize_t *[]){&line->until});
}

static PyObject *lanes_new(PyTypeObject *type, PyObject *arguments, PyObject *named) {
    static char *names[] = {"shelf", "secret", "standing", "bucket", "leased", "line", "budget", "linger", NULL};
    PyObject *shelf, *standing, *bucket, *leased, *line;
    const char *secret;
    Py_ssize_t secret_length;
    double budget = 0.001, linger = 0.00005;
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "Oy#O!O!O!O!|dd", names, &shelf, &secret, &secret_length,
                                     &PyType_Type, &standing, &PyType_Type, &bucket, &PyType_Type, &leased,
                                     &PyType_Type, &line, &budget, &linger))
        return NULL;
    if (secret_length != 16) {
        PyErr_SetString(PyExc_ValueError, "the secret has 16 bytes");
        return NULL;
    }
    Lanes *self = (Lanes *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->epoll = self->listener = self->datagrams = self->oldest = self->newest = -1;
    self->highest = self->room = -1;
    self->segmenting = true;
    self->watched = true;
    self->rested_since = self->brief_at = uptime();
    self->brief_left = BRIEF_MOST_SECONDS;
    self->budget = budget;
    self->linger = linger < 0.001 ? linger : 0.001;
    self->luck = -LUCK_MOST;
    self->standings.type = (PyTypeObject *)Py_NewRef(standing);
    self->buckets.type = (PyTypeObject *)Py_NewRef(bucket);
    self->leased.type = (PyTypeObject *)Py_NewRef(leased);
    self->lines.type = (PyTypeObject *)Py_NewRef(line);
    if (PyObject_GetBuffer(shelf, &self->memory, PyBUF_SIMPLE) || learn_places(self)) goto failed;
    if (self->memory.len != SHELF_BYTES || (uintptr_t)self->memory.buf % 8) {
        PyErr_SetString(PyExc_ValueError, "this is no shelf");
        goto failed;
    }
    self->holders = PyDict_New();
    if (self->holders == NULL) goto failed;
    if (hot_shelf_open(&self->shelf, self->memory.buf) || hot_keys_open(&self->keys, (const uint8_t *)secret) ||
        hot_tallies_open(&self->tallies)) {
        PyErr_NoMemory();
        goto failed;
    }
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static void lanes_dealloc(Lanes *self) {
    let_go(self);
    for (uint32_t at = 0; at < self->tallies.count; at++) Py_DECREF(self->tallies.entries[at].whose);
    hot_shelf_close(&self->shelf);
    hot_keys_close(&self->keys);
    hot_tallies_close(&self->tallies);
    free(self->connections);
    if (self->memory.obj != NULL) PyBuffer_Release(&self->memory);
    Py_XDECREF(self->refusal);
    Py_XDECREF(self->holders);
    Py_XDECREF(self->standings.type);
    Py_XDECREF(self->buckets.type);
    Py_XDECREF(self->leased.type);
    Py_XDECREF(self->lines.type);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef lanes_methods[] = {
    {"turn", (PyCFunction)(void (*)(void))lanes_turn, METH_FASTCALL, turn_doc},
    {"learn", (PyCFunction)lanes_learn, METH_VARARGS, learn_doc},
    {"forget", (PyCFunction)lanes_forget, METH_O, forget_doc},
    {"decide", (PyCFunction)lanes_decide, METH_VARARGS, decide_doc},
    {"drain", (PyCFunction)lanes_drain, METH_NOARGS, drain_doc},
    {"tell", (PyCFunction)lanes_tell, METH_NOARGS, tell_doc},
    {"expire", (PyCFunction)lanes_expire, METH_O, expire_doc},
    {"listen", (PyCFunction)lanes_listen, METH_O, listen_doc},
    {"take", (PyCFunction)lanes_take, METH_VARARGS, take_doc},
    {"answer_datagrams", (PyCFunction)lanes_answer_datagrams, METH_O, answer_datagrams_doc},
    {"end_accepting", (PyCFunction)lanes_end_accepting, METH_NOARGS, end_accepting_doc},
    {"end_listening", (PyCFunction)lanes_end_listening, METH_NOARGS, end_listening_doc},
    {"end_datagrams", (PyCFunction)lanes_end_datagrams, METH_NOARGS, end_datagrams_doc},
    {"fileno", (PyCFunction)lanes_fileno, METH_NOARGS, "fileno() -> the epoll's descriptor"},
    {"figures", (PyCFunction)lanes_figures, METH_NOARGS, figures_doc},
    {"close", (PyCFunction)lanes_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *lanes_kinds(Lanes *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(self->tallies.count);
}

static PyObject *lanes_rested(Lanes *self, void *Py_UNUSED(closure)) {
    return PyFloat_FromDouble(uptime() - self->rested_since);
}

static PyObject *lanes_refusal(Lanes *self, void *Py_UNUSED(closure)) {
    return self->refusal == NULL ? PyBytes_FromStringAndSize(NULL, 0) : Py_NewRef(self->refusal);
}

static int set_refusal(Lanes *self, PyObject *refusal, void *Py_UNUSED(closure)) {
    if (refusal == NULL || !PyBytes_CheckExact(refusal)) {
        PyErr_SetString(PyExc_TypeError, "a refusal is bytes");
        return -1;
    }
    Py_XSETREF(self->refusal, Py_NewRef(refusal));
    return 0;
}

static PyGetSetDef lanes_properties[] = {
    {"refusal", (getter)lanes_refusal, (setter)set_refusal, "What connections are told for which there is no room.", NULL},
    {"kinds", (getter)lanes_kinds, NULL, "How many rows drain would give.", NULL},
    {"rested", (getter)lanes_rested, NULL, "How long the last turn is over, in seconds.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef lanes_members[] = {
    {"highest", T_INT, offsetof(Lanes, highest), 0,
     "The highest descriptor that a connection may have, so that some are left for others; -1: any."},
    {"room", T_INT, offsetof(Lanes, room), 0,
     "For how many connections there is room here; others are refused. One less whenever a connection is handed over,\n"
     "until it is set anew. -1: for any."},
    {"watched", T_BOOL, offsetof(Lanes, watched), READONLY,
     "Whether the socket of datagrams wakes who watches the epoll: always, but within a turn that waits awake."},
    {"connections", T_LONGLONG, offsetof(Lanes, open_connections), READONLY, "How many there are."},
    {"refused", T_ULONGLONG, offsetof(Lanes, refused), READONLY, "How many were refused because there was no room."},
    {"luck", T_INT, offsetof(Lanes, luck), READONLY,
     "How well it went lately to wait awake for more questions; below 0: that is not done."},
    {"shut", T_BOOL, offsetof(Lanes, shut), 0, "Whether nothing is answered here, and everything handed over."},
    {"parting", T_BOOL, offsetof(Lanes, parting), 0, "Whether the next answer on each connection is its last."},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject Lanes_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "tbeast.native._lanes.Lanes",
    .tp_basicsize = sizeof(Lanes),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Lanes(shelf, secret, standing, bucket, leased, line, budget=0.001, linger=0.00005)",
    .tp_new = lanes_new,
    .tp_dealloc = (destructor)lanes_dealloc,
    .tp_methods = lanes_methods,
    .tp_members = lanes_members,
    .tp_getset = lanes_properties,
};

/* ---- the pure parts, for their tests ---- */

static PyObject *question_of(const hot_question *question, Py_ssize_t length) {
    return Py_BuildValue("(y#s#n)", (const char *)question->key, (Py_ssize_t)question->key_length,
                         (const char *)question->asset, (Py_ssize_t)question->asset_length, length);
}

static PyObject *recognise(PyObject *Py_UNUSED(module), PyObject *argument) {
    Py_buffer bytes;
    hot_question question;
    if (PyObject_GetBuffer(argument, &bytes, PyBUF_SIMPLE)) return NULL;
    size_t length = hot_recognise(bytes.buf, (size_t)bytes.len, &question);
    PyObject *found = length ? question_of(&question, (Py_ssize_t)length) : Py_NewRef(Py_None);
    PyBuffer_Release(&bytes);
    return found;
}

static PyObject *recognise_datagram(PyObject *Py_UNUSED(module), PyObject *argument) {
    Py_buffer bytes;
    hot_question question;
    if (PyObject_GetBuffer(argument, &bytes, PyBUF_SIMPLE)) return NULL;
    PyObject *found = hot_datagram(bytes.buf, (size_t)bytes.len, &question)
                          ? Py_BuildValue("(y#s#y#)", (const char *)question.key, (Py_ssize_t)question.key_length,
                                          (const char *)question.asset, (Py_ssize_t)question.asset_length,
                                          question.id_length ? (const char *)question.id : "",
                                          (Py_ssize_t)question.id_length)
                          : Py_NewRef(Py_None);
    PyBuffer_Release(&bytes);
    return found;
}

static PyMethodDef functions[] = {
    {"recognise", recognise, METH_O,
     "recognise(bytes) -> (key, asset, length) or None\n\nSee tbeast.codecs.hotrequests.recognise."},
    {"recognise_datagram", recognise_datagram, METH_O,
     "recognise_datagram(bytes) -> (key, asset, id as JSON) or None\n\nA plain question in text form."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tbeast.native._lanes",
    .m_doc = "The hot way of questions, in C.",
    .m_size = -1,
    .m_methods = functions,
};

__attribute__((visibility("default"))) PyMODINIT_FUNC PyInit__lanes(void) {
    if (PyType_Ready(&Holder_Type) || PyType_Ready(&Drained_Type) || PyType_Ready(&Lanes_Type)) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddObjectRef(made, "Lanes", (PyObject *)&Lanes_Type)) {
        Py_XDECREF(made);
        return NULL;
    }
    return made;
}
