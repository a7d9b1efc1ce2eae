// The hooks of a model: around the step, around a capture, around a load. A step with hooks goes
// through three phases, before, the step itself, behind; without any it never comes here.
#include "actions_impl.h"
#include "model_impl.h"

#include <math.h>
#include <stdlib.h>

enum { TURNS_MAX = 1024 }; // of one list: a hook that waits for nothing for ever is a defect

struct adamd_hook_registry *model_registry(struct adamd_model *model) {
    return model->hook_registry != NULL ? model->hook_registry : &model->own_registry;
}

// Hooks may call the model: it notes what they change, and acts when they are done.
static enum adamd_hook_answer run_hooks(struct adamd_model *model, struct hook_run *run,
                                        struct adamd_hook_call *call) {
    const bool was_advancing = model->advancing;

    model->advancing = true;
    const enum adamd_hook_answer answer = hook_run_continue(run, call);
    model->advancing = was_advancing;
    model->advance_again = true;
    return answer;
}

// --------------------------------------------------------------------------------- the step's list

bool hooks_wanted(const struct adamd_model *model) {
    const struct hook_lists *shared =
        model->hook_registry != NULL ? &model->hook_registry->lists : NULL;

    return model->hooks.first[ADAMD_STEP_PRE] != NULL ||
           model->hooks.first[ADAMD_STEP_POST] != NULL ||
           (shared != NULL &&
            (shared->first[ADAMD_STEP_PRE] != NULL || shared->first[ADAMD_STEP_POST] != NULL));
}

bool hooks_hold_gradient(const struct adamd_model *model) {
    return model->hooking.phase == HOOKS_BEFORE;
}

static bool has_old_epoch(const struct gradient_list *list, const struct adamd_worker *worker) {
    const struct gradient *gradient = list->first;

    while (gradient != NULL && (gradient->worker != worker || gradient->epoch == worker->epoch)) {
        gradient = gradient->next;
    }
    return gradient != NULL;
}

void hooks_drop_epoch(struct adamd_model *model, const struct adamd_worker *worker) {
    if (has_old_epoch(&model->step.gradients, worker) ||
        has_old_epoch(&model->step.skipped, worker)) {
        model->hooking.is_aborted = true;
    }
}

enum adamd_nonfinite hooks_nonfinite(const struct adamd_model *model) {
    return action_find(&model->hooks, ADAMD_UNSCALE) != NULL ||
                   action_find(&model->hooks, ADAMD_NONFINITE_GUARD) != NULL
               ? ADAMD_NONFINITE_ALLOW
               : model->policy.nonfinite;
}

static void begin_list(struct adamd_model *model, enum adamd_hook_event event) {
    hook_run_begin(&model->hooking.run, event, &model_registry(model)->lists, &model->hooks);
    model->hooking.event = event;
    model->hooking.turns = 0;
    model->hooking.answer = ADAMD_HOOK_WAIT;
}

static void end_hooking(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;

    hook_run_end(&hooking->run);
    slot_drop(model, hooking->accumulated);
    hooking->accumulated = NULL;
    hooking->gradient = NULL;
    hooking->phase = HOOKS_NONE;
}

static void settle_all(struct adamd_model *model, bool made) {
    struct action_cursor cursor = {.event = 0};
    struct action_hook *hook;

    while ((hook = action_next(&model->hooks, &cursor)) != NULL) {
        action_settle(model, hook, made);
    }
}

static void note_in_record(const struct hooking *hooking, struct adamd_step_record *record) {
    record->lr = hooking->args.options[0].lr;
    record->clip_coef = hooking->args.clip_coef;
    record->total_norm = hooking->args.total_norm;
    record->unscaled_by = hooking->args.unscaled_by;
}

static void refuse_step(struct adamd_model *model) {
    model->hook_fault = model->hooking.fault;
    end_hooking(model);
    step_refuse(model, &model->hook_fault);
}

static void skip_step(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;
    const enum adamd_skip skip =
        hooking->args.skip != ADAMD_SKIP_NONE ? hooking->args.skip : ADAMD_SKIP_BY_HOOK;

    settle_all(model, false);
    note_in_record(hooking, model->step.record);
    end_hooking(model);
    step_skip(model, skip);
}

static bool fail_hooking(struct hooking *hooking, enum adamd_status status, const char *message) {
    (void)adamd_fail(&hooking->fault, status, NULL, "%s",
                     message != NULL ? message : adamd_status_text(status));
    hooking->answer = ADAMD_HOOK_FAIL;
    return false;
}

// What the hooks left for the step to go with.
static bool check_args(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;
    struct adamd_step_args *args = &hooking->args;

    for (uint32_t i = 0; i < args->group_count; i++) {
        if (adamd_options_check(&args->options[i], &hooking->fault) != ADAMD_OK) {
            hooking->fault.status = ADAMD_HOOK_FAILED;
            hooking->answer = ADAMD_HOOK_FAIL;
            return false;
        }
    }
    if (!(args->grad_scale > 0) || isinf(args->grad_scale)) {
        return fail_hooking(hooking, ADAMD_HOOK_FAILED,
                            "a hook left a grad_scale that is not above 0 and finite");
    }
    if (model->state == ADAMD_MODEL_RESTORING) {
        return fail_hooking(hooking, ADAMD_RUN_RESTORED, NULL); // nothing was written yet
    }
    return true;
}

