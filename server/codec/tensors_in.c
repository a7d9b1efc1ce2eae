// Files that arrive: which entry the next byte belongs to, and which tensor an entry means.
#include "codec/tensors.h"

#include "codec/convert.h"
#include "codec/files.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8 };

// --------------------------------------------------------------------------------------- upload

static enum adamd_status fail_named(struct adamd_fault *fault, enum adamd_status status,
                                    const char *error, const char *text) {
    (void)adamd_fail(fault, status, NULL, "safetensors header: %s", text);
    adamd_fault_tell(fault, "error", "%s", error);
    return status;
}

static enum adamd_status begin_json(struct codec_upload *upload, struct adamd_fault *fault) {
    uint64_t size = 0;

    for (unsigned i = LENGTH_BYTES; i > 0; i--) {
        size = size << 8 | upload->length[i - 1];
    }
    if (size > ADAMD_SAFETENSORS_HEADER_MAX) {
        return fail_named(fault, ADAMD_TOO_LARGE, "HeaderTooLarge",
                          "more than 64 MiB, or the body is no safetensors file");
    }
    if (size > upload->file_bytes - LENGTH_BYTES) {
        return fail_named(fault, ADAMD_BAD_FIELD, "InvalidHeaderLength",
                          "its length is more than the file's");
    }
    upload->json = malloc(size > 0 ? (size_t)size : 1);
    if (upload->json == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    upload->json_size = (size_t)size;
    return ADAMD_OK;
}

static size_t take_bytes(unsigned char *to, size_t wanted, size_t *filled,
                         const unsigned char *data, size_t size) {
    const size_t count = wanted - *filled < size ? wanted - *filled : size;

    if (count > 0) {
        memcpy(to + *filled, data, count);
        *filled += count;
    }
    return count;
}

enum adamd_status codec_upload_head(struct codec_upload *upload, const void *data, size_t size,
                                    size_t *ret_used, struct adamd_fault *fault) {
    const unsigned char *at = data;
    enum adamd_status status = ADAMD_OK;
    size_t used = 0;

    if (upload->file_bytes < LENGTH_BYTES) {
        return fail_named(fault, ADAMD_BAD_FIELD, "HeaderTooSmall", "fewer than 8 bytes");
    }
    if (upload->json == NULL) {
        used = take_bytes(upload->length, LENGTH_BYTES, &upload->length_filled, at, size);
        if (upload->length_filled == LENGTH_BYTES) {
            status = begin_json(upload, fault);
        }
    }
    if (status == ADAMD_OK && upload->json != NULL && !upload->ready) {
        used += take_bytes(upload->json, upload->json_size, &upload->json_filled, at + used,
                           size - used);
        if (upload->json_filled == upload->json_size) {
            status = adamd_safetensors_parse(upload->json, upload->json_size, upload->file_bytes,
                                             &upload->header, fault);
            upload->ready = status == ADAMD_OK;
        }
    }
    if (status == ADAMD_OK) {
        *ret_used = used;
    }
    return status;
}

size_t codec_upload_piece(struct codec_upload *upload, size_t size, size_t *ret_entry) {
    const struct adamd_safetensors *header = &upload->header;

    while (upload->entry < header->entry_count &&
           header->entries[upload->entry].end <= upload->at) {
        upload->entry++;
    }
    if (upload->entry == header->entry_count) {
        return 0;
    }
    const uint64_t left = header->entries[upload->entry].end - upload->at;
    const size_t piece = left < size ? (size_t)left : size;
    upload->at += piece;
    *ret_entry = upload->entry;
    return piece;
}

enum adamd_status codec_upload_data(struct codec_upload *upload, const void *data, size_t size,
                                    codec_piece_fn *take, void *arg, struct adamd_fault *fault) {
    const unsigned char *at = data;

    while (size > 0) {
        size_t entry = 0;
        const size_t piece = codec_upload_piece(upload, size, &entry);
        const enum adamd_status status = piece == 0
                                             ? adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "body",
                                                          "there are bytes behind the last tensor")
                                             : take(arg, entry, at, piece, fault);
        if (status != ADAMD_OK) {
            return status;
        }
        at += piece;
        size -= piece;
    }
    return ADAMD_OK;
}

