// Parts of a body are those that were asked for, and nothing outside is ever sent.
#include "range.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *header;
    enum range_verdict verdict;
    uint64_t first, size;
} rows[] = {
    {NULL, RANGE_WHOLE, 0, 0},
    {"bytes=0-9", RANGE_PART, 0, 10},
    {"bytes=5-", RANGE_PART, 5, 15},
    {"bytes=5-5", RANGE_PART, 5, 1},
    {"bytes=-3", RANGE_PART, 17, 3},
    {"bytes=-99", RANGE_PART, 0, 20},
    {"bytes=10-99999999999999999999999", RANGE_PART, 10, 10},
    {"bytes=20-", RANGE_OUTSIDE, 0, 0},
    {"bytes=99999999999999999999999-", RANGE_OUTSIDE, 0, 0},
    {"bytes=-0", RANGE_OUTSIDE, 0, 0},
    {"bytes=9-5", RANGE_WHOLE, 0, 0},
    {"bytes=0-1,3-4", RANGE_WHOLE, 0, 0},
    {"bytes=-", RANGE_WHOLE, 0, 0},
    {"bytes=", RANGE_WHOLE, 0, 0},
    {"bytes=a-b", RANGE_WHOLE, 0, 0},
    {"lines=1-2", RANGE_WHOLE, 0, 0},
    {"bytes=1-2x", RANGE_WHOLE, 0, 0},
};

START_TEST(each_header_means_one_part_or_the_whole)
{
    uint64_t first = 0;
    uint64_t size = 0;

    ck_assert_int_eq(range_parse(rows[_i].header, 20, &first, &size), rows[_i].verdict);
    ck_assert_uint_eq(first, rows[_i].first);
    ck_assert_uint_eq(size, rows[_i].size);
}
END_TEST

START_TEST(an_empty_body_has_no_parts)
{
    uint64_t first;
    uint64_t size;

    ck_assert_int_eq(range_parse("bytes=0-", 0, &first, &size), RANGE_OUTSIDE);
    ck_assert_int_eq(range_parse("bytes=-1", 0, &first, &size), RANGE_OUTSIDE);
}
END_TEST

// Asks for a part of a vector of four pieces, one of them empty, that together are `text`.
static void check_slice(char *text, size_t first, size_t size) {
    struct iovec vector[] = {{text, 3}, {text + 3, 0}, {text + 3, 1}, {text + 4, 6}};
    const size_t count = vector_slice(vector, 4, first, size);
    char joined[16];
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        ck_assert_uint_gt(vector[i].iov_len, 0);
        memcpy(joined + at, vector[i].iov_base, vector[i].iov_len);
        at += vector[i].iov_len;
    }
    ck_assert_uint_eq(at, size);
    ck_assert_mem_eq(joined, text + first, size);
}

START_TEST(every_slice_is_the_same_as_that_of_the_joined_bytes)
{
    char text[] = "abcdefghij";

    for (size_t first = 0; first < 10; first++) {
        for (size_t size = 1; first + size <= 10; size++) {
            check_slice(text, first, size);
        }
    }
}
END_TEST

START_TEST(tags_are_compared_whole)
{
    ck_assert(tag_listed("\"g1.v4\"", "\"g1.v4\""));
    ck_assert(tag_listed("\"a\", W/\"g1.v4\" ,\"b\"", "\"g1.v4\""));
    ck_assert(tag_listed("*", "\"g1.v4\""));
    ck_assert(!tag_listed("\"g1.v42\"", "\"g1.v4\""));
    ck_assert(!tag_listed("\"g1.v4", "\"g1.v4\""));
    ck_assert(!tag_listed(NULL, "\"g1.v4\""));
    ck_assert(!tag_listed("", "\"g1.v4\""));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("range");
    TCase *tcase = tcase_create("range");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tcase, each_header_means_one_part_or_the_whole, 0,
                        sizeof rows / sizeof rows[0]);
    tcase_add_test(tcase, an_empty_body_has_no_parts);
    tcase_add_test(tcase, every_slice_is_the_same_as_that_of_the_joined_bytes);
    tcase_add_test(tcase, tags_are_compared_whole);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
