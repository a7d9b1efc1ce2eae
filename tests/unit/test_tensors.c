// Files of tensors: what is sent reads back as the same bits in the same places, any part of it can
// be had, and a file that is not the model's is refused with the tensor that differs.
#include "codec/tensors.h"

#include "codec/convert.h"

#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct adamd_tensor_spec specs[] = {
    {"z.weight", ADAMD_FLOAT32, 2, {3, 5}}, {"empty", ADAMD_FLOAT32, 2, {0, 4}},
    {"a\"b\\", ADAMD_FLOAT32, 1, {16}},     {"scalar", ADAMD_FLOAT32, 0, {0}},
    {"m", ADAMD_FLOAT32, 1, {2}},
};
enum { TENSORS = 5 };

static const uint32_t group0[] = {4, 0};
static const uint32_t group1[] = {1, 2, 3};
static const struct adamd_group_spec groups[] = {
    {.options = {.lr = 0.1, .betas = {0.9, 0.99}, .eps = 1e-8},
     .tensors = group0,
     .tensor_count = 2},
    {.options = {.lr = 0.2, .betas = {0.8, 0.88}, .amsgrad = true, .foreach = ADAMD_TRUE},
     .tensors = group1,
     .tensor_count = 3},
};

static struct adamd_layout layout;
static struct adamd_fault fault;
static struct codec_arena arena;
static float *arrays[ADAMD_ARRAY_COUNT];

static float *place(float *array, const struct adamd_tensor *tensor) {
    return array + tensor->offset / sizeof(float);
}

static void set_up(void) {
    memset(&fault, 0, sizeof fault);
    ck_assert_int_eq(adamd_layout_init(&layout, specs, TENSORS, &fault), ADAMD_OK);
    for (int i = 0; i < ADAMD_ARRAY_COUNT; i++) {
        arrays[i] = malloc(layout.arena_bytes);
        ck_assert_ptr_nonnull(arrays[i]);
        for (uint64_t k = 0; k < layout.arena_bytes / sizeof(float); k++) {
            arrays[i][k] = (float)(i * 1000) + (float)k;
        }
    }
}

static void tear_down(void) {
    for (int i = 0; i < ADAMD_ARRAY_COUNT; i++) {
        free(arrays[i]);
    }
    adamd_layout_finish(&layout);
    codec_arena_finish(&arena);
}

static unsigned char *join(const struct iovec *vector, size_t count, size_t size) {
    unsigned char *bytes = malloc(size + 1);
    size_t at = 0;

    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < count; i++) {
        ck_assert_uint_gt(vector[i].iov_len, 0);
        memcpy(bytes + at, vector[i].iov_base, vector[i].iov_len);
        at += vector[i].iov_len;
    }
    ck_assert_uint_eq(at, size);
    return bytes;
}

static void read_header(struct adamd_safetensors *header, const unsigned char *bytes, size_t size) {
    size_t length = 0;

    for (int i = 7; i >= 0; i--) {
        length = length << 8 | bytes[i];
    }
    ck_assert_uint_eq(length % 8, 0);
    ck_assert_msg(adamd_safetensors_parse(bytes + 8, length, size, header, &fault) == ADAMD_OK,
                  "%s", fault.message);
}

static const struct adamd_safetensors_entry *find_entry(const struct adamd_safetensors *header,
                                                        const char *name) {
    for (size_t i = 0; i < header->entry_count; i++) {
        if (strcmp(header->entries[i].name, name) == 0) {
            return &header->entries[i];
        }
    }
    return NULL;
}

// ----------------------------------------------------------------------------------------- pulls

static struct codec_plan *make_plan(void) {
    struct codec_plan *plan = NULL;
    ck_assert_int_eq(codec_plan_create(&layout, &plan, &fault), ADAMD_OK);
    return plan;
}

