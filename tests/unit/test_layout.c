// Goal: tensors lie where layout.h says, every bad table is refused by name, and lookups find.
#include "adamd/layout.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const long_key =
    "0123456789012345678901234567890123456789012345678901234567890123"
    "0123456789012345678901234567890123456789012345678901234567890123"
    "0123456789012345678901234567890123456789012345678901234567890123"
    "0123456789012345678901234567890123456789012345678901234567890123"; // 256 bytes

START_TEST(tensors_lie_at_64_byte_boundaries_and_without_padding_on_the_wire)
{
    const struct adamd_tensor_spec specs[] = {
        {.key = "w", .rank = 2, .shape = {3, 7}},     {.key = "scalar"},
        {.key = "empty", .rank = 2, .shape = {0, 5}}, {.key = "b", .rank = 1, .shape = {16}},
        {.key = "last", .rank = 1, .shape = {17}},
    };
    static const uint64_t counts[] = {21, 1, 0, 16, 17};
    static const uint64_t offsets[] = {0, 128, 192, 192, 256};
    static const uint64_t wire[] = {0, 84, 88, 88, 152};
    struct adamd_layout layout;

    ck_assert_int_eq(adamd_layout_init(&layout, specs, 5, NULL), ADAMD_OK);
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_str_eq(layout.tensors[i].key, specs[i].key);
        ck_assert_uint_eq(layout.tensors[i].count, counts[i]);
        ck_assert_uint_eq(layout.tensors[i].offset, offsets[i]);
        ck_assert_uint_eq(layout.tensors[i].wire_offset, wire[i]);
    }
    ck_assert_uint_eq(layout.parameter_count, 55);
    ck_assert_uint_eq(layout.arena_bytes, 384);
    ck_assert_uint_eq(layout.wire_bytes, 220);
    adamd_layout_finish(&layout);
    adamd_layout_finish(&layout);
}
END_TEST

START_TEST(tensors_of_one_dtype_lie_side_by_side)
{
    const struct adamd_tensor_spec specs[] = {
        {.key = "a", .dtype = ADAMD_FLOAT64, .rank = 1, .shape = {9}},    // 72 bytes
        {.key = "b", .dtype = ADAMD_BFLOAT16, .rank = 1, .shape = {3}},   // 6
        {.key = "c", .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {17}},   // 68
        {.key = "d", .dtype = ADAMD_COMPLEX128, .rank = 1, .shape = {2}}, // 32
        {.key = "e", .dtype = ADAMD_COMPLEX64},                           // 8
        {.key = "f", .dtype = ADAMD_FLOAT16, .rank = 1, .shape = {33}},   // 66
        {.key = "g", .dtype = ADAMD_BFLOAT16, .rank = 1, .shape = {0}},   // 0
    };
    static const uint64_t offsets[] = {384, 320, 0, 512, 128, 192, 384};
    static const uint64_t wire[] = {0, 72, 78, 146, 178, 186, 252};
    static const uint64_t reals[] = {9, 3, 17, 4, 2, 33, 0};
    static const uint32_t order[] = {2, 4, 5, 1, 6, 0, 3};
    struct adamd_layout layout;

    ck_assert_int_eq(adamd_layout_init(&layout, specs, 7, NULL), ADAMD_OK);
    for (uint32_t i = 0; i < 7; i++) {
        ck_assert_uint_eq(layout.tensors[i].offset, offsets[i]);
        ck_assert_uint_eq(layout.tensors[i].wire_offset, wire[i]);
        ck_assert_uint_eq(adamd_tensor_reals(&layout.tensors[i]), reals[i]);
        ck_assert_uint_eq(layout.by_offset[i], order[i]);
    }
    ck_assert_uint_eq(layout.parameter_count, 65);
    ck_assert_uint_eq(layout.wire_bytes, 252);
    ck_assert_uint_eq(layout.arena_bytes, 576);
    adamd_layout_finish(&layout);
}
END_TEST

