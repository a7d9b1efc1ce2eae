// The policy: which committed pushes make a step, and when. MANUAL is in model_manual.c.
#include "model_impl.h"

#include <float.h>
#include <math.h>

static struct gradient *next_in_turn(const struct adamd_model *model) {
    struct gradient *gradient = model->committed.first;

    while (gradient != NULL && (gradient->state != COMMITTED || !gradient_is_next(gradient))) {
        gradient = gradient->next;
    }
    return gradient;
}

bool policy_turns_away(struct adamd_model *model, struct gradient *gradient) {
    struct adamd_fault fault = {0};
    enum adamd_status status =
        model_check_base(model, gradient->has_base_version, gradient->base_version, &fault);

    gradient->staleness = gradient->has_base_version && gradient->base_version < model->version
                              ? model->version - gradient->base_version
                              : 0;
    if (status == ADAMD_STALE) {
        const struct adamd_outcome outcome = gradient_outcome(model, gradient, ADAMD_OUTCOME_STALE);
        gradient_decide(model, gradient, &outcome);
        return true;
    }
    // The policy may have changed since the commit let it pass.
    if (status == ADAMD_OK && !gradient_is_finite(gradient) &&
        hooks_nonfinite(model) == ADAMD_NONFINITE_REJECT) {
        status = adamd_fail_plain(&fault, ADAMD_NONFINITE);
    }
    if (status != ADAMD_OK) {
        gradient_refuse(model, gradient, &fault);
    }
    return status != ADAMD_OK;
}

// ------------------------------------------------------------------------ ends of a list of pushes

static void skip_list(struct adamd_model *model, struct gradient_list *list) {
    tally_clear(&model->tally);
    for (struct gradient *gradient = list->first; gradient != NULL; gradient = gradient->next) {
        (void)tally_add(&model->tally, gradient); // without memory the record lacks a line
    }
    struct adamd_step_record *record = record_create(model, &model->tally);
    while (list->first != NULL) {
        const struct adamd_outcome outcome =
            gradient_outcome(model, list->first, ADAMD_SKIPPED_NONFINITE);
        gradient_decide(model, list->first, &outcome);
    }
    record_commit_skipped(model, record);
}

static void refuse_list(struct adamd_model *model, struct gradient_list *list,
                        enum adamd_status status, const char *message) {
    struct adamd_fault fault = {0};
    struct gradient *next;

    adamd_fail(&fault, status, NULL, "%s", message);
    for (struct gradient *gradient = list->first; gradient != NULL; gradient = next) {
        next = gradient->next;
        gradient_refuse(model, gradient, &fault);
    }
}

static void move_by_rank(struct gradient_list *list, struct gradient *gradient) {
    struct gradient *before = list->first;
    struct gradient_list rest = {0};

    while (before != NULL && before->worker->rank < gradient->worker->rank) {
        before = before->next;
    }
    gradient_remove(gradient);
    while (before != NULL) {
        struct gradient *next = before->next;
        gradient_remove(before);
        gradient_append(&rest, before);
        before = next;
    }
    gradient_append(list, gradient);
    while (rest.first != NULL) {
        struct gradient *next = rest.first;
        gradient_remove(next);
        gradient_append(list, next);
    }
}

// Steps with step.gradients, or ends them all: nothing is half applied.
static void step_gradients(struct adamd_model *model, uint64_t barrier_ns) {
    struct step *step = &model->step;
    struct adamd_step_record *record = NULL;
    enum adamd_status status = ADAMD_OK;

    tally_clear(&model->tally);
    for (struct gradient *gradient = step->gradients.first; gradient != NULL && status == ADAMD_OK;
         gradient = gradient->next) {
        gradient->state = STEPPING;
        status = tally_add(&model->tally, gradient);
    }
    if (status == ADAMD_OK) {
        record = record_create(model, &model->tally);
        status = record != NULL ? step_start(model, NULL, NULL, record) : ADAMD_NO_MEMORY;
    }
    if (status != ADAMD_OK) {
        gradients_abort(model, &step->gradients, status);
        gradients_abort(model, &step->skipped, status);
        return;
    }
    record->barrier_ns = barrier_ns;
}

// --------------------------------------------------------------------------------------- EACH_PUSH

static void advance_each_push(struct adamd_model *model) {
    struct gradient *gradient;

    while (!model->step.active && (gradient = next_in_turn(model)) != NULL) {
        if (policy_turns_away(model, gradient)) {
            continue;
        }
        move_by_rank(&model->step.gradients, gradient);
        if (!gradient_is_finite(gradient) && hooks_nonfinite(model) == ADAMD_NONFINITE_SKIP) {
            gradient->state = STEPPING;
            skip_list(model, &model->step.gradients);
        } else {
            step_gradients(model, 0);
        }
    }
}

// ----------------------------------------------------------------------------------------- BARRIER

static uint32_t count_staged(const struct adamd_model *model, uint32_t *ret_live,
                             uint32_t *ret_finite) {
    uint32_t count = 0;

    *ret_live = 0;
    *ret_finite = 0;
    for (const struct gradient *gradient = model->committed.first; gradient != NULL;
         gradient = gradient->next) {
        if (gradient->state == STAGED) {
            count++;
            *ret_live += adamd_worker_live(gradient->worker, model->now_ms) ? 1 : 0;
            *ret_finite += gradient_is_finite(gradient) ? 1 : 0;
        }
    }
    return count;
}