START_TEST(parameters_file_holds_every_tensor)
{
    const struct adamd_published published = {
        .host = (unsigned char *)arrays[0], .generation = 3, .version = 12345};
    struct codec_plan *plan = make_plan();
    struct codec_file file = {0};
    struct adamd_safetensors header;

    ck_assert_int_eq(codec_parameters_file(plan, &published, &file), ADAMD_OK);
    unsigned char *bytes = join(file.vector, file.vector_count, file.size);
    read_header(&header, bytes, file.size);
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, "format"), "pt");
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, "adamd.version"), "12345");
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, "adamd.generation"), "3");
    ck_assert_uint_eq(header.entry_count, TENSORS);
    const unsigned char *data = bytes + file.size - header.data_bytes;
    for (int i = 0; i < TENSORS; i++) {
        const struct adamd_tensor *tensor = &layout.tensors[i];
        const struct adamd_safetensors_entry *entry = find_entry(&header, tensor->key);
        ck_assert_ptr_nonnull(entry);
        ck_assert_uint_eq(entry->end - entry->begin, tensor->count * 4);
        ck_assert(tensor->count == 0 ||
                  memcmp(data + entry->begin, place(arrays[0], tensor), tensor->count * 4) == 0);
    }
    adamd_safetensors_finish(&header);
    free(bytes);
    codec_file_finish(&file);
    codec_plan_destroy(plan);
}
END_TEST

START_TEST(raw_file_is_the_wire_order_behind_its_head)
{
    const struct adamd_published published = {.host = (unsigned char *)arrays[0]};
    unsigned char *head = malloc(3);
    struct codec_file file = {0};

    ck_assert_ptr_nonnull(head);
    memcpy(head, (const char[]){'a', 'b', 'c'}, 3);
    ck_assert_int_eq(codec_raw_file(&layout, &published, head, 3, &file), ADAMD_OK);
    ck_assert_uint_eq(file.size, 3 + layout.wire_bytes);
    unsigned char *bytes = join(file.vector, file.vector_count, file.size);
    ck_assert_mem_eq(bytes, "abc", 3);
    for (int i = 0; i < TENSORS; i++) {
        const struct adamd_tensor *tensor = &layout.tensors[i];
        ck_assert(tensor->count == 0 || memcmp(bytes + 3 + tensor->wire_offset,
                                               place(arrays[0], tensor), tensor->count * 4) == 0);
    }
    free(bytes);
    codec_file_finish(&file);
    ck_assert_int_eq(codec_raw_file(&layout, &published, NULL, 0, &file), ADAMD_OK);
    ck_assert_uint_eq(file.size, layout.wire_bytes);
    codec_file_finish(&file);
}
END_TEST

START_TEST(every_part_of_a_file_can_be_had)
{
    const struct adamd_published published = {.host = (unsigned char *)arrays[0], .version = 1};
    struct codec_plan *plan = make_plan();
    struct codec_file file = {0};
    struct iovec *vector = NULL;
    size_t count = 0;

    ck_assert_int_eq(codec_parameters_file(plan, &published, &file), ADAMD_OK);
    unsigned char *whole = join(file.vector, file.vector_count, file.size);
    for (uint64_t offset = 0; offset <= file.size; offset += 7) {
        for (uint64_t size = 0; size <= file.size - offset; size += 41) {
            ck_assert_int_eq(codec_file_slice(&file, offset, size, &vector, &count), ADAMD_OK);
            unsigned char *part = join(vector, count, size);
            ck_assert(memcmp(part, whole + offset, size) == 0);
            free(part);
            free(vector);
        }
    }
    free(whole);
    codec_file_finish(&file);
    codec_plan_destroy(plan);
}
END_TEST

START_TEST(neighbours_in_memory_are_one_piece)
{
    const struct adamd_tensor_spec whole[] = {{"a", ADAMD_FLOAT32, 1, {16}},
                                              {"b", ADAMD_FLOAT32, 1, {32}},
                                              {"c", ADAMD_FLOAT32, 1, {16}}};
    static const float host[64];
    const struct adamd_published published = {.host = (const unsigned char *)host};
    struct adamd_layout packed = {0};
    struct codec_file file = {0};

    ck_assert_int_eq(adamd_layout_init(&packed, whole, 3, &fault), ADAMD_OK);
    ck_assert_int_eq(codec_raw_file(&packed, &published, NULL, 0, &file), ADAMD_OK);
    ck_assert_uint_eq(file.vector_count, 1);
    ck_assert_uint_eq(file.vector[0].iov_len, sizeof host);
    codec_file_finish(&file);
    adamd_layout_finish(&packed);
}
END_TEST

// ----------------------------------------------------------------------------------------- state

static const uint64_t steps[TENSORS] = {1, 2, UINT64_C(0x0102030405060708), 0, 7};
static const struct adamd_options options[] = {
    {.lr = 0.1 + 0.2, .betas = {0.9, 0.99}, .eps = 1e-8, .weight_decay = 1.0 / 3},
    {.lr = 0.2,
     .betas = {0.8, 0.88},
     .amsgrad = true,
     .fused = ADAMD_FALSE,
     .decoupled_weight_decay = true},
};
static const uint64_t digest[2] = {1, UINT64_MAX};

