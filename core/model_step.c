// From gradients to one operation for the backend, and from its completion to a visible version.
#include "model_impl.h"

#include <math.h>
#include <stdlib.h>

enum { RULES_LOOKED_AT = 8 };

enum adamd_status step_init(struct step *step, uint32_t tensor_count) {
    step->stepped = calloc(1, bits_bytes(tensor_count));
    step->runs = calloc(tensor_count, sizeof step->runs[0]);
    step->rules = calloc(tensor_count, sizeof step->rules[0]);
    step->rule_keys = calloc(tensor_count, sizeof step->rule_keys[0]);
    return step->stepped == NULL || step->runs == NULL || step->rules == NULL ||
                   step->rule_keys == NULL
               ? ADAMD_NO_MEMORY
               : ADAMD_OK;
}

void step_finish(struct step *step) {
    free(step->stepped);
    free(step->runs);
    free(step->rules);
    free(step->rule_keys);
    free(step->sources);
    free(step->indices);
}

// ---------------------------------------------------------------------------------------- building

static bool reserve_sources(struct step *step, uint32_t count) {
    struct adamd_source *sources;

    if (count <= step->source_capacity) {
        return true;
    }
    sources = realloc(step->sources, count * sizeof *sources);
    if (sources == NULL) {
        return false;
    }
    step->sources = sources;
    step->source_capacity = count;
    return true;
}

static bool reserve_indices(struct step *step, uint32_t more) {
    const uint32_t wanted = step->index_count + more;
    const uint32_t capacity = wanted > 2 * step->index_capacity ? wanted : 2 * step->index_capacity;
    uint32_t *indices;

    if (wanted <= step->index_capacity) {
        return true;
    }
    indices = realloc(step->indices, capacity * sizeof *indices);
    if (indices == NULL) {
        return false;
    }
    step->indices = indices;
    step->index_capacity = capacity;
    return true;
}

// Source k is contribution k. Source count + k is the same one with weight 0: beside a lone
// contribution of a round of several, it makes the backend divide by the sum of all weights.
static enum adamd_status set_sources(struct adamd_model *model, struct slot *accumulated) {
    struct step *step = &model->step;
    uint32_t count = accumulated != NULL ? 1 : 0;
    double weight_sum = 0;

    for (const struct gradient *gradient = step->gradients.first; gradient != NULL;
         gradient = gradient->next) {
        count++;
    }
    if (!reserve_sources(step, 2 * count)) {
        return ADAMD_NO_MEMORY;
    }
    count = 0;
    if (accumulated != NULL) {
        step->sources[count++] = (struct adamd_source){accumulated->buffer, 1.0};
        weight_sum = 1.0;
    }
    for (const struct gradient *gradient = step->gradients.first; gradient != NULL;
         gradient = gradient->next) {
        step->sources[count++] = (struct adamd_source){gradient->slot->buffer, gradient->weight};
        weight_sum += gradient->weight;
    }
    for (uint32_t k = 0; k < count; k++) {
        step->sources[count + k] = (struct adamd_source){step->sources[k].gradient, 0.0};
    }
    step->source_count = 2 * count;
    step->weight_sum = weight_sum;
    return ADAMD_OK;
}

// Writes the sources of `tensor` behind index_count; returns how many.
static uint32_t list_sources(const struct adamd_model *model, const struct slot *accumulated,
                             uint32_t tensor) {
    const struct step *step = &model->step;
    const uint32_t contributions = step->source_count / 2;
    uint32_t *indices = step->indices + step->index_count;
    uint32_t count = 0;
    uint32_t k = 0;

    if (accumulated != NULL) {
        indices[0] = 0;
        return bit_get(model->has_gradient, tensor) ? 1 : 0;
    }
    for (const struct gradient *gradient = step->gradients.first; gradient != NULL;
         gradient = gradient->next, k++) {
        if (gradient_has(gradient, tensor)) {
            indices[count++] = k;
        }
    }
    if (count == 1 && contributions > 1) {
        indices[1] = indices[0];
        indices[0] += contributions;
        count = 2;
    }
    return count;
}

// The rule of a tensor: equal for equal group and t, and found among the last few.
static uint32_t find_rule(struct step *step, const struct adamd_options *options, uint32_t group,
                          uint64_t t) {
    const uint32_t oldest =
        step->rule_count > RULES_LOOKED_AT ? step->rule_count - RULES_LOOKED_AT : 0;

    for (uint32_t i = step->rule_count; i > oldest; i--) {
        if (step->rule_keys[i - 1].group == group && step->rule_keys[i - 1].t == t) {
            return i - 1;
        }
    }
    step->rules[step->rule_count] = adamd_rule_of(options, t);
    step->rule_keys[step->rule_count].group = group;
    step->rule_keys[step->rule_count].t = t;
    return step->rule_count++;
}

