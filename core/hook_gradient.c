// The gradient of a step as its hooks see it: where it lies, and the operations on it.
#include "actions_impl.h"
#include "model_impl.h"

#include <math.h>
#include <stdlib.h>

static void on_ops_done(struct adamd_model *model, struct job *job, enum adamd_status status) {
    (void)job;
    hooks_job_done(model, status);
}

// Of several contributions, the mean is formed first, into a buffer that is kept for it.
static enum adamd_status form_mean(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;
    const struct step *step = &model->step;
    enum adamd_status status = ADAMD_OK;
    struct job *job;

    if (hooking->mean != NULL && adamd_buffer_bytes(hooking->mean) < model->arena_bytes) {
        model_release(model, hooking->mean); // the arena has grown
        hooking->mean = NULL;
    }
    if (hooking->mean == NULL) {
        status = model_alloc(model, ADAMD_DEVICE, true, &hooking->mean);
    }
    job = status == ADAMD_OK ? job_create(model, 1, on_ops_done, NULL) : NULL;
    if (job == NULL) {
        return ADAMD_NO_MEMORY;
    }
    job->ops[0] = (struct adamd_op){.kind = ADAMD_OP_MEAN,
                                    .mean = {.to = hooking->mean,
                                             .sources = step->sources,
                                             .source_count = step->source_count,
                                             .source_indices = step->indices,
                                             .source_index_count = step->index_count,
                                             .weight_sum = step->weight_sum,
                                             .runs = step->runs,
                                             .run_count = step->run_count}};
    hooks_submit(model, job);
    hooking->gradient = hooking->mean;
    hooking->is_mean = true;
    return ADAMD_OK;
}

// Finds it, if there is one at all.
static enum adamd_status find_gradient(struct adamd_model *model) {
    struct hooking *hooking = &model->hooking;
    const struct gradient *first = model->step.gradients.first;

    ADAMD_ASSERT(hooking->phase == HOOKS_BEFORE);
    if (hooking->gradient != NULL || model->step.run_count == 0) {
        return ADAMD_OK;
    }
    if (hooking->accumulated != NULL) {
        hooking->gradient = hooking->accumulated->buffer;
        return ADAMD_OK;
    }
    if (first->next != NULL) {
        return form_mean(model);
    }
    hooking->gradient = first->slot->buffer;
    return ADAMD_OK;
}

// ------------------------------------------------------------------------------------ scale, clamp

// Writes an operation on `run` of the gradient.
typedef void make_fn(struct adamd_op *op, struct adamd_buffer *gradient,
                     const struct adamd_run *run, double value);

static void make_scale(struct adamd_op *op, struct adamd_buffer *gradient,
                       const struct adamd_run *run, double value) {
    *op = (struct adamd_op){.kind = ADAMD_OP_SCALE,
                            .scale = {.to = gradient,
                                      .offset = run->offset,
                                      .count = run->count,
                                      .dtype = run->dtype,
                                      .factor = value}};
}

static void make_division(struct adamd_op *op, struct adamd_buffer *gradient,
                          const struct adamd_run *run, double value) {
    make_scale(op, gradient, run, value);
    op->scale.divides = true;
}

static void make_clamp(struct adamd_op *op, struct adamd_buffer *gradient,
                       const struct adamd_run *run, double value) {
    *op = (struct adamd_op){.kind = ADAMD_OP_CLAMP,
                            .clamp = {.to = gradient,
                                      .offset = run->offset,
                                      .count = run->count,
                                      .dtype = run->dtype,
                                      .limit = value}};
}

static enum adamd_status submit_by_run(struct adamd_model *model, make_fn *make, double value) {
    const struct step *step = &model->step;
    struct job *job = job_create(model, step->run_count, on_ops_done, NULL);

    if (job == NULL) {
        return ADAMD_NO_MEMORY;
    }
    for (uint32_t i = 0; i < step->run_count; i++) {
        make(&job->ops[i], model->hooking.gradient, &step->runs[i], value);
    }
    hooks_submit(model, job);
    return ADAMD_OK;
}

