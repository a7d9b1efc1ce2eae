// A line is a line, whatever a peer put into it, and no peer fills the log.
#include "log.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// What stderr gets while `write_lines` runs.
static size_t capture(void write_lines(void), char *to, size_t room) {
    FILE *file = tmpfile();
    const int kept = dup(STDERR_FILENO);
    size_t size;

    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(dup2(fileno(file), STDERR_FILENO), 0);
    write_lines();
    ck_assert_int_ge(dup2(kept, STDERR_FILENO), 0);
    close(kept);
    rewind(file);
    size = fread(to, 1, room - 1, file);
    to[size] = '\0';
    fclose(file);
    return size;
}

static void write_forged(void) {
    log_event(LEVEL_WARN, "http", "request", log_text("target", "/x\nforged\x1b[31m \"q\" \\"),
              log_number("status", 404), log_text("empty", ""), log_text("none", NULL));
}

static void write_forged_json(void) {
    log_init(LEVEL_INFO, true);
    write_forged();
    log_event(LEVEL_DEBUG, "http", "not wanted", log_number("n", 1));
}

START_TEST(what_a_peer_sends_cannot_forge_a_line)
{
    char text[512];
    const size_t size = capture(write_forged, text, sizeof text);

    ck_assert_ptr_eq(strchr(text, '\n'), text + size - 1);
    ck_assert_ptr_null(strchr(text, '\x1b'));
    ck_assert_ptr_nonnull(
        strstr(text, " warn http request target=\"/x\\u000aforged\\u001b[31m \\\"q\\\" \\\\\" "
                     "status=404 empty=\"\" none=-\n"));
}
END_TEST

START_TEST(json_lines_hold_the_same_and_levels_are_left_out)
{
    char text[512];

    (void)capture(write_forged_json, text, sizeof text);
    ck_assert_ptr_nonnull(strstr(text, ",\"level\":\"warn\",\"component\":\"http\",\"msg\":"
                                       "\"request\",\"target\":\"/x\\u000aforged"));
    ck_assert_ptr_nonnull(strstr(text, ",\"status\":404,"));
    ck_assert_ptr_null(strstr(text, "not wanted"));
}
END_TEST

static void write_long(void) {
    char *text = malloc(10000);
    memset(text, 'a', 9999);
    text[9999] = '\0';
    log_event(LEVEL_INFO, "a", "b", log_text("long", text));
    free(text);
}

START_TEST(a_long_line_is_cut_and_ended)
{
    char text[4096];
    const size_t size = capture(write_long, text, sizeof text);

    ck_assert_uint_le(size, 2048);
    ck_assert_int_eq(text[size - 1], '\n');
}
END_TEST

START_TEST(a_peer_gets_ten_lines_a_second_and_others_theirs)
{
    static struct log_budget budget;
    unsigned passed = 0;

    for (int i = 0; i < 100; i++) {
        passed += log_budget_take(&budget, "192.0.2.1", 5000);
    }
    ck_assert_uint_eq(passed, LOG_LINES_PER_SECOND_MAX);
    ck_assert(log_budget_take(&budget, "192.0.2.2", 5000));
    ck_assert(log_budget_take(&budget, "192.0.2.1", 6000));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("log");
    TCase *tcase = tcase_create("log");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, what_a_peer_sends_cannot_forge_a_line);
    tcase_add_test(tcase, json_lines_hold_the_same_and_levels_are_left_out);
    tcase_add_test(tcase, a_long_line_is_cut_and_ended);
    tcase_add_test(tcase, a_peer_gets_ten_lines_a_second_and_others_theirs);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
