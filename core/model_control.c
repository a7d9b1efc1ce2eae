// What is known of a model, and what is changed about it while it runs.
#include "model_impl.h"

// ----------------------------------------------------------------------------------- looking at it

struct adamd_model_info adamd_model_info(const struct adamd_model *model, uint64_t now_ms) {
    return (struct adamd_model_info){
        .state = model->state,
        .generation = model->generation,
        .version = model->version,
        .config_count = model->config_count,
        .layout_count = model->layout_count,
        .resident_bytes = model->resident_bytes,
        .group_count = model->group_count,
        .live_workers = adamd_workers_live(&model->workers, now_ms),
        .slots_in_use = model->slot_count - model->slots_free_count,
        .policy = model->policy,
        .counts = model->counts,
    };
}

const struct adamd_layout *adamd_model_layout(const struct adamd_model *model) {
    return &model->layout;
}

const struct adamd_workers *adamd_model_workers(const struct adamd_model *model) {
    return &model->workers;
}

uint64_t adamd_model_step_of(const struct adamd_model *model, uint32_t tensor) {
    ADAMD_ASSERT(tensor < model->layout.tensor_count);
    return model->steps[tensor];
}

void adamd_model_listen(struct adamd_model *model, adamd_changed_fn *on_changed, void *arg) {
    model->on_changed = on_changed;
    model->changed_arg = arg;
}

// ----------------------------------------------------------------------------------------- workers

// The old epoch can write no more, but what is in flight cannot be called back: it will be in the
// next version, and "was my last push applied?" is answered so now.
static void report_in_flight(struct adamd_model *model, struct adamd_worker *worker,
                             const struct gradient_list *list, enum adamd_outcome_kind kind,
                             uint64_t version) {
    for (const struct gradient *gradient = list->first; gradient != NULL;
         gradient = gradient->next) {
        if (gradient->worker == worker && gradient->epoch + 1 == worker->epoch) {
            worker->previous = gradient_outcome(model, gradient, kind);
            worker->previous.version = version;
        }
    }
}

static void drop_old_epoch(struct adamd_model *model, struct adamd_worker *worker) {
    gradients_end(model, worker, ADAMD_FENCED);
    if (hooks_hold_gradient(model)) {
        hooks_drop_epoch(model, worker); // what will come of it is not known yet
    } else {
        report_in_flight(model, worker, &model->step.gradients, ADAMD_APPLIED, model->version + 1);
        report_in_flight(model, worker, &model->step.skipped, ADAMD_SKIPPED_NONFINITE,
                         model->version + 1);
    }
    report_in_flight(model, worker, &model->accumulating, ADAMD_STAGED, model->version);
}

static enum adamd_status check_witness(const struct adamd_model *model, uint64_t generation,
                                       uint64_t acknowledged_version, struct adamd_fault *fault) {
    const bool behind = generation > model->generation ||
                        (generation == model->generation && acknowledged_version > model->version);

    if (generation == 0 || !behind) {
        return ADAMD_OK;
    }
    adamd_fail(fault, ADAMD_STATE_BEHIND, "acknowledged_version",
               "the worker saw generation %llu, version %llu: the model is at generation %llu, "
               "version %llu",
               (unsigned long long)generation, (unsigned long long)acknowledged_version,
               (unsigned long long)model->generation, (unsigned long long)model->version);
    adamd_fault_tell(fault, "generation", "%llu", (unsigned long long)model->generation);
    adamd_fault_tell(fault, "version", "%llu", (unsigned long long)model->version);
    return ADAMD_STATE_BEHIND;
}

// The signature is the contract's.
// NOLINTNEXTLINE(readability-function-size)
enum adamd_status adamd_model_register(struct adamd_model *model, const char *id, const char *nonce,
                                       uint32_t rank, uint64_t generation,
                                       uint64_t acknowledged_version, uint64_t now_ms,
                                       struct adamd_registration *ret_registration,
                                       struct adamd_fault *fault) {
    struct adamd_worker *worker = NULL;
    bool fresh = false;
    enum adamd_status status = ADAMD_OK;

    model_observe(model, now_ms);
    if (model->state == ADAMD_MODEL_FAILED) {
        status = adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    } else if (model->draining) {
        status = adamd_fail_plain(fault, ADAMD_DRAINING);
    }
    status =
        status == ADAMD_OK ? check_witness(model, generation, acknowledged_version, fault) : status;
    status = status == ADAMD_OK ? adamd_workers_register(&model->workers, id, nonce, rank,
                                                         model->now_ms, &worker, &fresh, fault)
                                : status;
    if (status != ADAMD_OK) {
        return status;
    }
    if (fresh) {
        drop_old_epoch(model, worker);
    }
    model_advance(model);
    *ret_registration = (struct adamd_registration){
        .worker = worker,
        .generation = model->generation,
        .version = model->version,
        .epoch = worker->epoch,
        .lease_ms = model->workers.lease_ms,
    };
    return ADAMD_OK;
}

