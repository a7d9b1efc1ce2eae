// safetensors headers: what the reference refuses is refused, by its names for the faults; what it
// takes is taken; what is written has the reference's bytes; and a large header is read in time.
#include "adamd/safetensors.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct adamd_fault fault;

static enum adamd_status parse(const char *json, uint64_t file_bytes,
                               struct adamd_safetensors *ret_header) {
    memset(ret_header, 0, sizeof *ret_header);
    memset(&fault, 0, sizeof fault);
    return adamd_safetensors_parse(json, strlen(json), file_bytes, ret_header, &fault);
}

#define T(name, type, shape, begin, end)                                                   \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":[" shape "],\"data_offsets\":[" #begin \
    "," #end "]}"
#define ROW10(name) T(name, "F32", "2,2", 0, 16) ","

static const struct {
    const char *json;
    uint64_t data; // length of the data section that the file is said to have
    enum adamd_status status;
    const char *error; // the reference's, as metadata
    const char *field; // what the fault names, or NULL
} bad[] = {
    {"", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {" {}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"[]", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{}{}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{\"a\":1}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{\"a\":{}}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", "a"},
    {"{\xff}", 0, ADAMD_BAD_FIELD, "InvalidHeader", NULL},
    {"{\"\xed\xa0\x80\":{}}", 0, ADAMD_BAD_FIELD, "InvalidHeader", NULL}, // a surrogate
    {"{\"\xc0\x80\":{}}", 0, ADAMD_BAD_FIELD, "InvalidHeader", NULL},     // an overlong NUL
    // The reference's attack on JSON: many tensors on one range.
    {"{" ROW10("a") ROW10("b") ROW10("c") ROW10("d") T("e", "F32", "2,2", 0, 16) "}", 16,
     ADAMD_BAD_FIELD, "InvalidOffset", "b"},
    {"{" T("a", "F32", "1", 0, 4) "," T("b", "F32", "1", 8, 12) "}", 12, ADAMD_BAD_FIELD,
     "InvalidOffset", "b"}, // a hole
    {"{" T("a", "F32", "1", 4, 8) "}", 8, ADAMD_BAD_FIELD, "InvalidOffset", "a"},
    {"{" T("a", "F32", "1", 4, 0) "}", 4, ADAMD_BAD_FIELD, "InvalidOffset", "a"},
    {"{" T("a", "F32", "2", 0, 4) "}", 4, ADAMD_BAD_FIELD, "TensorInvalidInfo", "a"},
    {"{" T("a", "F32", "1", 0, 8) "}", 8, ADAMD_BAD_FIELD, "TensorInvalidInfo", "a"},
    {"{" T("a", "F32", "1", 0, 4) "}", 5, ADAMD_BAD_FIELD, "MetadataIncompleteBuffer", NULL},
    {"{" T("a", "F32", "1", 0, 4) "}", 2, ADAMD_BAD_FIELD, "MetadataIncompleteBuffer", NULL},
    {"{}", 1, ADAMD_BAD_FIELD, "MetadataIncompleteBuffer", NULL},
    {"{" T("a", "F32", "2,18446744073709551614", 0, 16) "}", 16, ADAMD_BAD_FIELD,
     "ValidationOverflow", "a"},
    {"{" T("a", "F32", "4611686018427387904", 0, 16) "}", 16, ADAMD_BAD_FIELD, "ValidationOverflow",
     "a"},
    {"{" T("a", "F4", "1", 0, 1) "}", 1, ADAMD_BAD_FIELD, "MisalignedSlice", "a"},
    {"{" T("a", "F6_E2M3", "2", 0, 2) "}", 2, ADAMD_BAD_FIELD, "MisalignedSlice", "a"},
    {"{" T("a", "F31", "1", 0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", "a"},
    {"{" T("a", "f32", "1", 0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", "a"},
    {"{" T("a", "F32", "1.0", 0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{" T("a", "F32", "1e0", 0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{" T("a", "F32", "-1", 0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{" T("a", "F32", "01", 0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{" T("a", "F32", "\"1\"", 0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization",
     NULL},
    {"{" T("a", "F32", "1,", 0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{" T("a", "F32", "", -0, 4) "}", 4, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{" T("a", "F32", "", 0, 18446744073709551616) "}", 4, ADAMD_BAD_FIELD,
     "InvalidHeaderDeserialization", NULL},
    {"{" T("a", "F32", "1,1,1,1,1,1,1,1,1", 0, 4) "}", 4, ADAMD_TOO_LARGE,
     "InvalidHeaderDeserialization", "a"},
    {"{" T("a", "F32", "", 0, 4) "," T("a", "F32", "", 4, 8) "}", 8, ADAMD_BAD_FIELD,
     "InvalidHeaderDeserialization", "a"},
    {"{" T("a", "F32", "", 0, 4) "," T("b", "F32", "", 4, 8) "," T("\\u0061", "F32", "", 8, 12) "}",
     12, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
     ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization",
     "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0]}}", 0, ADAMD_BAD_FIELD,
     "InvalidHeaderDeserialization", "a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4,8]}}", 4, ADAMD_BAD_FIELD,
     "InvalidHeaderDeserialization", NULL},
    {"{\"__metadata__\":{\"a\":1}}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{\"__metadata__\":{\"a\":{}}}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{\"__metadata__\":[]}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, ADAMD_BAD_FIELD,
     "InvalidHeaderDeserialization", "__metadata__"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, ADAMD_BAD_FIELD,
     "InvalidHeaderDeserialization", "__metadata__"},
    {"{\"a\\u0000b\":{}}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{\"a\\ud800\":{}}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{\"a\nb\":{}}", 0, ADAMD_BAD_FIELD, "InvalidHeaderDeserialization", NULL},
    {"{\"a\":{\"x\":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}}", 0, ADAMD_BAD_FIELD,
     "InvalidHeaderDeserialization", NULL},
};

START_TEST(what_the_reference_refuses_is_refused_by_its_name)
{
    struct adamd_safetensors header;
    const uint64_t file_bytes = 8 + strlen(bad[_i].json) + bad[_i].data;

    ck_assert_int_eq(parse(bad[_i].json, file_bytes, &header), bad[_i].status);
    ck_assert_int_eq(fault.status, bad[_i].status);
    ck_assert_uint_eq(fault.metadata_count, 1);
    ck_assert_str_eq(fault.metadata[0].key, "error");
    ck_assert_str_eq(fault.metadata[0].value, bad[_i].error);
    if (bad[_i].field != NULL) {
        ck_assert_str_eq(fault.field, bad[_i].field);
    }
    ck_assert_ptr_null(header.memory);
}
END_TEST

static const struct {
    const char *json;
    uint64_t data;
    size_t entries;
} good[] = {
    {"{}", 0, 0},
    {"{}      ", 0, 0},
    {"{ \"a\" : { \"dtype\" : \"F32\" , \"shape\" : [ ] , \"data_offsets\" : [ 0 , 4 ] } }", 4, 1},
    {"{" T("a", "F32", "", 0, 4) "}", 4, 1},  // a scalar
    {"{" T("a", "F32", "0", 0, 0) "}", 0, 1}, // nothing
    {"{" T("a", "F32", "2,0,3", 0, 0) "," T("b", "I8", "1", 0, 1) "}", 1, 2},
    {"{" T("b", "F32", "1", 4, 8) "," T("a", "F32", "1", 0, 4) "}", 8, 2}, // in any order
    {"{" T("a", "F4", "2", 0, 1) "}", 1, 1},
    {"{" T("a", "F6_E3M2", "4", 0, 3) "}", 3, 1},
    {"{" T("a", "C64", "1", 0, 8) "," T("b", "BOOL", "3", 8, 11) "}", 11, 2},
    {"{\"a\":{\"later\":{\"x\":[1,null,\"s\"]},\"dtype\":\"U8\",\"shape\":[1],"
     "\"data_offsets\":[0,1]}}",
     1, 1}, // a member that a later version may have
    {"{\"__metadata__\":{}}", 0, 0},
    {"{" T("\\u00e9\\ud83d\\ude00/\\\"", "U8", "1", 0, 1) "}", 1, 1},
};

START_TEST(what_the_format_allows_is_taken)
{
    struct adamd_safetensors header;
    uint64_t at = 0;

    ck_assert_msg(parse(good[_i].json, 8 + strlen(good[_i].json) + good[_i].data, &header) ==
                      ADAMD_OK,
                  "%s: %s", good[_i].json, fault.message);
    ck_assert_uint_eq(header.entry_count, good[_i].entries);
    ck_assert_uint_eq(header.data_bytes, good[_i].data);
    for (size_t i = 0; i < header.entry_count; i++) {
        ck_assert_uint_eq(header.entries[i].begin, at);
        at = header.entries[i].end;
    }
    ck_assert_uint_eq(at, header.data_bytes);
    adamd_safetensors_finish(&header);
}
END_TEST

START_TEST(names_and_metadata_are_decoded)
{
    struct adamd_safetensors header;

    ck_assert_int_eq(parse("{\"__metadata__\":{\"for\\u006dat\":\"p\\tt\",\"e\":\"\"},"
                           "\"\\ud83d\\ude00\\/\":{\"dtype\":\"U8\",\"shape\":[2],"
                           "\"data_offsets\":[0,2]}}",
                           UINT64_MAX, &header),
                     ADAMD_OK);
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, "format"), "p\tt");
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, "e"), "");
    ck_assert_ptr_null(adamd_safetensors_metadata_get(&header, "f"));
    ck_assert_str_eq(header.entries[0].name, "\xf0\x9f\x98\x80/");
    adamd_safetensors_finish(&header);
}
END_TEST

START_TEST(length_of_the_header_is_checked_against_the_file)
{
    struct adamd_safetensors header;

    ck_assert_int_eq(parse("{}", 9, &header), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.metadata[0].value, "InvalidHeaderLength");
    ck_assert_int_eq(adamd_safetensors_parse("{}", ADAMD_SAFETENSORS_HEADER_MAX + 1, UINT64_MAX,
                                             &header, &fault),
                     ADAMD_TOO_LARGE);
    ck_assert_str_eq(fault.metadata[0].value, "HeaderTooLarge");
}
END_TEST

// ---------------------------------------------------------------------------------------- writing

static void write_and_compare(struct adamd_safetensors_entry *entries, size_t count,
                              const char *wanted, size_t wanted_size) {
    unsigned char *bytes = NULL;
    size_t size = 0;

    ck_assert_int_eq(adamd_safetensors_write(entries, count, NULL, 0, &bytes, &size, &fault),
                     ADAMD_OK);
    ck_assert_uint_eq(size, 8 + wanted_size);
    ck_assert_mem_eq(bytes + 8, wanted, wanted_size);
    ck_assert_uint_eq(bytes[0], wanted_size);
    for (int i = 1; i < 8; i++) {
        ck_assert_uint_eq(bytes[i], 0);
    }
    free(bytes);
}

START_TEST(known_good_bytes_of_the_reference)
{
    static const char one[] =
        "{\"attn.0\":{\"dtype\":\"F32\",\"shape\":[1,2,3],\"data_offsets\":[0,24]}}";
    static const char padded[] =
        "{\"attn0\":{\"dtype\":\"F32\",\"shape\":[1,1,2,3],\"data_offsets\":[0,24]}}       ";
    struct adamd_safetensors_entry a = {"attn.0", ADAMD_ST_F32, 3, {1, 2, 3}, 0, 0};
    struct adamd_safetensors_entry b = {"attn0", ADAMD_ST_F32, 4, {1, 1, 2, 3}, 0, 0};

    write_and_compare(NULL, 0, "{}      ", 8);
    ck_assert_uint_eq(strlen(one), 64);
    write_and_compare(&a, 1, one, 64);
    ck_assert_uint_eq(strlen(padded), 72);
    write_and_compare(&b, 1, padded, 72);
}
END_TEST

START_TEST(tensors_stand_by_type_descending_then_by_name)
{
    struct adamd_safetensors_entry entries[] = {
        {"b", ADAMD_ST_F32, 1, {1}, 0, 0}, {"z", ADAMD_ST_I64, 0, {0}, 0, 0},
        {"a", ADAMD_ST_F32, 1, {2}, 0, 0}, {"B", ADAMD_ST_F32, 1, {0}, 0, 0},
        {"m", ADAMD_ST_U8, 1, {3}, 0, 0},
    };
    static const char *const order[] = {"z", "B", "a", "b", "m"};
    static const uint64_t begins[] = {0, 8, 8, 16, 20};
    unsigned char *bytes = NULL;
    size_t size = 0;

    ck_assert_int_eq(adamd_safetensors_write(entries, 5, NULL, 0, &bytes, &size, &fault), ADAMD_OK);
    for (int i = 0; i < 5; i++) {
        ck_assert_str_eq(entries[i].name, order[i]);
        ck_assert_uint_eq(entries[i].begin, begins[i]);
    }
    free(bytes);
}
END_TEST

START_TEST(what_is_written_is_read_back_equal)
{
    const struct adamd_safetensors_metadata metadata[] = {{"format", "pt"},
                                                          {"odd \"\\\n\x01", "\xc3\xa9\t"}};
    struct adamd_safetensors_entry entries[ADAMD_ST_COUNT];
    struct adamd_safetensors header;
    char names[ADAMD_ST_COUNT][16];
    unsigned char *bytes = NULL;
    size_t size = 0;

    for (int i = 0; i < ADAMD_ST_COUNT; i++) {
        (void)snprintf(names[i], sizeof names[i], "%c\"%d\\\n", 'a' + i * 7 % 26, i);
        entries[i] = (struct adamd_safetensors_entry){
            names[i], (enum adamd_safetensors_type)i, 2, {4, (uint64_t)i}, 0, 0};
    }
    ck_assert_int_eq(
        adamd_safetensors_write(entries, ADAMD_ST_COUNT, metadata, 2, &bytes, &size, &fault),
        ADAMD_OK);
    ck_assert_uint_eq(size % 8, 0);
    const uint64_t end = entries[ADAMD_ST_COUNT - 1].end;
    ck_assert_int_eq(adamd_safetensors_parse(bytes + 8, size - 8, size + end, &header, &fault),
                     ADAMD_OK);
    ck_assert_uint_eq(header.entry_count, ADAMD_ST_COUNT);
    ck_assert_str_eq(adamd_safetensors_metadata_get(&header, metadata[1].key), metadata[1].value);
    for (int i = 0; i < ADAMD_ST_COUNT; i++) {
        // An empty tensor may trade places with its neighbour: look each up by name.
        const struct adamd_safetensors_entry *found = NULL;
        for (size_t k = 0; k < header.entry_count; k++) {
            found =
                strcmp(header.entries[k].name, entries[i].name) == 0 ? &header.entries[k] : found;
        }
        ck_assert_ptr_nonnull(found);
        ck_assert_int_eq(found->type, entries[i].type);
        ck_assert_uint_eq(found->begin, entries[i].begin);
        ck_assert_uint_eq(found->end, entries[i].end);
        ck_assert_mem_eq(found->shape, entries[i].shape, sizeof found->shape);
    }
    adamd_safetensors_finish(&header);
    free(bytes);
}
END_TEST

START_TEST(a_size_that_overflows_cannot_be_written)
{
    struct adamd_safetensors_entry entry = {"a", ADAMD_ST_F32, 2, {UINT64_MAX, 2}, 0, 0};
    unsigned char *bytes = NULL;
    size_t size = 0;

    ck_assert_int_eq(adamd_safetensors_write(&entry, 1, NULL, 0, &bytes, &size, &fault),
                     ADAMD_TOO_LARGE);
    ck_assert_str_eq(fault.field, "a");
    ck_assert_ptr_null(bytes);
}
END_TEST

// ------------------------------------------------------------------------------------- a large one

static double seconds_since(struct timespec start) {
    struct timespec now;
    ck_assert_int_eq(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
    return (double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9;
}

// 65,536 tensors, by name or shuffled: far below 100 ms even unoptimised, where a parser with
// linked lists takes minutes.
START_TEST(large_header_is_read_in_time)
{
    const size_t count = ADAMD_TENSORS_MAX;
    struct adamd_safetensors_entry *entries = calloc(count, sizeof *entries);
    char(*names)[48] = calloc(count, sizeof *names);
    struct adamd_safetensors header;
    unsigned char *bytes = NULL;
    size_t size = 0;
    struct timespec start;

    ck_assert(entries != NULL && names != NULL);
    for (size_t i = 0; i < count; i++) {
        const size_t shuffled = _i == 0 ? i : i * 40503U % count;
        (void)snprintf(names[i], sizeof names[i], "blocks.%zu.weight", shuffled);
        entries[i] = (struct adamd_safetensors_entry){names[i], ADAMD_ST_F32, 1, {i % 5}, 0, 0};
        entries[i].type = _i == 0 || i % 2 == 0 ? ADAMD_ST_F32 : ADAMD_ST_I64;
    }
    ck_assert_int_eq(adamd_safetensors_write(entries, count, NULL, 0, &bytes, &size, &fault),
                     ADAMD_OK);
    ck_assert_int_eq(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start), 0);
    ck_assert_int_eq(adamd_safetensors_parse(bytes + 8, size - 8, UINT64_MAX, &header, &fault),
                     ADAMD_OK);
    const double seconds = seconds_since(start);
    ck_assert_uint_eq(header.entry_count, count);
    // Sanitizers and a busy machine take their part; quadratic would be a hundred times this.
    ck_assert_msg(seconds < 1.5, "%.3f s", seconds);
    printf("header of %zu bytes read in %.1f ms\n", size, seconds * 1e3);
    adamd_safetensors_finish(&header);
    free(bytes);
    free(entries);
    free(names);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("safetensors");
    TCase *reading = tcase_create("reading");
    TCase *writing = tcase_create("writing");

    tcase_add_loop_test(reading, what_the_reference_refuses_is_refused_by_its_name, 0,
                        sizeof bad / sizeof bad[0]);
    tcase_add_loop_test(reading, what_the_format_allows_is_taken, 0, sizeof good / sizeof good[0]);
    tcase_add_test(reading, names_and_metadata_are_decoded);
    tcase_add_test(reading, length_of_the_header_is_checked_against_the_file);
    tcase_add_test(writing, known_good_bytes_of_the_reference);
    tcase_add_test(writing, tensors_stand_by_type_descending_then_by_name);
    tcase_add_test(writing, what_is_written_is_read_back_equal);
    tcase_add_test(writing, a_size_that_overflows_cannot_be_written);
    tcase_add_loop_test(writing, large_header_is_read_in_time, 0, 2);
    tcase_set_timeout(writing, 60);
    suite_add_tcase(suite, reading);
    suite_add_tcase(suite, writing);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
