// What drives a model: operations on their way to the backend, and the order "change everything
// first, call back second".
#include "model_impl.h"

#include <stdlib.h>
#include <time.h>

static uint64_t read_clock(clockid_t id) {
    struct timespec now = {0};

    (void)clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

uint64_t model_clock_ns(void) {
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t model_unix_ns(void) {
    return read_clock(CLOCK_REALTIME);
}

// While somebody holds a lease, adamd_model_next_due() asks for ticks far more often than a quarter
// of it: a longer gap is the daemon's absence (stopped, or its machine was), not the workers'.
void model_observe(struct adamd_model *model, uint64_t now_ms) {
    if (now_ms <= model->now_ms) {
        return;
    }
    const uint64_t gap_ms = now_ms - model->now_ms;
    if (model->now_ms != 0 && gap_ms > model->workers.lease_ms / 4) {
        adamd_workers_extend(&model->workers, gap_ms, now_ms);
    }
    model->now_ms = now_ms;
}

void model_note_change(struct adamd_model *model) {
    model->changed = true;
}

// -------------------------------------------------------------------------------------------- jobs

struct job *job_create(struct adamd_model *model, uint32_t count, job_done_fn *on_done, void *arg) {
    struct job *job = calloc(1, sizeof *job + count * sizeof job->ops[0]);

    if (job != NULL) {
        job->model = model;
        job->count = count;
        job->on_done = on_done;
        job->arg = arg;
    }
    return job;
}

static void end_job(struct job *job) {
    struct adamd_model *model = job->model;

    model->jobs_alive--;
    if (job->on_done != NULL && !model->destroyed) {
        job->on_done(model, job, job->status);
    }
    slot_drop(model, job->reads);
    slot_drop(model, job->writes);
    if (job->on_end != NULL) {
        job->on_end(job);
    }
    free(job);
}

// From the queue: one operation of a job has completed.
static void on_op_done(void *arg, enum adamd_status status) {
    struct job *job = arg;
    struct adamd_model *model = job->model;

    job->status = job->status == ADAMD_OK ? status : job->status;
    if (status != ADAMD_OK) {
        model_fail(model, status); // cuts off what is not submitted, and must not end this job
    }
    job->completed++;
    if (job->completed == job->count) {
        end_job(job);
    }
    if (model->destroyed) {
        model_free_if_done(model);
    } else {
        model_advance(model);
    }
}

void job_submit(struct adamd_model *model, struct job *job) {
    slot_hold(job->reads);
    slot_hold(job->writes);
    job->next = NULL;
    *model->jobs_end = job;
    model->jobs_end = &job->next;
    model->jobs_alive++;
}

// True if all of the job's operations are with the backend.
static bool submit_ops(struct adamd_model *model, struct job *job) {
    while (job->submitted < job->count) {
        const enum adamd_status status =
            adamd_queue_submit(model->queue, &job->ops[job->submitted], on_op_done, job);
        if (status == ADAMD_DEVICE_LOST) {
            model_fail(model, status);
            return false;
        }
        if (status != ADAMD_OK) {
            model->blocked = true; // full for now: the next completion or tick tries again
            return false;
        }
        job->submitted++;
    }
    return true;
}

static void submit_jobs(struct adamd_model *model) {
    model->blocked = false;
    while (model->jobs != NULL && submit_ops(model, model->jobs)) {
        struct job *job = model->jobs;
        model->jobs = job->next;
        if (model->jobs == NULL) {
            model->jobs_end = &model->jobs;
        }
        if (job->count == 0) {
            end_job(job);
            model->advance_again = true;
        }
    }
}

// Takes back what the backend has not seen. A job of which it has seen a part ends with that part.
static void cut_jobs(struct adamd_model *model, enum adamd_status status) {
    struct job *job = model->jobs;

    model->jobs = NULL;
    model->jobs_end = &model->jobs;
    while (job != NULL) {
        struct job *next = job->next;
        job->status = status;
        job->count = job->submitted;
        if (job->completed == job->count) {
            end_job(job);
        }
        job = next;
    }
}

// ----------------------------------------------------------------------------------------- failure

void model_fail(struct adamd_model *model, enum adamd_status status) {
    if (model->destroyed || model->state == ADAMD_MODEL_FAILED) {
        cut_jobs(model, status);
        return;
    }
    model->state = ADAMD_MODEL_FAILED;
    model_note_change(model);
    cut_jobs(model, status);
    gradients_end(model, NULL, status);
    manual_clear(model, status);
    waits_end(model, &model->pulls, status);
    waits_end(model, &model->pulls_ready, status);
    waits_end(model, &model->ema_pulls, status);
    waits_end(model, &model->capture.waits, status);
    waits_end(model, &model->restore_waits, status);
    waits_end(model, &model->addition_waits, status);
    if (model->differentiation != NULL) {
        waits_end(model, &model->differentiation->waits, status);
    }
    model->current = NULL;
    if (model->restore != NULL && !model->restore->submitted) {
        restore_forget(model);
    }
    addition_forget(model);
}

void model_end_all(struct adamd_model *model, enum adamd_status status) {
    model->destroyed = true; // jobs end without their own callbacks from here on
    model->state = ADAMD_MODEL_FAILED;
    cut_jobs(model, status);
    hooks_abandon(model);
    gradients_end(model, NULL, status);
    gradients_abort(model, &model->step.gradients, status);
    gradients_abort(model, &model->step.skipped, status);
    gradients_abort(model, &model->accumulating, status);
    steppers_end_all(model, &model->step.steppers, status, NULL);
    manual_clear(model, status);
    free(model->step.record);
    model->step.record = NULL;
    waits_end(model, &model->pulls, status);
    waits_end(model, &model->pulls_ready, status);
    waits_end(model, &model->ema_pulls, status);
    waits_end(model, &model->capture.waits, status);
    waits_end(model, &model->restore_waits, status);
    waits_end(model, &model->addition_waits, status);
    if (model->differentiation != NULL) {
        waits_end(model, &model->differentiation->waits, status);
    }
    if (model->restore != NULL && !model->restore->submitted) {
        restore_forget(model);
    }
    addition_forget(model);
}

// ------------------------------------------------------------------------------------------- waits

void wait_add(struct adamd_wait **list, struct adamd_wait *wait) {
    while (*list != NULL) {
        list = &(*list)->next;
    }
    wait->next = NULL;
    wait->link = list;
    *list = wait;
}

void wait_remove(struct adamd_wait *wait) {
    ADAMD_ASSERT(wait->link != NULL);
    *wait->link = wait->next;
    if (wait->next != NULL) {
        wait->next->link = wait->link;
    }
    wait->next = NULL;
    wait->link = NULL;
}

void adamd_wait_cancel(struct adamd_wait *wait) {
    if (wait->link != NULL) {
        wait_remove(wait);
    }
}

void waits_end(struct adamd_model *model, struct adamd_wait **list, enum adamd_status status) {
    while (*list != NULL) {
        struct adamd_wait *wait = *list;
        wait_remove(wait);
        wait->status = status;
        wait_add(&model->ended, wait);
    }
}

// ------------------------------------------------------------------------------------ calling back

static void tell_push(struct adamd_model *model) {
    struct adamd_push *push = model->endings;

    model->endings = push->next;
    if (push->next != NULL) {
        push->next->link = &model->endings;
    } else {
        model->endings_end = &model->endings;
    }
    // Off the heap before the call: the handle is gone, whatever the callback does.
    const struct adamd_push told = *push;
    free(push);
    told.on_decided(told.arg, told.status, &told.outcome, told.duplicate, &told.fault);
}

static void tell_stepper(struct adamd_model *model) {
    const struct stepper told = *model->steppers_ended;

    free(model->steppers_ended);
    model->steppers_ended = told.next;
    if (told.next == NULL) {
        model->steppers_end = &model->steppers_ended;
    }
    told.on_stepped(told.arg, told.status, told.record, told.duplicate);
}

static void tell_wait(struct adamd_wait *wait, const void *what) {
    wait_remove(wait);
    wait->on_ready(wait->arg, wait->status, what);
}

// A reader gets the version that is visible at the moment of the call.
static bool tell_pull(struct adamd_model *model) {
    struct adamd_wait *wait = model->pulls_ready;

    if (wait == NULL || model->current == NULL) {
        return false;
    }
    model->current->refs++;
    model->current_wanted = true;
    tell_wait(wait, &model->current->view);
    return true;
}

static bool tell_capture(struct adamd_model *model) {
    struct capture *capture = &model->capture;

    if (capture->state != CAPTURE_READY || capture->waits == NULL) {
        return false;
    }
    capture->state = CAPTURE_HELD;
    tell_wait(capture->waits, capture->told);
    return true;
}

static bool tell_differentiation(struct adamd_model *model) {
    struct adamd_differentiation *differentiation = model->differentiation;

    if (differentiation == NULL || differentiation->state != TURNED ||
        differentiation->waits == NULL) {
        return false;
    }
    tell_wait(differentiation->waits, &differentiation->view);
    return true;
}

// One callback, if one is due. One at a time, since each may change what the next one is.
static bool call_back(struct adamd_model *model) {
    if (model->changed) {
        model->changed = false;
        if (model->on_changed != NULL) {
            model->on_changed(model->changed_arg);
        }
        return true;
    }
    if (model->endings != NULL) {
        tell_push(model);
        return true;
    }
    if (model->steppers_ended != NULL) {
        tell_stepper(model);
        return true;
    }
    if (model->ended != NULL) {
        tell_wait(model->ended, NULL);
        return true;
    }
    return tell_capture(model) || tell_differentiation(model) || tell_pull(model) ||
           ema_tell(model);
}

void model_call_back_all(struct adamd_model *model) {
    while (call_back(model)) {
    }
}

void model_advance(struct adamd_model *model) {
    if (model->advancing) {
        model->advance_again = true;
        return;
    }
    model->advancing = true;
    do {
        model->advance_again = false;
        restore_advance(model);
        capture_advance(model);
        kept_advance(model);
        if (!growth_advance(model)) {
            published_advance(model);
            policy_advance(model);
        }
        hooks_advance(model);
        submit_jobs(model);
        while (!model->advance_again && call_back(model)) {
        }
    } while (model->advance_again);
    model->advancing = false;
}