// True if the run, which reaches to the tensor's predecessor, has the same dtype, rule and sources.
static bool extends(const struct step *step, enum adamd_dtype dtype, uint32_t rule,
                    uint32_t sources_count) {
    const struct adamd_run *run;

    if (step->run_count == 0) {
        return false;
    }
    run = &step->runs[step->run_count - 1];
    return run->dtype == dtype && run->rule == rule && run->sources_count == sources_count &&
           memcmp(step->indices + run->sources_first, step->indices + step->index_count,
                  sources_count * sizeof step->indices[0]) == 0;
}

// Appends `tensor`, whose sources were listed, to the runs; `adjacent`: the last one reaches to its
// predecessor.
static void add_run(struct step *step, const struct adamd_tensor *tensor, uint32_t rule,
                    uint32_t sources_count, bool adjacent) {
    const enum adamd_dtype dtype = adamd_dtype_real(tensor->dtype);
    const uint64_t end = tensor->offset + adamd_tensor_bytes(tensor);

    if (adjacent && extends(step, dtype, rule, sources_count)) {
        struct adamd_run *run = &step->runs[step->run_count - 1];
        run->count = (end - run->offset) / adamd_dtype_size(dtype);
        return;
    }
    step->runs[step->run_count++] = (struct adamd_run){
        .offset = tensor->offset,
        .count = adamd_tensor_reals(tensor),
        .dtype = dtype,
        .rule = rule,
        .sources_first = step->index_count,
        .sources_count = sources_count,
    };
    step->index_count += sources_count;
}

enum adamd_status step_build(struct adamd_model *model, struct slot *accumulated,
                             const struct adamd_options *options) {
    struct step *step = &model->step;
    const struct adamd_layout *layout = &model->layout;
    bool adjacent = false;
    enum adamd_status status;

    step->run_count = 0;
    step->rule_count = 0;
    step->index_count = 0;
    memset(step->stepped, 0, bits_bytes(layout->tensor_count));
    status = set_sources(model, accumulated);
    for (uint32_t k = 0; k < layout->tensor_count && status == ADAMD_OK; k++) {
        const uint32_t i = layout->by_offset[k];
        const struct adamd_tensor *tensor = &layout->tensors[i];
        if (!reserve_indices(step, step->source_count / 2 + 1)) {
            return ADAMD_NO_MEMORY;
        }
        const uint32_t count = list_sources(model, accumulated, i);
        if (count > 0) {
            bit_set(step->stepped, i);
        }
        if (count == 0 || tensor->count == 0) {
            adjacent = adjacent && tensor->count == 0;
            continue;
        }
        const uint32_t group = model->group_of[i];
        const uint32_t rule =
            find_rule(step, options != NULL ? &options[group] : &model->groups[group].options,
                      group, model->steps[i] + 1);
        add_run(step, tensor, rule, count, adjacent);
        adjacent = true;
    }
    return status;
}

// -------------------------------------------------------------------------------------- completion

static void advance_steps(struct adamd_model *model) {
    for (uint32_t i = 0; i < model->layout.tensor_count; i++) {
        model->steps[i] += bit_get(model->step.stepped, i) ? 1 : 0;
    }
}

static void decide_list(struct adamd_model *model, struct gradient_list *list,
                        enum adamd_outcome_kind kind, double grad_norm) {
    const uint32_t contributors = model->step.record->contribution_count;

    while (list->first != NULL) {
        struct adamd_outcome outcome = gradient_outcome(model, list->first, kind);
        outcome.contributors = kind == ADAMD_APPLIED ? contributors : 0;
        outcome.grad_norm = kind == ADAMD_APPLIED ? grad_norm : 0;
        gradient_decide(model, list->first, &outcome);
    }
}

static void make_visible(struct adamd_model *model) {
    struct step *step = &model->step;
    struct adamd_step_record *record = step->record;

    advance_steps(model);
    model->version++;
    kept_turn(model, true);
    record->grad_norm = sqrt(step->square_sum);
    record->update_ns = model_clock_ns() - step->submit_ns;
    decide_list(model, &step->gradients, ADAMD_APPLIED, record->grad_norm);
    decide_list(model, &step->skipped, ADAMD_SKIPPED_NONFINITE, 0);
    record_commit(model, record);
    published_turn(model, step->publish);
    steppers_end_all(model, &step->steppers, ADAMD_OK, record);
}

void step_end(struct adamd_model *model, enum adamd_status status) {
    struct step *step = &model->step;

    step->active = false;
    if (status == ADAMD_OK) {
        make_visible(model);
    } else {
        kept_turn(model, false);
        free(step->record);
        gradients_abort(model, &step->gradients, status);
        gradients_abort(model, &step->skipped, status);
        steppers_end_all(model, &step->steppers, status, NULL);
        if (step->publish != NULL) {
            step->publish->busy = false;
        }
    }
    step->record = NULL;
    step->publish = NULL;
}

void step_skip(struct adamd_model *model, enum adamd_skip skip) {
    struct step *step = &model->step;
    struct adamd_step_record *record = step->record;

    step->active = false;
    step->record = NULL;
    record->skip = skip;
    while (step->skipped.first != NULL) {
        struct gradient *gradient = step->skipped.first;
        gradient_remove(gradient);
        gradient_append(&step->gradients, gradient);
    }
    while (step->gradients.first != NULL) {
        const struct adamd_outcome outcome =
            gradient_outcome(model, step->gradients.first, ADAMD_SKIPPED_NONFINITE);
        gradient_decide(model, step->gradients.first, &outcome);
    }
    record_commit_skipped(model, record);
    steppers_end_all(model, &step->steppers, ADAMD_OK, record);
}

