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
    enum adamd_dtype dtype = ADAMD_FLOAT32;
    char field[48];

    if (!codec_dtype_read(message->data_type, &dtype)) {
        (void)snprintf(field, sizeof field, "tensors[%zu].data_type", index);
        return adamd_fail(fault, ADAMD_BAD_FIELD, field, "tensor \"%.80s\" has no known data type",
                          message->key);
    }
    if (message->n_shape > ADAMD_RANK_MAX) {
        (void)snprintf(field, sizeof field, "tensors[%zu].shape", index);
        return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                          "tensor \"%.80s\" has %zu dimensions, at most %d", message->key,
                          message->n_shape, ADAMD_RANK_MAX);
    }
    *ret_spec = (struct adamd_tensor_spec){
        .key = message->key, .dtype = dtype, .rank = (uint32_t)message->n_shape};
    for (size_t i = 0; i < message->n_shape; i++) {
        ret_spec->shape[i] = message->shape[i];
    }
    return ADAMD_OK;
}

// A parameter that came without a name is called by its index.
static bool name_tensor(struct codec_arena *arena, uint32_t index, struct adamd_tensor_spec *spec) {
    if (spec->key[0] == 0) {
        spec->key = codec_arena_format(arena, "%u", (unsigned)index);
    }
    return spec->key != NULL;
}

enum adamd_status codec_tensors_read(Adamd__V1__Tensor *const *messages, size_t count,
                                     uint32_t first, struct codec_arena *arena,
                                     struct adamd_tensor_spec **ret_specs,
                                     struct adamd_fault *fault) {
    if (count > ADAMD_TENSORS_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "tensors", "%zu tensors, at most %d", count,
                          ADAMD_TENSORS_MAX);
    }
    struct adamd_tensor_spec *tensors = codec_arena_array(arena, count, sizeof *tensors);
    if (tensors == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < count; i++) {
        const enum adamd_status status = read_tensor(messages[i], i, &tensors[i], fault);
        if (status != ADAMD_OK) {
            return status;
        }
        if (!name_tensor(arena, first + (uint32_t)i, &tensors[i])) {
            return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
        }
    }
    *ret_specs = tensors;
    return ADAMD_OK;
}

// Groups as they are read: which tensors still belong to none.
struct grouping {
    const struct adamd_layout *layout;
    Adamd__V1__Tensor *const *tensors; // as they came
    uint32_t *taken;                   // by tensor: 0, or the number of its group, counted from 1
    struct codec_arena *arena;
    struct adamd_fault *fault;
};

static enum adamd_status take_param(struct grouping *grouping, const char *key, size_t group,
                                    size_t place, uint32_t *ret_tensor) {
    const int64_t tensor = adamd_layout_find(grouping->layout, key, strlen(key));
    char field[64];

    (void)snprintf(field, sizeof field, "param_groups[%zu].params[%zu]", group, place);
    if (tensor < 0) {
        return adamd_fail(grouping->fault, ADAMD_BAD_FIELD, field,
                          "\"%.100s\" is none of the tensors", key);
    }
    if (grouping->taken[tensor] == group + 1) {
        return adamd_fail(grouping->fault, ADAMD_BAD_FIELD, field,
                          "optimizer contains a parameter group with duplicate parameters: "
                          "\"%.100s\"",
                          key);
    }
    if (grouping->taken[tensor] != 0) {
        return adamd_fail(grouping->fault, ADAMD_BAD_FIELD, field,
                          "some parameters appear in more than one parameter group: \"%.100s\"",
                          key);
    }
    grouping->taken[tensor] = (uint32_t)group + 1;
    *ret_tensor = (uint32_t)tensor;
    return ADAMD_OK;
}

