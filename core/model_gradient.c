// How gradients end: decided, refused or cut off, each counted once and told to all who wait.
#include "model_impl.h"

#include <stdlib.h>

void gradient_append(struct gradient_list *list, struct gradient *gradient) {
    gradient->list = list;
    gradient->previous = list->last;
    gradient->next = NULL;
    if (list->last != NULL) {
        list->last->next = gradient;
    } else {
        list->first = gradient;
    }
    list->last = gradient;
}

void gradient_remove(struct gradient *gradient) {
    struct gradient_list *list = gradient->list;

    ADAMD_ASSERT(list != NULL);
    if (gradient->previous != NULL) {
        gradient->previous->next = gradient->next;
    } else {
        list->first = gradient->next;
    }
    if (gradient->next != NULL) {
        gradient->next->previous = gradient->previous;
    } else {
        list->last = gradient->previous;
    }
    gradient->list = NULL;
    gradient->previous = NULL;
    gradient->next = NULL;
}

static bool is_of_epoch(const struct gradient *gradient) {
    return gradient->worker->epoch == gradient->epoch;
}

bool gradient_is_next(const struct gradient *gradient) {
    return is_of_epoch(gradient) && gradient->sequence == gradient->worker->last_sequence + 1;
}

bool gradient_is_finite(const struct gradient *gradient) {
    bool finite = true;

    for (unsigned dtype = 0; dtype < ADAMD_REAL_COUNT; dtype++) {
        finite = finite && scan_is_finite(dtype, gradient->max_top[dtype]);
    }
    return finite;
}

double gradient_bound(const struct gradient *gradient, enum adamd_dtype dtype) {
    return scan_bound(dtype, gradient->max_top[dtype]);
}

// The watchers' end: those of a whole push are called back; one whose body is still on the way is
// told by its next call.
static void end_watchers(struct adamd_model *model, struct gradient *gradient,
                         enum adamd_status status, const struct adamd_outcome *outcome,
                         const struct adamd_fault *fault) {
    while (gradient->watchers != NULL) {
        struct adamd_push *push = gradient->watchers;
        gradient->watchers = push->next;
        push->gradient = NULL;
        push->status = status;
        push->outcome = outcome != NULL ? *outcome : (struct adamd_outcome){0};
        push->fault = fault != NULL ? *fault : (struct adamd_fault){0};
        push->next = NULL;
        push->link = NULL;
        if (gradient->state != RECEIVING) {
            push->link = model->endings_end;
            *model->endings_end = push;
            model->endings_end = &push->next;
        }
    }
}

static void destroy_gradient(struct adamd_model *model, struct gradient *gradient) {
    gradient_remove(gradient);
    slot_drop(model, gradient->slot);
    free(gradient->tensors);
    free(gradient->has);
    free(gradient->metrics);
    free(gradient->written);
    free(gradient);
}

static void count_decided(struct adamd_push_counts *counts, enum adamd_outcome_kind kind) {
    counts->applied += kind == ADAMD_APPLIED ? 1 : 0;
    counts->staged += kind == ADAMD_STAGED ? 1 : 0;
    counts->skipped += kind == ADAMD_SKIPPED_NONFINITE ? 1 : 0;
    counts->stale += kind == ADAMD_OUTCOME_STALE ? 1 : 0;
}

struct adamd_outcome gradient_outcome(const struct adamd_model *model,
                                      const struct gradient *gradient,
                                      enum adamd_outcome_kind kind) {
    return (struct adamd_outcome){
        .kind = kind,
        .sequence = gradient->sequence,
        .version = model->version,
        .staleness = gradient->staleness,
        .contributors = 1,
        .crc32c = gradient->crc32c,
    };
}

void gradient_decide(struct adamd_model *model, struct gradient *gradient,
                     const struct adamd_outcome *outcome) {
    struct adamd_worker *worker = gradient->worker;

    count_decided(&model->counts, outcome->kind);
    count_decided(&worker->counts, outcome->kind);
    if (is_of_epoch(gradient)) {
        adamd_workers_decide(worker, outcome);
    } else if (worker->previous.sequence == gradient->sequence &&
               worker->previous.version == outcome->version) {
        // The worker registered again while this step was in flight: see adamd_model_register().
        worker->previous = *outcome;
    }
    end_watchers(model, gradient, ADAMD_OK, outcome, NULL);
    destroy_gradient(model, gradient);
}

