// Goal: a push counts once, whatever is lost, refused or cut on the way, and the caller always
// knows which of the three it was: counted, refused, or in doubt.

#include "client_fixture.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    COUNT = 4,
    MANY = 1 << 21
}; // MANY floats: above the size from which 100 Continue is waited for

static const float gradient[COUNT] = {1, 2, 3, 4};
static const float other[COUNT] = {1, 2, 3, 5};

static uint64_t now_ms(void) {
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void expect_same_request(const struct client_fixture *fixture, size_t i, size_t k) {
    const struct fake_request *one = &fixture->daemon.requests[i],
                              *two = &fixture->daemon.requests[k];

    ck_assert_uint_lt(k, fixture->daemon.request_count);
    ck_assert_uint_eq(one->body_size, two->body_size);
    ck_assert_mem_eq(one->body, two->body, one->body_size);
}

START_TEST(a_push_carries_its_head_and_the_bytes)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false)};
    struct client_fixture fixture;
    adamd_push_options_t options = ADAMD_PUSH_OPTIONS_INIT;
    adamd_push_result_t result = ADAMD_PUSH_RESULT_INIT;
    const adamd_gradient_t pieces[] = {{.tensor = 2, .data = gradient, .byte_size = 4},
                                       {.tensor = 5, .data = gradient + 1, .byte_size = 12}};
    const adamd_metric_t metric = {.key = "loss", .value = 0.5};
    Adamd__V1__PushHeader *header = NULL;

    fixture_start(&fixture, lines, 2, 5000);
    fixture_register(&fixture);
    options.gradients = pieces;
    options.gradient_count = 2;
    options.base_version = 5;
    options.weight = 2;
    options.metrics = &metric;
    options.metric_count = 1;
    expect_success(adamd_push(fixture.session, &options, &result));
    ck_assert_int_eq(result.outcome, ADAMD_OUTCOME_APPLIED);
    ck_assert_uint_eq(result.version, 6);
    ck_assert_uint_eq(adamd_session_sequence(fixture.session), 2);
    fixture_stop(&fixture);
    header = push_of(&fixture, 1);
    ck_assert_str_eq(header->worker, "w0");
    ck_assert_uint_eq(header->epoch, 9);
    ck_assert_uint_eq(header->sequence, 1);
    ck_assert_uint_eq(header->base_version, 5);
    ck_assert_uint_eq(header->n_tensors, 2);
    ck_assert_uint_eq(header->tensors[1], 5);
    ck_assert_uint_eq(header->byte_size, sizeof gradient);
    ck_assert_str_eq(header->layout_digest, "digest");
    ck_assert_double_eq(header->weight, 2);
    ck_assert_str_eq(header->metrics[0]->key, "loss");
    ck_assert_mem_eq(fixture.daemon.requests[1].body + fixture.daemon.requests[1].body_size -
                         sizeof gradient,
                     gradient, sizeof gradient);
    ck_assert_ptr_nonnull(strstr(fixture.daemon.requests[1].head, "POST /v1/models/m/gradients "));
    adamd__v1__push_header__free_unpacked(header, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_lost_answer_leads_to_the_same_push_again)
{
    const struct fake_line lines[] = {
        answer_registered(9, sizeof gradient), {.closes = true}, answer_pushed(1, 6, true)};
    struct client_fixture fixture;
    adamd_push_result_t result = ADAMD_PUSH_RESULT_INIT;

    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    expect_success(fixture_push(&fixture, gradient, COUNT, &result));
    ck_assert_int_eq(result.duplicate, 1);
    fixture_stop(&fixture);
    expect_same_request(&fixture, 1, 2);
    fixture_finish(&fixture);
}
END_TEST

// Every answer that asks for the same push again.
static const struct {
    int status;
    const char *reason;
} repeats[] = {
    {503, "BUSY"},   {429, "WORKER_BUSY"},  {504, "STILL_STAGED"},     {409, "STEP_ABORTED"},
    {503, "PAUSED"}, {422, "CRC_MISMATCH"}, {409, "OPERATION_RUNNING"}};