static void submit_step(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;
    struct adamd_step_args *args = &hooking->args;
    enum adamd_status status = ADAMD_OK;

    if (check_args(model)) {
        status = model_ensure_arrays(model, args->options, args->group_count);
        status =
            status == ADAMD_OK ? step_build(model, hooking->accumulated, args->options) : status;
        if (status == ADAMD_OK && hooking->is_mean) {
            step_use_source(&model->step, hooking->gradient);
        }
        hooking->phase = HOOKS_STEP;
        status =
            status == ADAMD_OK ? step_submit(model, hooking->accumulated, args->options) : status;
        if (status != ADAMD_OK) {
            fail_hooking(hooking, status, NULL);
        }
    }
    if (hooking->answer == ADAMD_HOOK_FAIL) {
        refuse_step(model);
        return;
    }
    note_in_record(hooking, model->step.record);
}

static bool divide_scale(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;
    const double scale = hooking->args.grad_scale;
    enum adamd_status status;

    if (scale == 1.0 || !(scale > 0) || isinf(scale)) {
        return true;
    }
    hooking->args.grad_scale = 1.0;
    status = hooks_scale(model, scale, true);
    return status == ADAMD_OK || fail_hooking(hooking, status, NULL);
}

static void end_before(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;

    if (hooking->is_aborted) {
        fail_hooking(hooking, ADAMD_STEP_ABORTED, NULL);
    }
    if (hooking->answer == ADAMD_HOOK_DONE && hooking->args.found_inf) {
        hooking->args.skip = ADAMD_SKIP_NONFINITE;
        hooking->answer = ADAMD_HOOK_SKIP;
    }
    if (hooking->answer == ADAMD_HOOK_DONE && divide_scale(model) && hooking->jobs > 0) {
        return; // comes again behind the division
    }
    hook_run_end(&hooking->run);
    switch (hooking->answer) {
    case ADAMD_HOOK_SKIP:
        skip_step(model);
        return;
    case ADAMD_HOOK_FAIL:
        refuse_step(model);
        return;
    default:
        submit_step(model);
        return;
    }
}

static void end_behind(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;
    struct adamd_step_record *record = model->step.record;

    if (hooking->fault.status == ADAMD_DEVICE_LOST) { // and the step with it
        end_hooking(model);
        step_end(model, ADAMD_DEVICE_LOST);
        return;
    }
    if (hooking->answer == ADAMD_HOOK_FAIL) { // the step is made; those behind did not run
        model->hook_fault = hooking->fault;
        memcpy(record->hook_error, hooking->fault.message, sizeof record->hook_error - 1);
    }
    settle_all(model, true);
    end_hooking(model);
    step_end(model, ADAMD_OK);
}

// On with the list, until it waits for operations or is over.
static void continue_hooks(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;
    struct adamd_hook_call call = {.event = hooking->event,
                                   .model = model,
                                   .args = &hooking->args,
                                   .norm = hooking->norm,
                                   .fault = &hooking->fault};

    while (hooking->answer == ADAMD_HOOK_WAIT && hooking->jobs == 0) {
        call.norm = hooking->norm;
        hooking->answer = run_hooks(model, &hooking->run, &call);
        if (hooking->turns++ > TURNS_MAX) {
            fail_hooking(hooking, ADAMD_HOOK_FAILED, "a hook waits, but submitted nothing");
        }
    }
    if (hooking->jobs > 0) {
        return; // also what was answered at once ends behind what is in flight
    }
    if (hooking->phase == HOOKS_BEFORE) {
        end_before(model);
    } else {
        end_behind(model);
    }
}

// ------------------------------------------------------------------- what the hooks have in flight

void hooks_submit(struct adamd_model *model, struct job *job) {
    job->writes = model->hooking.accumulated;
    model->hooking.jobs++;
    job_submit(model, job);
}

void hooks_job_done(struct adamd_model *model, enum adamd_status status) {
    struct hooking *hooking = &model->hooking;

    hooking->jobs--;
    if (status != ADAMD_OK) {
        fail_hooking(hooking, status, NULL);
    }
    if (hooking->jobs == 0) {
        continue_hooks(model);
    }
}

// ---------------------------------------------------------------------------------------- the step

static enum adamd_status prepare_args(struct adamd_model *model,
                                      const struct adamd_options *options) {
    struct hooking *hooking = &model->hooking;

    if (hooking->options_capacity < model->group_count) {
        struct adamd_options *grown =
            realloc(hooking->args.options, model->group_count * sizeof *grown);
        if (grown == NULL) {
            return ADAMD_NO_MEMORY;
        }
        hooking->args.options = grown;
        hooking->options_capacity = model->group_count;
    }
    hooking->args = (struct adamd_step_args){.options = hooking->args.options,
                                             .group_count = model->group_count,
                                             .grad_scale = 1.0,
                                             .version = model->version + 1,
                                             .clip_coef = 1.0};
    for (uint32_t i = 0; i < model->group_count; i++) {
        hooking->args.options[i] = options != NULL ? options[i] : model->groups[i].options;
    }
    return ADAMD_OK;
}

