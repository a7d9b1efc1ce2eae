/**
 * What every fallible function of core answers, and what it has to say about a failure.
 *
 * Core returns a status and, where a caller could do something about it, a fault that names the
 * field. It never logs, prints or exits: the server does, once.
 */
#ifndef ADAMD_STATUS_H
#define ADAMD_STATUS_H

#include <stddef.h>
#include <stdint.h>

#define ADAMD_MUST_USE __attribute__((warn_unused_result))
#define ADAMD_PRINTF(text, first) __attribute__((format(printf, text, first)))

// Written once: the enum, the names on the wire and the texts are expansions of this list. The
// names are API; a fault's message replaces the text where there is more to say.
#define ADAMD_STATUS_MAP(X)                                                              \
    X(OK, "ok")                                                                          \
    X(BAD_FIELD, "a field is malformed")                                                 \
    X(LAYOUT_MISMATCH, "tensors differ from the model's in name, shape, type or length") \
    X(NOT_FOUND, "there is nothing of that name")                                        \
    X(EXISTS, "the name is taken")                                                       \
    X(UNKNOWN_WORKER, "the worker is not registered")                                    \
    X(RUN_RESTORED, "the model was restored: it has another generation")                 \
    X(FENCED, "another instance registered this worker's name")                          \
    X(BAD_EPOCH, "the epoch was never given out")                                        \
    X(SEQ_REUSED, "the sequence number was used for other bytes")                        \
    X(ALREADY_DECIDED, "the push was decided too long ago to tell how")                  \
    X(OUT_OF_ORDER, "a sequence number is missing")                                      \
    X(STALE, "the gradient's base version is too old")                                   \
    X(FUTURE_VERSION, "the gradient's base version does not exist yet")                  \
    X(STATE_BEHIND, "the worker saw a version that this daemon does not have")           \
    X(NONFINITE, "the gradient holds NaN or infinity")                                   \
    X(CRC_MISMATCH, "the checksum of the bytes differs from the header's")               \
    X(TOO_LARGE, "over a limit")                                                         \
    X(WORKER_BUSY, "too many pushes of this worker are in flight")                       \
    X(BUSY, "no slot is free, retry later")                                              \
    X(INITIALIZING, "the model has no parameters yet: put its state, or initialize it")  \
    X(PAUSED, "the model is paused")                                                     \
    X(DRAINING, "the daemon is shutting down")                                           \
    X(STEP_ABORTED, "the round was aborted, resend the same push")                       \
    X(STILL_STAGED, "the push is staged and its round is open, resend it to wait on")    \
    X(ETAG_MISMATCH, "the version is not the one expected")                              \
    X(OPERATION_RUNNING, "another operation of this kind is running")                    \
    X(CANCELLED, "the caller gave up")                                                   \
    X(UNSUPPORTED, "not supported by this build or backend")                             \
    X(HOOK_FAILED, "a hook refused")                                                     \
    X(NO_MEMORY, "out of memory")                                                        \
    X(DEVICE_LOST, "the device failed")

enum adamd_status {
#define X(name, text) ADAMD_##name,
    ADAMD_STATUS_MAP(X)
#undef X
        ADAMD_STATUS_COUNT
};

/** "STALE" for ADAMD_STALE. Static storage. */
const char *adamd_status_name(enum adamd_status status);

/** The list's text. Static storage. */
const char *adamd_status_text(enum adamd_status status);

enum { ADAMD_FAULT_METADATA_MAX = 4 };

/** Why something failed, for a person (message) and for a program (status, field, metadata). */
struct adamd_fault {
    enum adamd_status status;
    char field[96];    // the offending field, as the wire names it; empty if none
    char message[256]; // a sentence without a full stop
    struct {
        char key[32];
        char value[64];
    } metadata[ADAMD_FAULT_METADATA_MAX];
    size_t metadata_count;
};

/**
 * Fills `fault` (may be NULL) and returns `status`, so that a check reads
 * `return adamd_fail(fault, ADAMD_BAD_FIELD, "lr", "Invalid learning rate: %g", lr);`.
 * `field` may be NULL. Long texts are cut.
 */
enum adamd_status adamd_fail(struct adamd_fault *fault, enum adamd_status status, const char *field,
                             const char *format, ...) ADAMD_PRINTF(4, 5);

/** As adamd_fail, with the status's own text. */
enum adamd_status adamd_fail_plain(struct adamd_fault *fault, enum adamd_status status);

/** Adds a metadata entry; past the limit it does nothing. `fault` may be NULL. */
void adamd_fault_tell(struct adamd_fault *fault, const char *key, const char *format, ...)
    ADAMD_PRINTF(3, 4);

/** Stops the process at once, in every build: for what only a bug of ours can break. */
#define ADAMD_ASSERT(condition) \
    ((condition) ? (void)0 : adamd_assert_failed(#condition, __FILE__, __LINE__))
_Noreturn void adamd_assert_failed(const char *condition, const char *file, int line);

#endif
