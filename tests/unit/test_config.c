// Settings come from four places, and a wrong one is named wherever it stands.
#include "config.h"

#include "config_value.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *no_environment[] = {NULL};

static enum adamd_status read_text(struct config *config, const char *text,
                                   struct adamd_fault *fault) {
    char *copy = strdup(text);
    enum adamd_status status;

    ck_assert_ptr_nonnull(copy);
    config_default(config);
    status = config_read(config, copy, fault);
    free(copy);
    return status;
}

START_TEST(defaults_are_loopback_and_valid)
{
    struct config config;

    config_default(&config);
    ck_assert_int_eq(config_check(&config, NULL), ADAMD_OK);
    ck_assert_uint_eq(config.listen_count, 1);
    ck_assert_str_eq(config.listens[0].address, "127.0.0.1");
    ck_assert_uint_eq(config.listens[0].port, 7440);
    ck_assert_uint_eq(config.slots_max, 8);
    ck_assert_uint_eq(config.idle_timeout_ms, 60000);
    ck_assert_uint_gt(config.memory_max, 1 << 20);
}
END_TEST

START_TEST(a_flag_wins_over_environment_over_file_over_default)
{
    char path[] = "/tmp/adamd-test-XXXXXX";
    const int fd = mkstemp(path);
    static const char text[] =
        "# a comment\n[limits]\nslots_max = 3\nmodels_max = 3\n connections_max=3 \r\n";
    char *argv[] = {"adamd", "--config", path, "--slots-max=5", NULL};
    char *environment[] = {"ADAMD_SLOTS_MAX=4", "ADAMD_MODELS_MAX=4", "HOME=/", NULL};
    struct config config;
    enum config_action action;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    ck_assert_int_eq(config_init(&config, 4, argv, environment, &action, NULL), ADAMD_OK);
    unlink(path);
    ck_assert_uint_eq(config.slots_max, 5);
    ck_assert_uint_eq(config.models_max, 4);
    ck_assert_uint_eq(config.connections_max, 3);
    ck_assert_int_eq(action, CONFIG_RUN);
}
END_TEST

START_TEST(listen_adds_up_in_one_place_and_replaces_the_lower_ones)
{
    char *argv[] = {"adamd", "--listen", "127.0.0.1:0", "--listen", "http=unix:/run/a.sock", NULL};
    char *environment[] = {"ADAMD_LISTEN=127.0.0.1:1", NULL};
    struct config config;
    enum config_action action;

    ck_assert_int_eq(config_init(&config, 5, argv, environment, &action, NULL), ADAMD_OK);
    ck_assert_uint_eq(config.listen_count, 2);
    ck_assert_uint_eq(config.listens[0].port, 0);
    ck_assert(config.listens[1].is_unix);
    ck_assert_str_eq(config.listens[1].address, "/run/a.sock");
}
END_TEST

static const struct {
    const char *text, *field, *says;
} wrong[] = {
    {"slots_mx = 3", "slots_mx", "did you mean 'slots_max'"},
    {"[limits]\nslots_max = 0", "slots_max", "'0' is no value"},
    {"[limits]\nslots_max = 3x", "slots_max", "'3x' is no value"},
    {"[limits]\nslots_max =", "slots_max", "'' is no value"},
    {"[limits]\npublished_max = 1", "published_max", "no value"},
    {"[log]\nslots_max = 3", "slots_max", "belongs to the section [limits]"},
    {"[limts]\n", "limts", "no section"},
    {"[limits\n", "section", "[name]"},
    {"slots_max 3", "slots_max 3", "key = value"},
    {"[deadlines]\nidle_timeout = 10", "idle_timeout", "no value"},
    {"[deadlines]\nidle_timeout = 10 s", "idle_timeout", "no value"},
    {"[limits]\nmemory_max = 99999999999999999999G", "memory_max", "no value"},
    {"[limits]\nmemory_max = 101%", "memory_max", "no value"},
    {"[log]\nlog_level = loud", "log_level", "debug, info"},
    {"listen = 127.0.0.1", "listen", "no value"},
    {"listen = 127.0.0.1:65536", "listen", "no value"},
    {"listen = example.org:80", "listen", "no value"},
    {"listen = unix:relative", "listen", "no value"},
    {"i_know_this_is_insecure = yes", "i_know_this_is_insecure", "no value"},
};

START_TEST(a_wrong_setting_is_named_with_its_line)
{
    struct config config;
    struct adamd_fault fault = {.status = ADAMD_OK};

    ck_assert_msg(read_text(&config, wrong[_i].text, &fault) == ADAMD_BAD_FIELD, "'%s' passed",
                  wrong[_i].text);
    ck_assert_str_eq(fault.field, wrong[_i].field);
    ck_assert_msg(strstr(fault.message, wrong[_i].says) != NULL, "%s", fault.message);
    ck_assert_str_eq(fault.metadata[0].key, "line");
}
END_TEST

