// What is kept of the last step, so that it can be differentiated: copies of all that it read, made
// by the backend right before it. Only models with a differentiable group have any.
#include "model_impl.h"

#include <stdlib.h>

enum { RULES_LOOKED_AT = 8 };

// ------------------------------------------------------------------------------------------ arrays

bool model_is_differentiable(const struct adamd_model *model) {
    bool any = false;

    for (uint32_t i = 0; i < model->group_count; i++) {
        any = any || model->groups[i].options.differentiable;
    }
    return any;
}

// All arrays, but the maximum only where it is read.
static bool wants_array(const struct adamd_options *options, uint32_t count, int array) {
    bool wanted = false;

    for (uint32_t i = 0; i < count; i++) {
        wanted = wanted || (options[i].differentiable &&
                            (array != ADAMD_MAX_EXP_AVG_SQ || options[i].amsgrad));
    }
    return wanted;
}

enum adamd_status kept_ensure(struct adamd_model *model, const struct adamd_options *options,
                              uint32_t count) {
    struct adamd_buffer *made[ADAMD_COTANGENT_COUNT] = {NULL};
    enum adamd_status status = ADAMD_OK;

    for (int array = 0; array < ADAMD_COTANGENT_COUNT && status == ADAMD_OK; array++) {
        if (model->kept.buffers[array] == NULL && wants_array(options, count, array)) {
            status = model_alloc(model, ADAMD_DEVICE, true, &made[array]);
        }
    }
    for (int array = 0; array < ADAMD_COTANGENT_COUNT; array++) {
        if (status != ADAMD_OK) {
            model_release(model, made[array]);
        } else if (made[array] != NULL) {
            model->kept.buffers[array] = made[array];
        }
    }
    return status == ADAMD_BUSY ? ADAMD_NO_MEMORY : status; // over the model's limit
}

static void release_arrays(struct adamd_model *model) {
    for (int array = 0; array < ADAMD_COTANGENT_COUNT; array++) {
        model_release(model, model->kept.buffers[array]);
        model->kept.buffers[array] = NULL;
    }
}

// ------------------------------------------------------------------------------------------- steps

static void free_step(struct kept_step *step) {
    if (step != NULL) {
        free(step->runs);
        free(step->rules);
        free(step->rule_keys);
        free(step->stepped);
        free(step->options);
        free(step);
    }
}

struct kept_step *kept_step_hold(struct kept_step *step) {
    step->refs++;
    return step;
}

void kept_step_drop(struct kept_step *step) {
    if (step != NULL && --step->refs == 0) {
        free_step(step);
    }
}

static struct kept_step *create_step(const struct adamd_model *model) {
    const size_t tensors = model->layout.tensor_count;
    struct kept_step *step = calloc(1, sizeof *step);

    if (step == NULL) {
        return NULL;
    }
    step->refs = 1;
    step->group_count = model->group_count;
    step->runs = calloc(tensors, sizeof step->runs[0]);
    step->rules = calloc(tensors, sizeof step->rules[0]);
    step->rule_keys = calloc(tensors, sizeof step->rule_keys[0]);
    step->stepped = malloc(bits_bytes(model->layout.tensor_count));
    step->options = calloc(model->group_count, sizeof step->options[0]);
    if (step->runs == NULL || step->rules == NULL || step->rule_keys == NULL ||
        step->stepped == NULL || step->options == NULL) {
        free_step(step);
        return NULL;
    }
    memcpy(step->stepped, model->step.stepped, bits_bytes(model->layout.tensor_count));
    return step;
}

// The rule of a tensor: equal for equal group and t, and found among the last few.
static uint32_t find_rule(struct kept_step *step, uint32_t group, uint64_t t) {
    const uint32_t oldest =
        step->rule_count > RULES_LOOKED_AT ? step->rule_count - RULES_LOOKED_AT : 0;

    for (uint32_t i = step->rule_count; i > oldest; i--) {
        if (step->rule_keys[i - 1].group == group && step->rule_keys[i - 1].t == t) {
            return i - 1;
        }
    }
    step->rules[step->rule_count] = adamd_vjp_rule_of(&step->options[group], t);
    step->rule_keys[step->rule_count].group = group;
    step->rule_keys[step->rule_count].t = t;
    return step->rule_count++;
}

