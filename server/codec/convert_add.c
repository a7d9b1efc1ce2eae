// A group that is added to a model: by message, or as a file with the values of its parameters.
#include "codec/convert.h"

#include "codec/fields.h"
#include "codec/files.h"
#include "codec/message.h"
#include "codec/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The parameters that a group names must be those that come with it, in their order: what else
// should an order of its own say?
static enum adamd_status check_params(const Adamd__V1__AddParamGroupRequest *message,
                                      const Adamd__V1__ParamGroup *group,
                                      struct adamd_fault *fault) {
    if (group->n_params == 0) {
        return ADAMD_OK;
    }
    for (size_t i = 0; i < group->n_params || i < message->n_tensors; i++) {
        char field[64];
        (void)snprintf(field, sizeof field, "param_group.params[%zu]", i);
        if (i == group->n_params || i == message->n_tensors ||
            strcmp(group->params[i], message->tensors[i]->key) != 0) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                              "the parameters of the group are its tensors, in their order: leave "
                              "params out");
        }
    }
    return ADAMD_OK;
}

// With names in all places, or in none.
static enum adamd_status read_named(const Adamd__V1__AddParamGroupRequest *message,
                                    struct adamd_group_keys_spec *keys,
                                    const struct adamd_model *model, struct adamd_fault *fault) {
    size_t unnamed = 0;

    for (size_t i = 0; i < message->n_tensors; i++) {
        unnamed += message->tensors[i]->key[0] == 0 ? 1 : 0;
    }
    if (keys->names != NULL || (unnamed == 0 && message->n_tensors > 0)) {
        return ADAMD_OK;
    }
    if (unnamed < message->n_tensors) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "tensors",
                          "all optimizer params should be with/without names. Some param names are "
                          "missing");
    }
    // A group of nobody is as the others are.
    keys->unnamed = message->n_tensors > 0 || adamd_model_group_keys(model, 0)->unnamed;
    return ADAMD_OK;
}

enum adamd_status
codec_addition_read(const Adamd__V1__AddParamGroupRequest *message, const struct adamd_model *model,
                    const struct adamd_options *defaults, struct codec_arena *arena,
                    struct codec_addition *ret_addition, struct adamd_fault *fault) {
    static const Adamd__V1__ParamGroup empty = ADAMD__V1__PARAM_GROUP__INIT;
    const Adamd__V1__ParamGroup *group =
        message->param_group != NULL ? message->param_group : &empty;
    struct codec_addition addition = {.group = {.options = *defaults}};
    enum adamd_status status =
        codec_options_lay(group->options, "param_group.options", &addition.group.options, fault);

    status = status == ADAMD_OK ? check_params(message, group, fault) : status;
    status = status == ADAMD_OK ? codec_tensors_read(message->tensors, message->n_tensors,
                                                     adamd_model_layout(model)->tensor_count, arena,
                                                     &addition.tensors, fault)
                                : status;
    status = status == ADAMD_OK ? codec_group_keys_read(group, arena, &addition.group.keys, fault)
                                : status;
    status = status == ADAMD_OK ? read_named(message, &addition.group.keys, model, fault) : status;
    if (status == ADAMD_OK) {
        addition.tensor_count = (uint32_t)message->n_tensors;
        *ret_addition = addition;
    }
    return status;
}

// --------------------------------------------------------------------------------------- a file

// Entries in the order of their names.
static int compare_entries(const void *left, const void *right) {
    const struct adamd_safetensors_entry *const *a = left;
    const struct adamd_safetensors_entry *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static int compare_name(const void *name, const void *entry) {
    const struct adamd_safetensors_entry *const *of = entry;
    return strcmp(name, (*of)->name);
}

static const struct adamd_safetensors_entry **sort_entries(const struct adamd_safetensors *header,
                                                           struct codec_arena *arena) {
    const struct adamd_safetensors_entry **sorted =
        codec_arena_array(arena, header->entry_count, sizeof(void *));

    for (size_t i = 0; sorted != NULL && i < header->entry_count; i++) {
        sorted[i] = &header->entries[i];
    }
    if (sorted != NULL && header->entry_count > 0) {
        qsort((void *)sorted, header->entry_count, sizeof(void *), compare_entries);
    }
    return sorted;
}

static int64_t find_entry(const struct adamd_safetensors *header,
                          const struct adamd_safetensors_entry *const *sorted, const char *name) {
    const struct adamd_safetensors_entry *const *found =
        bsearch(name, (const void *)sorted, header->entry_count, sizeof(void *), compare_name);

    return found != NULL ? *found - header->entries : -1;
}

static enum adamd_status fill_tensor(const struct adamd_safetensors_entry *entry,
                                     struct adamd_tensor_spec *spec, struct adamd_fault *fault) {
    if (entry->rank > ADAMD_RANK_MAX || !codec_dtype_of(entry->type, &spec->dtype)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, entry->name,
                          "tensor \"%.120s\" is of a type or rank that parameters do not have",
                          entry->name);
    }
    spec->key = entry->name;
    spec->rank = entry->rank;
    memcpy(spec->shape, entry->shape, entry->rank * sizeof spec->shape[0]);
    return ADAMD_OK;
}

