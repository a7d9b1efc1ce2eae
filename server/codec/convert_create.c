// A request to make a model: its table of tensors, and groups by key.
#include "codec/convert.h"

#include "codec/fields.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum adamd_status codec_durability_check(const Adamd__V1__Model *message,
                                         struct adamd_fault *fault) {
    if (message->durability > ADAMD__V1__MODEL__DURABILITY__DURABILITY_NONE) {
        return adamd_fail(fault, ADAMD_UNSUPPORTED, "durability",
                          "this build keeps models in memory only: DURABILITY_NONE");
    }
    return ADAMD_OK;
}

static enum adamd_status read_tensor(const Adamd__V1__Tensor *message, size_t index,
                                     struct adamd_tensor_spec *ret_spec,
                                     struct adamd_fault *fault) {
    char field[48];

    if (message->data_type > ADAMD__V1__DATA_TYPE__DATA_TYPE_FLOAT32) {
        (void)snprintf(field, sizeof field, "tensors[%zu].data_type", index);
        return adamd_fail(fault, ADAMD_UNSUPPORTED, field, "tensor \"%.80s\" must be %s",
                          message->key, "DATA_TYPE_FLOAT32 in this build");
    }
    if (message->n_shape > ADAMD_RANK_MAX) {
        (void)snprintf(field, sizeof field, "tensors[%zu].shape", index);
        return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                          "tensor \"%.80s\" has %zu dimensions, at most %d", message->key,
                          message->n_shape, ADAMD_RANK_MAX);
    }
    *ret_spec = (struct adamd_tensor_spec){
        .key = message->key, .dtype = ADAMD_FLOAT32, .rank = (uint32_t)message->n_shape};
    for (size_t i = 0; i < message->n_shape; i++) {
        ret_spec->shape[i] = message->shape[i];
    }
    return ADAMD_OK;
}

static enum adamd_status read_tensors(const Adamd__V1__Model *message, struct codec_arena *arena,
                                      struct adamd_model_spec *spec, struct adamd_fault *fault) {
    if (message->n_tensors > ADAMD_TENSORS_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "tensors", "%zu tensors, at most %d",
                          message->n_tensors, ADAMD_TENSORS_MAX);
    }
    struct adamd_tensor_spec *tensors =
        codec_arena_array(arena, message->n_tensors, sizeof *tensors);
    if (tensors == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < message->n_tensors; i++) {
        const enum adamd_status status = read_tensor(message->tensors[i], i, &tensors[i], fault);
        if (status != ADAMD_OK) {
            return status;
        }
    }
    spec->tensors = tensors;
    spec->tensor_count = (uint32_t)message->n_tensors;
    return ADAMD_OK;
}

// Groups as they are read: which tensors still belong to none.
struct grouping {
    const struct adamd_layout *layout;
    bool *taken; // by tensor
    struct codec_arena *arena;
    struct adamd_fault *fault;
};