// A run a tensor: the padding between tensors would be differentiated to NaN.
static void add_run(const struct adamd_model *model, struct kept_step *step, uint32_t tensor) {
    const struct adamd_tensor *entry = &model->layout.tensors[tensor];

    if (entry->count > 0) {
        step->runs[step->run_count++] = (struct adamd_run){
            .offset = entry->offset,
            .count = adamd_tensor_reals(entry),
            .dtype = adamd_dtype_real(entry->dtype),
            .rule = find_rule(step, model->group_of[tensor], model->steps[tensor] + 1),
        };
    }
}

static bool takes_part(const struct adamd_model *model, uint32_t tensor) {
    return bit_get(model->step.stepped, tensor) &&
           model->groups[model->group_of[tensor]].options.differentiable;
}

enum adamd_status kept_prepare(struct adamd_model *model, const struct adamd_options *options) {
    struct kept_step *step = NULL;
    bool any = false;

    ADAMD_ASSERT(model->kept.next == NULL);
    for (uint32_t i = 0; i < model->layout.tensor_count && !any; i++) {
        any = takes_part(model, i);
    }
    if (!any) {
        return ADAMD_OK;
    }
    step = create_step(model);
    if (step == NULL) {
        return ADAMD_NO_MEMORY;
    }
    for (uint32_t i = 0; i < model->group_count; i++) {
        step->options[i] = options != NULL ? options[i] : model->groups[i].options;
        step->options[i].differentiable = model->groups[i].options.differentiable;
    }
    const enum adamd_status status = kept_ensure(model, step->options, step->group_count);
    if (status != ADAMD_OK) {
        free_step(step);
        return status;
    }
    for (uint32_t i = 0; i < model->layout.tensor_count; i++) {
        const uint32_t tensor = model->layout.by_offset[i];
        if (takes_part(model, tensor)) {
            add_run(model, step, tensor);
        }
    }
    model->kept.next = step;
    return ADAMD_OK;
}

uint32_t kept_op_count(const struct adamd_model *model) {
    return model->kept.next != NULL && model->kept.next->run_count > 0 ? ADAMD_COTANGENT_COUNT : 0;
}

void kept_add_ops(const struct adamd_model *model, const struct adamd_step *step, struct job *job) {
    if (kept_op_count(model) == 0) {
        return;
    }
    for (int array = 0; array < ADAMD_GRAD; array++) {
        if (model->kept.buffers[array] != NULL && model->arrays[array] != NULL) {
            job->ops[job->count++] =
                (struct adamd_op){.kind = ADAMD_OP_COPY,
                                  .copy = {model->kept.buffers[array], model->arrays[array], 0, 0,
                                           model->arena_bytes}};
        }
    }
    job->ops[job->count++] = (struct adamd_op){
        .kind = ADAMD_OP_MEAN,
        .mean = {.to = model->kept.buffers[ADAMD_GRAD],
                 .sources = step->sources,
                 .source_count = step->source_count,
                 .source_indices = step->source_indices,
                 .source_index_count = step->source_index_count,
                 .weight_sum = step->weight_sum,
                 .runs = step->runs,
                 .run_count = step->run_count},
    };
}

void kept_turn(struct adamd_model *model, bool made) {
    if (made) {
        kept_step_drop(model->kept.last);
        model->kept.last = model->kept.next;
    } else {
        kept_step_drop(model->kept.next);
    }
    model->kept.next = NULL;
}

void kept_forget(struct adamd_model *model) {
    kept_step_drop(model->kept.last);
    model->kept.last = NULL;
}

void kept_outgrow(struct adamd_model *model) {
    kept_forget(model);
    release_arrays(model);
}

void kept_advance(struct adamd_model *model) {
    const bool is_wanted = model_is_differentiable(model) ||
                           (model->restore != NULL && model->restore->committed); // may ask

    if (is_wanted || model->kept.buffers[ADAMD_PARAM] == NULL || model->step.active ||
        differentiation_runs(model)) {
        return;
    }
    kept_outgrow(model);
}

void kept_finish(struct adamd_model *model) {
    kept_turn(model, false);
    kept_outgrow(model);
}
