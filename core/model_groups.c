// The param groups of a model: what is checked of them, and their options and keys changed live.
#include "model_impl.h"

#include <stdio.h>
#include <stdlib.h>

// ------------------------------------------------------------------------------------------ checks

enum adamd_status group_fail_at(struct adamd_fault *fault, enum adamd_status status,
                                uint32_t group) {
    char field[96];

    if (fault != NULL) {
        (void)snprintf(field, sizeof field, "param_groups[%u].%.64s", group, fault->field);
        memcpy(fault->field, field, sizeof fault->field);
    }
    return status;
}

enum adamd_status group_check(const struct adamd_options *options,
                              const struct adamd_group_keys_spec *keys, uint32_t tensor_count,
                              struct adamd_fault *fault) {
    enum adamd_status status = adamd_options_check(options, fault);

    status = status == ADAMD_OK ? adamd_group_keys_check(keys, fault) : status;
    if (status == ADAMD_OK && keys->names != NULL && keys->name_count != tensor_count) {
        status = adamd_fail(fault, ADAMD_BAD_FIELD, "param_names",
                            "all optimizer params should be with/without names. Some param names "
                            "are missing: %u names for %u parameters",
                            keys->name_count, tensor_count);
    }
    return status;
}

enum adamd_status groups_check_names(bool unnamed, bool others_unnamed, struct adamd_fault *fault) {
    if (unnamed == others_unnamed) {
        return ADAMD_OK;
    }
    return adamd_fail(fault, ADAMD_BAD_FIELD, "param_names",
                      "all optimizer param groups should be with/without names. cannot add param "
                      "group %s names to the optimizer",
                      unnamed ? "without" : "with");
}

uint64_t extras_bytes(const struct adamd_group_keys_spec *keys) {
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < keys->extra_count; i++) {
        bytes += strlen(keys->extras[i].key) + strlen(keys->extras[i].value);
    }
    return bytes;
}

enum adamd_status extras_check_bytes(uint64_t bytes, struct adamd_fault *fault) {
    return bytes <= ADAMD_EXTRAS_BYTES_MAX
               ? ADAMD_OK
               : adamd_fail(fault, ADAMD_TOO_LARGE, "param_groups",
                            "the extra keys of all groups together take %llu bytes, at most %d",
                            (unsigned long long)bytes, ADAMD_EXTRAS_BYTES_MAX);
}

// --------------------------------------------------------------------------------- looking at them

const struct adamd_options *adamd_model_options(const struct adamd_model *model, uint32_t group) {
    ADAMD_ASSERT(group < model->group_count);
    return &model->groups[group].options;
}

const uint32_t *adamd_model_group(const struct adamd_model *model, uint32_t group,
                                  uint32_t *ret_count) {
    ADAMD_ASSERT(group < model->group_count);
    *ret_count = model->groups[group].tensor_count;
    return model->groups[group].tensors;
}

uint32_t adamd_model_group_of(const struct adamd_model *model, uint32_t tensor) {
    ADAMD_ASSERT(tensor < model->layout.tensor_count);
    return model->group_of[tensor];
}

struct adamd_group_keys *adamd_model_group_keys(const struct adamd_model *model, uint32_t group) {
    ADAMD_ASSERT(group < model->group_count);
    return model->groups[group].keys;
}

uint64_t adamd_model_group_since(const struct adamd_model *model, uint32_t group) {
    ADAMD_ASSERT(group < model->group_count);
    return model->groups[group].since;
}

// ---------------------------------------------------------------------------------- changing them

uint64_t model_next_version(const struct adamd_model *model) {
    return model->version + (model->step.active ? 2 : 1);
}

// The group's keys with other extra keys.
static struct adamd_group_keys_spec changed_keys(const struct group *group,
                                                 const struct adamd_group_change *change) {
    struct adamd_group_keys_spec spec = adamd_group_keys_spec_of(group->keys);

    if (change->extras != NULL) {
        spec.extras = change->extras;
        spec.extra_count = change->extra_count;
    }
    return spec;
}