static unsigned char *make_state(bool amsgrad, size_t *ret_size) {
    struct adamd_capture capture = {.steps = steps, .options = options, .version = 42};
    struct codec_file file = {0};

    for (int i = 0; i < ADAMD_ARRAY_COUNT; i++) {
        capture.arrays[i] = (const unsigned char *)arrays[i];
    }
    if (!amsgrad) {
        capture.arrays[ADAMD_MAX_EXP_AVG_SQ] = NULL;
    }
    ck_assert_msg(codec_state_file(&layout, &capture, groups, 2, digest, &file, &fault) == ADAMD_OK,
                  "%s", fault.message);
    unsigned char *bytes = join(file.vector, file.vector_count, file.size);
    *ret_size = (size_t)file.size;
    codec_file_finish(&file);
    return bytes;
}

static unsigned char *copy_back(const struct codec_state *state, size_t entry, uint64_t filled,
                                float **back, uint64_t *back_steps) {
    const struct codec_target target = state->targets[entry];
    if (target.array == CODEC_TARGET_STEP) {
        return (unsigned char *)&back_steps[target.tensor] + filled;
    }
    return (unsigned char *)place(back[target.array], &layout.tensors[target.tensor]) + filled;
}

// The file in pieces of `step` bytes, through the upload and the map, into arrays of its own.
START_TEST(state_file_in_pieces_comes_back_to_its_places)
{
    static const size_t pieces[] = {1, 7, 64, 1000, 100000};
    const size_t step = pieces[_i];
    float *back[ADAMD_ARRAY_COUNT];
    uint64_t back_steps[TENSORS] = {0};
    struct codec_state state = {0};
    size_t size = 0;
    unsigned char *bytes = make_state(true, &size);
    struct codec_upload upload = {.file_bytes = size};
    size_t at = 0;

    for (int i = 0; i < ADAMD_ARRAY_COUNT; i++) {
        back[i] = calloc(1, layout.arena_bytes);
    }
    while (!upload.ready) {
        const size_t given = size - at < step ? size - at : step;
        size_t used = 0;
        ck_assert_msg(codec_upload_head(&upload, bytes + at, given, &used, &fault) == ADAMD_OK,
                      "%s", fault.message);
        ck_assert(upload.ready || used == given);
        at += used;
    }
    ck_assert_msg(codec_map_state(&layout, groups, 2, &upload.header, &arena, &state, &fault) ==
                      ADAMD_OK,
                  "%s: %s", fault.field, fault.message);
    while (!codec_upload_complete(&upload)) {
        const size_t given = size - at < step ? size - at : step;
        size_t entry = 0;
        const uint64_t seen = upload.at;
        const size_t piece = codec_upload_piece(&upload, given, &entry);
        ck_assert_uint_gt(piece, 0);
        memcpy(
            copy_back(&state, entry, seen - upload.header.entries[entry].begin, back, back_steps),
            bytes + at, piece);
        at += piece;
    }
    ck_assert_uint_eq(at, size);
    size_t ignored = 0;
    ck_assert_uint_eq(codec_upload_piece(&upload, 1, &ignored), 0);
    ck_assert(!state.parameters_only && state.has_version && state.has_digest);
    ck_assert_uint_eq(state.version, 42);
    ck_assert_mem_eq(state.digest, digest, sizeof digest);
    ck_assert_mem_eq(back_steps, steps, sizeof steps);
    ck_assert_ptr_nonnull(state.groups);
    for (int i = 0; i < 2; i++) {
        ck_assert(state.groups[i].options.lr == options[i].lr);
        ck_assert(state.groups[i].options.weight_decay == options[i].weight_decay);
        ck_assert(state.groups[i].options.betas[1] == options[i].betas[1]);
        ck_assert_int_eq(state.groups[i].options.fused, options[i].fused);
        ck_assert_int_eq(state.groups[i].options.amsgrad, options[i].amsgrad);
    }
    for (int i = 0; i < ADAMD_ARRAY_COUNT; i++) {
        for (int k = 0; k < TENSORS; k++) {
            const struct adamd_tensor *tensor = &layout.tensors[k];
            ck_assert(tensor->count == 0 || memcmp(place(back[i], tensor), place(arrays[i], tensor),
                                                   tensor->count * 4) == 0);
        }
        free(back[i]);
    }
    free(bytes);
    codec_upload_finish(&upload);
}
END_TEST