START_TEST(tensors_that_are_added_lie_behind_those_that_were_there)
{
    const struct adamd_tensor_spec first[] = {
        {.key = "m", .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {1}},
        {.key = "z", .dtype = ADAMD_FLOAT64, .rank = 1, .shape = {1}},
    };
    const struct adamd_tensor_spec more[] = {
        {.key = "b", .dtype = ADAMD_FLOAT64, .rank = 1, .shape = {8}},
        {.key = "a", .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {20}},
    };
    static const uint64_t offsets[] = {0, 64, 256, 128};
    static const uint64_t wire[] = {0, 4, 12, 76};
    static const uint32_t order[] = {0, 1, 3, 2};
    const struct adamd_tensor_spec all[] = {first[0], first[1], more[0], more[1]};
    struct adamd_layout before;
    struct adamd_layout layout;
    struct adamd_layout whole;

    ck_assert_int_eq(adamd_layout_init(&before, first, 2, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_layout_extend(&before, more, 2, &layout, NULL), ADAMD_OK);
    ck_assert_uint_eq(before.tensor_count, 2);
    adamd_layout_finish(&before);
    ck_assert_uint_eq(layout.tensor_count, 4);
    for (uint32_t i = 0; i < 4; i++) {
        ck_assert_uint_eq(layout.tensors[i].offset, offsets[i]);
        ck_assert_uint_eq(layout.tensors[i].wire_offset, wire[i]);
        ck_assert_uint_eq(layout.by_offset[i], order[i]);
        ck_assert_int_eq(adamd_layout_find(&layout, all[i].key, 1), i);
    }
    ck_assert_uint_eq(layout.arena_bytes, 320);
    // The digest is of the table: where tensors lie does not matter.
    ck_assert_int_eq(adamd_layout_init(&whole, all, 4, NULL), ADAMD_OK);
    ck_assert_mem_eq(whole.digest, layout.digest, sizeof whole.digest);
    adamd_layout_finish(&whole);
    adamd_layout_finish(&layout);
}
END_TEST

static const struct {
    struct adamd_tensor_spec spec;
    const char *field;
} additions[] = {
    {{.key = "w"}, "tensors[1].key"},
    {{.key = "w.exp_avg"}, "tensors[1].key"},
    {{.key = "u"}, "tensors[1].key"}, // "u.step" was there before
    {{.key = ""}, "tensors[1].key"},
    {{.key = "x", .rank = 9}, "tensors[1].shape"},
    {{.key = "x", .rank = 1, .shape = {UINT64_C(1) << 49}}, "tensors[1].shape"},
};

START_TEST(a_bad_addition_is_named_by_its_own_index_and_changes_nothing)
{
    const struct adamd_tensor_spec first[] = {{.key = "w"}, {.key = "u.step"}, {.key = "v"}};
    const struct adamd_tensor_spec more[] = {{.key = "good"}, additions[_i].spec};
    struct adamd_layout before;
    struct adamd_layout layout;
    struct adamd_fault fault = {0};

    ck_assert_int_eq(adamd_layout_init(&before, first, 3, NULL), ADAMD_OK);
    ck_assert_int_ne(adamd_layout_extend(&before, more, 2, &layout, &fault), ADAMD_OK);
    ck_assert_str_eq(fault.field, additions[_i].field);
    ck_assert_ptr_null(layout.tensors);
    ck_assert_int_eq(adamd_layout_extend(&before, more, 0, &layout, &fault), ADAMD_BAD_FIELD);
    ck_assert_int_eq(adamd_layout_extend(&before, more, ADAMD_TENSORS_MAX - 2, &layout, &fault),
                     ADAMD_TOO_LARGE);
    ck_assert_uint_eq(before.tensor_count, 3);
    adamd_layout_finish(&before);
}
END_TEST

START_TEST(every_key_is_found_and_no_other)
{
    enum { COUNT = 1000 };
    static char keys[COUNT][16];
    static struct adamd_tensor_spec specs[COUNT];
    struct adamd_layout layout;

    for (uint32_t i = 0; i < COUNT; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "layer.%u", i * 7919 % COUNT);
        specs[i] = (struct adamd_tensor_spec){.key = keys[i], .rank = 1, .shape = {i}};
    }
    ck_assert_int_eq(adamd_layout_init(&layout, specs, COUNT, NULL), ADAMD_OK);
    for (uint32_t i = 0; i < COUNT; i++) {
        ck_assert_int_eq(adamd_layout_find(&layout, keys[i], strlen(keys[i])), i);
        if (i > 0) {
            const char *before = layout.tensors[layout.by_key[i - 1]].key;
            ck_assert_int_lt(strcmp(before, layout.tensors[layout.by_key[i]].key), 0);
        }
    }
    ck_assert_int_eq(adamd_layout_find(&layout, "layer.1000", 10), -1);
    ck_assert_int_eq(adamd_layout_find(&layout, "layer", 5), -1);
    ck_assert_int_eq(adamd_layout_find(&layout, "layer.12 and more", 8),
                     adamd_layout_find(&layout, "layer.12", 8));
    ck_assert_int_eq(adamd_layout_find(&layout, "", 0), -1);
    ck_assert_int_eq(adamd_layout_find(&layout, "layer.1\0", 8), -1);
    adamd_layout_finish(&layout);
}
END_TEST