// Takes into the round whoever's turn has come. A worker has at most one push in it: its next one
// has its turn when this one is decided.
static void stage(struct adamd_model *model) {
    struct gradient *next;
    uint32_t live;
    uint32_t finite;

    for (struct gradient *gradient = model->committed.first; gradient != NULL; gradient = next) {
        next = gradient->next;
        if (gradient->state != COMMITTED || !gradient_is_next(gradient)) {
            continue;
        }
        if (policy_turns_away(model, gradient)) {
            next = model->committed.first; // later ones of that worker may have gone with it
            continue;
        }
        if (count_staged(model, &live, &finite) == 0) {
            model->round_open_ms = model->now_ms;
            model->round_open_ns = model_clock_ns();
        }
        gradient->state = STAGED;
    }
}

// A deadline alone closes nothing: with quorum 0 the round waits for all that live, however long.
static bool round_is_complete(const struct adamd_model *model) {
    const struct adamd_policy *policy = &model->policy;
    uint32_t live = 0;
    uint32_t finite = 0;
    const uint32_t count = count_staged(model, &live, &finite);

    if (count == 0 || count < policy->min_workers) {
        return false;
    }
    if (live == adamd_workers_live(&model->workers, model->now_ms)) {
        return true;
    }
    return policy->deadline_ms != 0 && policy->quorum != 0 && finite >= policy->quorum &&
           model->now_ms - model->round_open_ms >= policy->deadline_ms;
}

// Whether the weighted sum could pass what the computing type holds, though each part is finite.
static bool may_overflow(const struct gradient_list *list) {
    double sums[ADAMD_REAL_COUNT] = {0};
    double weights = 0;

    for (const struct gradient *gradient = list->first; gradient != NULL;
         gradient = gradient->next) {
        for (unsigned dtype = 0; dtype < ADAMD_REAL_COUNT; dtype++) {
            sums[dtype] += gradient->weight * gradient_bound(gradient, dtype);
        }
        weights += gradient->weight;
    }
    bool overflows = weights > (double)FLT_MAX;
    for (unsigned dtype = 0; dtype < ADAMD_REAL_COUNT; dtype++) {
        const double most = dtype == ADAMD_FLOAT64 ? DBL_MAX : (double)FLT_MAX;
        overflows = overflows || !(sums[dtype] <= most);
    }
    return list->first != list->last && overflows;
}

static void collect_round(struct adamd_model *model) {
    const bool skips = hooks_nonfinite(model) == ADAMD_NONFINITE_SKIP;
    struct gradient *next;

    for (struct gradient *gradient = model->committed.first; gradient != NULL; gradient = next) {
        next = gradient->next;
        if (gradient->state == STAGED) {
            gradient->state = STEPPING;
            move_by_rank(skips && !gradient_is_finite(gradient) ? &model->step.skipped
                                                                : &model->step.gradients,
                         gradient);
        }
    }
}

static uint32_t count_list(const struct gradient_list *list) {
    uint32_t count = 0;

    for (const struct gradient *gradient = list->first; gradient != NULL;
         gradient = gradient->next) {
        count++;
    }
    return count;
}

// What is not finite counts as present, so that one worker cannot hold up the others, but is no
// part of the mean.
static void close_round(struct adamd_model *model) {
    struct step *step = &model->step;
    const enum adamd_nonfinite nonfinite = hooks_nonfinite(model);

    collect_round(model);
    if (count_list(&step->gradients) < model->policy.min_workers || step->gradients.first == NULL ||
        (nonfinite == ADAMD_NONFINITE_SKIP && may_overflow(&step->gradients))) {
        while (step->skipped.first != NULL) {
            move_by_rank(&step->gradients, step->skipped.first);
        }
        skip_list(model, &step->gradients);
    } else if (nonfinite == ADAMD_NONFINITE_REJECT && may_overflow(&step->gradients)) {
        refuse_list(model, &step->gradients, ADAMD_NONFINITE,
                    "the round's gradients are finite, but their sum could not be");
    } else {
        step_gradients(model, model_clock_ns() - model->round_open_ns);
    }
}

static void advance_barrier(struct adamd_model *model) {
    uint32_t live = 0;
    uint32_t finite = 0;

    while (!model->step.active) {
        stage(model);
        if (!round_is_complete(model)) {
            break;
        }
        close_round(model);
    }
    // Nobody else will come: those who wait resend to whoever serves next.
    if (model->draining && !model->step.active && model->receiving.first == NULL &&
        count_staged(model, &live, &finite) > 0) {
        collect_round(model);
        gradients_abort(model, &model->step.gradients, ADAMD_STEP_ABORTED);
        gradients_abort(model, &model->step.skipped, ADAMD_STEP_ABORTED);
    }
}

void policy_advance(struct adamd_model *model) {
    if (model->state != ADAMD_MODEL_ACTIVE && model->state != ADAMD_MODEL_PAUSED) {
        return;
    }
    switch (model->policy.trigger) {
    case ADAMD_EACH_PUSH:
        advance_each_push(model);
        return;
    case ADAMD_BARRIER:
        advance_barrier(model);
        return;
    case ADAMD_MANUAL:
        manual_advance(model);
        return;
    }
}