// The entries of a state file, to be changed and written again.
static size_t make_entries(struct adamd_safetensors_entry *entries, bool state, bool amsgrad) {
    static char names[TENSORS * 5][64];
    static const char *const suffixes[] = {"", ".exp_avg", ".exp_avg_sq", ".max_exp_avg_sq"};
    size_t count = 0;

    for (int i = 0; i < TENSORS; i++) {
        for (int k = 0; k < (state ? amsgrad ? 4 : 3 : 1); k++) {
            (void)snprintf(names[count], sizeof names[count], "%s%s", specs[i].key, suffixes[k]);
            entries[count] = (struct adamd_safetensors_entry){
                .name = names[count], .type = ADAMD_ST_F32, .rank = specs[i].rank};
            memcpy(entries[count].shape, specs[i].shape, sizeof specs[i].shape);
            count++;
        }
        if (state) {
            (void)snprintf(names[count], sizeof names[count], "%s.step", specs[i].key);
            entries[count] =
                (struct adamd_safetensors_entry){.name = names[count], .type = ADAMD_ST_I64};
            count++;
        }
    }
    return count;
}

static enum adamd_status map(struct adamd_safetensors_entry *entries, size_t count,
                             const struct adamd_safetensors_metadata *metadata,
                             struct codec_state *ret_state) {
    struct adamd_safetensors header;
    unsigned char *bytes = NULL;
    size_t size = 0;

    ck_assert_int_eq(adamd_safetensors_write(entries, count, metadata, metadata != NULL ? 1 : 0,
                                             &bytes, &size, &fault),
                     ADAMD_OK);
    ck_assert_int_eq(adamd_safetensors_parse(bytes + 8, size - 8, UINT64_MAX, &header, &fault),
                     ADAMD_OK);
    memset(&fault, 0, sizeof fault);
    const enum adamd_status status =
        codec_map_state(&layout, groups, 2, &header, &arena, ret_state, &fault);
    adamd_safetensors_finish(&header);
    free(bytes);
    return status;
}

START_TEST(parameters_alone_are_a_state_whose_options_stay)
{
    struct adamd_safetensors_entry entries[TENSORS * 5];
    struct codec_state state;

    ck_assert_int_eq(map(entries, make_entries(entries, false, false), NULL, &state), ADAMD_OK);
    ck_assert(state.parameters_only && !state.has_version && !state.has_digest);
    ck_assert_ptr_null(state.groups);
}
END_TEST

START_TEST(state_without_what_amsgrad_needs_is_refused)
{
    struct adamd_safetensors_entry entries[TENSORS * 5];
    struct codec_state state;

    // Group 1 says amsgrad: its three tensors lack an array each.
    ck_assert_int_eq(map(entries, make_entries(entries, true, false), NULL, &state),
                     ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, "empty.max_exp_avg_sq");
    ck_assert_uint_eq(fault.metadata_count, 4);
    ck_assert_str_eq(fault.metadata[3].key, "differences");
    ck_assert_str_eq(fault.metadata[3].value, "3");
}
END_TEST

START_TEST(each_missing_or_strange_entry_is_named)
{
    struct adamd_safetensors_entry entries[TENSORS * 5];
    struct codec_state state;
    const size_t count = make_entries(entries, true, true);

    for (size_t i = 0; i < count; i++) { // one is missing
        (void)make_entries(entries, true, true);
        const struct adamd_safetensors_entry gone = entries[i];
        entries[i] = entries[count - 1];
        const enum adamd_status status = map(entries, count - 1, NULL, &state);
        if (strstr(gone.name, ".max_exp_avg_sq") != NULL &&
            (strncmp(gone.name, "m.", 2) == 0 || strncmp(gone.name, "z.", 2) == 0)) {
            ck_assert_int_eq(status, ADAMD_OK); // not asked for by its group
            continue;
        }
        ck_assert_int_eq(status, ADAMD_LAYOUT_MISMATCH);
        ck_assert_str_eq(fault.field, gone.name);
    }
    for (size_t i = 0; i < count; i++) { // one has another shape
        (void)make_entries(entries, true, true);
        const struct adamd_safetensors_entry odd = entries[i];
        entries[i].shape[entries[i].rank++] = 1;
        ck_assert_int_eq(map(entries, count, NULL, &state), ADAMD_LAYOUT_MISMATCH);
        ck_assert_str_eq(fault.field, odd.name);
    }
    for (size_t i = 0; i < count; i++) { // one has another type
        (void)make_entries(entries, true, true);
        const struct adamd_safetensors_entry odd = entries[i];
        entries[i].type = ADAMD_ST_BF16;
        ck_assert_int_eq(map(entries, count, NULL, &state), ADAMD_LAYOUT_MISMATCH);
        ck_assert_str_eq(fault.field, odd.name);
    }
    (void)make_entries(entries, true, true); // one has another name
    entries[0].name = "stranger";
    ck_assert_int_eq(map(entries, count, NULL, &state), ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, "stranger");
}
END_TEST