enum adamd_status hooks_step_start(struct adamd_model *model, struct slot *accumulated,
                                   const struct adamd_options *options,
                                   struct adamd_step_record *record) {
    struct hooking *hooking = &model->hooking;
    enum adamd_status status = prepare_args(model, options);

    // Built once before the hooks: they work on the gradients of its runs, and what can fail for
    // want of memory fails before anything is changed.
    status = status == ADAMD_OK ? step_build(model, accumulated, options) : status;
    if (status != ADAMD_OK) {
        free(record);
        return status;
    }
    step_begin(model, record);
    hooking->phase = HOOKS_BEFORE;
    hooking->accumulated = accumulated;
    slot_hold(accumulated);
    hooking->gradient = NULL;
    hooking->is_mean = false;
    hooking->is_aborted = false;
    hooking->norm = (struct adamd_gradient_norm){0};
    hooking->fault = (struct adamd_fault){0};
    begin_list(model, ADAMD_STEP_PRE);
    // Whoever started the step has its list of steppers still to fill in: the first hook runs at
    // the next turn of model_advance().
    hooking->is_due = true;
    model->advance_again = true;
    return ADAMD_OK;
}

void hooks_advance(struct adamd_model *model) {
    if (model->hooking.is_due) {
        model->hooking.is_due = false;
        continue_hooks(model);
    }
    ema_advance(model);
}

bool hooks_take_step(struct adamd_model *model, enum adamd_status status) {
    struct hooking *hooking = &model->hooking;

    if (hooking->phase != HOOKS_STEP) {
        return false;
    }
    if (status != ADAMD_OK) {
        end_hooking(model);
        return false;
    }
    hooking->phase = HOOKS_BEHIND;
    begin_list(model, ADAMD_STEP_POST);
    hooking->is_due = true;
    return true;
}

void hooks_abandon(struct adamd_model *model) {
    hook_run_end(&model->hooking.run);
    model->hooking.phase = HOOKS_NONE;
    model->hooking.is_due = false;
}

void hooks_destroy(struct adamd_model *model) {
    hook_run_end(&model->hooking.run);
    slot_drop(model, model->hooking.accumulated);
    hooks_finish(&model->hooks);
    hooks_finish(&model->own_registry.lists);
    model_release(model, model->hooking.mean);
    free(model->hooking.args.options);
}

// ---------------------------------------------------------------------- state_dict, and loading it

static enum adamd_status run_at_once(struct adamd_model *model, struct hook_run *run,
                                     struct adamd_hook_call *call) {
    const enum adamd_hook_answer answer = run_hooks(model, run, call);

    if (answer == ADAMD_HOOK_DONE || answer == ADAMD_HOOK_FAIL) {
        return answer == ADAMD_HOOK_DONE ? ADAMD_OK : call->fault->status;
    }
    return adamd_fail(call->fault, ADAMD_HOOK_FAILED, NULL, "%s hooks can neither wait nor skip",
                      adamd_hook_event_name(call->event));
}

enum adamd_status hooks_run_dict(struct adamd_model *model, enum adamd_hook_event event,
                                 struct hook_run *run, const struct adamd_capture **dict) {
    struct adamd_hook_call call = {.event = event, .model = model, .fault = &model->hook_fault};
    enum adamd_status status;

    if (model->hooks.first[event] == NULL) {
        return ADAMD_OK;
    }
    model->hook_fault = (struct adamd_fault){0};
    call.dict = dict != NULL ? *dict : NULL;
    hook_run_end(run);
    hook_run_begin(run, event, NULL, &model->hooks);
    status = run_at_once(model, run, &call);
    if (status == ADAMD_OK && dict != NULL && call.dict != NULL) {
        *dict = call.dict;
    }
    return status;
}

const struct adamd_fault *adamd_model_hook_fault(const struct adamd_model *model) {
    return &model->hook_fault;
}

// ------------------------------------------------------------------------------------ registration

enum adamd_status adamd_model_register_hook(struct adamd_model *model, enum adamd_hook_event event,
                                            const struct adamd_hook *hook, bool prepend,
                                            uint64_t *ret_id, struct adamd_fault *fault) {
    ADAMD_ASSERT((unsigned)event < ADAMD_HOOK_EVENT_COUNT);
    return hook_add(&model->hooks, &model_registry(model)->last_id, event, hook, prepend, ret_id,
                    fault);
}

bool adamd_model_remove_hook(struct adamd_model *model, uint64_t id) {
    const bool was_there = hook_remove(&model->hooks, id);

    if (was_there) {
        model->config_count++;
        model_note_change(model);
        model_advance(model);
    }
    return was_there;
}