static void refuse_all(struct adamd_model *model, struct gradient_list *list,
                       const struct adamd_fault *fault) {
    struct gradient *next;

    for (struct gradient *gradient = list->first; gradient != NULL; gradient = next) {
        next = gradient->next; // what is refused with it is in other lists
        gradient_refuse(model, gradient, fault);
    }
}

void step_refuse(struct adamd_model *model, const struct adamd_fault *fault) {
    struct step *step = &model->step;

    step->active = false;
    free(step->record);
    step->record = NULL;
    refuse_all(model, &step->gradients, fault);
    refuse_all(model, &step->skipped, fault);
    steppers_end_all(model, &step->steppers, fault->status, NULL);
}

static void on_step_done(struct adamd_model *model, struct job *job, enum adamd_status status) {
    (void)job;
    if (!hooks_take_step(model, status)) {
        step_end(model, status);
    }
}

static struct adamd_op make_op(struct adamd_model *model) {
    struct step *step = &model->step;

    return (struct adamd_op){
        .kind = ADAMD_OP_STEP,
        .step =
            {
                .param = model->arrays[ADAMD_PARAM],
                .exp_avg = model->arrays[ADAMD_EXP_AVG],
                .exp_avg_sq = model->arrays[ADAMD_EXP_AVG_SQ],
                .max_exp_avg_sq = model->arrays[ADAMD_MAX_EXP_AVG_SQ],
                .publish = step->publish != NULL ? step->publish->buffer : NULL,
                .arena_bytes = model->layout.arena_bytes,
                .rules = step->rules,
                .rule_count = step->rule_count,
                .sources = step->sources,
                .source_count = step->source_count,
                .source_indices = step->indices,
                .source_index_count = step->index_count,
                .weight_sum = step->weight_sum,
                .runs = step->runs,
                .run_count = step->run_count,
                .ret_square_sum = &step->square_sum,
            },
    };
}

static bool wants_parameters(const struct step *step) {
    const struct gradient *gradient = step->gradients.first;

    while (gradient != NULL && !gradient->wants_parameters) {
        gradient = gradient->next;
    }
    return gradient != NULL;
}

void step_begin(struct adamd_model *model, struct adamd_step_record *record) {
    struct step *step = &model->step;

    step->active = true;
    step->record = record;
    step->square_sum = 0;
    step->submit_ns = model_clock_ns();
    step->publish = NULL;
}

// NULL if out of memory. `options` are the step's.
static struct job *create_job(struct adamd_model *model, const struct adamd_options *options) {
    struct job *job = NULL;

    if (kept_prepare(model, options) == ADAMD_OK) {
        job = job_create(model, kept_op_count(model) + 1, on_step_done, NULL);
    }
    if (job == NULL) {
        kept_turn(model, false);
    }
    return job;
}

static void submit_job(struct adamd_model *model, struct job *job, struct slot *accumulated) {
    struct step *step = &model->step;

    job->count = 0;
    if (step->run_count > 0) { // tensors without elements have their t, and nothing else to do
        step->publish = published_for_step(model, wants_parameters(step));
        const struct adamd_op op = make_op(model);
        kept_add_ops(model, &op.step, job);
        job->ops[job->count++] = op;
    }
    job->reads = accumulated;
    job_submit(model, job);
}

enum adamd_status step_submit(struct adamd_model *model, struct slot *accumulated,
                              const struct adamd_options *options) {
    struct job *job = create_job(model, options);

    if (job == NULL) {
        return ADAMD_NO_MEMORY;
    }
    submit_job(model, job, accumulated);
    return ADAMD_OK;
}

void step_use_source(struct step *step, struct adamd_buffer *gradient) {
    if (step->run_count == 0) {
        return;
    }
    step->sources[0] = (struct adamd_source){gradient, 1.0};
    step->source_count = 1;
    step->indices[0] = 0;
    step->index_count = 1;
    for (uint32_t i = 0; i < step->run_count; i++) {
        step->runs[i].sources_first = 0;
        step->runs[i].sources_count = 1;
    }
}

enum adamd_status step_start(struct adamd_model *model, struct slot *accumulated,
                             const struct adamd_options *options,
                             struct adamd_step_record *record) {
    enum adamd_status status;
    struct job *job = NULL;

    if (hooks_wanted(model)) {
        return hooks_step_start(model, accumulated, options, record);
    }
    status = step_build(model, accumulated, options);
    if (status == ADAMD_OK) {
        job = create_job(model, options);
        status = job == NULL ? ADAMD_NO_MEMORY : ADAMD_OK;
    }
    if (status != ADAMD_OK) {
        free(record);
        return status;
    }
    if (options != NULL) {
        record->lr = options[0].lr;
    }
    step_begin(model, record);
    submit_job(model, job, accumulated);
    return ADAMD_OK;
}