static const struct {
    const char *key;
    bool good;
} keys[] = {
    {"w", true},
    {"a b", true},
    {"\xC3\xA9", true},         // U+00E9
    {"\xF0\x9F\x98\x80", true}, // U+1F600
    {"\xED\x9F\xBF", true},     // U+D7FF
    {NULL, false},
    {"", false},
    {"\n", false},
    {"a\x1F", false},
    {"\x7F", false},
    {"\xC2\x80", false},         // a control character of two bytes
    {"\x80", false},             // a continuation alone
    {"\xC3", false},             // cut off
    {"\xE2\x82", false},         // cut off
    {"\xE2\x82 x", false},       // cut off in the middle
    {"\xC0\xAF", false},         // overlong
    {"\xE0\x80\xAF", false},     // overlong
    {"\xED\xA0\x80", false},     // surrogate
    {"\xF4\x90\x80\x80", false}, // past U+10FFFF
    {"\xF8\x88\x80\x80\x80", false},
    {"\xFF", false},
    {"__metadata__", false},
};

START_TEST(a_key_is_utf8_without_control_characters)
{
    const struct adamd_tensor_spec specs[] = {{.key = "good"}, {.key = keys[_i].key}};
    struct adamd_layout layout;
    struct adamd_fault fault = {0};

    const enum adamd_status status = adamd_layout_init(&layout, specs, 2, &fault);
    ck_assert_int_eq(status, keys[_i].good ? ADAMD_OK : ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, keys[_i].good ? "" : "tensors[1].key");
    adamd_layout_finish(&layout);
}
END_TEST

START_TEST(a_key_of_256_bytes_is_the_longest)
{
    char longer[ADAMD_KEY_MAX + 2];
    struct adamd_tensor_spec spec = {.key = long_key};
    struct adamd_layout layout;

    ck_assert_uint_eq(strlen(long_key), ADAMD_KEY_MAX);
    ck_assert_int_eq(adamd_layout_init(&layout, &spec, 1, NULL), ADAMD_OK);
    adamd_layout_finish(&layout);
    (void)snprintf(longer, sizeof longer, "%sx", long_key);
    spec.key = longer;
    ck_assert_int_eq(adamd_layout_init(&layout, &spec, 1, NULL), ADAMD_BAD_FIELD);
}
END_TEST

static const struct {
    const char *first, *second;
    const char *field; // NULL: accepted
} pairs[] = {
    {"w", "w", "tensors[1].key"},
    {"w", "w.exp_avg", "tensors[1].key"},
    {"w.exp_avg_sq", "w", "tensors[0].key"},
    {"w", "w.max_exp_avg_sq", "tensors[1].key"},
    {"w", "w.grad", "tensors[1].key"},
    {"w.step", "w", "tensors[0].key"},
    {"w", "v.exp_avg", NULL},
    {"w", "w.exp", NULL},
    {"w", ".step", NULL},
    {"w", "W", NULL},
};

START_TEST(two_keys_may_not_be_one_nor_look_like_anothers_state)
{
    const struct adamd_tensor_spec specs[] = {{.key = pairs[_i].first}, {.key = pairs[_i].second}};
    struct adamd_layout layout;
    struct adamd_fault fault = {0};

    const enum adamd_status status = adamd_layout_init(&layout, specs, 2, &fault);
    ck_assert_int_eq(status, pairs[_i].field == NULL ? ADAMD_OK : ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, pairs[_i].field == NULL ? "" : pairs[_i].field);
    adamd_layout_finish(&layout);
}
END_TEST

static const struct {
    struct adamd_tensor_spec spec;
    enum adamd_status status;
    const char *field;
} tables[] = {
    {{.key = "w", .dtype = ADAMD_DTYPE_COUNT}, ADAMD_BAD_FIELD, "tensors[0].dtype"},
    {{.key = "w", .dtype = ADAMD_FLOAT64, .rank = 1, .shape = {(UINT64_C(1) << 47) + 1}},
     ADAMD_TOO_LARGE,
     "tensors[0].shape"},
    {{.key = "w", .rank = 9}, ADAMD_TOO_LARGE, "tensors[0].shape"},
    {{.key = "w", .rank = UINT32_MAX}, ADAMD_TOO_LARGE, "tensors[0].shape"},
    {{.key = "w", .rank = 1, .shape = {UINT64_MAX}}, ADAMD_TOO_LARGE, "tensors[0].shape"},
    {{.key = "w", .rank = 2, .shape = {UINT64_C(1) << 32, UINT64_C(1) << 32}},
     ADAMD_TOO_LARGE,
     "tensors[0].shape"},
    {{.key = "w", .rank = 1, .shape = {(UINT64_C(1) << 48) + 1}},
     ADAMD_TOO_LARGE,
     "tensors[0].shape"},
};