#define FIRST "{\"params\":[\"m\",\"z.weight\"]}"
#define SECOND "{\"params\":[\"empty\",\"a\\\"b\\\\\",\"scalar\"]}"

static const struct {
    const char *key, *value, *field;
    enum adamd_status status;
} bad_metadata[] = {
    {"adamd.format", "2", "adamd.format", ADAMD_BAD_FIELD},
    {"adamd.version", "", "adamd.version", ADAMD_BAD_FIELD},
    {"adamd.version", "-1", "adamd.version", ADAMD_BAD_FIELD},
    {"adamd.version", "18446744073709551616", "adamd.version", ADAMD_BAD_FIELD},
    {"adamd.state_digest", "xyz", "adamd.state_digest", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "", "adamd.param_groups", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "{}", "adamd.param_groups", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[]", "adamd.param_groups", ADAMD_LAYOUT_MISMATCH},
    {"adamd.param_groups", "[{}]", "adamd.param_groups[0]", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"params\":[\"m\",\"z.weight\"]}]", "adamd.param_groups",
     ADAMD_LAYOUT_MISMATCH},
    {"adamd.param_groups", "[{\"params\":[\"m\"]},{\"params\":[]}]", "adamd.param_groups[0].params",
     ADAMD_LAYOUT_MISMATCH},
    {"adamd.param_groups", "[{\"params\":[\"z.weight\",\"m\"]}," SECOND "]",
     "adamd.param_groups[0].params[0]", ADAMD_LAYOUT_MISMATCH},
    {"adamd.param_groups", "[{\"params\":[\"m\",\"z.weight\",\"m\"]}," SECOND "]",
     "adamd.param_groups[0].params", ADAMD_LAYOUT_MISMATCH},
    {"adamd.param_groups", "[" FIRST "," SECOND "," SECOND "]", "adamd.param_groups",
     ADAMD_LAYOUT_MISMATCH},
    {"adamd.param_groups", "[" FIRST "," SECOND "", "adamd.param_groups", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[" FIRST "," SECOND "],", "adamd.param_groups", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[" FIRST "," SECOND ",]", "adamd.param_groups[2]", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"a\":1,\"a\":1,\"params\":[]}]", "adamd.param_groups[0].a",
     ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"a\":nan}]", "adamd.param_groups[0].a", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"a\":[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]],\"params\":[]}]",
     "adamd.param_groups[0].extra[0].value", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"param_names\":[1]}]", "adamd.param_groups[0].param_names[0]",
     ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"lr\":{\"tensor\":1,\"x\":2}}]", "adamd.param_groups[0].lr",
     ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"lr\":{\"x\":1}}]", "adamd.param_groups[0].lr", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"betas\":[{\"tensor\":0.5},0.5],\"params\":[]}]",
     "adamd.param_groups[0].betas", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"betas\":[0.5,0.5,0.5]}]", "adamd.param_groups[0].betas",
     ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"fused\":1}]", "adamd.param_groups[0].fused", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"eps\":1e999}]", "adamd.param_groups[0].eps", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"lr\":\"x\"}]", "adamd.param_groups[0].lr", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"lr\":1,\"lr\":1}]", "adamd.param_groups[0].lr", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"betas\":[1]}]", "adamd.param_groups[0].betas", ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"amsgrad\":null}]", "adamd.param_groups[0].amsgrad",
     ADAMD_BAD_FIELD},
    {"adamd.param_groups", "[{\"params\":[\"m\",\"z.weight\"],\"lr\":-1}]",
     "adamd.param_groups[0].lr", ADAMD_BAD_FIELD},
};

START_TEST(bad_metadata_is_refused_with_its_key)
{
    const struct adamd_safetensors_metadata metadata = {bad_metadata[_i].key,
                                                        bad_metadata[_i].value};
    struct adamd_safetensors_entry entries[TENSORS * 5];
    struct codec_state state;

    ck_assert_int_eq(map(entries, make_entries(entries, true, true), &metadata, &state),
                     bad_metadata[_i].status);
    ck_assert_str_eq(fault.field, bad_metadata[_i].field);
}
END_TEST

START_TEST(groups_come_back_as_they_were_written)
{
    static const struct adamd_extra extras[] = {
        {"initial_lr", "0.10"},
        {"note", "{\"a\": [1, -2e3, null, true, \"\\u00e9\"]}"},
        {"q\"", "\"s\""}};
    static const char *const names[] = {"first", "first"}; // PyTorch takes names twice
    const struct adamd_group_keys_spec first = {
        .extras = extras, .extra_count = 3, .names = names, .name_count = 2};
    const struct adamd_group_keys_spec second = {.unnamed = true};
    struct adamd_group_keys *keys[] = {adamd_group_keys_create(&first),
                                       adamd_group_keys_create(&second)};
    struct adamd_options given[2] = {adamd_options_default, adamd_options_default};
    struct adamd_group_spec *back = NULL;
    char *text = NULL;

    given[0].lr = 1;
    given[0].lr_is_tensor = true;
    given[0].betas_are_tensors = true;
    adamd_options_round(&given[0]);
    given[1].lr = 2;
    given[1].ints = ADAMD_NUMBER_LR | ADAMD_NUMBER_EPS;
    given[1].eps = 0;
    given[1].weight_decay = 0;
    ck_assert_int_eq(codec_groups_print(&layout, groups, 2, given, keys, &text), ADAMD_OK);
    ck_assert_ptr_nonnull(
        strstr(text, "{\"lr\":{\"tensor\":1.0},\"betas\":[{\"tensor\":0.89999997"));
    ck_assert_ptr_nonnull(strstr(text,
                                 ",\"initial_lr\":0.10,\"note\":{\"a\": [1, -2e3, null, true, "
                                 "\"\\u00e9\"]},\"q\\\"\":\"s\",\"param_names\":[\"first\","
                                 "\"first\"],\"params\":["));
    ck_assert_ptr_nonnull(strstr(text, "{\"lr\":2,"));
    ck_assert_ptr_nonnull(strstr(text, "\"eps\":0,\"weight_decay\":0.0,"));
    ck_assert_msg(codec_groups_match(text, &layout, groups, 2, &arena, &back, &fault) == ADAMD_OK,
                  "%s: %s", fault.field, fault.message);
    for (int i = 0; i < 2; i++) {
        ck_assert(back[i].options.lr == given[i].lr && back[i].options.eps == given[i].eps);
        ck_assert(back[i].options.lr_is_tensor == given[i].lr_is_tensor);
        ck_assert(back[i].options.betas_are_tensors == given[i].betas_are_tensors);
        ck_assert(back[i].options.betas[1] == given[i].betas[1]);
        ck_assert_uint_eq(back[i].options.ints, given[i].ints);
        ck_assert(back[i].keys.unnamed == (i == 1));
    }
    ck_assert_uint_eq(back[0].keys.extra_count, 3);
    for (int i = 0; i < 3; i++) {
        ck_assert_str_eq(back[0].keys.extras[i].key, extras[i].key);
        ck_assert_str_eq(back[0].keys.extras[i].value, extras[i].value);
    }
    ck_assert_uint_eq(back[0].keys.name_count, 2);
    ck_assert_str_eq(back[0].keys.names[1], "first");
    free(text);
    adamd_group_keys_drop(keys[0]);
    adamd_group_keys_drop(keys[1]);
}
END_TEST

// Files of the first format wrote whole numbers without a point.
START_TEST(whole_numbers_of_older_files_are_read)
{
    struct adamd_group_spec *back = NULL;

    ck_assert_int_eq(codec_groups_match(
                         "[{\"lr\":1,\"betas\":[0,0],\"params\":[\"m\",\"z.weight\"]}," SECOND "]",
                         &layout, groups, 2, &arena, &back, &fault),
                     ADAMD_OK);
    ck_assert_double_eq(back[0].options.lr, 1);
    ck_assert_double_eq(back[0].options.betas[0], 0);
}
END_TEST

// -------------------------------------------------------------------------------------- gradients

START_TEST(gradients_may_be_some_of_the_tensors_in_any_order)
{
    struct adamd_safetensors_entry entries[] = {{"z.weight", ADAMD_ST_F32, 2, {3, 5}, 0, 0},
                                                {"m", ADAMD_ST_F32, 1, {2}, 0, 0}};
    struct adamd_safetensors header = {.entries = entries, .entry_count = 2, .data_bytes = 68};
    struct codec_gradients gradients;

    ck_assert_int_eq(codec_map_gradients(&layout, &header, &arena, &gradients, &fault), ADAMD_OK);
    ck_assert_uint_eq(gradients.count, 2);
    ck_assert_uint_eq(gradients.byte_size, 68);
    ck_assert_uint_eq(gradients.targets[0].tensor, 0);
    ck_assert_uint_eq(gradients.targets[1].tensor, 4);
    ck_assert_uint_eq(gradients.tensors[0], 0);
    ck_assert_uint_eq(gradients.tensors[1], 4);
}
END_TEST

START_TEST(gradient_that_is_not_the_models_is_named)
{
    static const struct adamd_safetensors_entry bad[] = {
        {"z", ADAMD_ST_F32, 2, {3, 5}, 0, 0},      {"z.weight", ADAMD_ST_F32, 2, {5, 3}, 0, 0},
        {"z.weight", ADAMD_ST_F32, 1, {15}, 0, 0}, {"z.weight", ADAMD_ST_F16, 2, {3, 5}, 0, 0},
        {"m.exp_avg", ADAMD_ST_F32, 1, {2}, 0, 0}, {"scalar", ADAMD_ST_F32, 1, {1}, 0, 0},
    };
    struct codec_gradients gradients;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct adamd_safetensors_entry entry = bad[i];
        struct adamd_safetensors header = {.entries = &entry, .entry_count = 1};
        ck_assert_int_eq(codec_map_gradients(&layout, &header, &arena, &gradients, &fault),
                         ADAMD_LAYOUT_MISMATCH);
        ck_assert_str_eq(fault.field, bad[i].name);
        ck_assert_ptr_nonnull(strstr(fault.message, bad[i].name));
    }
    struct adamd_safetensors header = {0};
    ck_assert_int_eq(codec_map_gradients(&layout, &header, &arena, &gradients, &fault),
                     ADAMD_LAYOUT_MISMATCH);
}
END_TEST

