// The worker table: who is registered, and which push of whom is decided how.
#include "adamd/workers.h"

#include <stdlib.h>
#include <string.h>

enum { FLAPPING_MS = 60000 };

// ------------------------------------------------------------------------------------------- table

void adamd_workers_finish(struct adamd_workers *workers) {
    for (uint32_t i = 0; i < workers->count; i++) {
        free(workers->list[i]);
    }
    free((void *)workers->list);
    *workers = (struct adamd_workers){0};
}

struct adamd_worker *adamd_workers_find(const struct adamd_workers *workers, const char *id) {
    for (uint32_t i = 0; i < workers->count; i++) {
        if (strcmp(workers->list[i]->id, id) == 0) {
            return workers->list[i];
        }
    }
    return NULL;
}

static bool is_id_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
}

static enum adamd_status check_id(const char *id, struct adamd_fault *fault) {
    const size_t size = strlen(id);

    if (size == 0 || size > ADAMD_WORKER_ID_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "worker_id",
                          "worker_id must have 1 to %d characters, not %zu", ADAMD_WORKER_ID_MAX,
                          size);
    }
    for (size_t i = 0; i < size; i++) {
        if (!is_id_character(id[i])) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, "worker_id",
                              "worker_id may hold letters, digits, '.', '_' and '-' only");
        }
    }
    return ADAMD_OK;
}

static enum adamd_status check_nonce(const char *nonce, struct adamd_fault *fault) {
    const size_t size = strlen(nonce);

    if (size > ADAMD_NONCE_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "nonce",
                          "nonce must have at most %d characters, not %zu", ADAMD_NONCE_MAX, size);
    }
    for (size_t i = 0; i < size; i++) {
        if (nonce[i] <= ' ' || nonce[i] > '~') {
            return adamd_fail(fault, ADAMD_BAD_FIELD, "nonce",
                              "nonce may hold visible ASCII characters only");
        }
    }
    return ADAMD_OK;
}

static struct adamd_worker *find_rank(const struct adamd_workers *workers, uint32_t rank) {
    for (uint32_t i = 0; i < workers->count; i++) {
        if (workers->list[i]->rank == rank) {
            return workers->list[i];
        }
    }
    return NULL;
}

static uint32_t next_free_rank(const struct adamd_workers *workers) {
    uint32_t rank = 0;

    for (uint32_t i = 0; i < workers->count && workers->list[i]->rank == rank; i++) {
        rank++;
    }
    return rank;
}

// The list has `count` entries in order but for `worker`, which takes its place.
static void sort_in(struct adamd_workers *workers, struct adamd_worker *worker, uint32_t rank) {
    uint32_t place = 0;
    uint32_t other = 0;

    while (workers->list[place] != worker) {
        place++;
    }
    memmove((void *)&workers->list[place], (void *)&workers->list[place + 1],
            (workers->count - place - 1) * sizeof(void *));
    while (other < workers->count - 1 && workers->list[other]->rank < rank) {
        other++;
    }
    memmove((void *)&workers->list[other + 1], (void *)&workers->list[other],
            (workers->count - 1 - other) * sizeof(void *));
    workers->list[other] = worker;
    worker->rank = rank;
}

// A full table forgets the worker that has been gone the longest and has nothing in flight. Its
// epochs stay void: epoch_floor is where everybody new starts.
static struct adamd_worker *recycle_worker(struct adamd_workers *workers, uint64_t now_ms) {
    struct adamd_worker *oldest = NULL;

    for (uint32_t i = 0; i < workers->count; i++) {
        struct adamd_worker *worker = workers->list[i];
        if (!adamd_worker_live(worker, now_ms) && worker->admitted == worker->last_sequence &&
            (oldest == NULL || worker->lease_end_ms < oldest->lease_end_ms)) {
            oldest = worker;
        }
    }
    if (oldest != NULL) {
        if (oldest->epoch_last > workers->epoch_floor) {
            workers->epoch_floor = oldest->epoch_last;
        }
        *oldest = (struct adamd_worker){.rank = oldest->rank};
    }
    return oldest;
}

static struct adamd_worker *append_worker(struct adamd_workers *workers) {
    struct adamd_worker *worker = calloc(1, sizeof *worker);
    struct adamd_worker **list;

