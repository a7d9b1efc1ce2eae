// Making and unmaking a model.
#include "model_impl.h"

#include <stdio.h>
#include <stdlib.h>

enum { LEASE_MS_MIN = 100, TIME_MS_MAX = 86400000, PUBLISHED_MIN = 2 };

// ------------------------------------------------------------------------------------------ checks

enum adamd_status adamd_policy_check(const struct adamd_policy *policy, struct adamd_fault *fault) {
    if ((unsigned)policy->trigger > ADAMD_MANUAL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "step_policy.trigger", "unknown trigger %d",
                          (int)policy->trigger);
    }
    if ((unsigned)policy->nonfinite > ADAMD_NONFINITE_ALLOW) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "step_policy.nonfinite",
                          "unknown treatment of non-finite gradients %d", (int)policy->nonfinite);
    }
    if (policy->quorum > ADAMD_WORKERS_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "step_policy.quorum",
                          "quorum must be at most %d, not %u", ADAMD_WORKERS_MAX, policy->quorum);
    }
    if (policy->min_workers > ADAMD_WORKERS_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "step_policy.min_workers",
                          "min_workers must be at most %d, not %u", ADAMD_WORKERS_MAX,
                          policy->min_workers);
    }
    if (policy->deadline_ms > TIME_MS_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "step_policy.deadline",
                          "the deadline must be at most 24 h");
    }
    if (policy->lease_ms != 0 &&
        (policy->lease_ms < LEASE_MS_MIN || policy->lease_ms > TIME_MS_MAX)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "step_policy.lease",
                          "the lease must be from 100 ms to 24 h");
    }
    return ADAMD_OK;
}

// The one group's parameters, which no other may have.
static enum adamd_status check_members(const struct adamd_model_spec *spec, uint32_t group,
                                       uint32_t *group_of, struct adamd_fault *fault) {
    const struct adamd_group_spec *entry = &spec->groups[group];
    char field[96];

    (void)snprintf(field, sizeof field, "param_groups[%u].tensors", group);
    for (uint32_t i = 0; i < entry->tensor_count; i++) {
        const uint32_t tensor = entry->tensors[i];
        if (tensor >= spec->tensor_count) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, field, "there is no tensor %u: there are %u",
                              tensor, spec->tensor_count);
        }
        if (group_of[tensor] == group) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                              "optimizer contains a parameter group with duplicate parameters: "
                              "tensor %u",
                              tensor);
        }
        if (group_of[tensor] != UINT32_MAX) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                              "some parameters appear in more than one parameter group: tensor %u",
                              tensor);
        }
        group_of[tensor] = group;
    }
    return ADAMD_OK;
}

static enum adamd_status check_group(const struct adamd_model_spec *spec, uint32_t group,
                                     uint32_t *group_of, struct adamd_fault *fault) {
    const struct adamd_group_spec *entry = &spec->groups[group];
    enum adamd_status status =
        group_check(&entry->options, &entry->keys, entry->tensor_count, fault);

    if (status == ADAMD_OK && group > 0) {
        status = groups_check_names(entry->keys.unnamed, spec->groups[0].keys.unnamed, fault);
    }
    return status != ADAMD_OK ? group_fail_at(fault, status, group)
                              : check_members(spec, group, group_of, fault);
}

static enum adamd_status check_groups(const struct adamd_model_spec *spec, uint32_t *group_of,
                                      struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;
    uint64_t bytes = 0;

    if (spec->group_count == 0 || spec->group_count > ADAMD_GROUPS_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "param_groups",
                          "a model has 1 to %d parameter groups, not %u", ADAMD_GROUPS_MAX,
                          spec->group_count);
    }
    for (uint32_t i = 0; i < spec->tensor_count; i++) {
        group_of[i] = UINT32_MAX;
    }
    for (uint32_t i = 0; i < spec->group_count && status == ADAMD_OK; i++) {
        status = check_group(spec, i, group_of, fault);
        bytes += status == ADAMD_OK ? extras_bytes(&spec->groups[i].keys) : 0;
    }
    status = status == ADAMD_OK ? extras_check_bytes(bytes, fault) : status;
    for (uint32_t i = 0; i < spec->tensor_count && status == ADAMD_OK; i++) {
        if (group_of[i] == UINT32_MAX) {
            status = adamd_fail(fault, ADAMD_BAD_FIELD, "param_groups",
                                "tensor %u is in no parameter group", i);
        }
    }
    return status;
}

static enum adamd_status check_limits(const struct adamd_model_spec *spec,
                                      struct adamd_fault *fault) {
    if (spec->slots_max == 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "slots_max", "a model needs at least one slot");
    }
    if (spec->published_max < PUBLISHED_MIN) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "published_max",
                          "a model needs room for at least two published versions");
    }
    return ADAMD_OK;
}