// Rejected is what was wrong with it; aborted is what happened to it.
static bool is_rejection(enum adamd_status status) {
    switch (status) {
    case ADAMD_RUN_RESTORED:
    case ADAMD_FENCED:
    case ADAMD_UNKNOWN_WORKER:
    case ADAMD_STEP_ABORTED:
    case ADAMD_CANCELLED:
    case ADAMD_DRAINING:
    case ADAMD_NO_MEMORY:
    case ADAMD_DEVICE_LOST:
        return false;
    default:
        return true;
    }
}

static void end_gradient(struct adamd_model *model, struct gradient *gradient,
                         const struct adamd_fault *fault) {
    struct adamd_worker *worker = gradient->worker;
    uint64_t *model_count = &model->counts.aborted;
    uint64_t *worker_count = &worker->counts.aborted;

    if (is_rejection(fault->status)) {
        model_count = &model->counts.rejected;
        worker_count = &worker->counts.rejected;
    }
    *model_count += 1;
    *worker_count += 1;
    if (is_of_epoch(gradient) && gradient->sequence > worker->last_sequence) {
        adamd_workers_withdraw(worker, gradient->sequence);
    }
    end_watchers(model, gradient, fault->status, NULL, fault);
    destroy_gradient(model, gradient);
}

static void refuse_later(struct adamd_model *model, struct gradient_list *list,
                         const struct adamd_worker *worker, uint64_t epoch, uint64_t sequence) {
    struct gradient *next;
    struct adamd_fault fault = {0};

    adamd_fail(&fault, ADAMD_OUT_OF_ORDER, "sequence",
               "an earlier push was refused: resend from sequence %llu",
               (unsigned long long)sequence);
    adamd_fault_tell(&fault, "expected", "%llu", (unsigned long long)sequence);
    for (struct gradient *gradient = list->first; gradient != NULL; gradient = next) {
        next = gradient->next;
        if (gradient->worker == worker && gradient->epoch == epoch &&
            gradient->sequence > sequence) {
            end_gradient(model, gradient, &fault);
        }
    }
}

void gradients_refuse_later(struct adamd_model *model, const struct adamd_worker *worker,
                            uint64_t epoch, uint64_t sequence) {
    refuse_later(model, &model->receiving, worker, epoch, sequence);
    refuse_later(model, &model->committed, worker, epoch, sequence);
}

void gradient_refuse(struct adamd_model *model, struct gradient *gradient,
                     const struct adamd_fault *fault) {
    const struct adamd_worker *worker = gradient->worker;
    const uint64_t epoch = gradient->epoch;
    const uint64_t sequence = gradient->sequence;

    end_gradient(model, gradient, fault);
    gradients_refuse_later(model, worker, epoch, sequence);
}

void gradient_supersede(struct adamd_model *model, struct gradient *gradient) {
    struct adamd_fault fault = {0};

    adamd_fail(&fault, ADAMD_CANCELLED, "sequence", "the push was sent again meanwhile");
    model->counts.aborted++;
    gradient->worker->counts.aborted++;
    end_watchers(model, gradient, ADAMD_CANCELLED, NULL, &fault);
    destroy_gradient(model, gradient);
}

static void end_list(struct adamd_model *model, struct gradient_list *list,
                     const struct adamd_worker *worker, const struct adamd_fault *fault) {
    struct gradient *next;

    for (struct gradient *gradient = list->first; gradient != NULL; gradient = next) {
        next = gradient->next;
        if (worker == NULL || gradient->worker == worker) {
            end_gradient(model, gradient, fault);
        }
    }
}

void gradients_end(struct adamd_model *model, const struct adamd_worker *worker,
                   enum adamd_status status) {
    struct adamd_fault fault = {0};

    adamd_fail_plain(&fault, status);
    end_list(model, &model->receiving, worker, &fault);
    end_list(model, &model->committed, worker, &fault);
}

void gradients_abort(struct adamd_model *model, struct gradient_list *list,
                     enum adamd_status status) {
    struct adamd_fault fault = {0};
    struct gradient *next;

    adamd_fail_plain(&fault, status);
    for (struct gradient *gradient = list->first; gradient != NULL; gradient = next) {
        next = gradient->next; // what is refused with it is in other lists
        gradient_refuse(model, gradient, &fault);
    }
}
