// The last step, differentiated: cotangents come in beside the running model, are turned by the
// backend at a version boundary, and are read where they lie.
#include "model_impl.h"

#include <stdlib.h>

static const char *const array_names[ADAMD_COTANGENT_COUNT] = {"param", "exp_avg", "exp_avg_sq",
                                                               "max_exp_avg_sq", "grad"};

bool differentiation_runs(const struct adamd_model *model) {
    return model->differentiation != NULL && model->differentiation->state == TURNING;
}

bool differentiation_reads_layout(const struct adamd_model *model) {
    const struct adamd_differentiation *differentiation = model->differentiation;

    return differentiation != NULL && differentiation->state == TURNED &&
           !differentiation->detached;
}

static void destroy(struct adamd_differentiation *differentiation) {
    struct adamd_model *model = differentiation->model;

    for (int array = 0; array < ADAMD_COTANGENT_COUNT; array++) {
        model_release(model, differentiation->buffers[array]);
        free(differentiation->written[array]);
    }
    kept_step_drop(differentiation->step);
    free(differentiation->sums);
    free(differentiation->groups);
    free(differentiation);
    model->differentiation = NULL;
}

void differentiation_forget(struct adamd_model *model) {
    if (model->differentiation != NULL) {
        ADAMD_ASSERT(!model->differentiation->held);
        destroy(model->differentiation);
    }
}

// ------------------------------------------------------------------------------------------- begin

static enum adamd_status check_state(const struct adamd_model *model, struct adamd_fault *fault) {
    switch (model->state) {
    case ADAMD_MODEL_INITIALIZING:
        return adamd_fail_plain(fault, ADAMD_INITIALIZING);
    case ADAMD_MODEL_FAILED:
        return adamd_fail_plain(fault, ADAMD_DEVICE_LOST);
    case ADAMD_MODEL_RESTORING:
        return adamd_fail(fault, ADAMD_BUSY, NULL, "the model's state is being restored");
    default:
        return ADAMD_OK;
    }
}

static enum adamd_status check_step(const struct adamd_model *model, uint64_t version,
                                    struct adamd_fault *fault) {
    if (!model_is_differentiable(model)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "differentiable",
                          "no parameter group of this model has differentiable=True");
    }
    if (version != UINT64_MAX && version != model->version) {
        (void)adamd_fail(fault, ADAMD_ETAG_MISMATCH, "version",
                         "only the last step can be differentiated: that of version %llu, not of "
                         "version %llu",
                         (unsigned long long)model->version, (unsigned long long)version);
        adamd_fault_tell(fault, "current_version", "%llu", (unsigned long long)model->version);
        return ADAMD_ETAG_MISMATCH;
    }
    if (model->kept.last == NULL) {
        return adamd_fail(fault, ADAMD_NOT_FOUND, "version",
                          model->version == 0
                              ? "no step was made yet"
                              : "the last step was not kept: no parameter of a group with "
                                "differentiable=True took part in it, or the model changed since");
    }
    return ADAMD_OK;
}

static bool has_array(const struct kept_step *step, int array) {
    bool amsgrad = false;

    for (uint32_t i = 0; i < step->group_count; i++) {
        amsgrad = amsgrad || (step->options[i].differentiable && step->options[i].amsgrad);
    }
    return array != ADAMD_MAX_EXP_AVG_SQ || amsgrad;
}

static enum adamd_status alloc_arrays(struct adamd_differentiation *differentiation) {
    struct adamd_model *model = differentiation->model;
    const struct kept_step *step = differentiation->step;
    enum adamd_status status = ADAMD_OK;

    for (int array = 0; array < ADAMD_COTANGENT_COUNT && status == ADAMD_OK; array++) {
        if (!has_array(step, array)) {
            continue;
        }
        status = model_alloc(model, ADAMD_STAGING, true, &differentiation->buffers[array]);
        differentiation->written[array] =
            calloc(model->layout.tensor_count, sizeof differentiation->written[array][0]);
        if (status == ADAMD_OK && differentiation->written[array] == NULL) {
            status = ADAMD_NO_MEMORY;
        }
    }
    // One more: a step over tensors without elements has no rule, and calloc(0) may say NULL.
    differentiation->sums = calloc((size_t)step->rule_count + 1, sizeof differentiation->sums[0]);
    differentiation->groups = calloc(step->group_count, sizeof differentiation->groups[0]);
    if (status == ADAMD_OK && (differentiation->sums == NULL || differentiation->groups == NULL)) {
        status = ADAMD_NO_MEMORY;
    }
    return status;
}