static bool any_amsgrad(const struct adamd_model_spec *spec) {
    bool any = false;

    for (uint32_t i = 0; i < spec->group_count; i++) {
        any = any || spec->groups[i].options.amsgrad;
    }
    return any;
}

size_t model_arena_bytes(const struct adamd_layout *layout) {
    // Tensors without elements still need something to point to.
    return layout->arena_bytes > 0 ? (size_t)layout->arena_bytes : ADAMD_ALIGN_BYTES;
}

// The copies that keep a step: parameters, moments, gradient.
static uint64_t kept_arenas(const struct adamd_model_spec *spec) {
    uint64_t arenas = 0;

    for (uint32_t i = 0; i < spec->group_count; i++) {
        const struct adamd_options *options = &spec->groups[i].options;
        const uint64_t wanted = !options->differentiable ? 0 : options->amsgrad ? 5 : 4;
        arenas = wanted > arenas ? wanted : arenas;
    }
    return arenas;
}

// What it takes at the least: its arrays, a gradient, a version for readers, the last step where it
// is kept.
static uint64_t least_resident(const struct adamd_model_spec *spec,
                               const struct adamd_layout *layout) {
    const uint64_t arenas = any_amsgrad(spec) ? 6 : 5;

    return (arenas + kept_arenas(spec)) * model_arena_bytes(layout);
}

// On success `layout` and `*ret_group_of` are the caller's.
static enum adamd_status check_spec(const struct adamd_model_spec *spec,
                                    struct adamd_layout *layout, uint32_t **ret_group_of,
                                    struct adamd_fault *fault) {
    uint32_t *group_of = NULL;
    enum adamd_status status = adamd_policy_check(&spec->policy, fault);

    status = status == ADAMD_OK ? check_limits(spec, fault) : status;
    status = status == ADAMD_OK
                 ? adamd_layout_init(layout, spec->tensors, spec->tensor_count, fault)
                 : status;
    if (status != ADAMD_OK) {
        return status;
    }
    group_of = calloc(spec->tensor_count, sizeof *group_of);
    status = group_of == NULL ? adamd_fail_plain(fault, ADAMD_NO_MEMORY)
                              : check_groups(spec, group_of, fault);
    if (status == ADAMD_OK && spec->resident_bytes_max != 0 &&
        least_resident(spec, layout) > spec->resident_bytes_max) {
        status = adamd_fail(fault, ADAMD_TOO_LARGE, "tensors",
                            "the model takes %llu bytes, more than the limit of %llu",
                            (unsigned long long)least_resident(spec, layout),
                            (unsigned long long)spec->resident_bytes_max);
    }
    if (status != ADAMD_OK) {
        free(group_of);
        adamd_layout_finish(layout);
        return status;
    }
    *ret_group_of = group_of;
    return ADAMD_OK;
}

enum adamd_status adamd_model_validate(const struct adamd_model_spec *spec,
                                       uint64_t *ret_resident_bytes, struct adamd_fault *fault) {
    struct adamd_layout layout = {0};
    uint32_t *group_of = NULL;
    const enum adamd_status status = check_spec(spec, &layout, &group_of, fault);

    if (status == ADAMD_OK) {
        *ret_resident_bytes = least_resident(spec, &layout);
        free(group_of);
        adamd_layout_finish(&layout);
    }
    return status;
}

// -------------------------------------------------------------------------------- create, destroy

static void free_model(struct adamd_model *model) {
    ADAMD_ASSERT(model->jobs_alive == 0);
    restore_forget(model);
    addition_forget(model);
    while (model->outgrown != NULL) {
        outgrown_release(model, model->outgrown);
    }
    capture_finish(model);
    hooks_destroy(model);
    differentiation_forget(model);
    kept_finish(model);
    published_finish(model);
    slots_finish(model);
    step_finish(&model->step);
    records_finish(model);
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        model_release(model, model->arrays[array]);
    }
    for (uint32_t i = 0; model->groups != NULL && i < model->group_count; i++) {
        free(model->groups[i].tensors);
        adamd_group_keys_drop(model->groups[i].keys);
    }
    free(model->groups);
    free(model->group_of);
    free(model->steps);
    free(model->has_gradient);
    adamd_workers_finish(&model->workers);
    adamd_layout_finish(&model->layout);
    free(model);
}