// ----------------------------------------------------------------------------------------- dtypes

static const struct {
    struct adamd_tensor_spec spec;
    enum adamd_safetensors_type type;
    uint32_t rank;
} mixed[] = {
    {{"d", ADAMD_FLOAT64, 1, {3}}, ADAMD_ST_F64, 1},
    {{"h", ADAMD_FLOAT16, 2, {3, 3}}, ADAMD_ST_F16, 2},
    {{"c", ADAMD_COMPLEX64, 1, {2}}, ADAMD_ST_C64, 1},
    {{"z", ADAMD_COMPLEX128, 2, {1, 2}}, ADAMD_ST_F64, 3},
    {{"b", ADAMD_BFLOAT16, 1, {5}}, ADAMD_ST_BF16, 1},
    {{"y\"", ADAMD_COMPLEX128, 0, {0}}, ADAMD_ST_F64, 1},
};
enum { MIXED = sizeof mixed / sizeof mixed[0] };

static void check_mixed_entries(const struct adamd_layout *of, const unsigned char *host,
                                const struct adamd_safetensors *header, const unsigned char *data) {
    ck_assert_uint_eq(header->entry_count, MIXED);
    ck_assert_str_eq(adamd_safetensors_metadata_get(header, "adamd.complex128"), "z\ny\"");
    for (uint32_t i = 0; i < MIXED; i++) {
        const struct adamd_tensor *tensor = &of->tensors[i];
        const struct adamd_safetensors_entry *entry = find_entry(header, tensor->key);
        ck_assert_ptr_nonnull(entry);
        ck_assert_int_eq(entry->type, mixed[i].type);
        ck_assert_uint_eq(entry->rank, mixed[i].rank);
        ck_assert_uint_eq(entry->end - entry->begin, adamd_tensor_bytes(tensor));
        ck_assert_int_eq(
            memcmp(data + entry->begin, host + tensor->offset, (size_t)adamd_tensor_bytes(tensor)),
            0);
    }
}

