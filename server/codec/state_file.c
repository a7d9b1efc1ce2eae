// The whole state as one safetensors file: bytes straight from the capture, apart from the steps.
#include "codec/tensors.h"

#include "codec/convert.h"
#include "codec/files.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const codec_suffixes[CODEC_TARGET_STEP + 1] = {
    [ADAMD_PARAM] = "",
    [ADAMD_EXP_AVG] = ".exp_avg",
    [ADAMD_EXP_AVG_SQ] = ".exp_avg_sq",
    [ADAMD_MAX_EXP_AVG_SQ] = ".max_exp_avg_sq",
    [ADAMD_EMA] = ".ema",
    [CODEC_TARGET_STEP] = ".step",
};

// Entries of the metadata that every file has.
enum { METADATA_ALWAYS = 5 };

struct writer {
    const struct adamd_layout *layout;
    const struct adamd_capture *capture;
    struct codec_arena arena;
    struct adamd_safetensors_entry *entries;
    size_t count;
    struct adamd_fault *fault;
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

static const char *make_name(struct writer *writer, struct codec_target target) {
    const char *key = writer->layout->tensors[target.tensor].key;
    const char *suffix = codec_suffixes[target.array];
    const size_t size = strlen(key) + strlen(suffix) + 1;
    struct named *named = codec_arena_alloc(&writer->arena, sizeof *named + size);

    if (named == NULL) {
        return NULL;
    }
    named->target = target;
    (void)snprintf(named->name, size, "%s%s", key, suffix);
    return named->name;
}

static bool add_entry(struct writer *writer, struct codec_target target) {
    const char *name = make_name(writer, target);
    struct adamd_safetensors_entry *entry = &writer->entries[writer->count];

    if (name == NULL) {
        return false;
    }
    if (target.array == CODEC_TARGET_STEP) {
        *entry = (struct adamd_safetensors_entry){.name = name, .type = ADAMD_ST_I64};
    } else {
        codec_entry_of(entry, &writer->layout->tensors[target.tensor], name);
    }
    writer->count++;
    return true;
}

static bool add_entries(struct writer *writer, uint32_t tensor) {
    for (uint32_t array = 0; array <= CODEC_TARGET_STEP; array++) {
        const bool present = array == CODEC_TARGET_STEP || writer->capture->arrays[array] != NULL;
        if (present && !add_entry(writer, (struct codec_target){array, tensor})) {
            return false;
        }
    }
    return true;
}

static bool make_entries(struct writer *writer) {
    const size_t most = (size_t)writer->layout->tensor_count * (CODEC_TARGET_STEP + 1);

    writer->entries = codec_arena_array(&writer->arena, most, sizeof *writer->entries);
    if (writer->entries == NULL) {
        return false;
    }
    for (uint32_t tensor = 0; tensor < writer->layout->tensor_count; tensor++) {
        if (!add_entries(writer, tensor)) {
            return false;
        }
    }
    return true;
}

static enum adamd_status write_header(struct writer *writer, const char *groups,
                                      const uint64_t digest[2], unsigned char **ret_head,
                                      size_t *ret_size) {
    char version[24];
    char digest_text[33];
    char *pairs = NULL;

    if (!codec_pairs_list(writer->layout, &pairs)) {
        return adamd_fail_plain(writer->fault, ADAMD_NO_MEMORY);
    }
    (void)snprintf(version, sizeof version, "%" PRIu64, writer->capture->version);
    codec_digest_text(digest, digest_text);
    struct adamd_safetensors_metadata metadata[METADATA_ALWAYS + 2] = {
        {"format", "pt"},
        {"adamd.format", "1"},
        {"adamd.param_groups", groups},
        {"adamd.version", version},
        {"adamd.state_digest", digest_text},
    };
    size_t count = METADATA_ALWAYS;
    if (writer->capture->hooks != NULL) {
        metadata[count++] =
            (struct adamd_safetensors_metadata){"adamd.hooks", writer->capture->hooks};
    }
    if (pairs != NULL) {
        metadata[count++] = (struct adamd_safetensors_metadata){"adamd.complex128", pairs};
    }
    const enum adamd_status status = adamd_safetensors_write(
        writer->entries, writer->count, metadata, count, ret_head, ret_size, writer->fault);
    free(pairs);
    return status;
}

static bool make_steps(struct writer *writer, struct codec_file *file) {
    const uint32_t count = writer->layout->tensor_count;

    file->steps = calloc((size_t)count + 1, sizeof *file->steps);
    for (uint32_t i = 0; file->steps != NULL && i < count; i++) {
        unsigned char *to = (unsigned char *)&file->steps[i];
        for (unsigned k = 0; k < sizeof file->steps[i]; k++) {
            to[k] = (unsigned char)(writer->capture->steps[i] >> (8 * k));
        }
    }
    return file->steps != NULL;
}

static enum adamd_status fill_file(struct writer *writer, struct codec_file *file) {
    if (!make_steps(writer, file)) {
        codec_file_finish(file);
        return adamd_fail_plain(writer->fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < writer->count; i++) {
        const struct codec_target target = target_of(writer->entries[i].name);
        if (target.array == CODEC_TARGET_STEP) {
            codec_file_add(file, &file->steps[target.tensor], sizeof file->steps[0]);
        } else {
            codec_file_add_tensor(file, &writer->layout->tensors[target.tensor],
                                  writer->capture->arrays[target.array]);
        }
    }
    return ADAMD_OK;
}

enum adamd_status codec_state_file(const struct adamd_layout *layout,
                                   const struct adamd_capture *capture,
                                   const struct adamd_group_spec *groups, uint32_t group_count,
                                   const uint64_t digest[2], struct codec_file *ret_file,
                                   struct adamd_fault *fault) {
    struct writer writer = {.layout = layout, .capture = capture, .fault = fault};
    char *text = NULL;
    unsigned char *head = NULL;
    size_t head_size = 0;
    enum adamd_status status =
        codec_groups_print(layout, groups, group_count, capture->options, capture->keys, &text);

    if (status != ADAMD_OK || !make_entries(&writer)) {
        status = adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    } else {
        status = write_header(&writer, text, digest, &head, &head_size);
    }
    free(text);
    if (status == ADAMD_OK) {
        status = codec_file_begin(ret_file, head, head_size, writer.count);
    }
    if (status == ADAMD_OK) {
        status = fill_file(&writer, ret_file);
    }
    codec_arena_finish(&writer.arena);
    return status;
}

enum adamd_status codec_groups_of(const struct adamd_model *model, struct codec_arena *arena,
                                  struct adamd_group_spec **ret_groups, uint32_t *ret_count) {
    const uint32_t count = adamd_model_info(model, 0).group_count;
    struct adamd_group_spec *groups = codec_arena_array(arena, count, sizeof *groups);

    if (groups == NULL) {
        return ADAMD_NO_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        groups[i].options = *adamd_model_options(model, i);
        groups[i].keys = adamd_group_keys_spec_of(adamd_model_group_keys(model, i));
        groups[i].tensors = adamd_model_group(model, i, &groups[i].tensor_count);
    }
    *ret_groups = groups;
    *ret_count = count;
    return ADAMD_OK;
}