static bool copy_groups(struct adamd_model *model, const struct adamd_model_spec *spec) {
    model->groups = calloc(spec->group_count, sizeof model->groups[0]);
    model->group_count = spec->group_count;
    for (uint32_t i = 0; model->groups != NULL && i < spec->group_count; i++) {
        const struct adamd_group_spec *from = &spec->groups[i];
        struct group *group = &model->groups[i];
        const size_t bytes = from->tensor_count * sizeof group->tensors[0];
        group->options = from->options;
        adamd_options_round(&group->options);
        group->since = 1;
        group->keys = adamd_group_keys_create(&from->keys);
        group->tensor_count = from->tensor_count;
        group->tensors = malloc(bytes > 0 ? bytes : 1);
        if (group->keys == NULL || group->tensors == NULL) {
            return false;
        }
        if (bytes > 0) {
            memcpy(group->tensors, from->tensors, bytes);
        }
    }
    return model->groups != NULL;
}

static enum adamd_status alloc_host(struct adamd_model *model,
                                    const struct adamd_model_spec *spec) {
    const uint32_t tensors = model->layout.tensor_count;

    if (!copy_groups(model, spec)) {
        return ADAMD_NO_MEMORY;
    }
    model->steps = calloc(tensors, sizeof model->steps[0]);
    model->has_gradient = calloc(1, bits_bytes(tensors));
    model->records = calloc(ADAMD_STEPS_KEPT, sizeof(void *));
    model->published = calloc(spec->published_max, sizeof(void *));
    if (model->steps == NULL || model->has_gradient == NULL || model->records == NULL ||
        model->published == NULL) {
        return ADAMD_NO_MEMORY;
    }
    return step_init(&model->step, tensors);
}

static enum adamd_status alloc_arenas(struct adamd_model *model,
                                      const struct adamd_model_spec *spec) {
    const int arrays = any_amsgrad(spec) ? ADAMD_MAX_EXP_AVG_SQ : ADAMD_EXP_AVG_SQ;
    struct slot *slot = NULL;
    enum adamd_status status = ADAMD_OK;

    for (int array = 0; array <= arrays && status == ADAMD_OK; array++) {
        status = model_alloc(model, ADAMD_DEVICE, true, &model->arrays[array]);
    }
    for (uint32_t i = 0; i < model->group_count && status == ADAMD_OK; i++) {
        status = kept_ensure(model, &model->groups[i].options, 1);
    }
    // The first push must not wait for pages.
    status = status == ADAMD_OK ? slot_take(model, &slot) : status;
    slot_drop(model, slot);
    return status;
}

static void init_lists(struct adamd_model *model) {
    model->endings_end = &model->endings;
    model->commands_end = &model->commands;
    model->steppers_end = &model->steppers_ended;
    model->jobs_end = &model->jobs;
}

enum adamd_status adamd_model_create(struct adamd_queue *queue, const struct adamd_model_spec *spec,
                                     struct adamd_model **ret_model, struct adamd_fault *fault) {
    struct adamd_model *model = calloc(1, sizeof *model);
    enum adamd_status status;

    if (model == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    status = check_spec(spec, &model->layout, &model->group_of, fault);
    if (status != ADAMD_OK) {
        free(model);
        return status;
    }
    init_lists(model);
    model->queue = queue;
    model->backend = adamd_queue_backend(queue);
    model->arena_bytes = model_arena_bytes(&model->layout);
    model->state = ADAMD_MODEL_INITIALIZING;
    model->generation = FIRST_GENERATION;
    model->slots_max = spec->slots_max;
    model->published_max = spec->published_max;
    model->resident_bytes_max = spec->resident_bytes_max;
    model->hook_registry = spec->hook_registry;
    model->policy = spec->policy;
    model->workers.lease_ms = spec->policy.lease_ms != 0 ? spec->policy.lease_ms : MODEL_LEASE_MS;
    status = alloc_host(model, spec);
    status = status == ADAMD_OK ? alloc_arenas(model, spec) : status;
    if (status != ADAMD_OK) {
        free_model(model);
        return adamd_fail_plain(fault, status);
    }
    *ret_model = model;
    return ADAMD_OK;
}

void model_free_if_done(struct adamd_model *model) {
    bool done = model->jobs_alive == 0 && !model->advancing &&
                model->capture.state != CAPTURE_HELD &&
                (model->restore == NULL || model->restore->committed) &&
                (model->addition == NULL || model->addition->committed) &&
                (model->differentiation == NULL || !model->differentiation->held);

    for (uint32_t i = 0; i < model->published_count; i++) {
        done = done && model->published[i]->refs == 0;
    }
    if (done) {
        free_model(model);
    }
}

void adamd_model_destroy(struct adamd_model *model) {
    if (model == NULL) {
        return;
    }
    ADAMD_ASSERT(!model->advancing && !model->destroyed);
    model->advancing = true; // callbacks may call the model, but nothing moves any more
    model_end_all(model, ADAMD_CANCELLED);
    model->on_changed = NULL;
    model_call_back_all(model);
    model->advancing = false;
    model_free_if_done(model);
}