enum adamd_status adamd_model_renew(struct adamd_model *model, const char *id, uint64_t epoch,
                                    uint64_t now_ms, struct adamd_fault *fault) {
    struct adamd_worker *worker = NULL;

    model_observe(model, now_ms);
    return adamd_workers_renew(&model->workers, id, epoch, model->now_ms, &worker, fault);
}

enum adamd_status adamd_model_deregister(struct adamd_model *model, const char *id, uint64_t epoch,
                                         uint64_t now_ms, struct adamd_fault *fault) {
    struct adamd_worker *worker = adamd_workers_find(&model->workers, id);
    enum adamd_status status = ADAMD_OK;

    model_observe(model, now_ms);
    if (epoch != 0 || worker == NULL || worker->epoch == 0) {
        status = adamd_workers_renew(&model->workers, id, epoch, model->now_ms, &worker, fault);
    }
    if (status != ADAMD_OK) {
        return status;
    }
    adamd_workers_deregister(worker);
    gradients_end(model, worker, ADAMD_UNKNOWN_WORKER);
    model_advance(model);
    return ADAMD_OK;
}

// -------------------------------------------------------------------------- options, policy, state

static struct job *create_fill(struct adamd_model *model, int first, int end) {
    struct job *job = job_create(model, (uint32_t)(end - first), NULL, NULL);

    if (job == NULL) {
        return NULL;
    }
    job->count = 0;
    for (int array = first; array < end; array++) {
        if (model->arrays[array] != NULL) {
            job->ops[job->count++] = (struct adamd_op){
                .kind = ADAMD_OP_FILL, .fill = {model->arrays[array], 0, model->arena_bytes}};
        }
    }
    return job;
}

static enum adamd_status ensure_amsgrad(struct adamd_model *model,
                                        const struct adamd_options *options, uint32_t count) {
    bool wanted = false;
    struct adamd_buffer *buffer = NULL;
    enum adamd_status status;
    struct job *job;

    for (uint32_t i = 0; i < count; i++) {
        wanted = wanted || options[i].amsgrad;
    }
    if (!wanted || model->arrays[ADAMD_MAX_EXP_AVG_SQ] != NULL) {
        return ADAMD_OK;
    }
    status = model_alloc(model, ADAMD_DEVICE, true, &buffer);
    if (status != ADAMD_OK) {
        return status == ADAMD_BUSY ? ADAMD_NO_MEMORY : status; // over the model's limit
    }
    model->arrays[ADAMD_MAX_EXP_AVG_SQ] = buffer;
    job = create_fill(model, ADAMD_MAX_EXP_AVG_SQ, ADAMD_MAX_EXP_AVG_SQ + 1);
    if (job == NULL) {
        model->arrays[ADAMD_MAX_EXP_AVG_SQ] = NULL;
        model_release(model, buffer);
        return ADAMD_NO_MEMORY;
    }
    job_submit(model, job); // before any step that reads it
    return ADAMD_OK;
}

enum adamd_status model_ensure_arrays(struct adamd_model *model,
                                      const struct adamd_options *options, uint32_t count) {
    enum adamd_status status = kept_ensure(model, options, count);

    status = status == ADAMD_OK ? ensure_amsgrad(model, options, count) : status;
    if (status != ADAMD_OK) {
        kept_advance(model); // what nobody asks for yet goes again
    }
    return status;
}

enum adamd_status adamd_model_initialize(struct adamd_model *model, struct adamd_fault *fault) {
    struct job *job;

    if (model->state == ADAMD_MODEL_FAILED) {
        return adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    }
    if (model->state != ADAMD_MODEL_INITIALIZING) {
        return adamd_fail(fault, ADAMD_EXISTS, NULL, "the model has parameters already");
    }
    job = create_fill(model, ADAMD_PARAM, ADAMD_ARRAY_COUNT);
    if (job == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    // Whatever is asked of it from here on comes behind the fill.
    job_submit(model, job);
    model->state = ADAMD_MODEL_ACTIVE;
    model_note_change(model);
    model_advance(model);
    return ADAMD_OK;
}

// Rounds and manual commands are of their policy: what is staged goes back to those that wait.
static void unstage(struct adamd_model *model) {
    for (struct gradient *gradient = model->committed.first; gradient != NULL;
         gradient = gradient->next) {
        gradient->state = COMMITTED;
    }
}

enum adamd_status adamd_model_check_policy(const struct adamd_model *model,
                                           const struct adamd_policy *policy,
                                           struct adamd_fault *fault) {
    const enum adamd_status status = adamd_policy_check(policy, fault);
    const bool other = policy->trigger != model->policy.trigger;