enum adamd_status adamd_differentiate_begin(struct adamd_model *model, uint64_t version,
                                            struct adamd_differentiation **ret_differentiation,
                                            struct adamd_fault *fault) {
    struct adamd_differentiation *differentiation;
    enum adamd_status status = check_state(model, fault);

    status = status == ADAMD_OK ? check_step(model, version, fault) : status;
    if (status != ADAMD_OK) {
        return status;
    }
    if (model->differentiation != NULL) {
        return adamd_fail(fault, ADAMD_OPERATION_RUNNING, NULL,
                          "another call differentiates this model");
    }
    differentiation = calloc(1, sizeof *differentiation);
    if (differentiation == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    differentiation->model = model;
    differentiation->held = true;
    differentiation->step = kept_step_hold(model->kept.last);
    model->differentiation = differentiation;
    status = alloc_arrays(differentiation);
    if (status != ADAMD_OK) {
        destroy(differentiation);
        return status == ADAMD_BUSY
                   ? adamd_fail(fault, status, NULL,
                                "the model takes all the memory that it may: retry later")
                   : adamd_fail_plain(fault, status);
    }
    *ret_differentiation = differentiation;
    return ADAMD_OK;
}

// ----------------------------------------------------------------------------------------- writing

enum adamd_status adamd_differentiate_expect(const struct adamd_differentiation *differentiation,
                                             enum adamd_array array, uint32_t tensor,
                                             struct adamd_fault *fault) {
    const struct adamd_model *model = differentiation->model;
    const struct kept_step *step = differentiation->step;
    const uint32_t group = model->group_of[tensor];
    const struct adamd_options *options = &step->options[group < step->group_count ? group : 0];
    const char *key = model->layout.tensors[tensor].key;

    if (group >= step->group_count || !options->differentiable) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, array_names[array],
                          "tensor %.128s is in a group without differentiable=True", key);
    }
    if (array == ADAMD_MAX_EXP_AVG_SQ && !options->amsgrad) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, array_names[array],
                          "tensor %.128s has no max_exp_avg_sq: its group is without amsgrad", key);
    }
    return ADAMD_OK;
}

enum adamd_status adamd_differentiate_write(struct adamd_differentiation *differentiation,
                                            enum adamd_array array, uint32_t tensor,
                                            const void *data, size_t size,
                                            struct adamd_fault *fault) {
    const struct adamd_tensor *entry;
    uint64_t *written;
    unsigned char *host;
    enum adamd_status status;

    if (differentiation->model->destroyed) {
        return adamd_fail_plain(fault, ADAMD_CANCELLED);
    }
    ADAMD_ASSERT(differentiation->state == TAKING_COTANGENTS && (int)array < ADAMD_GRAD);
    ADAMD_ASSERT(tensor < differentiation->model->layout.tensor_count);
    status = adamd_differentiate_expect(differentiation, array, tensor, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    entry = &differentiation->model->layout.tensors[tensor];
    written = &differentiation->written[array][tensor];
    if (size > adamd_tensor_bytes(entry) - *written) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, array_names[array],
                          "%s of tensor %.128s has more bytes than %llu", array_names[array],
                          entry->key, (unsigned long long)adamd_tensor_bytes(entry));
    }
    host = adamd_buffer_host(differentiation->buffers[array]);
    if (size > 0) {
        memcpy(host + entry->offset + *written, data, size);
    }
    *written += size;
    return ADAMD_OK;
}

// ----------------------------------------------------------------------------------------- turning