// Tensor by tensor: a factor that is not finite must not get into the padding, which runs may reach
// over and which stays zeros for as long as the memory is used.
static enum adamd_status submit_by_tensor(struct adamd_model *model, make_fn *make, double value) {
    const struct adamd_layout *layout = &model->layout;
    struct job *job = job_create(model, layout->tensor_count, on_ops_done, NULL);

    if (job == NULL) {
        return ADAMD_NO_MEMORY;
    }
    job->count = 0;
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct adamd_tensor *tensor = &layout->tensors[i];
        const struct adamd_run run = {.offset = tensor->offset,
                                      .count = adamd_tensor_reals(tensor),
                                      .dtype = adamd_dtype_real(tensor->dtype)};
        if (run.count > 0 && bit_get(model->step.stepped, i)) {
            make(&job->ops[job->count++], model->hooking.gradient, &run, value);
        }
    }
    hooks_submit(model, job);
    return ADAMD_OK;
}

enum adamd_status hooks_scale(struct adamd_model *model, double factor, bool divides) {
    const enum adamd_status status = find_gradient(model);
    make_fn *make = divides ? make_division : make_scale;

    if (status != ADAMD_OK || model->hooking.gradient == NULL) {
        return status;
    }
    return isfinite(factor) ? submit_by_run(model, make, factor)
                            : submit_by_tensor(model, make, factor);
}

enum adamd_status adamd_hook_scale(struct adamd_hook_call *call, double factor) {
    return hooks_scale(call->model, factor, false);
}

enum adamd_status adamd_hook_clamp(struct adamd_hook_call *call, double limit) {
    const enum adamd_status status = find_gradient(call->model);

    ADAMD_ASSERT(limit >= 0);
    if (status != ADAMD_OK || call->model->hooking.gradient == NULL) {
        return status;
    }
    return submit_by_run(call->model, make_clamp, limit);
}

// -------------------------------------------------------------------------------------------- norm

struct norm_parts {
    uint32_t count;
    struct adamd_norm_part parts[];
};

static void on_norm_done(struct adamd_model *model, struct job *job, enum adamd_status status) {
    struct norm_parts *parts = job->arg;
    struct adamd_gradient_norm norm = {0};

    for (uint32_t i = 0; status == ADAMD_OK && i < parts->count; i++) {
        const struct adamd_norm_part *part = &parts->parts[i];
        norm.square_sum += part->square_sum;
        norm.max_abs = part->max_abs > norm.max_abs ? part->max_abs : norm.max_abs;
        norm.nonfinite += part->nonfinite;
    }
    model->hooking.norm = norm;
    hooks_job_done(model, status);
}

static void free_parts(struct job *job) {
    free(job->arg);
}

enum adamd_status adamd_hook_norm(struct adamd_hook_call *call) {
    struct adamd_model *model = call->model;
    const struct step *step = &model->step;
    const enum adamd_status status = find_gradient(model);
    struct norm_parts *parts;
    struct job *job;

    if (status != ADAMD_OK || model->hooking.gradient == NULL) {
        model->hooking.norm = (struct adamd_gradient_norm){0};
        return status;
    }
    parts = calloc(1, sizeof *parts + step->run_count * sizeof parts->parts[0]);
    job = parts != NULL ? job_create(model, 1, on_norm_done, parts) : NULL;
    if (job == NULL) {
        free(parts);
        return ADAMD_NO_MEMORY;
    }
    parts->count = step->run_count;
    job->on_end = free_parts;
    job->ops[0] = (struct adamd_op){.kind = ADAMD_OP_NORM,
                                    .norm = {.from = model->hooking.gradient,
                                             .runs = step->runs,
                                             .run_count = step->run_count,
                                             .ret_parts = parts->parts}};
    hooks_submit(model, job);
    return ADAMD_OK;
}