static enum adamd_status read_params(struct grouping *grouping,
                                     const Adamd__V1__ParamGroup *message, size_t index,
                                     struct adamd_group_spec *group) {
    uint32_t *tensors = codec_arena_array(grouping->arena, message->n_params, sizeof *tensors);

    if (tensors == NULL) {
        return adamd_fail_plain(grouping->fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < message->n_params; i++) {
        char field[64];
        const char *key = message->params[i];
        const int64_t tensor = adamd_layout_find(grouping->layout, key, strlen(key));
        (void)snprintf(field, sizeof field, "param_groups[%zu].params[%zu]", index, i);
        if (tensor < 0) {
            return adamd_fail(grouping->fault, ADAMD_BAD_FIELD, field,
                              "\"%.100s\" is none of the tensors", key);
        }
        if (grouping->taken[tensor]) {
            return adamd_fail(grouping->fault, ADAMD_BAD_FIELD, field,
                              "some parameters appear in more than one parameter group: \"%.100s\"",
                              key);
        }
        grouping->taken[tensor] = true;
        tensors[i] = (uint32_t)tensor;
    }
    group->tensors = tensors;
    group->tensor_count = (uint32_t)message->n_params;
    return ADAMD_OK;
}

static enum adamd_status read_group(struct grouping *grouping, const Adamd__V1__ParamGroup *message,
                                    size_t index, const struct adamd_options *defaults,
                                    struct adamd_group_spec *group) {
    char path[48];

    (void)snprintf(path, sizeof path, "param_groups[%zu].options", index);
    group->options = *defaults;
    const enum adamd_status status =
        codec_options_lay(message->options, path, &group->options, grouping->fault);
    return status == ADAMD_OK ? read_params(grouping, message, index, group) : status;
}

static enum adamd_status check_all_taken(const struct grouping *grouping) {
    for (uint32_t i = 0; i < grouping->layout->tensor_count; i++) {
        if (!grouping->taken[i]) {
            return adamd_fail(grouping->fault, ADAMD_BAD_FIELD, "param_groups",
                              "tensor \"%.100s\" is in no group", grouping->layout->tensors[i].key);
        }
    }
    return ADAMD_OK;
}

static enum adamd_status make_one_group(struct codec_arena *arena, struct adamd_model_spec *spec,
                                        const struct adamd_options *defaults,
                                        struct adamd_fault *fault) {
    struct adamd_group_spec *group = codec_arena_alloc(arena, sizeof *group);
    uint32_t *tensors = codec_arena_array(arena, spec->tensor_count, sizeof *tensors);

    if (group == NULL || tensors == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (uint32_t i = 0; i < spec->tensor_count; i++) {
        tensors[i] = i;
    }
    *group = (struct adamd_group_spec){
        .options = *defaults, .tensors = tensors, .tensor_count = spec->tensor_count};
    spec->groups = group;
    spec->group_count = 1;
    return ADAMD_OK;
}

static enum adamd_status read_groups(const Adamd__V1__Model *message, struct grouping *grouping,
                                     const struct adamd_options *defaults,
                                     struct adamd_model_spec *spec) {
    const size_t count = message->n_param_groups;

    if (count > ADAMD_GROUPS_MAX) {
        return adamd_fail(grouping->fault, ADAMD_TOO_LARGE, "param_groups",
                          "%zu groups, at most %d", count, ADAMD_GROUPS_MAX);
    }
    struct adamd_group_spec *groups = codec_arena_array(grouping->arena, count, sizeof *groups);
    grouping->taken = codec_arena_array(grouping->arena, spec->tensor_count, sizeof(bool));
    if (groups == NULL || grouping->taken == NULL) {
        return adamd_fail_plain(grouping->fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < count; i++) {
        const enum adamd_status status =
            read_group(grouping, message->param_groups[i], i, defaults, &groups[i]);
        if (status != ADAMD_OK) {
            return status;
        }
    }
    spec->groups = groups;
    spec->group_count = (uint32_t)count;
    return check_all_taken(grouping);
}

// The table is laid out here only to check it and to find keys in it; the model makes its own.
static enum adamd_status group_tensors(const Adamd__V1__Model *message, struct codec_arena *arena,
                                       struct adamd_model_spec *spec, struct adamd_fault *fault) {
    struct adamd_options defaults = adamd_options_default;
    struct adamd_layout layout = {0};
    enum adamd_status status = codec_options_lay(message->defaults, "defaults", &defaults, fault);

    if (status == ADAMD_OK) {
        status = adamd_layout_init(&layout, spec->tensors, spec->tensor_count, fault);
    }
    if (status == ADAMD_OK) {
        struct grouping grouping = {.layout = &layout, .arena = arena, .fault = fault};
        status = message->n_param_groups == 0 ? make_one_group(arena, spec, &defaults, fault)
                                              : read_groups(message, &grouping, &defaults, spec);
    }
    adamd_layout_finish(&layout);
    return status;
}

enum adamd_status codec_creation_read(const Adamd__V1__Model *message, struct codec_arena *arena,
                                      struct codec_creation *ret_creation,
                                      struct adamd_fault *fault) {
    static const Adamd__V1__Model empty = ADAMD__V1__MODEL__INIT;
    const Adamd__V1__Model *model = message != NULL ? message : &empty;
    struct codec_creation *creation = ret_creation;

    *creation = (struct codec_creation){0};
    enum adamd_status status = codec_durability_check(model, fault);
    if (status == ADAMD_OK) {
        status = codec_display_name_read(model->display_name, creation->display_name, fault);
    }
    if (status == ADAMD_OK) {
        status = codec_labels_read(model->labels, model->n_labels, creation->labels,
                                   &creation->label_count, fault);
    }
    if (status == ADAMD_OK) {
        status = codec_policy_read(model->step_policy, &creation->spec.policy, fault);
    }
    if (status == ADAMD_OK) {
        status = read_tensors(model, arena, &creation->spec, fault);
    }
    return status == ADAMD_OK ? group_tensors(model, arena, &creation->spec, fault) : status;
}
