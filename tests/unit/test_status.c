// Goal: every status has a name and a text, and a fault says what it was told, cut where it must
// be.
#include "adamd/status.h"

#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

START_TEST(every_status_has_its_own_name_and_a_text)
{
    for (int i = 0; i < ADAMD_STATUS_COUNT; i++) {
        const char *name = adamd_status_name((enum adamd_status)i);
        ck_assert_uint_gt(strlen(adamd_status_text((enum adamd_status)i)), 0);
        for (int k = 0; k < i; k++) {
            ck_assert_str_ne(name, adamd_status_name((enum adamd_status)k));
        }
    }
    ck_assert_str_eq(adamd_status_name(ADAMD_OK), "OK");
    ck_assert_str_eq(adamd_status_name(ADAMD_STALE), "STALE");
    ck_assert_int_eq(ADAMD_OK, 0);
}
END_TEST

START_TEST(a_fault_names_field_and_reason)
{
    struct adamd_fault fault;

    memset(&fault, 0xFF, sizeof fault);
    ck_assert_int_eq(adamd_fail(&fault, ADAMD_STALE, "push.base", "%d behind %s", 3, "all"),
                     ADAMD_STALE);
    ck_assert_int_eq(fault.status, ADAMD_STALE);
    ck_assert_str_eq(fault.field, "push.base");
    ck_assert_str_eq(fault.message, "3 behind all");
    ck_assert_uint_eq(fault.metadata_count, 0);
    ck_assert_int_eq(adamd_fail_plain(&fault, ADAMD_NO_MEMORY), ADAMD_NO_MEMORY);
    ck_assert_str_eq(fault.field, "");
    ck_assert_str_eq(fault.message, adamd_status_text(ADAMD_NO_MEMORY));
    ck_assert_int_eq(adamd_fail(NULL, ADAMD_BUSY, NULL, "nobody asks"), ADAMD_BUSY);
}
END_TEST

START_TEST(long_texts_are_cut_and_ended)
{
    char text[1000];
    struct adamd_fault fault;

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    (void)adamd_fail(&fault, ADAMD_BAD_FIELD, text, "%s", text);
    ck_assert_uint_eq(strlen(fault.field), sizeof fault.field - 1);
    ck_assert_uint_eq(strlen(fault.message), sizeof fault.message - 1);
    adamd_fault_tell(&fault, text, "%s", text);
    ck_assert_uint_eq(strlen(fault.metadata[0].key), sizeof fault.metadata[0].key - 1);
    ck_assert_uint_eq(strlen(fault.metadata[0].value), sizeof fault.metadata[0].value - 1);
}
END_TEST

START_TEST(metadata_past_the_limit_is_dropped)
{
    struct adamd_fault fault;

    (void)adamd_fail_plain(&fault, ADAMD_STALE);
    for (int i = 0; i < ADAMD_FAULT_METADATA_MAX + 3; i++) {
        adamd_fault_tell(&fault, "version", "%d", i);
    }
    ck_assert_uint_eq(fault.metadata_count, ADAMD_FAULT_METADATA_MAX);
    ck_assert_str_eq(fault.metadata[ADAMD_FAULT_METADATA_MAX - 1].value, "3");
    adamd_fault_tell(NULL, "version", "%d", 1);
}
END_TEST

START_TEST(an_assertion_stops_the_process)
{
    ADAMD_ASSERT(1 + 1 == 2);
    ADAMD_ASSERT(1 + 1 == 3);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("status");
    TCase *tests = tcase_create("all");

    tcase_add_test(tests, every_status_has_its_own_name_and_a_text);
    tcase_add_test(tests, a_fault_names_field_and_reason);
    tcase_add_test(tests, long_texts_are_cut_and_ended);
    tcase_add_test(tests, metadata_past_the_limit_is_dropped);
    tcase_add_test_raise_signal(tests, an_assertion_stops_the_process, SIGABRT);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