bool codec_upload_complete(const struct codec_upload *upload) {
    return upload->ready && upload->at == upload->header.data_bytes;
}

void codec_upload_finish(struct codec_upload *upload) {
    free(upload->json);
    adamd_safetensors_finish(&upload->header);
    *upload = (struct codec_upload){.file_bytes = upload->file_bytes};
}

// ------------------------------------------------------------------------------------- differences

enum { DIFFERENCES_TOLD = 3 };

// What a file has otherwise than the model: the first is the message, a few are told, all are
// counted.
struct differences {
    struct adamd_fault *fault;
    size_t count;
};

static void note_difference(struct differences *differences, const char *name, const char *text) {
    if (differences->count++ == 0) {
        (void)adamd_fail(differences->fault, ADAMD_LAYOUT_MISMATCH, name, "tensor \"%.120s\" %s",
                         name, text);
    }
    if (differences->count <= DIFFERENCES_TOLD) {
        adamd_fault_tell(differences->fault, "difference", "%.24s %s", name, text);
    }
}

static enum adamd_status conclude(struct differences *differences) {
    if (differences->count == 0) {
        return ADAMD_OK;
    }
    adamd_fault_tell(differences->fault, "differences", "%zu", differences->count);
    return ADAMD_LAYOUT_MISMATCH;
}

static void format_shape(char text[80], const uint64_t *shape, uint32_t rank) {
    size_t filled = (size_t)snprintf(text, 80, "[");

    for (uint32_t i = 0; i < rank && filled < 60; i++) {
        filled +=
            (size_t)snprintf(text + filled, 80 - filled, "%s%" PRIu64, i > 0 ? "," : "", shape[i]);
    }
    if (filled < 79) {
        (void)snprintf(text + filled, 80 - filled, "]");
    }
}

// True if the entry has the tensor's type and shape.
static bool check_array(struct differences *differences, const struct adamd_tensor *tensor,
                        const struct adamd_safetensors_entry *entry) {
    struct adamd_safetensors_entry wanted;
    char text[200];
    char wanted_shape[80];
    char given_shape[80];

    codec_entry_of(&wanted, tensor, tensor->key);
    if (entry->type != wanted.type) {
        (void)snprintf(text, sizeof text, "is %s, the model takes %s",
                       adamd_safetensors_type_name(entry->type),
                       adamd_safetensors_type_name(wanted.type));
        note_difference(differences, entry->name, text);
        return false;
    }
    if (entry->rank == wanted.rank &&
        memcmp(entry->shape, wanted.shape, wanted.rank * sizeof entry->shape[0]) == 0) {
        return true;
    }
    format_shape(given_shape, entry->shape, entry->rank);
    format_shape(wanted_shape, wanted.shape, wanted.rank);
    (void)snprintf(text, sizeof text, "has shape %s, the model's is %s", given_shape, wanted_shape);
    note_difference(differences, entry->name, text);
    return false;
}

// --------------------------------------------------------------------------------------- gradients

