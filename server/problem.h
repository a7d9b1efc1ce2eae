/**
 * Every reason for which a request fails, with its code in Connect's words and its HTTP statuses:
 * written once. The names are API. Core's statuses are a part of this list, by the same names.
 */
#ifndef ADAMD_SERVER_PROBLEM_H
#define ADAMD_SERVER_PROBLEM_H

#include "adamd/status.h"

#include <stdbool.h>

// name, Connect code, HTTP status on RPC paths, HTTP status on REST paths, text
#define REASON_MAP(X)                                                                              \
    X(BAD_FIELD, "invalid_argument", 400, 400, "a field is malformed")                             \
    X(BAD_FRAMING, "invalid_argument", 400, 400, "the request's framing is ambiguous")             \
    X(UNSUPPORTED_MEDIA_TYPE, "invalid_argument", 415, 415, "this Content-Type is not taken here") \
    X(UNSUPPORTED_ENCODING, "unimplemented", 501, 415, "compressed bodies are not taken")          \
    X(LENGTH_REQUIRED, "invalid_argument", 411, 411, "Content-Length is required")                 \
    X(EXPECTATION_FAILED, "invalid_argument", 417, 417, "only Expect: 100-continue is known")      \
    X(TIMED_OUT, "deadline_exceeded", 504, 504, "the deadline passed")                             \
    X(UNKNOWN_METHOD, "unimplemented", 501, 404, "there is no such call")                          \
    X(METHOD_NOT_ALLOWED, "unimplemented", 501, 405, "this path knows other methods")              \
    X(NOT_FOUND, "not_found", 404, 404, "there is nothing of that name")                           \
    X(UNKNOWN_WORKER, "not_found", 404, 404, "the worker is not registered")                       \
    X(EXISTS, "already_exists", 409, 409, "the name is taken")                                     \
    X(ETAG_MISMATCH, "aborted", 409, 412, "the version is not the one expected")                   \
    X(PRECONDITION_REQUIRED, "failed_precondition", 400, 428, "say which state is replaced")       \
    X(OPERATION_RUNNING, "aborted", 409, 409, "another operation of this kind is running")         \
    X(RUN_RESTORED, "failed_precondition", 400, 412, "the model was restored")                     \
    X(FENCED, "aborted", 409, 409, "another instance registered this worker's name")               \
    X(BAD_EPOCH, "invalid_argument", 400, 400, "the epoch was never given out")                    \
    X(SEQ_REUSED, "invalid_argument", 400, 422, "the sequence was used for other bytes")           \
    X(ALREADY_DECIDED, "already_exists", 409, 409, "decided too long ago to tell how")             \
    X(OUT_OF_ORDER, "aborted", 409, 409, "a sequence number is missing")                           \
    X(STALE, "aborted", 409, 409, "the gradient's base version is too old")                        \
    X(FUTURE_VERSION, "failed_precondition", 400, 409, "the base version does not exist yet")      \
    X(STATE_BEHIND, "failed_precondition", 400, 409, "the worker is ahead of this daemon")         \
    X(LAYOUT_MISMATCH, "failed_precondition", 400, 422, "tensors differ from the model's")         \
    X(NONFINITE, "invalid_argument", 400, 422, "the gradient holds NaN or infinity")               \
    X(CRC_MISMATCH, "invalid_argument", 400, 422, "the bytes differ from their checksum")          \
    X(TOO_LARGE, "resource_exhausted", 429, 413, "over a limit")                                   \
    X(TARGET_TOO_LONG, "resource_exhausted", 414, 414, "the request target is too long")           \
    X(HEADERS_TOO_LARGE, "resource_exhausted", 431, 431, "the headers are too many or too long")   \
    X(WORKER_BUSY, "resource_exhausted", 429, 429, "too many pushes of this worker in flight")     \
    X(BUSY, "unavailable", 503, 503, "no slot is free, retry later")                               \
    X(INITIALIZING, "failed_precondition", 400, 409, "the model has no parameters yet")            \
    X(HAS_WORKERS, "failed_precondition", 400, 409, "workers of the model are live")               \
    X(PAUSED, "unavailable", 503, 503, "the model is paused")                                      \
    X(DRAINING, "unavailable", 503, 503, "the daemon is shutting down")                            \
    X(STEP_ABORTED, "aborted", 409, 409, "the round was aborted, resend the same push")            \
    X(STILL_STAGED, "deadline_exceeded", 504, 504, "staged; resend the push to wait on")           \
    X(RANGE_OUTSIDE, "out_of_range", 416, 416, "the range lies outside")                           \
    X(CANCELLED, "canceled", 499, 499, "the caller gave up")                                       \
    X(UNSUPPORTED, "unimplemented", 501, 501, "not supported by this build or backend")            \
    X(HOOK_FAILED, "failed_precondition", 400, 422, "a hook refused")                              \
    X(NO_MEMORY, "resource_exhausted", 429, 503, "out of memory")                                  \
    X(DEVICE_LOST, "internal", 500, 500, "the device failed")                                      \
    X(INTERNAL, "internal", 500, 500, "a defect of adamd")

enum reason {
#define X(name, code, rpc_http, rest_http, text) REASON_##name,
    REASON_MAP(X)
#undef X
        REASON_COUNT
};

struct reason_info {
    const char *name, *code, *text;
    unsigned rpc_http, rest_http;
    bool retry_later; // answered with Retry-After
};

const struct reason_info *reason_info(enum reason reason);

/** The reason of the same name. */
enum reason reason_of_status(enum adamd_status status);

enum { PROBLEM_ENTRIES_MAX = 32 };

/** More fields than one, each with what is wrong with it. */
struct problem_entry {
    char field[128], text[160];
};
struct problem_list {
    struct problem_entry entries[PROBLEM_ENTRIES_MAX];
    size_t count; // of all, also of those past the limit, which are not told one by one
};

/**
 * The error body: Connect's JSON, or RFC 9457's if `as_problem`. `message` NULL means the reason's
 * text; `fault` (may be NULL) gives message, field and metadata. malloc'ed; NULL if out of memory.
 */
char *problem_body(enum reason reason, const struct adamd_fault *fault, bool as_problem,
                   const char *request_id);
/** The same with a list of fields (may be NULL) in place of the fault's one. */
char *problem_body_listing(enum reason reason, const struct adamd_fault *fault,
                           const struct problem_list *list, bool as_problem,
                           const char *request_id);

#endif
