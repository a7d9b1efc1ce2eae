/** An exchange from the inside: for exchange.c, its answers (respond*.c) and the HTTP library's
 *  callbacks (intake.c). Handlers include exchange.h. */
#ifndef ADAMD_SERVER_EXCHANGE_IMPL_H
#define ADAMD_SERVER_EXCHANGE_IMPL_H

#include "connections.h"
#include "exchange.h"
#include "guard.h"
#include "intake.h"
#include "reactor.h"
#include "router.h"
#include "target.h"

#include <microhttpd.h>

enum {
    EXCHANGE_HEADERS_MAX = 16,
    EXCHANGE_REQUEST_ID_MAX = 64,
    EXCHANGE_STREAM_MAX = 1 << 20,
};

enum exchange_state {
    EXCHANGE_HEAD,      // the request line is known
    EXCHANGE_RECEIVING, // admitted: the body is the handler's
    EXCHANGE_DROPPING,  // answered: the rest of the body is thrown away
    EXCHANGE_WAITING,   // the body is complete, the answer is not known
    EXCHANGE_ANSWERED,  // the answer is known, and not yet the library's
    EXCHANGE_SENDING,
    EXCHANGE_ABANDONED, // the peer is gone: the connection only has to end
    EXCHANGE_ENDED,
    EXCHANGE_STATE_COUNT
};

enum exchange_event {
    EVENT_ADMITTED,
    EVENT_ANSWER,
    EVENT_BODY_REFUSED, // do not wait for the rest of the body
    EVENT_BODY_END,
    EVENT_QUEUED,
    EVENT_PEER_GONE,
    EVENT_ENDED, // sent, or cut off
    EXCHANGE_EVENT_COUNT
};

// What waits to be sent of a stream.
struct exchange_stream {
    char *bytes;
    size_t start, size, capacity;
    bool has_ended;
};

struct exchange {
    struct intake *intake;
    struct connection *connection;
    struct MHD_Connection *http;
    enum exchange_state state;
    struct exchange *next, *previous; // all of the intake

    char *raw_target, *method;
    struct guard_result head;
    struct target target;
    struct routing routing;
    bool is_head, is_rpc;
    char request_id[EXCHANGE_REQUEST_ID_MAX + 1];
    uint64_t start_ms;

    const struct handler *handler; // NULL before begin and after gone
    void *handler_state;
    unsigned char *collected;
    size_t collected_size, collected_capacity;
    uint64_t received;

    bool is_suspended, closes;
    bool is_ending; // the peer had closed its side when it was last looked at, in a body
    uint64_t client_deadline_ms, deadline_ms;
    enum reason late;

    struct {
        char name[64], value[256];
    } headers[EXCHANGE_HEADERS_MAX];
    size_t header_count;
    unsigned http_status;
    const char *reason; // of a problem, for the log
    struct MHD_Response *response;
    uint64_t answer_bytes;
    bool is_stream;
    struct exchange_stream stream;
};

/** Takes the event; what the table does not know stops the process. */
void exchange_on(struct exchange *exchange, enum exchange_event event);

/** Guard, route, query, deadline and framing of the body. False: the refusal is the answer. */
bool admission_pass(struct exchange *exchange, const char *version);

/** gone(), if begin() was called and gone() was not. */
void exchange_release(struct exchange *exchange);

/** Goes on with a sleeping connection; harmless if it is awake. */
void exchange_wake(struct exchange *exchange);

/** Puts the connection to sleep until exchange_wake(). */
void exchange_sleep(struct exchange *exchange);

/** The earliest time at which a waiting exchange is late; UINT64_MAX if never. */
uint64_t exchange_due_ms(const struct exchange *exchange);

/** Hands the answer to the library. */
enum MHD_Result exchange_send(struct exchange *exchange);

/** The answer is `response` (NULL: out of memory). Adds the headers, ends the wait. */
void exchange_answer(struct exchange *exchange, unsigned http_status, struct MHD_Response *response,
                     uint64_t bytes);

#endif
