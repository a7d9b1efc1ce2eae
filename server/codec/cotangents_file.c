// What a differentiation came to, as one safetensors file: tensors straight from where they lie,
// the options' cotangents as JSON in the metadata.
#include "codec/tensors.h"

#include "adamd/differentiate.h"
#include "codec/files.h"
#include "codec/text.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const suffixes[ADAMD_COTANGENT_COUNT] = {
    [ADAMD_PARAM] = "",
    [ADAMD_EXP_AVG] = ".exp_avg",
    [ADAMD_EXP_AVG_SQ] = ".exp_avg_sq",
    [ADAMD_MAX_EXP_AVG_SQ] = ".max_exp_avg_sq",
    [ADAMD_GRAD] = ".grad",
};

// ---------------------------------------------------------------------------------------- options

static void put_number(struct codec_text *text, const char *name, double value) {
    char digits[32];

    codec_text_put(text, name);
    if (!isfinite(value)) {
        codec_text_double(text, value);
        return;
    }
    (void)snprintf(digits, sizeof digits, "%.17g", value);
    codec_text_put(text, digits);
}

// A group that is not differentiable keeps its place, so that groups have their indices.
static void put_cotangents(struct codec_text *text, const struct adamd_cotangents *cotangents,
                           uint32_t group) {
    const struct adamd_option_cotangents *bars = &cotangents->groups[group];

    if (!cotangents->options[group].differentiable) {
        codec_text_put(text, "\"lr\":null,\"betas\":null,\"eps\":null,\"weight_decay\":null");
        return;
    }
    put_number(text, "\"lr\":", bars->lr);
    put_number(text, ",\"betas\":[", bars->betas[0]);
    put_number(text, ",", bars->betas[1]);
    put_number(text, "],\"eps\":", bars->eps);
    if (bars->has_weight_decay) {
        put_number(text, ",\"weight_decay\":", bars->weight_decay);
    } else {
        codec_text_put(text, ",\"weight_decay\":null");
    }
}

// malloc'ed; NULL without memory.
static char *print_groups(const struct adamd_layout *layout,
                          const struct adamd_cotangents *cotangents,
                          const struct adamd_group_spec *groups) {
    struct codec_text text = {0};

    codec_text_put(&text, "[");
    for (uint32_t i = 0; i < cotangents->group_count; i++) {
        codec_text_put(&text, i > 0 ? ",{" : "{");
        put_cotangents(&text, cotangents, i);
        codec_text_put(&text, ",\"params\":[");
        for (uint32_t k = 0; k < groups[i].tensor_count; k++) {
            codec_text_put(&text, k > 0 ? "," : "");
            codec_text_quote(&text, layout->tensors[groups[i].tensors[k]].key);
        }
        codec_text_put(&text, "]}");
    }
    codec_text_put(&text, "]");
    return codec_text_end(&text, NULL);
}

// ------------------------------------------------------------------------------------------- file

struct writer {
    const struct adamd_layout *layout;
    const struct adamd_cotangents *cotangents;
    struct codec_arena arena;
    struct adamd_safetensors_entry *entries;
    size_t count;
};

// The writer of headers sorts entries; what each stands for is found again before its name.
struct named {
    struct codec_target target;
    char name[];
};

static struct codec_target target_of(const char *name) {
    struct codec_target target;
    memcpy(&target, name - offsetof(struct named, name), sizeof target);
    return target;
}

static bool add_entry(struct writer *writer, uint32_t array, uint32_t tensor) {
    const struct adamd_tensor *entry = &writer->layout->tensors[tensor];
    const size_t size = strlen(entry->key) + strlen(suffixes[array]) + 1;
    struct named *named = codec_arena_alloc(&writer->arena, sizeof *named + size);

    if (named == NULL) {
        return false;
    }
    named->target = (struct codec_target){.array = array, .tensor = tensor};
    (void)snprintf(named->name, size, "%s%s", entry->key, suffixes[array]);
    codec_entry_of(&writer->entries[writer->count++], entry, named->name);
    return true;
}

static bool add_entries(struct writer *writer, uint32_t group, uint32_t tensor) {
    bool added = true;

    for (uint32_t array = 0; array < ADAMD_COTANGENT_COUNT && added; array++) {
        added = !adamd_cotangents_have(writer->cotangents, array, group, tensor) ||
                add_entry(writer, array, tensor);
    }
    return added;
}

static bool make_entries(struct writer *writer, const struct adamd_group_spec *groups) {
    const size_t most = (size_t)writer->layout->tensor_count * ADAMD_COTANGENT_COUNT;
    bool added = true;

    writer->entries = codec_arena_array(&writer->arena, most, sizeof *writer->entries);
    if (writer->entries == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < writer->cotangents->group_count; i++) {
        for (uint32_t k = 0; k < groups[i].tensor_count && added; k++) {
            added = add_entries(writer, i, groups[i].tensors[k]);
        }
    }
    return added;
}

static enum adamd_status write_file(struct writer *writer, const char *groups,
                                    struct codec_file *ret_file, struct adamd_fault *fault) {
    char version[24];
    char generation[24];
    unsigned char *head = NULL;
    size_t head_size = 0;

    (void)snprintf(version, sizeof version, "%" PRIu64, writer->cotangents->version);
    (void)snprintf(generation, sizeof generation, "%" PRIu64, writer->cotangents->generation);
    const struct adamd_safetensors_metadata metadata[] = {
        {"format", "pt"},
        {"adamd.param_groups", groups},
        {"adamd.version", version},
        {"adamd.generation", generation},
    };
    enum adamd_status status =
        adamd_safetensors_write(writer->entries, writer->count, metadata,
                                sizeof metadata / sizeof metadata[0], &head, &head_size, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    status = codec_file_begin(ret_file, head, head_size, writer->count);
    if (status != ADAMD_OK) {
        return adamd_fail_plain(fault, status);
    }
    for (size_t i = 0; i < writer->count; i++) {
        const struct codec_target target = target_of(writer->entries[i].name);
        codec_file_add_tensor(ret_file, &writer->layout->tensors[target.tensor],
                              writer->cotangents->arrays[target.array]);
    }
    return ADAMD_OK;
}

enum adamd_status codec_cotangents_file(const struct adamd_layout *layout,
                                        const struct adamd_cotangents *cotangents,
                                        const struct adamd_group_spec *groups,
                                        struct codec_file *ret_file, struct adamd_fault *fault) {
    struct writer writer = {.layout = layout, .cotangents = cotangents};
    char *text = print_groups(layout, cotangents, groups);
    enum adamd_status status = ADAMD_OK;

    if (text == NULL || !make_entries(&writer, groups)) {
        status = adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    } else {
        status = write_file(&writer, text, ret_file, fault);
    }
    free(text);
    codec_arena_finish(&writer.arena);
    return status;
}