START_TEST(what_may_pass_is_tried_again_with_the_same_push)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_refused(repeats[_i].status, repeats[_i].reason, ""),
                                      answer_pushed(1, 6, false)};
    struct client_fixture fixture;

    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    expect_success(fixture_push(&fixture, gradient, COUNT, NULL));
    fixture_stop(&fixture);
    expect_same_request(&fixture, 1, 2);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(retry_after_is_honoured)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_refused(503, "BUSY", "Retry-After: 1\r\n"),
                                      answer_pushed(1, 6, false)};
    struct client_fixture fixture;

    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    expect_success(fixture_push(&fixture, gradient, COUNT, NULL));
    fixture_stop(&fixture);
    ck_assert_uint_ge(fixture.daemon.requests[2].time_ms - fixture.daemon.requests[1].time_ms, 990);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_retry_after_beyond_the_deadline_is_not_waited_for)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_refused(503, "BUSY", "Retry-After: 60\r\n")};
    struct client_fixture fixture;
    uint64_t start = 0;

    fixture_start(&fixture, lines, 2, 5000);
    fixture_register(&fixture);
    start = now_ms();
    expect_reason(fixture_push(&fixture, gradient, COUNT, NULL), "BUSY");
    ck_assert_uint_lt(now_ms() - start, 2000);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_refusal_does_not_use_the_number_up)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_refused(422, "NONFINITE", ""),
                                      answer_pushed(1, 6, false)};
    struct client_fixture fixture;
    adamd_error_t *error = NULL;
    Adamd__V1__PushHeader *header = NULL;

    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    error = fixture_push(&fixture, other, COUNT, NULL);
    ck_assert_ptr_nonnull(error);
    ck_assert_int_eq(adamd_error_is_retriable(error), 0);
    ck_assert_int_eq(adamd_error_http_status(error), 422);
    ck_assert_str_eq(adamd_error_field(error), "lr");
    adamd_error_destroy(error);
    expect_success(fixture_push(&fixture, gradient, COUNT, NULL));
    fixture_stop(&fixture);
    header = push_of(&fixture, 2);
    ck_assert_uint_eq(header->sequence, 1);
    adamd__v1__push_header__free_unpacked(header, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(stale_uses_the_number_up)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_refused(409, "STALE", ""),
                                      answer_pushed(2, 45, false)};
    struct client_fixture fixture;
    adamd_push_result_t result = ADAMD_PUSH_RESULT_INIT;
    Adamd__V1__PushHeader *header = NULL;

    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    expect_reason(fixture_push(&fixture, gradient, COUNT, &result), "STALE");
    ck_assert_int_eq(result.outcome, ADAMD_OUTCOME_STALE);
    ck_assert_uint_eq(result.version, 44);
    expect_success(fixture_push(&fixture, other, COUNT, NULL));
    fixture_stop(&fixture);
    header = push_of(&fixture, 2);
    ck_assert_uint_eq(header->sequence, 2);
    adamd__v1__push_header__free_unpacked(header, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(in_doubt_only_the_same_gradient_may_follow)
{
    // The daemon takes the push and says nothing; later it has counted.
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      {.answer = NULL},
                                      answer_pushed(1, 6, true),
                                      answer_pushed(2, 7, false)};
    struct client_fixture fixture;
    adamd_push_options_t options = ADAMD_PUSH_OPTIONS_INIT;
    adamd_push_result_t result = ADAMD_PUSH_RESULT_INIT;

    fixture_start(&fixture, lines, 4, 5000);
    fixture_register(&fixture);
    options.flat = gradient;
    options.flat_bytes = sizeof gradient;
    options.timeout_ms = 200;
    expect_reason(adamd_push(fixture.session, &options, NULL), "TIMED_OUT");
    expect_reason(fixture_push(&fixture, other, COUNT, NULL), "IN_DOUBT");
    ck_assert_uint_eq(adamd_session_sequence(fixture.session), 1);
    expect_success(fixture_push(&fixture, gradient, COUNT, &result));
    ck_assert_int_eq(result.duplicate, 1);
    expect_success(fixture_push(&fixture, other, COUNT, NULL)); // no doubt any more
    fixture_stop(&fixture);
    ck_assert_uint_eq(fixture.daemon.request_count, 4);
    expect_same_request(&fixture, 1, 2);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_new_epoch_ends_the_doubt)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      {.answer = NULL},
                                      answer_registered(10, sizeof gradient),
                                      answer_pushed(1, 6, false)};
    struct client_fixture fixture;
    adamd_push_options_t options = ADAMD_PUSH_OPTIONS_INIT;
    adamd_register_result_t registered = ADAMD_REGISTER_RESULT_INIT;

    fixture_start(&fixture, lines, 4, 5000);
    fixture_register(&fixture);
    options.flat = gradient;
    options.flat_bytes = sizeof gradient;
    options.timeout_ms = 200;
    expect_reason(adamd_push(fixture.session, &options, NULL), "TIMED_OUT");
    expect_success(adamd_reregister(fixture.session, NULL, &registered));
    ck_assert_uint_eq(registered.last_sequence, 41);
    ck_assert_uint_eq(adamd_session_epoch(fixture.session), 10);
    expect_success(fixture_push(&fixture, other, COUNT, NULL));
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_push_that_was_never_sent_leaves_no_doubt)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient)};
    struct client_fixture fixture;
    adamd_push_options_t options = ADAMD_PUSH_OPTIONS_INIT;

    fixture_start(&fixture, lines, 1, 5000);
    fixture_register(&fixture);
    fake_daemon_stop(&fixture.daemon);
    options.flat = gradient;
    options.flat_bytes = sizeof gradient;
    options.timeout_ms = 200;
    expect_reason(adamd_push(fixture.session, &options, NULL), "CONNECTION");
    options.flat = other;
    expect_reason(adamd_push(fixture.session, &options, NULL), "CONNECTION");
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_large_body_is_not_sent_to_a_daemon_that_refuses_it)
{
    struct fake_line lines[] = {answer_registered(9, MANY * sizeof(float)),
                                answer_refused(413, "TOO_LARGE", "")};
    struct client_fixture fixture;
    float *large = calloc(MANY, sizeof *large);

    lines[1].before_body = true;
    fixture_start(&fixture, lines, 2, 5000);
    fixture_register(&fixture);
    expect_reason(fixture_push(&fixture, large, MANY, NULL), "TOO_LARGE");
    fixture_stop(&fixture);
    ck_assert_ptr_nonnull(strstr(fixture.daemon.requests[1].head, "Expect: 100-continue\r\n"));
    ck_assert_uint_eq(fixture.daemon.requests[1].body_size, 0);
    free(large);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_refusal_in_the_middle_of_the_body_is_read)
{
    struct fake_line lines[] = {answer_registered(9, MANY * sizeof(float)),
                                answer_refused(422, "NONFINITE", ""), answer_pushed(1, 6, false)};
    struct client_fixture fixture;
    float *large = calloc(MANY, sizeof *large);

    lines[1].says_continue = true;
    lines[1].before_body = true;
    lines[1].read_first = 100000;
    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    expect_reason(fixture_push(&fixture, large, MANY, NULL), "NONFINITE");
    expect_success(fixture_push(&fixture, gradient, COUNT, NULL));
    free(large);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_daemon_that_never_says_continue_gets_the_body_anyway)
{
    const struct fake_line lines[] = {answer_registered(9, MANY * sizeof(float)),
                                      answer_pushed(1, 6, false)};
    struct client_fixture fixture;
    float *large = calloc(MANY, sizeof *large);

    fixture_start(&fixture, lines, 2, 20000);
    fixture_register(&fixture);
    large[MANY - 1] = 7;
    expect_success(fixture_push(&fixture, large, MANY, NULL));
    fixture_stop(&fixture);
    ck_assert_mem_eq(fixture.daemon.requests[1].body + fixture.daemon.requests[1].body_size -
                         sizeof(float),
                     &large[MANY - 1], sizeof(float));
    free(large);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(push_and_pull_are_one_round_trip)
{
    const float fresh[COUNT] = {9, 8, 7, 6};
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_both(1, 6, fresh, sizeof fresh),
                                      answer_pushed(2, 7, false)};
    struct client_fixture fixture;
    adamd_push_options_t push = ADAMD_PUSH_OPTIONS_INIT;
    adamd_pull_options_t pull = ADAMD_PULL_OPTIONS_INIT;
    adamd_push_result_t pushed = ADAMD_PUSH_RESULT_INIT;
    adamd_pull_result_t pulled = ADAMD_PULL_RESULT_INIT;
    Adamd__V1__PushHeader *header = NULL;
    float first = 0, rest[3] = {0};
    const adamd_buffer_t buffers[] = {{&first, sizeof first}, {rest, sizeof rest}};

    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    push.flat = gradient;
    push.flat_bytes = sizeof gradient;
    pull.buffers = buffers;
    pull.buffer_count = 2;
    expect_success(adamd_push_pull(fixture.session, &push, &pull, &pushed, &pulled));
    ck_assert_uint_eq(pushed.version, 6);
    ck_assert_uint_eq(pulled.version, 6);
    ck_assert_float_eq(first, 9);
    ck_assert_mem_eq(rest, fresh + 1, sizeof rest);
    expect_success(fixture_push(&fixture, other, COUNT, NULL));
    fixture_stop(&fixture);
    ck_assert_ptr_nonnull(strstr(fixture.daemon.requests[1].head, "application/x-adamd-pull"));
    header = push_of(&fixture, 2);
    ck_assert_uint_eq(header->base_version, 6); // what was pulled with the first
    adamd__v1__push_header__free_unpacked(header, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(buffers_of_the_wrong_length_are_refused_before_the_push_counts)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient)};
    struct client_fixture fixture;
    adamd_push_options_t push = ADAMD_PUSH_OPTIONS_INIT;
    adamd_pull_options_t pull = ADAMD_PULL_OPTIONS_INIT;
    float small[2];
    const adamd_buffer_t buffer = {small, sizeof small};

    fixture_start(&fixture, lines, 1, 5000);
    fixture_register(&fixture);
    push.flat = gradient;
    push.flat_bytes = sizeof gradient;
    pull.buffers = &buffer;
    pull.buffer_count = 1;
    expect_reason(adamd_push_pull(fixture.session, &push, &pull, NULL, NULL), "LAYOUT_MISMATCH");
    fixture_stop(&fixture);
    ck_assert_uint_eq(fixture.daemon.request_count, 1);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(the_checksum_goes_with_a_push_where_it_is_asked_for)
{
    const struct fake_line lines[] = {answer_registered(9, 9), answer_pushed(1, 6, false)};
    struct client_fixture fixture;
    adamd_conf_t *conf = adamd_conf_new();
    adamd_push_options_t options = ADAMD_PUSH_OPTIONS_INIT;
    Adamd__V1__PushHeader *header = NULL;

    fixture_start(&fixture, lines, 2, 5000);
    adamd_client_destroy(fixture.client);
    ck_assert_int_eq(adamd_conf_set(conf, "endpoint", fixture.daemon.endpoint, NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "model", "m", NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "worker", "w", NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "crc", "on", NULL, 0), 0);
    fixture.client = adamd_client_new(conf, NULL, 0);
    fixture_register(&fixture);
    options.flat = "123456789"; // whose CRC32C is known
    options.flat_bytes = 9;
    expect_success(adamd_push(fixture.session, &options, NULL));
    fixture_stop(&fixture);
    header = push_of(&fixture, 1);
    ck_assert_uint_eq(header->crc32c, 0xe3069283u);
    adamd__v1__push_header__free_unpacked(header, NULL);
    fixture_finish(&fixture);
}
END_TEST