// In the order of `params`, or as they stand in the file.
static enum adamd_status fill_tensors(const struct adamd_safetensors *header,
                                      const struct adamd_safetensors_entry *const *sorted,
                                      const struct codec_parsed_group *parsed,
                                      struct codec_addition *addition, struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;

    memset(addition->targets, 0xff, header->entry_count * sizeof *addition->targets);
    for (uint32_t i = 0; i < addition->tensor_count && status == ADAMD_OK; i++) {
        const int64_t at =
            parsed != NULL ? find_entry(header, sorted, parsed->params[i]) : (int64_t)i;
        if (at < 0 || addition->targets[at] != UINT32_MAX) {
            return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "adamd.param_groups[0].params",
                              "\"%.120s\" is none of the file's tensors, or twice in the group",
                              parsed != NULL ? parsed->params[i] : "");
        }
        addition->targets[at] = i;
        status = fill_tensor(&header->entries[at], &addition->tensors[i], fault);
    }
    return status;
}

// The parameters of an unnamed model are called by their indices; so are these.
static bool are_indices(const struct codec_addition *addition, uint32_t first) {
    char index[16];

    for (uint32_t i = 0; i < addition->tensor_count; i++) {
        (void)snprintf(index, sizeof index, "%u", (unsigned)(first + i));
        if (strcmp(addition->tensors[i].key, index) != 0) {
            return false;
        }
    }
    return true;
}

static enum adamd_status read_group(const struct adamd_safetensors *header,
                                    const struct adamd_options *defaults, struct codec_arena *arena,
                                    struct codec_parsed_group **ret_group,
                                    struct adamd_fault *fault) {
    const char *text = adamd_safetensors_metadata_get(header, "adamd.param_groups");
    uint32_t count = 0;
    enum adamd_status status = ADAMD_OK;

    if (text != NULL) {
        status = codec_groups_parse(text, defaults, arena, ret_group, &count, fault);
    }
    if (status != ADAMD_OK || text == NULL) {
        return status;
    }
    if (count != 1 || (*ret_group)->param_count != header->entry_count) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "adamd.param_groups",
                          "adamd.param_groups: one group with all tensors of the file is expected");
    }
    return ADAMD_OK;
}

enum adamd_status
codec_addition_of_file(const struct adamd_safetensors *header, const struct adamd_model *model,
                       const struct adamd_options *defaults, struct codec_arena *arena,
                       struct codec_addition *ret_addition, struct adamd_fault *fault) {
    struct codec_addition addition = {.group = {.options = *defaults}};
    struct codec_parsed_group *parsed = NULL;
    enum adamd_status status = read_group(header, defaults, arena, &parsed, fault);

    if (status != ADAMD_OK) {
        return status;
    }
    if (header->entry_count > ADAMD_TENSORS_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "tensors", "%zu tensors, at most %d",
                          header->entry_count, ADAMD_TENSORS_MAX);
    }
    addition.tensor_count = (uint32_t)header->entry_count;
    addition.tensors = codec_arena_array(arena, header->entry_count, sizeof *addition.tensors);
    addition.targets = codec_arena_array(arena, header->entry_count, sizeof *addition.targets);
    const struct adamd_safetensors_entry **sorted = sort_entries(header, arena);
    if (addition.tensors == NULL || addition.targets == NULL || sorted == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    status = fill_tensors(header, sorted, parsed, &addition, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    if (parsed != NULL) {
        addition.group.options = parsed->options;
        addition.group.keys = parsed->keys;
    }
    addition.group.keys.unnamed = addition.group.keys.names == NULL &&
                                  adamd_model_group_keys(model, 0)->unnamed &&
                                  are_indices(&addition, adamd_model_layout(model)->tensor_count);
    *ret_addition = addition;
    return ADAMD_OK;
}

// -------------------------------------------------------------------------------------- the answer

Adamd__V1__AddParamGroupResponse *codec_added_message(struct codec_arena *arena,
                                                      const struct adamd_model *model,
                                                      const char *model_id,
                                                      const struct adamd_added *added) {
    const struct adamd_layout *layout = adamd_model_layout(model);
    Adamd__V1__AddParamGroupResponse *message =
        CODEC_NEW(arena, Adamd__V1__AddParamGroupResponse, adamd__v1__add_param_group_response);
    char digest[33];

    if (message == NULL) {
        return NULL;
    }
    codec_digest_text(layout->digest, digest);
    message->param_group = codec_group_message(arena, model, model_id, added->group, true);
    message->layout_digest = codec_arena_copy(arena, digest, strlen(digest));
    message->tensors = codec_arena_array(arena, added->tensor_count, sizeof(void *));
    if (message->param_group == NULL || message->layout_digest == NULL ||
        message->tensors == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < added->tensor_count; i++) {
        message->tensors[i] = codec_tensor_message(arena, model, model_id, added->first_tensor + i);
        if (message->tensors[i] == NULL) {
            return NULL;
        }
    }
    message->n_tensors = added->tensor_count;
    message->generation = added->generation;
    message->version = added->version;
    message->byte_size = layout->wire_bytes;
    return message;
}