    list = realloc((void *)workers->list, (workers->count + 1) * sizeof(void *));
    if (list != NULL) {
        workers->list = list;
    }
    if (worker == NULL || list == NULL) {
        free(worker);
        return NULL;
    }
    worker->rank = UINT32_MAX;
    list[workers->count++] = worker;
    return worker;
}

static enum adamd_status add_worker(struct adamd_workers *workers, const char *id, uint64_t now_ms,
                                    struct adamd_worker **ret_worker, struct adamd_fault *fault) {
    struct adamd_worker *worker;

    if (workers->count < ADAMD_WORKERS_MAX) {
        worker = append_worker(workers);
        if (worker == NULL) {
            adamd_fail_plain(fault, ADAMD_NO_MEMORY);
            return ADAMD_NO_MEMORY;
        }
    } else {
        worker = recycle_worker(workers, now_ms);
        if (worker == NULL) {
            adamd_fail(fault, ADAMD_TOO_LARGE, "worker_id", "a model takes at most %d live workers",
                       ADAMD_WORKERS_MAX);
            return ADAMD_TOO_LARGE;
        }
    }
    worker->epoch_last = workers->epoch_floor;
    memcpy(worker->id, id, strlen(id) + 1);
    *ret_worker = worker;
    return ADAMD_OK;
}

// ------------------------------------------------------------------------------------- registering

static void renew_lease(const struct adamd_workers *workers, struct adamd_worker *worker,
                        uint64_t now_ms) {
    const uint64_t end_ms = now_ms + workers->lease_ms;

    if (end_ms > worker->lease_end_ms) {
        worker->lease_end_ms = end_ms;
    }
}

// The numbers of an epoch end with it; its last outcome is what the next registration is told.
static void end_epoch(struct adamd_worker *worker) {
    if (worker->epoch != 0) {
        worker->previous = worker->outcomes[worker->last_sequence % ADAMD_OUTCOMES_KEPT];
    }
    worker->epoch = 0;
    worker->last_sequence = 0;
    worker->admitted = 0;
    worker->lease_end_ms = 0;
    worker->nonce[0] = '\0';
    memset(worker->outcomes, 0, sizeof worker->outcomes);
}

static bool is_flapping(const struct adamd_worker *worker, uint64_t now_ms) {
    const uint64_t then_ms =
        worker->epoch_times_ms[worker->epoch_last % ADAMD_EPOCHS_PER_MINUTE_MAX];

    return then_ms != 0 && now_ms - then_ms < FLAPPING_MS;
}

// A rank may be taken from a worker that is not registered: that one gets another when it returns.
static enum adamd_status check_rank(const struct adamd_workers *workers, const char *id,
                                    uint32_t rank, struct adamd_fault *fault) {
    const struct adamd_worker *holder = rank == UINT32_MAX ? NULL : find_rank(workers, rank);

    if (holder != NULL && holder->epoch != 0 && strcmp(holder->id, id) != 0) {
        adamd_fail(fault, ADAMD_EXISTS, "rank", "rank %u is that of worker %s", rank, holder->id);
        return ADAMD_EXISTS;
    }
    return ADAMD_OK;
}

static void take_rank(struct adamd_workers *workers, struct adamd_worker *worker, uint32_t rank) {
    struct adamd_worker *holder;

    if (rank == UINT32_MAX) {
        rank = worker->rank == UINT32_MAX ? next_free_rank(workers) : worker->rank;
    }
    holder = find_rank(workers, rank);
    if (holder != NULL && holder != worker) {
        // Out of the way first, so that the free rank it gets is not the one wanted.
        const uint32_t freed = worker->rank == UINT32_MAX ? next_free_rank(workers) : worker->rank;
        sort_in(workers, worker, rank);
        sort_in(workers, holder, freed);
    } else {
        sort_in(workers, worker, rank);
    }
}

