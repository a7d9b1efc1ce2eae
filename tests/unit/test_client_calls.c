// Goal: calls end by their deadline, are repeated only where that is safe, and believe no answer
// that is not whole or not adamd's.

#include "client_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COUNT = 4 };

static const float parameters[COUNT] = {1, 2, 3, 4};

static uint64_t now_ms(void) {
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static adamd_error_t *pull_into(struct client_fixture *fixture, float *values,
                                adamd_pull_result_t *result) {
    adamd_pull_options_t options = ADAMD_PULL_OPTIONS_INIT;
    const adamd_buffer_t buffer = {values, COUNT * sizeof *values};

    options.buffers = &buffer;
    options.buffer_count = 1;
    return adamd_pull_model(fixture->client, NULL, &options, result);
}

START_TEST(register_tells_what_the_last_epoch_did)
{
    const struct fake_line lines[] = {answer_registered(9, 16)};
    struct client_fixture fixture;
    adamd_register_result_t result = ADAMD_REGISTER_RESULT_INIT;

    fixture_start(&fixture, lines, 1, 5000);
    expect_success(adamd_register(fixture.client, NULL, &fixture.session, &result));
    ck_assert_uint_eq(result.epoch, 9);
    ck_assert_uint_eq(result.version, 5);
    ck_assert_uint_eq(result.rank, 3);
    ck_assert_uint_eq(result.last_sequence, 41);
    ck_assert_int_eq(result.last_outcome, ADAMD_OUTCOME_APPLIED);
    ck_assert_str_eq(result.layout_digest, "digest");
    ck_assert_uint_eq(adamd_session_sequence(fixture.session), 1);
    ck_assert_uint_eq(adamd_session_version(fixture.session), ADAMD_ANY);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_repeated_register_has_the_same_nonce)
{
    const struct fake_line lines[] = {{.closes = true}, answer_registered(9, 16)};
    struct client_fixture fixture;
    Adamd__V1__RegisterWorkerRequest *one = NULL, *two = NULL;

    fixture_start(&fixture, lines, 2, 5000);
    fixture_register(&fixture);
    fixture_stop(&fixture);
    one = adamd__v1__register_worker_request__unpack(NULL, fixture.daemon.requests[0].body_size,
                                                     fixture.daemon.requests[0].body);
    two = adamd__v1__register_worker_request__unpack(NULL, fixture.daemon.requests[1].body_size,
                                                     fixture.daemon.requests[1].body);
    ck_assert_uint_eq(strlen(one->nonce), 32);
    ck_assert_str_eq(one->nonce, two->nonce);
    ck_assert_str_eq(one->parent, "models/m");
    ck_assert_str_eq(one->worker_id, "w0");
    adamd__v1__register_worker_request__free_unpacked(one, NULL);
    adamd__v1__register_worker_request__free_unpacked(two, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(an_older_struct_gets_only_what_it_has_room_for)
{
    const struct fake_line lines[] = {answer_registered(9, 16)};
    struct client_fixture fixture;
    struct {
        adamd_register_result_t result;
        unsigned char guard[8];
    } old = {.result = ADAMD_REGISTER_RESULT_INIT};

    old.result.size = offsetof(adamd_register_result_t, last_sequence);
    old.result.last_sequence = 1234;
    fixture_start(&fixture, lines, 1, 5000);
    expect_success(adamd_register(fixture.client, NULL, &fixture.session, &old.result));
    ck_assert_uint_eq(old.result.epoch, 9);
    ck_assert_uint_eq(old.result.last_sequence, 1234);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_silent_daemon_is_given_up_at_the_deadline)
{
    const struct fake_line lines[] = {{.answer = NULL}};
    struct client_fixture fixture;
    uint64_t start = 0;
    adamd_error_t *error = NULL;

    fixture_start(&fixture, lines, 1, 300);
    start = now_ms();
    error = adamd_register(fixture.client, NULL, &fixture.session, NULL);
    ck_assert_ptr_nonnull(error);
    ck_assert_int_eq(adamd_error_is_retriable(error), 1);
    expect_reason(error, "TIMED_OUT");
    ck_assert_uint_ge(now_ms() - start, 295);
    ck_assert_uint_lt(now_ms() - start, 2000);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_daemon_that_is_not_there_is_tried_until_the_deadline)
{
    struct client_fixture fixture;
    uint64_t start = 0;

    fixture_start(&fixture, NULL, 0, 300);
    fake_daemon_stop(&fixture.daemon);
    start = now_ms();
    expect_reason(adamd_register(fixture.client, NULL, &fixture.session, NULL), "CONNECTION");
    ck_assert_uint_ge(now_ms() - start, 200);
    ck_assert_uint_lt(now_ms() - start, 2000);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_connection_that_was_closed_while_idle_is_opened_again)
{
    struct fake_line lines[] = {answer_registered(9, 16),
                                answer_parameters(parameters, sizeof parameters, 16)};
    struct client_fixture fixture;
    float values[COUNT] = {0};

    lines[0].closes = true;
    fixture_start(&fixture, lines, 2, 5000);
    fixture_register(&fixture);
    expect_success(pull_into(&fixture, values, NULL));
    ck_assert_mem_eq(values, parameters, sizeof values);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(parameters_that_were_cut_off_are_read_again)
{
    struct fake_line lines[] = {answer_parameters(parameters, 6, sizeof parameters),
                                answer_parameters(parameters, sizeof parameters, 16)};
    struct client_fixture fixture;
    adamd_pull_result_t result = ADAMD_PULL_RESULT_INIT;
    float values[COUNT] = {0};

    lines[0].closes = true;
    lines[1].piecemeal = true;
    fixture_start(&fixture, lines, 2, 5000);
    expect_success(pull_into(&fixture, values, &result));
    ck_assert_mem_eq(values, parameters, sizeof values);
    ck_assert_uint_eq(result.version, 7);
    ck_assert_uint_eq(result.generation, 1);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(buffers_have_to_fit_the_parameters)
{
    const struct fake_line lines[] = {answer_parameters(parameters, 12, 12)};
    struct client_fixture fixture;
    float values[COUNT] = {0};

    fixture_start(&fixture, lines, 1, 5000);
    expect_reason(pull_into(&fixture, values, NULL), "LAYOUT_MISMATCH");
    fixture_finish(&fixture);
}
END_TEST

START_TEST(unchanged_parameters_are_not_sent)
{
    const struct fake_line lines[] = {
        answer_registered(9, 16),
        answer_parameters(parameters, sizeof parameters, 16),
        {.answer = "HTTP/1.1 304 Not Modified\r\nETag: \"g1.v7.raw\"\r\n\r\n"}};
    struct client_fixture fixture;
    adamd_pull_options_t options = ADAMD_PULL_OPTIONS_INIT;
    adamd_pull_result_t result = ADAMD_PULL_RESULT_INIT;
    float values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};

    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    options.buffers = &buffer;
    options.buffer_count = 1;
    options.if_changed = 1;
    expect_success(adamd_pull(fixture.session, &options, &result));
    ck_assert_int_eq(result.not_modified, 0);
    values[0] = 5;
    expect_success(adamd_pull(fixture.session, &options, &result));
    ck_assert_int_eq(result.not_modified, 1);
    ck_assert_uint_eq(result.version, 7);
    ck_assert_float_eq(values[0], 5);
    fixture_stop(&fixture);
    ck_assert_ptr_null(strstr(fixture.daemon.requests[1].head, "If-None-Match"));
    ck_assert_ptr_nonnull(
        strstr(fixture.daemon.requests[2].head, "If-None-Match: \"g1.v7.raw\"\r\n"));
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_version_is_waited_for_as_long_as_was_asked)
{
    const struct fake_line lines[] = {answer_refused(504, "TIMED_OUT", ""),
                                      answer_parameters(parameters, sizeof parameters, 16)};
    struct client_fixture fixture;
    adamd_pull_options_t options = ADAMD_PULL_OPTIONS_INIT;
    float values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};

    fixture_start(&fixture, lines, 2, 5000);
    options.buffers = &buffer;
    options.buffer_count = 1;
    options.min_version = 7;
    options.wait_ms = 2500;
    expect_success(adamd_pull_model(fixture.client, "other", &options, NULL));
    fixture_stop(&fixture);
    ck_assert_ptr_nonnull(
        strstr(fixture.daemon.requests[0].head,
               "GET /v1/models/other/parameters?format=raw&min_version=7&wait=2.5"));
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_step_from_any_version_is_not_repeated)
{
    Adamd__V1__OptimStepResponse response = ADAMD__V1__OPTIM_STEP_RESPONSE__INIT;
    const struct fake_line lines[] = {
        answer_registered(9, 16), {.closes = true}, answer_message("200 OK", &response.base)};
    struct client_fixture fixture;

    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    expect_reason(adamd_optim_step(fixture.session, NULL, NULL), "CONNECTION");
    fixture_stop(&fixture);
    ck_assert_uint_eq(fixture.daemon.request_count, 2);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_step_from_one_version_is_repeated)
{
    Adamd__V1__OptimStepResponse response = ADAMD__V1__OPTIM_STEP_RESPONSE__INIT;
    Adamd__V1__StepRecord record = ADAMD__V1__STEP_RECORD__INIT;
    struct fake_line lines[] = {answer_registered(9, 16), {.closes = true}, {.answer = NULL}};
    struct client_fixture fixture;
    adamd_step_options_t options = ADAMD_STEP_OPTIONS_INIT;
    adamd_step_result_t result = ADAMD_STEP_RESULT_INIT;
    adamd_adam_options_t adam = ADAMD_ADAMW_OPTIONS_INIT;
    Adamd__V1__OptimStepRequest *request = NULL;

    record.version = 6;
    response.record = &record;
    response.duplicate = 1;
    lines[2] = answer_message("200 OK", &response.base);
    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    options.expected_version = 5;
    options.options = &adam;
    expect_success(adamd_optim_step(fixture.session, &options, &result));
    ck_assert_uint_eq(result.version, 6);
    ck_assert_int_eq(result.duplicate, 1);
    fixture_stop(&fixture);
    request = adamd__v1__optim_step_request__unpack(NULL, fixture.daemon.requests[2].body_size,
                                                    fixture.daemon.requests[2].body);
    ck_assert_uint_eq(request->expected_version, 5);
    ck_assert_double_eq(request->options->weight_decay, 0.01);
    ck_assert_int_eq(request->options->decoupled_weight_decay, 1);
    adamd__v1__optim_step_request__free_unpacked(request, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_model_is_made_as_it_was_described)
{
    Adamd__V1__Model answer = ADAMD__V1__MODEL__INIT;
    const uint64_t shape[] = {10, 64};
    const char *const decayed[] = {"w"};
    const adamd_adam_options_t adamw = ADAMD_ADAMW_OPTIONS_INIT;
    const adamd_tensor_t tensors[] = {{"w", shape, 2, ADAMD_DTYPE_DEFAULT},
                                      {"b", shape, 1, ADAMD_DTYPE_BFLOAT16}};
    const adamd_extra_t extra = {"name", "\"head\""};
    const adamd_param_group_t group = {decayed, 1, &adamw, &extra, 1};
    adamd_policy_t policy = ADAMD_POLICY_INIT;
    adamd_model_options_t options = ADAMD_MODEL_OPTIONS_INIT;
    const struct fake_line lines[] = {answer_message("200 OK", &answer.base)};
    struct client_fixture fixture;
    Adamd__V1__CreateModelRequest *request = NULL;

    policy.trigger = ADAMD_TRIGGER_BARRIER;
    policy.deadline_ms = 1500;
    options.tensors = tensors;
    options.tensor_count = 2;
    options.groups = &group;
    options.group_count = 1;
    options.policy = &policy;
    fixture_start(&fixture, lines, 1, 5000);
    expect_success(adamd_model_create(fixture.client, &options));
    fixture_stop(&fixture);
    request = adamd__v1__create_model_request__unpack(NULL, fixture.daemon.requests[0].body_size,
                                                      fixture.daemon.requests[0].body);
    ck_assert_ptr_nonnull(request);
    ck_assert_str_eq(request->model_id, "m");
    ck_assert_uint_eq(request->model->n_tensors, 2);
    ck_assert_uint_eq(request->model->tensors[0]->shape[1], 64);
    ck_assert_str_eq(request->model->param_groups[0]->params[0], "w");
    ck_assert_double_eq(request->model->param_groups[0]->options->weight_decay, 0.01);
    ck_assert_str_eq(request->model->param_groups[0]->extra[0]->json, "\"head\"");
    ck_assert_ptr_null(request->model->defaults);
    ck_assert_int_eq((int)request->model->step_policy->trigger, ADAMD_TRIGGER_BARRIER);
    ck_assert_int_eq(request->model->step_policy->deadline->nanos, 500000000);
    adamd__v1__create_model_request__free_unpacked(request, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(first_parameters_go_as_safetensors)
{
    Adamd__V1__Model answer = ADAMD__V1__MODEL__INIT;
    Adamd__V1__Tensor tensors[2] = {ADAMD__V1__TENSOR__INIT, ADAMD__V1__TENSOR__INIT};
    Adamd__V1__Tensor *list[2] = {&tensors[0], &tensors[1]};
    uint64_t shape[] = {3};
    struct fake_line lines[] = {{.answer = NULL},
                                {.answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}};
    const adamd_data_t pieces[] = {{parameters, 12}, {parameters + 3, 4}};
    const char *expected = "{\"a\\\"b\":{\"shape\":[3],\"dtype\":\"F32\",\"data_offsets\":[0,12]},"
                           "\"s\":{\"shape\":[],\"dtype\":\"F32\",\"data_offsets\":[12,16]}}";
    struct client_fixture fixture;
    adamd_model_t *model = NULL;
    const struct fake_request *request = NULL;

    tensors[0].key = "a\"b";
    tensors[0].shape = shape;
    tensors[0].n_shape = 1;
    tensors[1].key = "s";
    answer.name = "models/m";
    answer.tensors = list;
    answer.n_tensors = 2;
    answer.byte_size = 16;
    lines[0] = answer_message("200 OK", &answer.base);
    fixture_start(&fixture, lines, 2, 5000);
    expect_success(adamd_model_get(fixture.client, NULL, &model));
    ck_assert_uint_eq(adamd_model_tensor_count(model), 2);
    ck_assert_str_eq(adamd_model_tensor(model, 0)->key, "a\"b");
    ck_assert_ptr_null(adamd_model_tensor(model, 2));
    expect_reason(adamd_put_parameters(fixture.client, model, pieces, 1, 0, 0), "LAYOUT_MISMATCH");
    expect_success(adamd_put_parameters(fixture.client, model, pieces, 2, 1, 0));
    adamd_model_destroy(model);
    fixture_stop(&fixture);
    request = &fixture.daemon.requests[1];
    ck_assert_ptr_nonnull(strstr(request->head, "PUT /v1/models/m/state?force=true "));
    ck_assert_uint_eq(request->body[0] % 8, 0);
    ck_assert_uint_eq(request->body_size, 8u + request->body[0] + 16u);
    ck_assert_mem_eq(request->body + 8, expected, strlen(expected));
    ck_assert_mem_eq(request->body + 8 + request->body[0], parameters, 16);
    fixture_finish(&fixture);
}
END_TEST

// What no adamd answers; each is an error, none is believed.
static const struct {
    const char *answer, *reason;
} nonsense[] = {
    {"SSH-2.0-OpenSSH_9.2\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\n\r\n", "BAD_ANSWER"}, // no length: not a pull's answer
    {"HTTP/1.1 200 OK\r\nContent-Length: 16\r\nContent-Length: 17\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 16\r\nTransfer-Encoding: chunked\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\nContent-Length : 16\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\nContent-Length: 16\n\n\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 2x0 OK\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/2.0 200 OK\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 16\r\nAdamd-Version: x\r\n\r\n", "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\nAdamd-Generation: 1\r\n\r\n",
     "BAD_ANSWER"},
    {"HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\nAdamd-Generation: 1\r\n\r\n",
     "LAYOUT_MISMATCH"},
    {"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n<html", "UNKNOWN_METHOD"},
    {"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\n[]", "BAD_FRAMING"},
    {"HTTP/1.1 418 Tea\r\nContent-Length: 13\r\n\r\n{\"details\":[]", "BAD_ANSWER"},
    {"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n", "BAD_ANSWER"},
};

START_TEST(nonsense_is_refused)
{
    struct fake_line lines[] = {{.answer = nonsense[_i].answer, .closes = true}};
    struct client_fixture fixture;
    float values[COUNT] = {0};

    fixture_start(&fixture, lines, 1, 5000);
    expect_reason(pull_into(&fixture, values, NULL), nonsense[_i].reason);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_head_without_end_is_refused)
{
    char *endless = malloc(100001);
    struct fake_line lines[] = {{.answer = endless, .closes = true}};
    struct client_fixture fixture;
    float values[COUNT] = {0};

    memset(endless, 'x', 100000);
    endless[100000] = '\0';
    memcpy(endless, "HTTP/1.1 200 OK\r\nX: ", 20);
    fixture_start(&fixture, lines, 1, 5000);
    expect_reason(pull_into(&fixture, values, NULL), "BAD_ANSWER");
    fixture_finish(&fixture);
    free(endless);
}
END_TEST

START_TEST(a_proxy_that_is_down_is_waited_for)
{
    struct fake_line lines[] = {
        {.answer = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>"},
        {.answer = "HTTP/1.1 503 Unavailable\r\nConnection: close\r\n\r\nsorry", .closes = true},
        answer_parameters(parameters, sizeof parameters, 16)};
    struct client_fixture fixture;
    float values[COUNT] = {0};

    fixture_start(&fixture, lines, 3, 5000);
    expect_success(pull_into(&fixture, values, NULL));
    fixture_finish(&fixture);
}
END_TEST

START_TEST(an_error_in_chunks_is_read)
{
    struct fake_line lines[] = {{.answer =
                                     "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n"
                                     "\r\n1c;x=y\r\n{\"message\":\"gone\",\"reason\":\""
                                     "\r\n0B\r\nNOT_FOUND\"}\r\n0\r\nTrailer: x\r\n\r\n",
                                 .piecemeal = true},
                                answer_parameters(parameters, sizeof parameters, 16)};
    struct client_fixture fixture;
    float values[COUNT] = {0};
    adamd_error_t *error = NULL;

    fixture_start(&fixture, lines, 2, 5000);
    error = pull_into(&fixture, values, NULL);
    ck_assert_ptr_nonnull(error);
    ck_assert_str_eq(adamd_error_message(error), "gone");
    expect_reason(error, "NOT_FOUND");
    expect_success(pull_into(&fixture, values, NULL)); // over the same connection
    fixture_finish(&fixture);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("client_calls");
    TCase *tests = tcase_create("calls");
    SRunner *runner = srunner_create(suite);
    int failed = 0;

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, register_tells_what_the_last_epoch_did);
    tcase_add_test(tests, a_repeated_register_has_the_same_nonce);
    tcase_add_test(tests, an_older_struct_gets_only_what_it_has_room_for);
    tcase_add_test(tests, a_silent_daemon_is_given_up_at_the_deadline);
    tcase_add_test(tests, a_daemon_that_is_not_there_is_tried_until_the_deadline);
    tcase_add_test(tests, a_connection_that_was_closed_while_idle_is_opened_again);
    tcase_add_test(tests, parameters_that_were_cut_off_are_read_again);
    tcase_add_test(tests, buffers_have_to_fit_the_parameters);
    tcase_add_test(tests, unchanged_parameters_are_not_sent);
    tcase_add_test(tests, a_version_is_waited_for_as_long_as_was_asked);
    tcase_add_test(tests, a_step_from_any_version_is_not_repeated);
    tcase_add_test(tests, a_step_from_one_version_is_repeated);
    tcase_add_test(tests, a_model_is_made_as_it_was_described);
    tcase_add_test(tests, first_parameters_go_as_safetensors);
    tcase_add_loop_test(tests, nonsense_is_refused, 0, sizeof nonsense / sizeof nonsense[0]);
    tcase_add_test(tests, a_head_without_end_is_refused);
    tcase_add_test(tests, a_proxy_that_is_down_is_waited_for);
    tcase_add_test(tests, an_error_in_chunks_is_read);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
