// Files of cotangents: what comes in is told apart by array and tensor, what does not fit is named;
// what goes out reads back as the same bits, with the options' cotangents to the last digit.
#include "codec/tensors.h"

#include "adamd/differentiate.h"

#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct adamd_tensor_spec specs[] = {
    {"z.weight", ADAMD_FLOAT32, 2, {3, 5}}, {"empty", ADAMD_FLOAT32, 2, {0, 4}},
    {"a\"b", ADAMD_FLOAT32, 1, {16}},       {"scalar", ADAMD_FLOAT32, 0, {0}},
    {"half", ADAMD_FLOAT16, 1, {3}},        {"still", ADAMD_FLOAT32, 1, {2}},
};
enum { TENSORS = 6 };

static const uint32_t group0[] = {4, 0};
static const uint32_t group1[] = {1, 2, 3};
static const uint32_t group2[] = {5};
static const struct adamd_group_spec groups[] = {
    {.tensors = group0, .tensor_count = 2},
    {.tensors = group1, .tensor_count = 3},
    {.tensors = group2, .tensor_count = 1},
};
static const struct adamd_options options[] = {
    {.differentiable = true}, {.differentiable = true, .amsgrad = true}, {.lr = 1}};
static const struct adamd_option_cotangents bars[] = {
    {.lr = 0.1, .betas = {1.0 / 3.0, -2e-300}, .eps = INFINITY},
    {.lr = NAN, .betas = {0, 1}, .eps = -0.25, .weight_decay = 5e-324, .has_weight_decay = true},
    {.lr = 77},
};

static struct adamd_layout layout;
static struct adamd_fault fault;
static struct codec_arena arena;
static unsigned char *arrays[ADAMD_COTANGENT_COUNT];
static struct adamd_cotangents cotangents;

static void set_up(void) {
    static const unsigned char stepped[] = {0x2d}; // all but "empty" and "half"

    memset(&fault, 0, sizeof fault);
    ck_assert_int_eq(adamd_layout_init(&layout, specs, TENSORS, &fault), ADAMD_OK);
    cotangents = (struct adamd_cotangents){.groups = bars,
                                           .options = options,
                                           .stepped = stepped,
                                           .group_count = 3,
                                           .generation = 2,
                                           .version = 41};
    for (int a = 0; a < ADAMD_COTANGENT_COUNT; a++) {
        arrays[a] = malloc(layout.arena_bytes);
        ck_assert_ptr_nonnull(arrays[a]);
        for (uint64_t i = 0; i < layout.arena_bytes; i++) {
            arrays[a][i] = (unsigned char)(i * 7 + (uint64_t)a);
        }
        cotangents.arrays[a] = arrays[a];
    }
}

static void tear_down(void) {
    for (int a = 0; a < ADAMD_COTANGENT_COUNT; a++) {
        free(arrays[a]);
    }
    adamd_layout_finish(&layout);
    codec_arena_finish(&arena);
}

// -------------------------------------------------------------------------------------------- out

static unsigned char *join(const struct codec_file *file) {
    unsigned char *bytes = malloc(file->size + 1);
    size_t at = 0;

    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < file->vector_count; i++) {
        memcpy(bytes + at, file->vector[i].iov_base, file->vector[i].iov_len);
        at += file->vector[i].iov_len;
    }
    ck_assert_uint_eq(at, file->size);
    return bytes;
}

static void read_header(struct adamd_safetensors *header, const unsigned char *bytes, size_t size) {
    size_t length = 0;

    for (int i = 7; i >= 0; i--) {
        length = length << 8 | bytes[i];
    }
    ck_assert_msg(adamd_safetensors_parse(bytes + 8, length, size, header, &fault) == ADAMD_OK,
                  "%s", fault.message);
}

// True if the file has the array of this tensor, which is then its bits.
static bool has_array(const struct adamd_safetensors *header, const unsigned char *data,
                      uint32_t tensor, const char *suffix, int array) {
    const struct adamd_tensor *entry = &layout.tensors[tensor];
    char name[80];

    (void)snprintf(name, sizeof name, "%s%s", entry->key, suffix);
    for (size_t i = 0; i < header->entry_count; i++) {
        const struct adamd_safetensors_entry *found = &header->entries[i];
        if (strcmp(found->name, name) == 0) {
            ck_assert_uint_eq(found->end - found->begin, adamd_tensor_bytes(entry));
            ck_assert_uint_eq(found->rank, entry->rank);
            ck_assert(entry->count == 0 ||
                      memcmp(data + found->begin, arrays[array] + entry->offset,
                             found->end - found->begin) == 0);
            return true;
        }
    }
    return false;
}