// The signature is the contract's.
// NOLINTNEXTLINE(readability-function-size)
enum adamd_status adamd_workers_register(struct adamd_workers *workers, const char *id,
                                         const char *nonce, uint32_t rank, uint64_t now_ms,
                                         struct adamd_worker **ret_worker, bool *ret_fresh,
                                         struct adamd_fault *fault) {
    struct adamd_worker *worker;
    enum adamd_status status = check_id(id, fault);
    bool fresh;

    status = status == ADAMD_OK ? check_nonce(nonce, fault) : status;
    status = status == ADAMD_OK ? check_rank(workers, id, rank, fault) : status;
    if (status != ADAMD_OK) {
        return status;
    }
    worker = adamd_workers_find(workers, id);
    fresh = worker == NULL || worker->epoch == 0 || nonce[0] == '\0' ||
            strcmp(worker->nonce, nonce) != 0;
    // Only who takes an epoch from somebody can flap: after a restore there is none to take.
    if (worker != NULL && worker->epoch != 0 && fresh && is_flapping(worker, now_ms)) {
        return adamd_fail(
            fault, ADAMD_WORKER_BUSY, "worker_id",
            "worker %s was registered more than %d times in a minute: do two processes "
            "share the name?",
            id, ADAMD_EPOCHS_PER_MINUTE_MAX);
    }
    if (worker == NULL) {
        status = add_worker(workers, id, now_ms, &worker, fault);
        if (status != ADAMD_OK) {
            return status;
        }
    }
    if (fresh) {
        end_epoch(worker);
        worker->epoch_times_ms[worker->epoch_last % ADAMD_EPOCHS_PER_MINUTE_MAX] = now_ms;
        worker->epoch = ++worker->epoch_last;
        memcpy(worker->nonce, nonce, strlen(nonce) + 1);
    }
    take_rank(workers, worker, rank);
    renew_lease(workers, worker, now_ms);
    *ret_worker = worker;
    *ret_fresh = fresh;
    return ADAMD_OK;
}

void adamd_workers_deregister(struct adamd_worker *worker) {
    end_epoch(worker);
}

void adamd_workers_clear_epochs(struct adamd_workers *workers) {
    for (uint32_t i = 0; i < workers->count; i++) {
        end_epoch(workers->list[i]);
        // What an abandoned future decided is nobody's business any more.
        workers->list[i]->previous = (struct adamd_outcome){0};
    }
}

// --------------------------------------------------------------------------------------- admission

static enum adamd_status check_epoch(const struct adamd_workers *workers, const char *id,
                                     uint64_t epoch, struct adamd_worker **ret_worker,
                                     struct adamd_fault *fault) {
    struct adamd_worker *worker = adamd_workers_find(workers, id);

    if (worker == NULL || worker->epoch == 0) {
        adamd_fail(fault, ADAMD_UNKNOWN_WORKER, "worker_id", "worker %.64s is not registered", id);
        return ADAMD_UNKNOWN_WORKER;
    }
    if (epoch < worker->epoch) {
        adamd_fail(fault, ADAMD_FENCED, "epoch",
                   "epoch %llu has ended: worker %s was registered again",
                   (unsigned long long)epoch, id);
        adamd_fault_tell(fault, "epoch", "%llu", (unsigned long long)worker->epoch);
        return ADAMD_FENCED;
    }
    if (epoch > worker->epoch) {
        adamd_fail(fault, ADAMD_BAD_EPOCH, "epoch", "epoch %llu was never given to worker %s",
                   (unsigned long long)epoch, id);
        return ADAMD_BAD_EPOCH;
    }
    *ret_worker = worker;
    return ADAMD_OK;
}

enum adamd_status adamd_workers_renew(struct adamd_workers *workers, const char *id, uint64_t epoch,
                                      uint64_t now_ms, struct adamd_worker **ret_worker,
                                      struct adamd_fault *fault) {
    struct adamd_worker *worker = NULL;
    const enum adamd_status status = check_epoch(workers, id, epoch, &worker, fault);

    if (status == ADAMD_OK) {
        renew_lease(workers, worker, now_ms);
        *ret_worker = worker;
    }
    return status;
}

static enum adamd_verdict refuse(struct adamd_fault *fault, enum adamd_status status,
                                 const char *name, uint64_t value) {
    adamd_fail(fault, status, "sequence", "%s: %s is %llu", adamd_status_text(status), name,
               (unsigned long long)value);
    adamd_fault_tell(fault, name, "%llu", (unsigned long long)value);
    return ADAMD_REFUSED;
}

