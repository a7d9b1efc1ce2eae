/**
 * Who may push what: registrations, epochs, leases, sequence numbers and the outcomes of the last
 * pushes. Pure bookkeeping: it knows no gradients, no sockets and no clock but the `now_ms` that it
 * is told (monotonic milliseconds). Loop thread only.
 *
 * A push is named by (generation, worker, epoch, sequence). For one worker and epoch, sequences
 * 1, 2, 3, ... are decided in that order, each at most once; the last ADAMD_OUTCOMES_KEPT outcomes
 * are kept and given again to a repeat.
 */
#ifndef ADAMD_WORKERS_H
#define ADAMD_WORKERS_H

#include "adamd/status.h"

#include <stdbool.h>

enum {
    ADAMD_WORKERS_MAX = 4096,
    ADAMD_WORKER_ID_MAX = 64, // bytes of [A-Za-z0-9._-], without the terminator
    ADAMD_NONCE_MAX = 64,
    ADAMD_IN_FLIGHT_MAX = 4, // pushes of one worker between admission and decision
    ADAMD_OUTCOMES_KEPT = 16,
    ADAMD_EPOCHS_PER_MINUTE_MAX = 6, // more is a flapping pair: WORKER_BUSY
};

enum adamd_outcome_kind {
    ADAMD_UNDECIDED,
    ADAMD_APPLIED,
    ADAMD_STAGED, // MANUAL: accumulated
    ADAMD_SKIPPED_NONFINITE,
    ADAMD_OUTCOME_STALE,
};

/** How a push ended: what its answer says, and what a repeat of it is answered. */
struct adamd_outcome {
    enum adamd_outcome_kind kind;
    uint64_t sequence;
    uint64_t version; // the one that contains the push, or the current one
    uint64_t staleness;
    uint32_t contributors;
    uint32_t crc32c; // of its bytes; 0: unknown
    double grad_norm;
};

struct adamd_push_counts {
    uint64_t applied, staged, duplicate, stale, skipped, rejected, aborted;
};

/**
 * Public to read. Owned by the table; stays at its address until the table is finished. A full
 * table gives the place of a worker that is gone, with nothing in flight, to a new one.
 */
struct adamd_worker {
    char id[ADAMD_WORKER_ID_MAX + 1];
    char nonce[ADAMD_NONCE_MAX + 1];
    uint32_t rank;
    uint64_t epoch;         // 0: known, but not registered in this generation
    uint64_t epoch_last;    // the highest that was ever given out
    uint64_t last_sequence; // decided
    uint64_t admitted;      // highest sequence that was let in; last_sequence if none is in flight
    uint64_t lease_end_ms;
    struct adamd_outcome outcomes[ADAMD_OUTCOMES_KEPT]; // by sequence % ADAMD_OUTCOMES_KEPT
    struct adamd_outcome previous;                      // the last outcome of the epoch before
    struct adamd_push_counts counts;
    uint64_t epoch_times_ms[ADAMD_EPOCHS_PER_MINUTE_MAX];
};

struct adamd_workers {
    struct adamd_worker **list; // ascending rank
    uint32_t count;
    uint64_t lease_ms;
    uint64_t epoch_floor; // the highest epoch of workers that a full table forgot
};

void adamd_workers_finish(struct adamd_workers *workers);

struct adamd_worker *adamd_workers_find(const struct adamd_workers *workers, const char *id);

/**
 * Gives `id` a new epoch, or its current one if `nonce` is not empty and the same. A `rank` of
 * UINT32_MAX means the next free one (or the one it has). BAD_FIELD (worker_id, nonce), EXISTS (the
 * rank is another's), TOO_LARGE, WORKER_BUSY (flapping), NO_MEMORY. `ret_fresh` tells whether the
 * epoch is new.
 */
ADAMD_MUST_USE enum adamd_status adamd_workers_register(struct adamd_workers *workers,
                                                        const char *id, const char *nonce,
                                                        uint32_t rank, uint64_t now_ms,
                                                        struct adamd_worker **ret_worker,
                                                        bool *ret_fresh, struct adamd_fault *fault);

/** UNKNOWN_WORKER, FENCED or BAD_EPOCH; else the lease is renewed. */
ADAMD_MUST_USE enum adamd_status adamd_workers_renew(struct adamd_workers *workers, const char *id,
                                                     uint64_t epoch, uint64_t now_ms,
                                                     struct adamd_worker **ret_worker,
                                                     struct adamd_fault *fault);

enum adamd_verdict {
    ADAMD_ADMIT,   // new: its bytes are wanted
    ADAMD_REPEAT,  // decided before: `ret_outcome` is the answer
    ADAMD_ATTACH,  // staged and undecided: wait for the one that is in flight
    ADAMD_REFUSED, // the fault says why
};

/**
 * The decision table (reliability.md 2.5) for one push, apart from its base version. `crc32c` 0 is
 * unknown and matches everything. ADMIT reserves the sequence until adamd_workers_decide() or
 * adamd_workers_withdraw(). Renews the lease whenever the epoch is current.
 */
enum adamd_verdict adamd_workers_admit(struct adamd_workers *workers, const char *id,
                                       uint64_t epoch, uint64_t sequence, uint32_t crc32c,
                                       uint64_t now_ms, struct adamd_worker **ret_worker,
                                       struct adamd_outcome *ret_outcome,
                                       struct adamd_fault *fault);

/** The sequence of `outcome` is decided: asserts that it is last_sequence + 1. */
void adamd_workers_decide(struct adamd_worker *worker, const struct adamd_outcome *outcome);

/** The push was refused or cut off before it was decided: its number may be used again, and those
 *  that were let in after it are withdrawn too. */
void adamd_workers_withdraw(struct adamd_worker *worker, uint64_t sequence);

/** A worker that is registered and whose lease has not ended is live. */
bool adamd_worker_live(const struct adamd_worker *worker, uint64_t now_ms);
uint32_t adamd_workers_live(const struct adamd_workers *workers, uint64_t now_ms);

/** The earliest end of a lease after `now_ms`, or UINT64_MAX. */
uint64_t adamd_workers_next_expiry(const struct adamd_workers *workers, uint64_t now_ms);

/** The daemon itself stood still for `pause_ms`: that is not the workers' fault. */
void adamd_workers_extend(struct adamd_workers *workers, uint64_t pause_ms, uint64_t now_ms);

/** Ends the registration: not live, no epoch below or equal is ever taken again. */
void adamd_workers_deregister(struct adamd_worker *worker);

/** A restore: epochs are void, so that every worker must register again; ranks and ids stay. */
void adamd_workers_clear_epochs(struct adamd_workers *workers);

#endif