static const struct {
    const char *reason;
    int status, fatal, wants_register;
} endings[] = {{"FENCED", 409, 1, 0},
               {"BAD_EPOCH", 400, 1, 0},
               {"SEQ_REUSED", 422, 1, 0},
               {"UNKNOWN_WORKER", 404, 0, 1},
               {"RUN_RESTORED", 412, 0, 1}};

START_TEST(errors_tell_what_becomes_of_the_session)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_refused(endings[_i].status, endings[_i].reason, "")};
    struct client_fixture fixture;
    adamd_error_t *error = NULL;

    fixture_start(&fixture, lines, 2, 5000);
    fixture_register(&fixture);
    error = fixture_push(&fixture, gradient, COUNT, NULL);
    ck_assert_ptr_nonnull(error);
    ck_assert_int_eq(adamd_error_is_fatal(error), endings[_i].fatal);
    ck_assert_int_eq(adamd_error_wants_register(error), endings[_i].wants_register);
    ck_assert_int_eq(adamd_error_is_retriable(error), 0);
    ck_assert_str_eq(adamd_error_metadata(error, "current_version"), "44");
    expect_reason(error, endings[_i].reason);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(arguments_that_cannot_be_are_named)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient)};
    const adamd_gradient_t twice[] = {{.tensor = 1, .data = gradient, .byte_size = 4},
                                      {.tensor = 1, .data = gradient, .byte_size = 4}};
    struct client_fixture fixture;
    adamd_push_options_t options = ADAMD_PUSH_OPTIONS_INIT;
    adamd_error_t *error = NULL;

    fixture_start(&fixture, lines, 1, 5000);
    fixture_register(&fixture);
    expect_reason(adamd_push(fixture.session, &options, NULL), "BAD_FIELD");
    options.gradients = twice;
    options.gradient_count = 2;
    error = adamd_push(fixture.session, &options, NULL);
    ck_assert_str_eq(adamd_error_field(error), "gradients");
    expect_reason(error, "BAD_FIELD");
    options.gradient_count = 1;
    options.weight = 0;
    error = adamd_push(fixture.session, &options, NULL);
    ck_assert_str_eq(adamd_error_field(error), "weight");
    expect_reason(error, "BAD_FIELD");
    options.size = 0;
    error = adamd_push(fixture.session, &options, NULL);
    ck_assert_str_eq(adamd_error_field(error), "size");
    expect_reason(error, "BAD_FIELD");
    fixture_finish(&fixture);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("client_push");
    TCase *tests = tcase_create("push");
    SRunner *runner = srunner_create(suite);
    int failed = 0;

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_push_carries_its_head_and_the_bytes);
    tcase_add_test(tests, a_lost_answer_leads_to_the_same_push_again);
    tcase_add_loop_test(tests, what_may_pass_is_tried_again_with_the_same_push, 0,
                        sizeof repeats / sizeof repeats[0]);
    tcase_add_test(tests, retry_after_is_honoured);
    tcase_add_test(tests, a_retry_after_beyond_the_deadline_is_not_waited_for);
    tcase_add_test(tests, a_refusal_does_not_use_the_number_up);
    tcase_add_test(tests, stale_uses_the_number_up);
    tcase_add_test(tests, in_doubt_only_the_same_gradient_may_follow);
    tcase_add_test(tests, a_new_epoch_ends_the_doubt);
    tcase_add_test(tests, a_push_that_was_never_sent_leaves_no_doubt);
    tcase_add_test(tests, a_large_body_is_not_sent_to_a_daemon_that_refuses_it);
    tcase_add_test(tests, a_refusal_in_the_middle_of_the_body_is_read);
    tcase_add_test(tests, a_daemon_that_never_says_continue_gets_the_body_anyway);
    tcase_add_test(tests, push_and_pull_are_one_round_trip);
    tcase_add_test(tests, buffers_of_the_wrong_length_are_refused_before_the_push_counts);
    tcase_add_test(tests, the_checksum_goes_with_a_push_where_it_is_asked_for);
    tcase_add_loop_test(tests, errors_tell_what_becomes_of_the_session, 0,
                        sizeof endings / sizeof endings[0]);
    tcase_add_test(tests, arguments_that_cannot_be_are_named);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