START_TEST(each_dtype_has_its_type_in_files_and_is_taken_back)
{
    struct adamd_tensor_spec table[MIXED];
    struct adamd_layout of;
    struct codec_plan *plan = NULL;
    struct codec_file file = {0};
    struct adamd_safetensors header;
    struct codec_gradients gradients;

    for (uint32_t i = 0; i < MIXED; i++) {
        table[i] = mixed[i].spec;
    }
    ck_assert_int_eq(adamd_layout_init(&of, table, MIXED, &fault), ADAMD_OK);
    unsigned char *host = malloc(of.arena_bytes);
    ck_assert_ptr_nonnull(host);
    for (uint64_t i = 0; i < of.arena_bytes; i++) {
        host[i] = (unsigned char)(i * 7 + i / 64);
    }
    const struct adamd_published published = {.host = host, .version = 1};
    ck_assert_int_eq(codec_plan_create(&of, &plan, &fault), ADAMD_OK);
    ck_assert_int_eq(codec_parameters_file(plan, &published, &file), ADAMD_OK);
    unsigned char *bytes = join(file.vector, file.vector_count, file.size);
    read_header(&header, bytes, file.size);
    check_mixed_entries(&of, host, &header, bytes + file.size - header.data_bytes);
    ck_assert_int_eq(codec_map_gradients(&of, &header, &arena, &gradients, &fault), ADAMD_OK);
    ck_assert_uint_eq(gradients.byte_size, of.wire_bytes);
    ck_assert_uint_eq(gradients.count, MIXED);
    header.entries[0].type = ADAMD_ST_I64; // the first is the largest type
    ck_assert_int_eq(codec_map_gradients(&of, &header, &arena, &gradients, &fault),
                     ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, header.entries[0].name);
    adamd_safetensors_finish(&header);
    free(bytes);
    free(host);
    codec_file_finish(&file);
    codec_plan_destroy(plan);
    adamd_layout_finish(&of);
}
END_TEST