// A number that was used: the first answer again, if it is known and was for the same bytes.
static enum adamd_verdict answer_again(const struct adamd_worker *worker, uint64_t sequence,
                                       uint32_t crc32c, struct adamd_outcome *ret_outcome,
                                       struct adamd_fault *fault) {
    const struct adamd_outcome *outcome = &worker->outcomes[sequence % ADAMD_OUTCOMES_KEPT];

    if (outcome->sequence != sequence) {
        return refuse(fault, ADAMD_ALREADY_DECIDED, "last_sequence", worker->last_sequence);
    }
    if (crc32c != 0 && outcome->crc32c != 0 && crc32c != outcome->crc32c) {
        return refuse(fault, ADAMD_SEQ_REUSED, "sequence", sequence);
    }
    *ret_outcome = *outcome;
    return ADAMD_REPEAT;
}

// The signature is the contract's.
// NOLINTNEXTLINE(readability-function-size)
enum adamd_verdict adamd_workers_admit(struct adamd_workers *workers, const char *id,
                                       uint64_t epoch, uint64_t sequence, uint32_t crc32c,
                                       uint64_t now_ms, struct adamd_worker **ret_worker,
                                       struct adamd_outcome *ret_outcome,
                                       struct adamd_fault *fault) {
    struct adamd_worker *worker = NULL;

    if (adamd_workers_renew(workers, id, epoch, now_ms, &worker, fault) != ADAMD_OK) {
        return ADAMD_REFUSED;
    }
    if (sequence == 0) {
        adamd_fail(fault, ADAMD_BAD_FIELD, "sequence", "sequence numbers start at 1");
        return ADAMD_REFUSED;
    }
    *ret_worker = worker;
    if (sequence <= worker->last_sequence) {
        return answer_again(worker, sequence, crc32c, ret_outcome, fault);
    }
    if (sequence <= worker->admitted) {
        return ADAMD_ATTACH;
    }
    if (sequence > worker->admitted + 1) {
        return refuse(fault, ADAMD_OUT_OF_ORDER, "expected", worker->admitted + 1);
    }
    if (worker->admitted - worker->last_sequence >= ADAMD_IN_FLIGHT_MAX) {
        return refuse(fault, ADAMD_WORKER_BUSY, "in_flight", ADAMD_IN_FLIGHT_MAX);
    }
    worker->admitted = sequence;
    return ADAMD_ADMIT;
}

void adamd_workers_decide(struct adamd_worker *worker, const struct adamd_outcome *outcome) {
    ADAMD_ASSERT(outcome->sequence == worker->last_sequence + 1);
    ADAMD_ASSERT(outcome->sequence <= worker->admitted);
    worker->outcomes[outcome->sequence % ADAMD_OUTCOMES_KEPT] = *outcome;
    worker->last_sequence = outcome->sequence;
}

void adamd_workers_withdraw(struct adamd_worker *worker, uint64_t sequence) {
    ADAMD_ASSERT(sequence > worker->last_sequence);
    if (worker->admitted >= sequence) {
        worker->admitted = sequence - 1;
    }
}

// ------------------------------------------------------------------------------------------ leases

bool adamd_worker_live(const struct adamd_worker *worker, uint64_t now_ms) {
    return worker->epoch != 0 && now_ms < worker->lease_end_ms;
}

uint32_t adamd_workers_live(const struct adamd_workers *workers, uint64_t now_ms) {
    uint32_t count = 0;

    for (uint32_t i = 0; i < workers->count; i++) {
        count += adamd_worker_live(workers->list[i], now_ms) ? 1 : 0;
    }
    return count;
}

uint64_t adamd_workers_next_expiry(const struct adamd_workers *workers, uint64_t now_ms) {
    uint64_t next_ms = UINT64_MAX;

    for (uint32_t i = 0; i < workers->count; i++) {
        const struct adamd_worker *worker = workers->list[i];
        if (adamd_worker_live(worker, now_ms) && worker->lease_end_ms < next_ms) {
            next_ms = worker->lease_end_ms;
        }
    }
    return next_ms;
}

void adamd_workers_extend(struct adamd_workers *workers, uint64_t pause_ms, uint64_t now_ms) {
    const uint64_t before_ms = now_ms > pause_ms ? now_ms - pause_ms : 0;

    for (uint32_t i = 0; i < workers->count; i++) {
        if (adamd_worker_live(workers->list[i], before_ms)) {
            workers->list[i]->lease_end_ms += pause_ms;
        }
    }
}