    if (status == ADAMD_OK && other && (model->accumulated != NULL || model->commands != NULL)) {
        return adamd_fail(
            fault, ADAMD_BAD_FIELD, "step_policy.trigger",
            "gradients are accumulated: step and zero them before the trigger changes");
    }
    return status;
}

enum adamd_status adamd_model_set_policy(struct adamd_model *model,
                                         const struct adamd_policy *policy, uint64_t now_ms,
                                         struct adamd_fault *fault) {
    const enum adamd_status status = adamd_model_check_policy(model, policy, fault);
    const bool other = policy->trigger != model->policy.trigger;

    if (status != ADAMD_OK) {
        return status;
    }
    model_observe(model, now_ms);
    if (other) {
        unstage(model);
        tally_clear(&model->tally);
    }
    model->policy = *policy;
    model->workers.lease_ms = policy->lease_ms != 0 ? policy->lease_ms : MODEL_LEASE_MS;
    model->config_count++;
    model_note_change(model);
    model_advance(model);
    return ADAMD_OK;
}

static enum adamd_status switch_state(struct adamd_model *model, enum adamd_model_state to,
                                      struct adamd_fault *fault) {
    switch (model->state) {
    case ADAMD_MODEL_ACTIVE:
    case ADAMD_MODEL_PAUSED:
        break;
    case ADAMD_MODEL_INITIALIZING:
        return adamd_fail_plain(fault, ADAMD_INITIALIZING);
    case ADAMD_MODEL_RESTORING:
        return adamd_fail(fault, ADAMD_BUSY, NULL, "the model's state is being restored");
    case ADAMD_MODEL_FAILED:
        return adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    }
    if (model->state != to) {
        model->state = to;
        model_note_change(model);
        model_advance(model);
    }
    return ADAMD_OK;
}

enum adamd_status adamd_model_pause(struct adamd_model *model, struct adamd_fault *fault) {
    return switch_state(model, ADAMD_MODEL_PAUSED, fault);
}

enum adamd_status adamd_model_resume(struct adamd_model *model, struct adamd_fault *fault) {
    return switch_state(model, ADAMD_MODEL_ACTIVE, fault);
}

// -------------------------------------------------------------------------------------------- time

void adamd_model_tick(struct adamd_model *model, uint64_t now_ms) {
    model_observe(model, now_ms);
    model_advance(model);
}

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t round_due(const struct adamd_model *model, uint64_t now_ms) {
    const struct adamd_policy *policy = &model->policy;
    const struct gradient *gradient = model->committed.first;
    uint64_t due_ms;

    while (gradient != NULL && gradient->state != STAGED) {
        gradient = gradient->next;
    }
    if (gradient == NULL || policy->deadline_ms == 0 || policy->quorum == 0) {
        return UINT64_MAX;
    }
    due_ms = model->round_open_ms + policy->deadline_ms;
    return due_ms > now_ms ? due_ms : UINT64_MAX; // past it, a push closes the round
}

// Far below a quarter of a lease, so that a gap of that length is known for a standstill.
static uint64_t lease_tick(const struct adamd_model *model, uint64_t now_ms) {
    const uint64_t wanted_ms = model->workers.lease_ms / 8;
    const uint64_t every_ms = wanted_ms < MODEL_TICK_MS ? wanted_ms : MODEL_TICK_MS;

    return now_ms + every_ms;
}

uint64_t adamd_model_next_due(const struct adamd_model *model, uint64_t now_ms) {
    uint64_t due_ms = round_due(model, now_ms);
    const uint64_t expiry_ms = adamd_workers_next_expiry(&model->workers, now_ms);

    if (model->endings != NULL || model->ended != NULL) {
        return now_ms + 1;
    }
    if (model->blocked) {
        due_ms = earlier(due_ms, now_ms + 1);
    }
    if (expiry_ms != UINT64_MAX) {
        due_ms = earlier(due_ms, earlier(expiry_ms, lease_tick(model, now_ms)));
    }
    return due_ms;
}

void adamd_model_drain(struct adamd_model *model, uint64_t now_ms) {
    model_observe(model, now_ms);
    model->draining = true;
    model_advance(model);
}

bool adamd_model_idle(const struct adamd_model *model) {
    return model->receiving.first == NULL && model->committed.first == NULL &&
           model->accumulating.first == NULL && !model->step.active && model->commands == NULL &&
           model->jobs_alive == 0 && model->endings == NULL && model->steppers_ended == NULL &&
           model->ended == NULL && model->restore_waits == NULL && model->addition_waits == NULL;
}