enum adamd_status codec_map_gradients(const struct adamd_layout *layout,
                                      const struct adamd_safetensors *header,
                                      struct codec_arena *arena,
                                      struct codec_gradients *ret_gradients,
                                      struct adamd_fault *fault) {
    struct differences differences = {.fault = fault};
    struct codec_target *targets = codec_arena_array(arena, header->entry_count, sizeof *targets);
    uint32_t *tensors = codec_arena_array(arena, layout->tensor_count, sizeof *tensors);
    bool *present = codec_arena_array(arena, layout->tensor_count, sizeof *present);
    uint32_t count = 0;

    if (targets == NULL || tensors == NULL || present == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    if (header->entry_count == 0) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, NULL, "the file has no tensors");
    }
    for (size_t i = 0; i < header->entry_count; i++) {
        const struct adamd_safetensors_entry *entry = &header->entries[i];
        const int64_t tensor = adamd_layout_find(layout, entry->name, strlen(entry->name));
        if (tensor < 0) {
            note_difference(&differences, entry->name, "is none of the model's");
        } else if (check_array(&differences, &layout->tensors[tensor], entry)) {
            targets[i] = (struct codec_target){.array = ADAMD_PARAM, .tensor = (uint32_t)tensor};
            present[tensor] = true;
        }
    }
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        if (present[i]) {
            tensors[count++] = i;
        }
    }
    *ret_gradients = (struct codec_gradients){
        .targets = targets, .tensors = tensors, .count = count, .byte_size = header->data_bytes};
    return conclude(&differences);
}

// --------------------------------------------------------------------------------------- state

struct state_reader {
    const struct adamd_layout *layout;
    unsigned char *present; // by tensor, a bit for each array
    unsigned all;           // of all of these bits
    struct differences differences;
};

// Which array of which tensor a name means. A key never ends like an array's name: the layout
// refused that.
static bool find_target(const struct adamd_layout *layout, const char *name,
                        struct codec_target *ret_target) {
    const size_t size = strlen(name);

    for (uint32_t array = 0; array <= CODEC_TARGET_STEP; array++) {
        const size_t suffix = strlen(codec_suffixes[array]);
        if (suffix > size || strcmp(name + size - suffix, codec_suffixes[array]) != 0) {
            continue;
        }
        const int64_t tensor = adamd_layout_find(layout, name, size - suffix);
        if (tensor >= 0) {
            *ret_target = (struct codec_target){.array = array, .tensor = (uint32_t)tensor};
            return true;
        }
    }
    return false;
}

enum adamd_status codec_map_cotangents(const struct adamd_layout *layout,
                                       const struct adamd_safetensors *header,
                                       struct codec_arena *arena, struct codec_target **ret_targets,
                                       struct adamd_fault *fault) {
    struct differences differences = {.fault = fault};
    struct codec_target *targets = codec_arena_array(arena, header->entry_count, sizeof *targets);

    if (targets == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < header->entry_count; i++) {
        const struct adamd_safetensors_entry *entry = &header->entries[i];
        if (!find_target(layout, entry->name, &targets[i])) {
            note_difference(&differences, entry->name, "is none of the model's");
        } else if (targets[i].array >= ADAMD_GRAD) {
            note_difference(&differences, entry->name,
                            "has no cotangent: a step writes no such array");
        } else {
            (void)check_array(&differences, &layout->tensors[targets[i].tensor], entry);
        }
    }
    *ret_targets = targets;
    return conclude(&differences);
}

static void read_entry(struct state_reader *reader, const struct adamd_safetensors_entry *entry,
                       struct codec_target *target) {
    if (!find_target(reader->layout, entry->name, target)) {
        note_difference(&reader->differences, entry->name, "is none of the model's");
        return;
    }
    const unsigned bit = 1U << target->array;
    if (target->array != CODEC_TARGET_STEP) {
        (void)check_array(&reader->differences, &reader->layout->tensors[target->tensor], entry);
    } else if (entry->type != ADAMD_ST_I64 || entry->rank != 0) {
        note_difference(&reader->differences, entry->name, "must be a scalar of type I64");
    }
    reader->present[target->tensor] |= (unsigned char)bit;
    reader->all |= bit;
}

static void check_present(struct state_reader *reader, uint32_t tensor, unsigned wanted) {
    for (uint32_t array = 0; array <= CODEC_TARGET_STEP; array++) {
        char name[ADAMD_KEY_MAX + 32];
        if ((wanted & ~(unsigned)reader->present[tensor] & 1U << array) == 0) {
            continue;
        }
        (void)snprintf(name, sizeof name, "%s%s", reader->layout->tensors[tensor].key,
                       codec_suffixes[array]);
        note_difference(&reader->differences, name, "is missing");
    }
}

