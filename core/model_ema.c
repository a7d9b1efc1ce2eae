// The averaged copy of the parameters: an array of the model that the hook `ema` keeps, and copies
// of it for readers.
#include "actions_impl.h"
#include "model_impl.h"

#include <stdlib.h>

enum adamd_status ema_ensure(struct adamd_model *model) {
    struct adamd_buffer *buffer = NULL;
    enum adamd_status status;
    struct job *job;

    if (model->arrays[ADAMD_EMA] != NULL) {
        return ADAMD_OK;
    }
    status = model_alloc(model, ADAMD_DEVICE, true, &buffer);
    if (status != ADAMD_OK) {
        return status == ADAMD_BUSY ? ADAMD_NO_MEMORY : status; // over the model's limit
    }
    job = job_create(model, 1, NULL, NULL);
    if (job == NULL) {
        model_release(model, buffer);
        return ADAMD_NO_MEMORY;
    }
    model->arrays[ADAMD_EMA] = buffer;
    job->ops[0] = (struct adamd_op){.kind = ADAMD_OP_FILL, .fill = {buffer, 0, model->arena_bytes}};
    job_submit(model, job);
    return ADAMD_OK;
}

// ------------------------------------------------------------------------------------ after a step

static void on_averaged(struct adamd_model *model, struct job *job, enum adamd_status status) {
    struct action_hook *hook = action_find(&model->hooks, ADAMD_EMA_ACTION);

    (void)job;
    if (hook != NULL && status == ADAMD_OK) {
        hook->action.ema.n_averaged++;
        hook->ema_bytes = model->layout.arena_bytes;
    }
    hooks_job_done(model, status);
}

// The range that begins with the `*at`-th tensor of the arena and goes on while they are of one
// dtype, padding between them included; `*at` is then the next one's. Only below `end`.
static bool next_blend(const struct adamd_model *model, uint64_t end, uint32_t *at,
                       struct adamd_blend *blend) {
    const struct adamd_layout *layout = &model->layout;

    blend->count = 0;
    for (; *at < layout->tensor_count; (*at)++) {
        const struct adamd_tensor *tensor = &layout->tensors[layout->by_offset[*at]];
        const enum adamd_dtype dtype = adamd_dtype_real(tensor->dtype);
        if (tensor->offset >= end || (blend->count > 0 && dtype != blend->dtype)) {
            break;
        }
        if (blend->count == 0) {
            blend->offset = tensor->offset;
            blend->dtype = dtype;
        }
        blend->count =
            (tensor->offset - blend->offset) / adamd_dtype_size(dtype) + adamd_tensor_reals(tensor);
    }
    return blend->count > 0;
}

static uint32_t count_blends(const struct adamd_model *model, uint64_t end) {
    struct adamd_blend blend = {.count = 0};
    uint32_t count = 0;

    for (uint32_t at = 0; next_blend(model, end, &at, &blend);) {
        count++;
    }
    return count;
}

// Parameters that are new to the average are copied, as all are at first.
enum adamd_status ema_submit(struct adamd_model *model, struct action_hook *hook) {
    const uint64_t known = hook->action.ema.n_averaged > 0 ? hook->ema_bytes : 0;
    struct adamd_blend blend = {.to = model->arrays[ADAMD_EMA],
                                .from = model->arrays[ADAMD_PARAM],
                                .weight = 1.0 - hook->action.ema.decay};
    struct job *job = job_create(model, count_blends(model, known) + 1, on_averaged, NULL);

    if (job == NULL) {
        return ADAMD_NO_MEMORY;
    }
    job->count = 0;
    for (uint32_t at = 0; next_blend(model, known, &at, &blend);) {
        job->ops[job->count++] = (struct adamd_op){.kind = ADAMD_OP_BLEND, .blend = blend};
    }
    if (known < model->layout.arena_bytes) {
        job->ops[job->count++] =
            (struct adamd_op){.kind = ADAMD_OP_COPY,
                              .copy = {model->arrays[ADAMD_EMA], model->arrays[ADAMD_PARAM], known,
                                       known, model->layout.arena_bytes - known}};
    }
    hooks_submit(model, job);
    return ADAMD_OK;
}

// ----------------------------------------------------------------------------------------- readers

static bool is_kept(const struct adamd_model *model) {
    return action_find(&model->hooks, ADAMD_EMA_ACTION) != NULL;
}

static void on_copied(struct adamd_model *model, struct job *job, enum adamd_status status) {
    model->ema_copying = false;
    if (published_copied(model, job->arg, status)) {
        model->ema_current = job->arg;
    }
}

// Between two versions, so that the average is of the version that is visible.
void ema_advance(struct adamd_model *model) {
    const bool at_boundary = !model->step.active && model->state != ADAMD_MODEL_RESTORING;

    if (model->ema_current != NULL && (model->ema_current->view.version != model->version ||
                                       model->ema_current->view.generation != model->generation)) {
        model->ema_current = NULL;
    }
    if (!is_kept(model)) {
        waits_end(model, &model->ema_pulls, ADAMD_NOT_FOUND);
        model->ema_current = NULL;
        if (model->arrays[ADAMD_EMA] != NULL && at_boundary && model->jobs_alive == 0) {
            model_release(model, model->arrays[ADAMD_EMA]);
            model->arrays[ADAMD_EMA] = NULL;
        }
        return;
    }
    if (model->ema_pulls != NULL && model->ema_current == NULL && !model->ema_copying &&
        at_boundary) {
        model->ema_copying = published_copy(model, ADAMD_EMA, on_copied);
    }
}

bool ema_tell(struct adamd_model *model) {
    struct adamd_wait *wait = model->ema_pulls;

    if (wait == NULL || model->ema_current == NULL) {
        return false;
    }
    model->ema_current->refs++;
    wait_remove(wait);
    wait->on_ready(wait->arg, ADAMD_OK, &model->ema_current->view);
    return true;
}

void adamd_model_pull_ema(struct adamd_model *model, struct adamd_wait *wait,
                          void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                          void *arg) {
    const struct action_hook *hook = action_find(&model->hooks, ADAMD_EMA_ACTION);
    enum adamd_status status = published_check_pull(model, model->ema_pulls);

    if (status == ADAMD_OK && (hook == NULL || hook->action.ema.n_averaged == 0)) {
        status = ADAMD_NOT_FOUND;
    }
    *wait = (struct adamd_wait){.on_ready = on_ready, .arg = arg, .status = status};
    wait_add(status == ADAMD_OK ? &model->ema_pulls : &model->ended, wait);
    model_advance(model);
}