START_TEST(a_tensor_past_a_limit_is_refused_by_name)
{
    struct adamd_layout layout;
    struct adamd_fault fault;

    ck_assert_int_eq(adamd_layout_init(&layout, &tables[_i].spec, 1, &fault), tables[_i].status);
    ck_assert_str_eq(fault.field, tables[_i].field);
    ck_assert_ptr_null(layout.tensors);
}
END_TEST

START_TEST(tensors_that_are_too_large_together_are_refused)
{
    const struct adamd_tensor_spec specs[] = {
        {.key = "a", .rank = 1, .shape = {UINT64_C(1) << 47}},
        {.key = "b", .rank = 1, .shape = {UINT64_C(1) << 47}},
        {.key = "c"},
    };
    struct adamd_layout layout;
    struct adamd_fault fault;

    ck_assert_int_eq(adamd_layout_init(&layout, specs, 2, NULL), ADAMD_OK);
    adamd_layout_finish(&layout);
    ck_assert_int_eq(adamd_layout_init(&layout, specs, 3, &fault), ADAMD_TOO_LARGE);
    ck_assert_str_eq(fault.field, "tensors[2].shape");
}
END_TEST

START_TEST(no_tensor_and_too_many_are_refused)
{
    struct adamd_tensor_spec spec = {.key = "w"};
    struct adamd_layout layout;
    struct adamd_fault fault;

    ck_assert_int_eq(adamd_layout_init(&layout, &spec, 0, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "tensors");
    ck_assert_int_eq(adamd_layout_init(&layout, &spec, ADAMD_TENSORS_MAX + 1, &fault),
                     ADAMD_TOO_LARGE);
    ck_assert_str_eq(fault.field, "tensors");
}
END_TEST

START_TEST(the_digest_tells_layouts_apart)
{
    const struct adamd_tensor_spec rows[][2] = {
        {{.key = "ab", .rank = 1, .shape = {2}}, {.key = "c"}},
        {{.key = "a", .rank = 1, .shape = {2}}, {.key = "bc"}},
        {{.key = "ab", .rank = 1, .shape = {3}}, {.key = "c"}},
        {{.key = "ab", .rank = 2, .shape = {2, 1}}, {.key = "c"}},
        {{.key = "c"}, {.key = "ab", .rank = 1, .shape = {2}}},
        {{.key = "ab", .dtype = ADAMD_FLOAT16, .rank = 1, .shape = {2}}, {.key = "c"}},
    };
    enum { COUNT = sizeof rows / sizeof rows[0] };
    uint64_t digests[COUNT][2];

    for (size_t i = 0; i < COUNT; i++) {
        struct adamd_layout layout;
        struct adamd_layout again;
        ck_assert_int_eq(adamd_layout_init(&layout, rows[i], 2, NULL), ADAMD_OK);
        ck_assert_int_eq(adamd_layout_init(&again, rows[i], 2, NULL), ADAMD_OK);
        ck_assert_int_eq(memcmp(layout.digest, again.digest, sizeof layout.digest), 0);
        memcpy(digests[i], layout.digest, sizeof digests[i]);
        adamd_layout_finish(&layout);
        adamd_layout_finish(&again);
        for (size_t k = 0; k < i; k++) {
            ck_assert_int_ne(memcmp(digests[i], digests[k], sizeof digests[i]), 0);
        }
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("layout");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, tensors_lie_at_64_byte_boundaries_and_without_padding_on_the_wire);
    tcase_add_test(tests, tensors_of_one_dtype_lie_side_by_side);
    tcase_add_test(tests, tensors_that_are_added_lie_behind_those_that_were_there);
    tcase_add_loop_test(tests, a_bad_addition_is_named_by_its_own_index_and_changes_nothing, 0,
                        sizeof additions / sizeof additions[0]);
    tcase_add_test(tests, every_key_is_found_and_no_other);
    tcase_add_loop_test(tests, a_key_is_utf8_without_control_characters, 0,
                        sizeof keys / sizeof keys[0]);
    tcase_add_test(tests, a_key_of_256_bytes_is_the_longest);
    tcase_add_loop_test(tests, two_keys_may_not_be_one_nor_look_like_anothers_state, 0,
                        sizeof pairs / sizeof pairs[0]);
    tcase_add_loop_test(tests, a_tensor_past_a_limit_is_refused_by_name, 0,
                        sizeof tables / sizeof tables[0]);
    tcase_add_test(tests, tensors_that_are_too_large_together_are_refused);
    tcase_add_test(tests, no_tensor_and_too_many_are_refused);
    tcase_add_test(tests, the_digest_tells_layouts_apart);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