START_TEST(variables_of_other_programs_are_left_alone_and_typos_are_not)
{
    char *argv[] = {"adamd", NULL};
    char *others[] = {"ADAMD_BIN=/x", "ADAMD_ENDPOINT=unix:/y", NULL};
    char *typo[] = {"ADAMD_SLOT_MAX=4", NULL};
    struct config config;
    enum config_action action;
    struct adamd_fault fault;

    ck_assert_int_eq(config_init(&config, 1, argv, others, &action, NULL), ADAMD_OK);
    ck_assert_int_eq(config_init(&config, 1, argv, typo, &action, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "slot_max");
}
END_TEST

START_TEST(a_wrong_command_line_is_told_from_a_wrong_file)
{
    char *flag[] = {"adamd", "--slots-mx", "3", NULL};
    char *word[] = {"adamd", "slots", NULL};
    char *variable[] = {"ADAMD_SLOTS_MAX=0", NULL};
    struct config config;
    enum config_action action;

    ck_assert_int_eq(config_init(&config, 3, flag, no_environment, &action, NULL), ADAMD_BAD_FIELD);
    ck_assert_int_eq(action, CONFIG_USAGE);
    ck_assert_int_eq(config_init(&config, 2, word, no_environment, &action, NULL), ADAMD_BAD_FIELD);
    ck_assert_int_eq(action, CONFIG_USAGE);
    ck_assert_int_eq(config_init(&config, 1, flag, variable, &action, NULL), ADAMD_BAD_FIELD);
    ck_assert_int_eq(action, CONFIG_RUN);
}
END_TEST

START_TEST(an_address_that_others_reach_must_be_asked_for_by_name)
{
    char *plain[] = {"adamd", "--listen", "0.0.0.0:7440", NULL};
    char *meant[] = {"adamd", "--i-know-this-is-insecure", "--listen", "0.0.0.0:7440", NULL};
    struct config config;
    enum config_action action;
    struct adamd_fault fault;

    ck_assert_int_eq(config_init(&config, 3, plain, no_environment, &action, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "listen");
    ck_assert_int_eq(config_init(&config, 4, meant, no_environment, &action, &fault), ADAMD_OK);
}
END_TEST

START_TEST(a_device_that_this_build_lacks_is_told_so)
{
    char *argv[] = {"adamd", "--device", "cuda:0", NULL};
    struct config config;
    enum config_action action;
    struct adamd_fault fault;

    ck_assert_int_eq(config_init(&config, 3, argv, no_environment, &action, &fault),
                     ADAMD_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(fault.message, "no CUDA"));
}
END_TEST

START_TEST(what_is_printed_reads_back_as_the_same)
{
    struct config first;
    struct config second;
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);

    ck_assert_int_eq(read_text(&first,
                               "listen = [::1]:0\nlisten = unix:/run/a.sock\n[limits]\n"
                               "memory_max = 3G\n[deadlines]\nidle_timeout = 1500ms\n",
                               NULL),
                     ADAMD_OK);
    ck_assert_ptr_nonnull(file);
    config_print(&first, file);
    ck_assert_int_eq(fclose(file), 0);
    for (char *comment = text; (comment = strchr(comment, '#')) != NULL;) {
        *comment++ = '\n'; // the origins
        memset(comment, ' ', strcspn(comment, "\n"));
    }
    ck_assert_int_eq(read_text(&second, text, NULL), ADAMD_OK);
    free(text);
    ck_assert_uint_eq(second.listen_count, 2);
    ck_assert_mem_eq(first.listens, second.listens, sizeof first.listens);
    ck_assert_uint_eq(second.memory_max, (uint64_t)3 << 30);
    ck_assert_uint_eq(second.idle_timeout_ms, 1500);
    ck_assert_uint_eq(second.connection_age_ms, 3600000);
}
END_TEST

START_TEST(durations_and_sizes_take_the_whole_text)
{
    uint64_t value = 0;

    ck_assert(value_duration("2h", &value) && value == 7200000);
    ck_assert(value_duration("5ms", &value) && value == 5);
    ck_assert(!value_duration("5", &value) && !value_duration("ms", &value));
    ck_assert(!value_duration("18446744073709551615h", &value));
    ck_assert(value_size("2K", &value) && value == 2048);
    ck_assert(!value_size("2KB", &value) && !value_size("-1", &value) && !value_size("", &value));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("config");
    TCase *tcase = tcase_create("config");
    SRunner *runner;
    int failed;

    tcase_add_test(tcase, defaults_are_loopback_and_valid);
    tcase_add_test(tcase, a_flag_wins_over_environment_over_file_over_default);
    tcase_add_test(tcase, listen_adds_up_in_one_place_and_replaces_the_lower_ones);
    tcase_add_loop_test(tcase, a_wrong_setting_is_named_with_its_line, 0,
                        sizeof wrong / sizeof wrong[0]);
    tcase_add_test(tcase, variables_of_other_programs_are_left_alone_and_typos_are_not);
    tcase_add_test(tcase, a_wrong_command_line_is_told_from_a_wrong_file);
    tcase_add_test(tcase, an_address_that_others_reach_must_be_asked_for_by_name);
    tcase_add_test(tcase, a_device_that_this_build_lacks_is_told_so);
    tcase_add_test(tcase, what_is_printed_reads_back_as_the_same);
    tcase_add_test(tcase, durations_and_sizes_take_the_whole_text);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