START_TEST(the_file_holds_what_there_is_and_nothing_else)
{
    struct codec_file file = {0};
    struct adamd_safetensors header;

    ck_assert_int_eq(codec_cotangents_file(&layout, &cotangents, groups, &file, &fault), ADAMD_OK);
    unsigned char *bytes = join(&file);
    read_header(&header, bytes, file.size);
    const unsigned char *data = bytes + file.size - header.data_bytes;
    for (uint32_t i = 0; i < TENSORS - 1; i++) {
        ck_assert(has_array(&header, data, i, "", ADAMD_PARAM));
        ck_assert(has_array(&header, data, i, ".exp_avg", ADAMD_EXP_AVG));
        ck_assert(has_array(&header, data, i, ".exp_avg_sq", ADAMD_EXP_AVG_SQ));
        ck_assert_int_eq(has_array(&header, data, i, ".max_exp_avg_sq", ADAMD_MAX_EXP_AVG_SQ),
                         i >= 1 && i <= 3);
        ck_assert_int_eq(has_array(&header, data, i, ".grad", ADAMD_GRAD), i != 1 && i != 4);
    }
    ck_assert(!has_array(&header, data, 5, "", ADAMD_PARAM)); // its group is not differentiable
    ck_assert_uint_eq(header.entry_count, 5 * 3 + 3 + 3);
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, "format"), "pt");
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, "adamd.version"), "41");
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, "adamd.generation"), "2");
    ck_assert_str_eq(
        adamd_safetensors_metadata_get(&header, "adamd.param_groups"),
        "[{\"lr\":0.10000000000000001,\"betas\":[0.33333333333333331,-2.0000000000000001e-300],"
        "\"eps\":\"Infinity\",\"weight_decay\":null,\"params\":[\"half\",\"z.weight\"]},"
        "{\"lr\":\"NaN\",\"betas\":[0,1],\"eps\":-0.25,\"weight_decay\":4.9406564584124654e-324,"
        "\"params\":[\"empty\",\"a\\\"b\",\"scalar\"]},"
        "{\"lr\":null,\"betas\":null,\"eps\":null,\"weight_decay\":null,\"params\":[\"still\"]}]");
    adamd_safetensors_finish(&header);
    free(bytes);
    codec_file_finish(&file);
}
END_TEST

// --------------------------------------------------------------------------------------------- in

static struct adamd_safetensors_entry entry_of(const char *name, enum adamd_safetensors_type type,
                                               uint32_t rank, uint64_t first, uint64_t second) {
    return (struct adamd_safetensors_entry){
        .name = name, .type = type, .rank = rank, .shape = {first, second}};
}

static enum adamd_status map(struct adamd_safetensors_entry *entries, size_t count,
                             struct codec_target **ret_targets) {
    const struct adamd_safetensors header = {.entries = entries, .entry_count = count};

    memset(&fault, 0, sizeof fault);
    return codec_map_cotangents(&layout, &header, &arena, ret_targets, &fault);
}

START_TEST(any_arrays_of_any_tensors_are_told_apart)
{
    struct adamd_safetensors_entry entries[] = {
        entry_of("scalar", ADAMD_ST_F32, 0, 0, 0),
        entry_of("z.weight.exp_avg_sq", ADAMD_ST_F32, 2, 3, 5),
        entry_of("still.max_exp_avg_sq", ADAMD_ST_F32, 1, 2, 0),
        entry_of("a\"b.exp_avg", ADAMD_ST_F32, 1, 16, 0),
        entry_of("empty", ADAMD_ST_F32, 2, 0, 4),
    };
    static const struct codec_target wanted[] = {{ADAMD_PARAM, 3},
                                                 {ADAMD_EXP_AVG_SQ, 0},
                                                 {ADAMD_MAX_EXP_AVG_SQ, 5},
                                                 {ADAMD_EXP_AVG, 2},
                                                 {ADAMD_PARAM, 1}};
    struct codec_target *targets = NULL;

    ck_assert_msg(map(entries, 5, &targets) == ADAMD_OK, "%s", fault.message);
    for (int i = 0; i < 5; i++) {
        ck_assert_uint_eq(targets[i].array, wanted[i].array);
        ck_assert_uint_eq(targets[i].tensor, wanted[i].tensor);
    }
    ck_assert_int_eq(map(entries, 0, &targets), ADAMD_OK); // all zeros
}
END_TEST

START_TEST(what_does_not_fit_is_named)
{
    struct adamd_safetensors_entry bad[] = {
        entry_of("stranger", ADAMD_ST_F32, 0, 0, 0),
        entry_of("scalar.grad", ADAMD_ST_F32, 0, 0, 0),
        entry_of("scalar.step", ADAMD_ST_I64, 0, 0, 0),
        entry_of("scalar.ema", ADAMD_ST_F32, 0, 0, 0),
        entry_of("z.weight", ADAMD_ST_F32, 2, 5, 3),
        entry_of("z.weight", ADAMD_ST_F64, 2, 3, 5),
        entry_of("scalar.exp_avg", ADAMD_ST_F32, 1, 1, 0),
    };
    struct codec_target *targets = NULL;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct adamd_safetensors_entry entries[] = {entry_of("scalar", ADAMD_ST_F32, 0, 0, 0),
                                                    bad[i]};
        ck_assert_int_eq(map(entries, 2, &targets), ADAMD_LAYOUT_MISMATCH);
        ck_assert_str_eq(fault.field, bad[i].name);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cotangents");
    TCase *cases = tcase_create("files");

    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, the_file_holds_what_there_is_and_nothing_else);
    tcase_add_test(cases, any_arrays_of_any_tensors_are_told_apart);
    tcase_add_test(cases, what_does_not_fit_is_named);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