// Every tensor of every group: each tensor is in exactly one.
static void check_complete(struct state_reader *reader, const struct adamd_group_spec *groups,
                           uint32_t group_count) {
    const unsigned param = 1U << ADAMD_PARAM;
    const unsigned state =
        param | 1U << ADAMD_EXP_AVG | 1U << ADAMD_EXP_AVG_SQ | 1U << CODEC_TARGET_STEP;

    for (uint32_t i = 0; i < group_count; i++) {
        const bool amsgrad = groups[i].options.amsgrad;
        unsigned wanted = reader->all == param ? param : state;
        if (wanted == state && amsgrad) {
            wanted |= 1U << ADAMD_MAX_EXP_AVG_SQ;
        }
        for (uint32_t k = 0; k < groups[i].tensor_count; k++) {
            check_present(reader, groups[i].tensors[k], wanted);
        }
    }
}

static enum adamd_status read_version(const char *text, struct codec_state *state,
                                      struct adamd_fault *fault) {
    uint64_t version = 0;

    if (text == NULL) {
        return ADAMD_OK;
    }
    for (const char *at = text; at == text || *at != 0; at++) {
        if (*at < '0' || *at > '9' || __builtin_mul_overflow(version, 10U, &version) ||
            __builtin_add_overflow(version, (unsigned)(*at - '0'), &version)) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, "adamd.version",
                              "adamd.version is no version: \"%.40s\"", text);
        }
    }
    state->has_version = true;
    state->version = version;
    return ADAMD_OK;
}

static enum adamd_status read_metadata(const struct adamd_safetensors *header,
                                       struct codec_state *state, struct adamd_fault *fault) {
    const char *format = adamd_safetensors_metadata_get(header, "adamd.format");
    const char *digest = adamd_safetensors_metadata_get(header, "adamd.state_digest");

    if (format != NULL && strcmp(format, "1") != 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "adamd.format",
                          "format \"%.20s\" is not known here, only \"1\"", format);
    }
    if (digest != NULL && !codec_digest_read(digest, state->digest)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "adamd.state_digest",
                          "adamd.state_digest is not 32 hex digits");
    }
    state->has_digest = digest != NULL;
    // A state of ours is what it digests to: without hooks, there are none.
    state->hooks = adamd_safetensors_metadata_get(header, "adamd.hooks");
    if (state->hooks == NULL && digest != NULL) {
        state->hooks = "";
    }
    return read_version(adamd_safetensors_metadata_get(header, "adamd.version"), state, fault);
}

enum adamd_status codec_map_state(const struct adamd_layout *layout,
                                  const struct adamd_group_spec *groups, uint32_t group_count,
                                  const struct adamd_safetensors *header, struct codec_arena *arena,
                                  struct codec_state *ret_state, struct adamd_fault *fault) {
    struct state_reader reader = {.layout = layout, .differences = {.fault = fault}};
    struct codec_state state = {0};
    const char *text = adamd_safetensors_metadata_get(header, "adamd.param_groups");
    enum adamd_status status = read_metadata(header, &state, fault);

    if (status == ADAMD_OK && text != NULL) {
        status = codec_groups_match(text, layout, groups, group_count, arena, &state.groups, fault);
    }
    if (status != ADAMD_OK) {
        return status;
    }
    state.targets = codec_arena_array(arena, header->entry_count, sizeof *state.targets);
    reader.present = codec_arena_array(arena, layout->tensor_count, 1);
    if (state.targets == NULL || reader.present == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < header->entry_count; i++) {
        read_entry(&reader, &header->entries[i], &state.targets[i]);
    }
    if (reader.differences.count == 0) {
        check_complete(&reader, state.groups != NULL ? state.groups : groups, group_count);
    }
    state.parameters_only = reader.all == 1U << ADAMD_PARAM;
    if (state.parameters_only) {
        state.groups = NULL;
        state.hooks = NULL;
    }
    *ret_state = state;
    return conclude(&reader.differences);
}
