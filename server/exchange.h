/**
 * One HTTP request and its answer, as the handlers see them. What is HTTP/1.1 about it (guard,
 * framing, deadlines, suspension, libmicrohttpd) lies behind this header; what it means lies before
 * it.
 *
 * The life of an exchange is a table in exchange.c. A handler is told four things, all on the
 * loop's thread: begin, body, end, gone. It answers exactly once, at any time from begin on; a
 * handler that has not answered when `end` returns is waited for, and the connection sleeps. An
 * answer given in `begin` refuses the body; one given in `body` is sent when the rest of the body
 * was read and thrown away. `end` is then not called.
 */
#ifndef ADAMD_SERVER_EXCHANGE_H
#define ADAMD_SERVER_EXCHANGE_H

#include "adamd/status.h"
#include "problem.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <sys/uio.h>

struct exchange;
struct server;

/** What a route does. Entries that it does not need are NULL. */
struct handler {
    /** Admission: the head is known, no byte of the body is. May answer (refuse). Sets
     *  exchange_set_state(), or asks for the body to be collected. */
    void (*begin)(struct exchange *exchange);
    /** The next bytes of a body that is not collected. May answer. */
    void (*body)(struct exchange *exchange, const unsigned char *data, size_t size);
    /** The body is complete. Collected bodies are at exchange_collected(). */
    void (*end)(struct exchange *exchange);
    /** No answer is wanted any more (peer gone, deadline passed), or the answer was sent: give up
     *  waits, release what was held. Always the last call, exactly once if begin was called. */
    void (*gone)(struct exchange *exchange);
};

/** A row of the route table. Patterns: "/v1/models/{m}:step"; up to three {…}, each one segment. */
struct route {
    const char *method; // "GET" serves HEAD too
    const char *pattern;
    const struct handler *handler;
    const char *const
        *parameters; // query parameters that it knows, NULL-terminated; "metric." is a prefix
    size_t body_max; // 0: no body; bodies are collected up to here ...
    bool streams; // ... unless it streams: then `body` gets the bytes, Content-Length is required
    const void *call; // the handler's own: what a handler of many rows asks of this one
};

// ------------------------------------------------------------------------------------- the request

struct server *exchange_server(const struct exchange *exchange);
/** The row that the request matched. */
const struct route *exchange_route(const struct exchange *exchange);
/** The handler's own. NULL at first; `gone` frees it. */
void exchange_set_state(struct exchange *exchange, void *state);
void *exchange_state(const struct exchange *exchange);
/** The i-th {…} of the path, percent-decoded. */
const char *exchange_segment(const struct exchange *exchange, size_t i);
/** A query parameter, percent-decoded, or NULL. */
const char *exchange_parameter(const struct exchange *exchange, const char *name);
/** Calls back for each query parameter whose name starts with `prefix`. */
void exchange_each_parameter(const struct exchange *exchange, const char *prefix,
                             void (*each)(void *arg, const char *name, const char *value),
                             void *arg);
/** A request header, or NULL. */
const char *exchange_header(const struct exchange *exchange, const char *name);
bool exchange_is_head(const struct exchange *exchange);
/** True for POST /adamd.v1.…: RPC status codes and Connect's content types hold. */
bool exchange_is_rpc(const struct exchange *exchange);
/** Content-Length; 0 without a body. */
uint64_t exchange_content_length(const struct exchange *exchange);
const unsigned char *exchange_collected(const struct exchange *exchange, size_t *ret_size);
/** The deadline that the client asked for (Connect-Timeout-Ms, Request-Timeout-Ms), as loop time in
 *  milliseconds; UINT64_MAX if none. Past it, exchange.c answers: 504 with `late`, see below. */
uint64_t exchange_deadline_ms(const struct exchange *exchange);
/** Bounds the wait for the answer: at `at_ms` (loop time) the handler's gone() is called and `late`
 *  is answered. The client's own deadline, if earlier, wins. */
void exchange_set_deadline(struct exchange *exchange, uint64_t at_ms, enum reason late);

// -------------------------------------------------------------------------------------- the answer

/** A header of the answer; before exchange_answer_…(). Copied. */
void exchange_add_header(struct exchange *exchange, const char *name, const char *format, ...)
    ADAMD_PRINTF(3, 4);

/** A message: JSON, or protobuf if the client accepts or sent that. Not kept. */
void exchange_answer_message(struct exchange *exchange, unsigned http_status,
                             const ProtobufCMessage *message);

/** The error body of problem.h. `fault` may be NULL. */
void exchange_answer_problem(struct exchange *exchange, enum reason reason,
                             const struct adamd_fault *fault);
/** As above, with a list of fields; `list` may be NULL. */
void exchange_answer_listing(struct exchange *exchange, enum reason reason,
                             const struct adamd_fault *fault, const struct problem_list *list);
/** As above, for a status of core. */
void exchange_answer_fault(struct exchange *exchange, const struct adamd_fault *fault);

/** A short text or a body-less status (304: both may be NULL). Copied. */
void exchange_answer_text(struct exchange *exchange, unsigned http_status, const char *content_type,
                          const char *text);

/** Bytes that stay where they are until the answer was sent or given up, when gone() is called. The
 *  vector itself is copied. */
void exchange_answer_bytes(struct exchange *exchange, unsigned http_status,
                           const char *content_type, const struct iovec *vector, size_t count);

/** A body of unknown length: each call appends, NULL ends it. False if the peer does not keep up
 *  (more than 1 MiB waits): the handler then ends. */
void exchange_stream_start(struct exchange *exchange, const char *content_type);
bool exchange_stream_write(struct exchange *exchange, const char *text, size_t size);
void exchange_stream_end(struct exchange *exchange);

#endif
