/**
 * One connection to the daemon: bytes in and out before a deadline, and the framing of answers'
 * bodies. It never raises SIGPIPE, and reads what the daemon said before it closed: a refusal may
 * lie in the socket when sending fails.
 *
 * Times are absolute, in milliseconds of clock_now_ms().
 */
#ifndef ADAMD_CLIENT_CONNECTION_H
#define ADAMD_CLIENT_CONNECTION_H

#include "conf.h"
#include "http.h"

#include <sys/uio.h>

enum io {
    IO_OK,
    IO_TIMED_OUT,
    IO_CLOSED, // by the peer, before what was asked for
    IO_FAILED, // connection.error is the errno
    IO_BAD,    // not the HTTP that we know
};

struct connection {
    int fd;    // -1: none
    int error; // errno of IO_FAILED
    bool used; // an answer has come over it: its end may mean nothing but that it was idle
    bool keep; // may be used again, if the body is read to its end
    uint64_t deadline_ms;
    enum { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_TO_END } framing;
    uint64_t left; // of the body, or of the chunk
    bool in_chunks;
    size_t begin, end; // what was read and not taken yet
    char buffer[HTTP_HEAD_MAX];
};

uint64_t clock_now_ms(void);

void connection_init(struct connection *connection);
/** Closes. May be opened again. */
void connection_close(struct connection *connection);

/** Fails until `deadline_ms`, like all that follow until the next open or set. */
enum io connection_open(struct connection *connection, const struct endpoint *endpoint,
                        uint64_t deadline_ms);
/** The kernel's word for what went wrong last. */
const char *connection_strerror(const struct connection *connection, enum io io);

/** True if an open connection has neither been closed by the peer nor said something unasked. */
bool connection_is_idle(const struct connection *connection);

/** Whether the peer says something within `wait_ms`, or before the deadline. */
bool connection_wait_answer(struct connection *connection, uint64_t wait_ms);

/** What is to be sent yet. */
struct cursor {
    const struct iovec *vector;
    size_t count, offset; // `offset` bytes of the first piece are sent
};

/**
 * Sends all of it: IO_OK. Stops when the peer says something or closes before that: IO_CLOSED; what
 * it said can be read, and if that was an interim answer, sending goes on from the cursor.
 */
enum io connection_send(struct connection *connection, struct cursor *cursor);

/** The next head, 100 Continue included; other interim answers are skipped. */
enum io connection_read_head(struct connection *connection, bool is_head_request,
                             struct http_head *ret_head);

/** At least one byte of the body and at most `max`; IO_OK with 0 is its end. */
enum io connection_read(struct connection *connection, void *data, size_t max, size_t *ret_size);
/** Exactly `size` bytes; IO_CLOSED if the body ends before. */
enum io connection_read_all(struct connection *connection, void *data, size_t size);
/** Reads to the end of the body; IO_BAD if more than `max` bytes are left. */
enum io connection_skip(struct connection *connection, uint64_t max);

#endif