// ----------------------------------------------------------------------------------------- upload

START_TEST(upload_that_is_no_safetensors_file_is_refused_at_its_length)
{
    static const struct {
        const char *bytes;
        uint64_t file_bytes;
        const char *error;
        enum adamd_status status;
    } rows[] = {
        {"", 0, "HeaderTooSmall", ADAMD_BAD_FIELD},
        {"\2\0\0\0\0\0\0", 7, "HeaderTooSmall", ADAMD_BAD_FIELD},
        {"\2\0\0\0\0\0\0\0", 9, "InvalidHeaderLength", ADAMD_BAD_FIELD},
        {"\377\377\377\377\377\377\377\377", 100, "HeaderTooLarge", ADAMD_TOO_LARGE},
        {"0.123456", 100, "HeaderTooLarge", ADAMD_TOO_LARGE},
        {"\0\0\0\0\0\0\0\0", 8, "InvalidHeaderDeserialization", ADAMD_BAD_FIELD},
    };
    size_t used = 0;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct codec_upload upload = {.file_bytes = rows[i].file_bytes};
        memset(&fault, 0, sizeof fault);
        ck_assert_int_eq(codec_upload_head(&upload, rows[i].bytes, 8, &used, &fault),
                         rows[i].status);
        ck_assert_str_eq(fault.metadata[0].value, rows[i].error);
        codec_upload_finish(&upload);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("tensors");
    TCase *cases = tcase_create("tensors");

    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, parameters_file_holds_every_tensor);
    tcase_add_test(cases, raw_file_is_the_wire_order_behind_its_head);
    tcase_add_test(cases, every_part_of_a_file_can_be_had);
    tcase_add_test(cases, neighbours_in_memory_are_one_piece);
    tcase_add_loop_test(cases, state_file_in_pieces_comes_back_to_its_places, 0, 5);
    tcase_add_test(cases, parameters_alone_are_a_state_whose_options_stay);
    tcase_add_test(cases, state_without_what_amsgrad_needs_is_refused);
    tcase_add_test(cases, each_missing_or_strange_entry_is_named);
    tcase_add_loop_test(cases, bad_metadata_is_refused_with_its_key, 0,
                        sizeof bad_metadata / sizeof bad_metadata[0]);
    tcase_add_test(cases, groups_come_back_as_they_were_written);
    tcase_add_test(cases, whole_numbers_of_older_files_are_read);
    tcase_add_test(cases, gradients_may_be_some_of_the_tensors_in_any_order);
    tcase_add_test(cases, gradient_that_is_not_the_models_is_named);
    tcase_add_test(cases, each_dtype_has_its_type_in_files_and_is_taken_back);
    tcase_add_test(cases, upload_that_is_no_safetensors_file_is_refused_at_its_length);
    suite_add_tcase(suite, cases);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