static enum adamd_status read_params(struct grouping *grouping,
                                     const Adamd__V1__ParamGroup *message, size_t index,
                                     struct adamd_group_spec *group) {
    uint32_t *tensors = codec_arena_array(grouping->arena, message->n_params, sizeof *tensors);
    enum adamd_status status = ADAMD_OK;

    if (tensors == NULL) {
        return adamd_fail_plain(grouping->fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < message->n_params && status == ADAMD_OK; i++) {
        status = take_param(grouping, message->params[i], index, i, &tensors[i]);
    }
    group->tensors = tensors;
    group->tensor_count = (uint32_t)message->n_params;
    return status;
}

enum adamd_status codec_group_keys_read(const Adamd__V1__ParamGroup *message,
                                        struct codec_arena *arena,
                                        struct adamd_group_keys_spec *keys,
                                        struct adamd_fault *fault) {
    struct adamd_extra *extras = codec_arena_array(arena, message->n_extra, sizeof *extras);

    if (extras == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < message->n_extra; i++) {
        extras[i] = (struct adamd_extra){message->extra[i]->key, message->extra[i]->json};
    }
    keys->extras = extras;
    keys->extra_count = (uint32_t)message->n_extra;
    if (message->n_param_names > 0) {
        keys->names = (const char *const *)message->param_names;
        keys->name_count = (uint32_t)message->n_param_names;
    }
    return ADAMD_OK;
}

// With names in all places of a group, or in none.
static enum adamd_status read_named(const struct grouping *grouping, size_t index,
                                    struct adamd_group_spec *group) {
    uint32_t unnamed = 0;

    ADAMD_ASSERT(group->tensor_count == 0 || grouping->tensors != NULL);
    for (uint32_t i = 0; i < group->tensor_count; i++) {
        unnamed += grouping->tensors[group->tensors[i]]->key[0] == 0 ? 1 : 0;
    }
    if (group->keys.names != NULL || unnamed == 0) {
        return ADAMD_OK;
    }
    if (unnamed < group->tensor_count) {
        char field[48];
        (void)snprintf(field, sizeof field, "param_groups[%zu].params", index);
        return adamd_fail(grouping->fault, ADAMD_BAD_FIELD, field,
                          "all optimizer params should be with/without names. Some param names are "
                          "missing");
    }
    group->keys.unnamed = true;
    return ADAMD_OK;
}

static enum adamd_status read_group(struct grouping *grouping, const Adamd__V1__ParamGroup *message,
                                    size_t index, const struct adamd_options *defaults,
                                    struct adamd_group_spec *group) {
    char path[48];

    (void)snprintf(path, sizeof path, "param_groups[%zu].options", index);
    group->options = *defaults;
    enum adamd_status status =
        codec_options_lay(message->options, path, &group->options, grouping->fault);
    status = status == ADAMD_OK ? read_params(grouping, message, index, group) : status;
    status = status == ADAMD_OK
                 ? codec_group_keys_read(message, grouping->arena, &group->keys, grouping->fault)
                 : status;
    return status == ADAMD_OK ? read_named(grouping, index, group) : status;
}

static enum adamd_status check_all_taken(const struct grouping *grouping) {
    for (uint32_t i = 0; i < grouping->layout->tensor_count; i++) {
        if (grouping->taken[i] == 0) {
            return adamd_fail(grouping->fault, ADAMD_BAD_FIELD, "param_groups",
                              "tensor \"%.100s\" is in no group", grouping->layout->tensors[i].key);
        }
    }
    return ADAMD_OK;
}

static enum adamd_status make_one_group(const struct grouping *grouping,
                                        struct adamd_model_spec *spec,
                                        const struct adamd_options *defaults) {
    struct adamd_group_spec *group = codec_arena_alloc(grouping->arena, sizeof *group);
    uint32_t *tensors = codec_arena_array(grouping->arena, spec->tensor_count, sizeof *tensors);

    if (group == NULL || tensors == NULL) {
        return adamd_fail_plain(grouping->fault, ADAMD_NO_MEMORY);
    }
    for (uint32_t i = 0; i < spec->tensor_count; i++) {
        tensors[i] = i;
    }
    *group = (struct adamd_group_spec){
        .options = *defaults, .tensors = tensors, .tensor_count = spec->tensor_count};
    spec->groups = group;
    spec->group_count = 1;
    return read_named(grouping, 0, group);
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
    grouping->taken =
        codec_arena_array(grouping->arena, spec->tensor_count, sizeof *grouping->taken);
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
                                       struct codec_creation *creation, struct adamd_fault *fault) {
    struct adamd_model_spec *spec = &creation->spec;
    struct adamd_layout layout = {0};
    enum adamd_status status =
        codec_options_lay(message->defaults, "defaults", &creation->defaults, fault);

    if (status == ADAMD_OK) {
        status = adamd_layout_init(&layout, spec->tensors, spec->tensor_count, fault);
    }
    if (status == ADAMD_OK) {
        struct grouping grouping = {
            .layout = &layout, .tensors = message->tensors, .arena = arena, .fault = fault};
        status = message->n_param_groups == 0
                     ? make_one_group(&grouping, spec, &creation->defaults)
                     : read_groups(message, &grouping, &creation->defaults, spec);
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
    struct adamd_tensor_spec *tensors = NULL;

    *creation = (struct codec_creation){.defaults = adamd_options_default};
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
        status = codec_tensors_read(model->tensors, model->n_tensors, 0, arena, &tensors, fault);
    }
    if (status != ADAMD_OK) {
        return status;
    }
    creation->spec.tensors = tensors;
    creation->spec.tensor_count = (uint32_t)model->n_tensors;
    return group_tensors(model, arena, creation, fault);
}