// All of a tensor or nothing of it.
static enum adamd_status check_whole(const struct adamd_differentiation *differentiation, int array,
                                     struct adamd_fault *fault) {
    const struct adamd_layout *layout = &differentiation->model->layout;
    const uint64_t *written = differentiation->written[array];

    for (uint32_t i = 0; written != NULL && i < layout->tensor_count; i++) {
        const uint64_t bytes = adamd_tensor_bytes(&layout->tensors[i]);
        if (written[i] != 0 && written[i] != bytes) {
            return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, array_names[array],
                              "%s of tensor %.128s is incomplete: %llu of %llu bytes",
                              array_names[array], layout->tensors[i].key,
                              (unsigned long long)written[i], (unsigned long long)bytes);
        }
    }
    return ADAMD_OK;
}

// What is to be differentiated must still be there: a step that was begun meanwhile overwrites it.
static enum adamd_status check_commit(const struct adamd_differentiation *differentiation,
                                      struct adamd_fault *fault) {
    const struct adamd_model *model = differentiation->model;
    enum adamd_status status;

    if (model->destroyed) {
        return adamd_fail_plain(fault, ADAMD_CANCELLED);
    }
    status = check_state(model, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    if (model->step.active || model->kept.last != differentiation->step) {
        (void)adamd_fail(fault, ADAMD_ETAG_MISMATCH, "version",
                         "another step was begun, or the model changed, while the cotangents came "
                         "in: only the last step can be differentiated");
        adamd_fault_tell(fault, "current_version", "%llu", (unsigned long long)model->version);
        return ADAMD_ETAG_MISMATCH;
    }
    for (int array = 0; array < ADAMD_GRAD && status == ADAMD_OK; array++) {
        status = check_whole(differentiation, array, fault);
    }
    return status;
}

struct range {
    uint64_t begin, end;
};

// The next range of an array that was not written, from `*at` on in the order of the arena; small
// tensors side by side are one range.
static bool next_range(const struct adamd_differentiation *differentiation, int array, uint32_t *at,
                       struct range *ret_range) {
    const struct adamd_layout *layout = &differentiation->model->layout;
    struct range range = {0, 0};
    uint32_t i = *at;

    for (; i < layout->tensor_count; i++) {
        const uint32_t tensor = layout->by_offset[i];
        const struct adamd_tensor *entry = &layout->tensors[tensor];
        if (entry->count == 0) {
            continue;
        }
        const bool is_written = differentiation->written[array][tensor] != 0;
        if (is_written && range.end != 0) {
            break;
        }
        if (!is_written) {
            range.begin = range.end == 0 ? entry->offset : range.begin;
            range.end = entry->offset + adamd_tensor_bytes(entry);
        }
    }
    *at = i;
    *ret_range = range;
    return range.end != 0;
}

static uint32_t count_ranges(const struct adamd_differentiation *differentiation) {
    struct range range;
    uint32_t count = 0;

    for (int array = 0; array < ADAMD_GRAD; array++) {
        for (uint32_t at = 0; differentiation->buffers[array] != NULL &&
                              next_range(differentiation, array, &at, &range);) {
            count++;
        }
    }
    return count;
}

// Cotangents that were not given are zeros.
static void add_fills(const struct adamd_differentiation *differentiation, struct job *job) {
    struct range range;

    for (int array = 0; array < ADAMD_GRAD; array++) {
        for (uint32_t at = 0; differentiation->buffers[array] != NULL &&
                              next_range(differentiation, array, &at, &range);) {
            job->ops[job->count++] = (struct adamd_op){
                .kind = ADAMD_OP_FILL,
                .fill = {differentiation->buffers[array], range.begin, range.end - range.begin}};
        }
    }
}

static struct adamd_vjp_arrays arrays_of(struct adamd_buffer *const *buffers) {
    return (struct adamd_vjp_arrays){
        .param = buffers[ADAMD_PARAM],
        .grad = buffers[ADAMD_GRAD],
        .exp_avg = buffers[ADAMD_EXP_AVG],
        .exp_avg_sq = buffers[ADAMD_EXP_AVG_SQ],
        .max_exp_avg_sq = buffers[ADAMD_MAX_EXP_AVG_SQ],
    };
}

static void add_turn(const struct adamd_differentiation *differentiation, struct job *job) {
    const struct kept_step *step = differentiation->step;

    if (step->run_count > 0) {
        job->ops[job->count++] = (struct adamd_op){
            .kind = ADAMD_OP_DIFFERENTIATE,
            .differentiate =
                {
                    .at = arrays_of(differentiation->model->kept.buffers),
                    .bars = arrays_of(differentiation->buffers),
                    .rules = step->rules,
                    .rule_count = step->rule_count,
                    .runs = step->runs,
                    .run_count = step->run_count,
                    .ret_sums = differentiation->sums,
                },
        };
    }
}

static void on_turned(struct adamd_model *model, struct job *job, enum adamd_status status) {
    struct adamd_differentiation *differentiation = job->arg;
    const struct kept_step *step = differentiation->step;

    (void)model;
    (void)status; // a lost device has ended the wait
    differentiation->state = TURNED;
    if (!differentiation->held) {
        destroy(differentiation);
        return;
    }
    for (uint32_t i = 0; i < step->rule_count; i++) {
        adamd_vjp_fold(&step->rules[i], &differentiation->sums[i],
                       &differentiation->groups[step->rule_keys[i].group]);
    }
    for (uint32_t i = 0; i < step->group_count; i++) {
        differentiation->groups[i].has_weight_decay = step->options[i].weight_decay != 0.0;
    }
}

static void set_view(struct adamd_differentiation *differentiation) {
    const struct adamd_model *model = differentiation->model;
    const struct kept_step *step = differentiation->step;

    differentiation->view = (struct adamd_cotangents){
        .groups = differentiation->groups,
        .options = step->options,
        .stepped = step->stepped,
        .group_count = step->group_count,
        .generation = model->generation,
        .version = model->version,
    };
    for (int array = 0; array < ADAMD_COTANGENT_COUNT; array++) {
        if (differentiation->buffers[array] != NULL) {
            differentiation->view.arrays[array] =
                adamd_buffer_host(differentiation->buffers[array]);
        }
    }
}

enum adamd_status
adamd_differentiate_commit(struct adamd_differentiation *differentiation, struct adamd_wait *wait,
                           void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                           void *arg, struct adamd_fault *fault) {
    struct adamd_model *model = differentiation->model;
    const enum adamd_status status = check_commit(differentiation, fault);
    struct job *job;

    if (status != ADAMD_OK) {
        return status;
    }
    job = job_create(model, count_ranges(differentiation) + 1, on_turned, differentiation);
    if (job == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    job->count = 0;
    add_fills(differentiation, job);
    add_turn(differentiation, job);
    set_view(differentiation);
    *wait = (struct adamd_wait){.on_ready = on_ready, .arg = arg};
    wait_add(&differentiation->waits, wait);
    differentiation->state = TURNING;
    job_submit(model, job);
    model_advance(model);
    return ADAMD_OK;
}

void adamd_differentiate_end(struct adamd_differentiation *differentiation) {
    struct adamd_model *model = differentiation->model;

    differentiation->held = false;
    if (differentiation->waits != NULL) {
        wait_remove(differentiation->waits);
    }
    if (differentiation->state != TURNING || model->jobs_alive == 0) {
        destroy(differentiation);
    }
    if (model->destroyed) {
        model_free_if_done(model);
    } else if (model->addition != NULL) {
        model_advance(model);
    }
}

void adamd_differentiate_detach(struct adamd_differentiation *differentiation) {
    struct adamd_model *model = differentiation->model;

    ADAMD_ASSERT(differentiation->state == TURNED);
    differentiation->detached = true;
    if (!model->destroyed) {
        model_advance(model);
    }
}

bool adamd_cotangents_have(const struct adamd_cotangents *cotangents, uint32_t array,
                           uint32_t group, uint32_t tensor) {
    const struct adamd_options *options = &cotangents->options[group];

    if (!options->differentiable) {
        return false;
    }
    if (array == ADAMD_MAX_EXP_AVG_SQ) {
        return options->amsgrad;
    }
    return array != ADAMD_GRAD || bit_get(cotangents->stepped, tensor);
}
