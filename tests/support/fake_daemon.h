/**
 * A daemon that does what a script says, for tests of the client: one thread, one connection at a
 * time, over loopback. Each request that it begins to read takes the next line of the script.
 */
#ifndef ADAMD_TESTS_FAKE_DAEMON_H
#define ADAMD_TESTS_FAKE_DAEMON_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FAKE_REQUESTS_MAX = 32 };

/** What is done with one request. */
struct fake_line {
    const char *answer; // NULL: none
    size_t answer_size; // 0: strlen(answer)
    bool says_continue; // 100 Continue before the body is read
    bool before_body;   // answers, and closes, without reading the body
    size_t read_first;  // ... but this much of it
    bool piecemeal;     // a byte at a time
    bool closes;        // after the answer
    uint32_t delay_ms;  // before the answer
};

struct fake_request {
    char head[4096];
    unsigned char *body;
    size_t body_size;
    uint64_t time_ms;
};

struct fake_daemon {
    int listener;
    char endpoint[64];
    const struct fake_line *lines;
    size_t line_count, next;
    struct fake_request requests[FAKE_REQUESTS_MAX]; // to be looked at after fake_daemon_stop()
    size_t request_count;
    pthread_t thread;
};

/** `lines` is borrowed. When they are over, connections are closed as they come. */
void fake_daemon_start(struct fake_daemon *daemon, const struct fake_line *lines, size_t count);
/** Ends the thread; requests may be looked at from then on. */
void fake_daemon_stop(struct fake_daemon *daemon);
void fake_daemon_finish(struct fake_daemon *daemon);

#endif
