/**
 * Unary calls: one function behind both the RPC path and the REST path of a call. Over RPC the
 * request message is the body (or, with GET, a query parameter); over REST it is put together from
 * path, query and body. What is particular to a call is a row here, what is particular to a path is
 * a row of the route table.
 */
#ifndef ADAMD_SERVER_CALL_H
#define ADAMD_SERVER_CALL_H

#include "codec/arena.h"
#include "exchange.h"
#include "server.h"

enum { CALL_PAGE_SIZE_MAX = 1000, CALL_WAIT_MAX_MS = 60000 };

/** One unary request, from its decoding to the return of run(). */
struct call_frame {
    struct exchange *exchange;
    struct codec_arena arena;  // of the request and of messages for the answer
    ProtobufCMessage *request; // of the call's type
    struct adamd_fault fault;  // for run()'s use
};

/** What the path says: the field that it fills in. */
enum call_resource {
    CALL_NO_RESOURCE,
    CALL_NAME,        // name = models/{0}
    CALL_PARENT,      // parent = models/{0}
    CALL_WORKER_NAME, // name = models/{0}/workers/{1}
    CALL_GROUP_NAME,  // name = models/{0}/groups/{1}
    CALL_HOOK_NAME,   // name = models/{0}/hooks/{1}
};

struct call {
    const ProtobufCMessageDescriptor *request;
    enum call_resource resource;
    const char
        *body;    // over REST, the field that the body is; "" for the whole request, NULL for none
    bool drained; // refused while the daemon is draining
    /** Answers, or arranges that an answer comes. The frame ends with the return. */
    void (*run)(struct call_frame *frame);
};

/** For rows whose `call` is a struct call that answers before run() returns. */
extern const struct handler call_handler;
/** What such a handler does at the end of the body; for those that add a `gone`. */
void call_end(struct exchange *exchange);

/** Answers the frame's fault. */
void call_fail(struct call_frame *frame);

/** Answers a message that was built in the arena: NULL is NO_MEMORY. */
void call_answer(struct call_frame *frame, const ProtobufCMessage *message);

/** The model that "models/{model}" names. NULL: `fault` says why, and names `field`. */
struct served_model *find_model_named(struct server *server, const char *name, const char *field,
                                      struct adamd_fault *fault);

/** As above for "models/{model}/workers/{worker}"; the worker need not exist. */
struct served_model *find_worker_named(struct server *server, const char *name, const char *field,
                                       const char **ret_worker, struct adamd_fault *fault);

/** As above for "models/{model}/groups/{index}"; the group exists. */
struct served_model *find_group_named(struct server *server, const char *name, const char *field,
                                      uint32_t *ret_group, struct adamd_fault *fault);
/** As above for "models/{model}/hooks/{hook}"; the hook need not exist. */
struct served_model *find_hook_named(struct server *server, const char *name, const char *field,
                                     uint64_t *ret_hook, struct adamd_fault *fault);

/** The model of the path's first segment. NULL: `fault` says why. */
struct served_model *find_model_of_path(struct exchange *exchange, struct adamd_fault *fault);

/** REST: whether If-Match, if there is one, lists the tag. ETAG_MISMATCH. */
ADAMD_MUST_USE enum adamd_status check_if_match(const struct exchange *exchange, const char *etag,
                                                struct adamd_fault *fault);

/** 1,000 where a page size is not given or above. */
uint32_t page_size_of(uint32_t asked);

#endif