static enum adamd_status check_changes(const struct adamd_model *model,
                                       const struct adamd_group_change *changes,
                                       struct adamd_fault *fault) {
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < model->group_count; i++) {
        const struct group *group = &model->groups[i];
        const struct adamd_group_keys_spec keys = changed_keys(group, &changes[i]);
        const struct adamd_options *options =
            changes[i].options != NULL ? changes[i].options : &group->options;
        const enum adamd_status status = group_check(options, &keys, group->tensor_count, fault);
        if (status != ADAMD_OK) {
            return group_fail_at(fault, status, i);
        }
        bytes += extras_bytes(&keys);
    }
    return extras_check_bytes(bytes, fault);
}

// What the changed groups will hold, by group; NULL entries stay. NULL for want of memory.
static struct adamd_group_keys **make_keys(const struct adamd_model *model,
                                           const struct adamd_group_change *changes) {
    struct adamd_group_keys **keys = calloc(model->group_count, sizeof(void *));

    for (uint32_t i = 0; keys != NULL && i < model->group_count; i++) {
        if (changes[i].extras == NULL) {
            continue;
        }
        const struct adamd_group_keys_spec spec = changed_keys(&model->groups[i], &changes[i]);
        keys[i] = adamd_group_keys_create(&spec);
        if (keys[i] == NULL) {
            group_keys_free(keys, i);
            return NULL;
        }
    }
    return keys;
}

void group_keys_free(struct adamd_group_keys **keys, uint32_t count) {
    for (uint32_t i = 0; keys != NULL && i < count; i++) {
        adamd_group_keys_drop(keys[i]);
    }
    free((void *)keys);
}

static enum adamd_status ensure_arrays(struct adamd_model *model,
                                       const struct adamd_group_change *changes) {
    enum adamd_status status = ADAMD_OK;

    for (uint32_t i = 0; i < model->group_count && status == ADAMD_OK; i++) {
        if (changes[i].options != NULL) {
            status = model_ensure_arrays(model, changes[i].options, 1);
        }
    }
    return status;
}

static void apply(struct adamd_model *model, const struct adamd_group_change *changes,
                  struct adamd_group_keys *const *keys) {
    for (uint32_t i = 0; i < model->group_count; i++) {
        struct group *group = &model->groups[i];
        if (changes[i].options != NULL) {
            group->options = *changes[i].options;
            adamd_options_round(&group->options);
            group->since = model_next_version(model);
        }
        if (keys[i] != NULL) {
            adamd_group_keys_drop(group->keys);
            group->keys = keys[i];
        }
    }
}

enum adamd_status adamd_model_set_groups(struct adamd_model *model,
                                         const struct adamd_group_change *changes,
                                         uint64_t *ret_version, struct adamd_fault *fault) {
    enum adamd_status status = check_changes(model, changes, fault);
    struct adamd_group_keys **keys;

    if (status != ADAMD_OK) {
        return status;
    }
    keys = make_keys(model, changes);
    status = keys == NULL ? ADAMD_NO_MEMORY : ensure_arrays(model, changes);
    if (status != ADAMD_OK) {
        group_keys_free(keys, model->group_count);
        return adamd_fail_plain(fault, status);
    }
    apply(model, changes, keys);
    free((void *)keys);
    model->config_count++;
    model_note_change(model);
    *ret_version = model_next_version(model);
    model_advance(model);
    return ADAMD_OK;
}

enum adamd_status adamd_model_set_options(struct adamd_model *model, uint32_t group,
                                          const struct adamd_options *options,
                                          uint64_t *ret_version, struct adamd_fault *fault) {
    enum adamd_status status;

    if (group >= model->group_count) {
        return adamd_fail(fault, ADAMD_NOT_FOUND, "param_groups", "there is no group %u", group);
    }
    status = adamd_options_check(options, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    status = model_ensure_arrays(model, options, 1);
    if (status != ADAMD_OK) {
        return adamd_fail_plain(fault, status);
    }
    model->groups[group].options = *options;
    adamd_options_round(&model->groups[group].options);
    model->groups[group].since = model_next_version(model);
    model->config_count++;
    model_note_change(model);
    *ret_version = model_next_version(model);
    model_advance(model);
    return ADAMD_OK;
}
