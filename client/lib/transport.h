/**
 * Calls over HTTP/1.1: one request and its answer, tried again until a deadline where that is safe.
 * Internal: the library and adamctl are built on it.
 */
#ifndef ADAMD_CLIENT_TRANSPORT_H
#define ADAMD_CLIENT_TRANSPORT_H

#include "connection.h"
#include "error.h"

struct transport;

/**
 * Takes the body of an answer that is 2xx or 304. It may be called again if it returned a retriable
 * error. What it leaves of the body is skipped.
 */
typedef struct adamd_error *receive_fn(void *arg, const struct http_head *head,
                                       struct connection *connection);

struct call {
    const char *method;
    const char *target;       // path and query, encoded
    const char *headers;      // more lines, each with its CRLF; NULL: none
    const struct iovec *body; // borrowed for the call
    size_t body_count;        // 0: none, and no Content-Length
    bool has_body;            // even if it is empty
    bool once;                // not to be tried again when it may have been received
    bool single;              // not to be tried again at all
    receive_fn *receive;      // NULL: the body does not matter
    void *arg;
};

/** Copies what it needs of `conf`. NULL: out of memory, or no random numbers. */
struct transport *transport_create(const struct adamd_conf *conf);
void transport_destroy(struct transport *transport);

/** From here on a daemon that was never reached is not waited for: somebody looks on. */
void transport_be_impatient(struct transport *transport);

/** 16 random bytes in hexadecimal. False if the system has none. */
bool random_text(char text[33]);

/** The time by which a call has to end: `timeout_ms` from now, 0 meaning the configuration's. */
uint64_t transport_deadline(const struct transport *transport, uint32_t timeout_ms);

/**
 * Calls, until `deadline_ms` (UINT64_MAX: for ever). NULL is success. `in_doubt` (may be NULL) says
 * whether the daemon may have acted on this call before, and is told after a failure whether it may
 * have by now.
 */
struct adamd_error *transport_call(struct transport *transport, const struct call *call,
                                   uint64_t deadline_ms, bool *in_doubt);

/** What reading a body came to, as an error; NULL for IO_OK. */
struct adamd_error *error_of_io(const struct connection *connection, enum io io);

/** A body of at most `max` bytes, terminated by a zero that `ret_size` does not count; malloc'ed.
 */
struct adamd_error *transport_collect(struct connection *connection, size_t max, char **ret_text,
                                      size_t *ret_size);

/** The endpoint as people write it. */
const char *transport_endpoint(const struct transport *transport);

#endif
