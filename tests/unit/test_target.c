// A target has one reading, or none.
#include "target.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(segments_and_parameters_are_decoded_after_they_are_split)
{
    struct target target;

    ck_assert_int_eq(
        target_init(&target, "/v1/models/a%20b:step?worker=w%260&metric.loss=1.5&x=a+b%2Bc", NULL),
        ADAMD_OK);
    ck_assert_uint_eq(target.segment_count, 3);
    ck_assert_str_eq(target.segments[2], "a b:step");
    ck_assert_str_eq(target_parameter(&target, "worker"), "w&0");
    ck_assert_str_eq(target_parameter(&target, "metric.loss"), "1.5");
    ck_assert_str_eq(target_parameter(&target, "x"), "a b+c");
    ck_assert_ptr_null(target_parameter(&target, "loss"));
    target_finish(&target);
}
END_TEST

START_TEST(a_name_without_a_value_is_there_and_empty)
{
    struct target target;

    ck_assert_int_eq(target_init(&target, "/readyz?verbose", NULL), ADAMD_OK);
    ck_assert_str_eq(target_parameter(&target, "verbose"), "");
    target_finish(&target);
}
END_TEST

START_TEST(the_root_has_no_segments)
{
    struct target target;

    ck_assert_int_eq(target_init(&target, "/", NULL), ADAMD_OK);
    ck_assert_uint_eq(target.segment_count, 0);
    target_finish(&target);
}
END_TEST

static const char *const refused[] = {
    "",
    "v1",
    "*",
    "http://h/v1",
    "//",
    "/v1/",
    "/v1//x",
    "/v1/..",
    "/v1/a..b",
    "/v1/.",
    "/%2e%2e",
    "/v1%2Fx",
    "/v1%5cx",
    "/v1\\x",
    "/%00",
    "/%zz",
    "/%4",
    "/%",
    "/a b",
    "/a\tb",
    "/a\x80",
    "/a#b",
    "/%80",
    "/%c0%af",
    "/%ed%a0%80",
    "/%f4%90%80%80",
    "/%0a",
    "/%7f",
    "/x?a=%00",
    "/x?a=%01",
    "/x?a=1&a=2",
    "/x?=1",
    "/x?&",
    "/x?a=%ff",
    "/1/2/3/4/5/6/7/8/9",
};

START_TEST(what_has_two_readings_is_refused)
{
    struct target target;
    struct adamd_fault fault;

    ck_assert_msg(target_init(&target, refused[_i], &fault) == ADAMD_BAD_FIELD, "'%s' passed",
                  refused[_i]);
    ck_assert(fault.message[0] != '\0');
    target_finish(&target);
}
END_TEST

START_TEST(long_targets_are_refused_before_they_are_copied)
{
    char *raw = malloc(TARGET_BYTES_MAX + 2);
    struct target target;

    ck_assert_ptr_nonnull(raw);
    memset(raw, 'a', TARGET_BYTES_MAX + 1);
    raw[0] = '/';
    raw[TARGET_BYTES_MAX + 1] = '\0';
    ck_assert_int_eq(target_init(&target, raw, NULL), ADAMD_TOO_LARGE);
    raw[TARGET_BYTES_MAX] = '\0';
    ck_assert_int_eq(target_init(&target, raw, NULL), ADAMD_OK);
    target_finish(&target);
    free(raw);
}
END_TEST

START_TEST(one_parameter_too_many_is_refused)
{
    char raw[TARGET_PARAMETERS_MAX * 8 + 16] = "/x?a=1";
    struct target target;

    for (int i = 1; i < TARGET_PARAMETERS_MAX; i++) {
        snprintf(raw + strlen(raw), sizeof raw - strlen(raw), "&b%d=1", i);
    }
    ck_assert_int_eq(target_init(&target, raw, NULL), ADAMD_OK);
    target_finish(&target);
    strcat(raw, "&c=1"); // NOLINT: room for it was kept
    ck_assert_int_eq(target_init(&target, raw, NULL), ADAMD_BAD_FIELD);
}
END_TEST

static const char *const known[] = {"sequence", "worker", "metric.", NULL};

START_TEST(an_unknown_parameter_is_named_and_the_nearest_suggested)
{
    struct target target;
    struct adamd_fault fault;

    ck_assert_int_eq(target_init(&target, "/x?worker=1&sequnce=2", NULL), ADAMD_OK);
    ck_assert_int_eq(target_check(&target, known, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "sequnce");
    ck_assert_ptr_nonnull(strstr(fault.message, "'sequence'"));
    target_finish(&target);
}
END_TEST

START_TEST(a_prefix_lets_every_name_behind_it_in_but_not_itself)
{
    struct target target;

    ck_assert_int_eq(target_init(&target, "/x?metric.loss=1", NULL), ADAMD_OK);
    ck_assert_int_eq(target_check(&target, known, NULL), ADAMD_OK);
    ck_assert_int_eq(target_check(&target, NULL, NULL), ADAMD_BAD_FIELD);
    target_finish(&target);
    ck_assert_int_eq(target_init(&target, "/x?metric.=1", NULL), ADAMD_OK);
    ck_assert_int_eq(target_check(&target, known, NULL), ADAMD_BAD_FIELD);
    target_finish(&target);
}
END_TEST

START_TEST(a_name_that_resembles_nothing_is_not_guessed)
{
    ck_assert_ptr_null(nearest_name("temperature", known));
    ck_assert_str_eq(nearest_name("workre", known), "worker");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("target");
    TCase *tcase = tcase_create("target");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, segments_and_parameters_are_decoded_after_they_are_split);
    tcase_add_test(tcase, a_name_without_a_value_is_there_and_empty);
    tcase_add_test(tcase, the_root_has_no_segments);
    tcase_add_loop_test(tcase, what_has_two_readings_is_refused, 0,
                        sizeof refused / sizeof refused[0]);
    tcase_add_test(tcase, long_targets_are_refused_before_they_are_copied);
    tcase_add_test(tcase, one_parameter_too_many_is_refused);
    tcase_add_test(tcase, an_unknown_parameter_is_named_and_the_nearest_suggested);
    tcase_add_test(tcase, a_prefix_lets_every_name_behind_it_in_but_not_itself);
    tcase_add_test(tcase, a_name_that_resembles_nothing_is_not_guessed);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
