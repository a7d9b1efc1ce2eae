// Goal: a closure is evaluated once and its loss reported, options change while a model trains, and
// a state comes and goes whole: what the library does of torch.optim beyond push and pull.

#include "client_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COUNT = 4 };

static const float parameters[COUNT] = {1, 2, 3, 4};

struct model {
    struct client_fixture fixture;
    float gradient[COUNT], values[COUNT];
    adamd_buffer_t buffer;
    adamd_push_options_t push;
    adamd_pull_options_t pull;
    adamd_step_args_t args;
    unsigned evaluations;
    const char *fails;
};

static void begin(struct model *model, const struct fake_line *lines, size_t count) {
    *model = (struct model){.push = ADAMD_PUSH_OPTIONS_INIT,
                            .pull = ADAMD_PULL_OPTIONS_INIT,
                            .args = ADAMD_STEP_ARGS_INIT};
    model->buffer = (adamd_buffer_t){model->values, sizeof model->values};
    model->push.flat = model->gradient;
    model->push.flat_bytes = sizeof model->gradient;
    model->pull.buffers = &model->buffer;
    model->pull.buffer_count = 1;
    model->args.push = &model->push;
    fixture_start(&model->fixture, lines, count, 5000);
    fixture_register(&model->fixture);
}

// The gradient is there only once it was evaluated.
static adamd_error_t *evaluate(void *arg, double *ret_loss) {
    struct model *model = arg;

    model->evaluations++;
    if (model->fails != NULL) {
        return adamd_error_new(model->fails, "no such luck");
    }
    memcpy(model->gradient, parameters, sizeof parameters);
    *ret_loss = 0.25;
    return NULL;
}

static adamd_error_t *step(struct model *model, double *ret_loss, adamd_push_result_t *pushed,
                           adamd_pull_result_t *pulled) {
    return adamd_step_closure(model->fixture.session, evaluate, model, &model->args, ret_loss,
                              pushed, pulled);
}

static void expect_gradient(const struct fake_request *request) {
    ck_assert_uint_ge(request->body_size, sizeof parameters);
    ck_assert_mem_eq(request->body + request->body_size - sizeof parameters, parameters,
                     sizeof parameters);
}

START_TEST(a_closure_is_evaluated_once_and_its_loss_is_a_metric)
{
    const adamd_metric_t given[] = {{"accuracy", 0.5}, {"loss", 9}};
    const struct fake_line lines[] = {answer_registered(9, sizeof parameters),
                                      answer_pushed(1, 6, false)};
    adamd_push_result_t result = ADAMD_PUSH_RESULT_INIT;
    Adamd__V1__PushHeader *header = NULL;
    struct model model;
    double loss = 0;

    begin(&model, lines, 2);
    model.push.metrics = given;
    model.push.metric_count = 2;
    expect_success(step(&model, &loss, &result, NULL));
    ck_assert_uint_eq(model.evaluations, 1);
    ck_assert_double_eq(loss, 0.25);
    ck_assert_uint_eq(result.version, 6);
    fixture_stop(&model.fixture);
    header = push_of(&model.fixture, 1);
    ck_assert_uint_eq(header->n_metrics, 2);
    ck_assert_str_eq(header->metrics[0]->key, "accuracy");
    ck_assert_str_eq(header->metrics[1]->key, "loss");
    ck_assert_double_eq(header->metrics[1]->value, 0.25);
    adamd__v1__push_header__free_unpacked(header, NULL);
    expect_gradient(&model.fixture.daemon.requests[1]);
    fixture_finish(&model.fixture);
}
END_TEST

START_TEST(a_step_pulls_in_the_same_round_trip)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof parameters),
                                      answer_both(1, 6, parameters, sizeof parameters)};
    adamd_pull_result_t result = ADAMD_PULL_RESULT_INIT;
    struct model model;

    begin(&model, lines, 2);
    model.args.pull = &model.pull;
    expect_success(step(&model, NULL, NULL, &result));
    ck_assert_uint_eq(result.version, 6);
    ck_assert_mem_eq(model.values, parameters, sizeof parameters);
    fixture_stop(&model.fixture);
    ck_assert_uint_eq(model.fixture.daemon.request_count, 2);
    fixture_finish(&model.fixture);
}
END_TEST

START_TEST(a_closure_that_fails_ends_the_step_before_anything_is_sent)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof parameters),
                                      answer_pushed(1, 6, false)};
    struct model model;
    double loss = 7;

    begin(&model, lines, 2);
    model.fails = "DIVERGED";
    expect_reason(step(&model, &loss, NULL, NULL), "DIVERGED");
    ck_assert_double_eq(loss, 7);
    model.fails = NULL;
    expect_success(step(&model, &loss, NULL, NULL));
    ck_assert_double_eq(loss, 0.25);
    fixture_stop(&model.fixture);
    ck_assert_uint_eq(model.fixture.daemon.request_count, 2);
    fixture_finish(&model.fixture);
}
END_TEST

START_TEST(a_lost_answer_does_not_evaluate_again)
{
    struct fake_line lines[] = {
        answer_registered(9, sizeof parameters), {.closes = true}, answer_pushed(1, 6, true)};
    adamd_push_result_t result = ADAMD_PUSH_RESULT_INIT;
    struct model model;

    begin(&model, lines, 3);
    expect_success(step(&model, NULL, &result, NULL));
    ck_assert_int_eq(result.duplicate, 1);
    ck_assert_uint_eq(model.evaluations, 1);
    fixture_stop(&model.fixture);
    ck_assert_uint_eq(model.fixture.daemon.request_count, 3);
    fixture_finish(&model.fixture);
}
END_TEST

START_TEST(without_a_closure_no_loss_is_reported)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof parameters),
                                      answer_pushed(1, 6, false)};
    Adamd__V1__PushHeader *header = NULL;
    struct model model;
    double loss = 7;

    begin(&model, lines, 2);
    expect_success(
        adamd_step_closure(model.fixture.session, NULL, NULL, &model.args, &loss, NULL, NULL));
    ck_assert_double_eq(loss, 7);
    fixture_stop(&model.fixture);
    header = push_of(&model.fixture, 1);
    ck_assert_uint_eq(header->n_metrics, 0);
    adamd__v1__push_header__free_unpacked(header, NULL);
    fixture_finish(&model.fixture);
}
END_TEST

START_TEST(under_manual_a_staged_push_is_stepped_and_then_pulled)
{
    Adamd__V1__PushGradientsResponse staged = ADAMD__V1__PUSH_GRADIENTS_RESPONSE__INIT;
    Adamd__V1__OptimStepResponse stepped = ADAMD__V1__OPTIM_STEP_RESPONSE__INIT;
    Adamd__V1__StepRecord record = ADAMD__V1__STEP_RECORD__INIT;
    struct fake_line lines[] = {
        answer_registered(9, sizeof parameters), {.answer = NULL}, {.answer = NULL}};
    adamd_push_result_t result = ADAMD_PUSH_RESULT_INIT;
    struct model model;

    staged.outcome = ADAMD__V1__PUSH_OUTCOME__PUSH_OUTCOME_STAGED;
    staged.sequence = 1;
    record.version = 8;
    stepped.record = &record;
    lines[1] = answer_message("200 OK", &staged.base);
    lines[2] = answer_message("200 OK", &stepped.base);
    begin(&model, lines, 3);
    expect_success(step(&model, NULL, &result, NULL));
    ck_assert_int_eq(result.outcome, ADAMD_OUTCOME_STAGED);
    ck_assert_uint_eq(result.version, 8);
    fixture_stop(&model.fixture);
    ck_assert_ptr_nonnull(
        strstr(model.fixture.daemon.requests[2].head, "TrainingService/OptimStep"));
    fixture_finish(&model.fixture);
}
END_TEST

START_TEST(a_step_without_a_push_is_refused)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof parameters)};
    struct model model;
    adamd_error_t *error = NULL;

    begin(&model, lines, 1);
    model.args.push = NULL;
    error = step(&model, NULL, NULL, NULL);
    ck_assert_str_eq(adamd_error_field(error), "push");
    expect_reason(error, "BAD_FIELD");
    fixture_finish(&model.fixture);
}
END_TEST

// ----------------------------------------------------------------------------------------- options

static Adamd__V1__UpdateModelRequest *update_of(const struct client_fixture *fixture) {
    Adamd__V1__UpdateModelRequest *request = NULL;

    ck_assert_uint_ge(fixture->daemon.request_count, 1);
    request = adamd__v1__update_model_request__unpack(NULL, fixture->daemon.requests[0].body_size,
                                                      fixture->daemon.requests[0].body);
    ck_assert_ptr_nonnull(request);
    return request;
}

static const struct fake_line holds_from_12[] = {
    {.answer = "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\n"
               "Adamd-Holds-From-Version: 12\r\nContent-Length: 0\r\n\r\n"}};

START_TEST(options_of_one_group_change_and_say_from_when)
{
    adamd_adam_options_t adam = ADAMD_ADAMW_OPTIONS_INIT;
    const adamd_extra_t extra = {"initial_lr", "0.5"};
    const adamd_group_update_t groups[] = {{.options = NULL},
                                           {.options = &adam, .extras = &extra, .extra_count = 1}};
    adamd_set_options_t options = ADAMD_SET_OPTIONS_INIT;
    Adamd__V1__UpdateModelRequest *request = NULL;
    const Adamd__V1__AdamOptions *sent = NULL;
    struct client_fixture fixture;
    uint64_t version = 0;

    adam.lr = 0.5;
    adam.fused = ADAMD_TRISTATE_TRUE;
    adam.capturable = 1;
    adam.tensor_lr = 1;
    options.groups = groups;
    options.group_count = 2;
    fixture_start(&fixture, holds_from_12, 1, 5000);
    expect_success(adamd_set_options(fixture.client, &options, &version));
    ck_assert_uint_eq(version, 12);
    fixture_stop(&fixture);
    request = update_of(&fixture);
    ck_assert_str_eq(request->name, "models/m");
    ck_assert_str_eq(request->update_mask, "param_groups");
    ck_assert_uint_eq(request->model->n_param_groups, 2);
    ck_assert_ptr_null(request->model->param_groups[0]->options);
    sent = request->model->param_groups[1]->options;
    ck_assert_double_eq(sent->lr, 0.5);
    ck_assert_double_eq(sent->weight_decay, 0.01);
    ck_assert_int_eq(sent->fused, 1);
    ck_assert_int_eq(sent->capturable, 1);
    ck_assert_int_eq(sent->tensor_lr, 1);
    ck_assert_uint_eq(sent->n_tensor_betas, 1);
    ck_assert_int_eq(sent->tensor_betas[0], 0);
    ck_assert_uint_eq(request->model->param_groups[1]->n_extra, 1);
    ck_assert_str_eq(request->model->param_groups[1]->extra[0]->json, "0.5");
    ck_assert_int_ne((int)sent->foreach_oneof_case, 0); // None: said, as False
    ck_assert_int_eq(sent->foreach, 0);
    adamd__v1__update_model_request__free_unpacked(request, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(options_of_all_groups_change_at_once)
{
    const adamd_adam_options_t adam = ADAMD_ADAM_OPTIONS_INIT;
    adamd_set_options_t options = ADAMD_SET_OPTIONS_INIT;
    Adamd__V1__UpdateModelRequest *request = NULL;
    struct client_fixture fixture;

    options.model = "other";
    options.all = &adam;
    fixture_start(&fixture, holds_from_12, 1, 5000);
    expect_success(adamd_set_options(fixture.client, &options, NULL));
    fixture_stop(&fixture);
    request = update_of(&fixture);
    ck_assert_str_eq(request->name, "models/other");
    ck_assert_str_eq(request->update_mask, "defaults");
    ck_assert_double_eq(request->model->defaults->lr, 1e-3);
    ck_assert_uint_eq(request->model->n_param_groups, 0);
    adamd__v1__update_model_request__free_unpacked(request, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(options_of_nothing_or_of_both_are_refused)
{
    const adamd_adam_options_t adam = ADAMD_ADAM_OPTIONS_INIT;
    const adamd_extra_t nameless = {NULL, "1"};
    const adamd_group_update_t groups[] = {{.options = &adam}},
                               wrong[] = {{.extras = &nameless, .extra_count = 1}};
    adamd_set_options_t options = ADAMD_SET_OPTIONS_INIT;
    struct client_fixture fixture;

    fixture_start(&fixture, NULL, 0, 5000);
    expect_reason(adamd_set_options(fixture.client, &options, NULL), "BAD_FIELD");
    options.all = &adam;
    options.groups = groups;
    options.group_count = 1;
    expect_reason(adamd_set_options(fixture.client, &options, NULL), "BAD_FIELD");
    options.all = NULL;
    options.groups = wrong;
    expect_reason(adamd_set_options(fixture.client, &options, NULL), "BAD_FIELD");
    fixture_finish(&fixture);
}
END_TEST

// ------------------------------------------------------------------------------------------ groups

static struct fake_line answer_added(void) {
    Adamd__V1__AddParamGroupResponse response = ADAMD__V1__ADD_PARAM_GROUP_RESPONSE__INIT;
    Adamd__V1__ParamGroup group = ADAMD__V1__PARAM_GROUP__INIT;
    Adamd__V1__Tensor tensor = ADAMD__V1__TENSOR__INIT, *tensors[1] = {&tensor};

    group.index = 2;
    tensor.index = 7;
    response.param_group = &group;
    response.tensors = tensors;
    response.n_tensors = 1;
    response.version = 5;
    response.layout_digest = "longer";
    response.byte_size = 28;
    return answer_message("200 OK", &response.base);
}

START_TEST(a_group_is_added_with_its_values_and_the_session_knows_it)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof parameters), answer_added(),
                                      answer_pushed(1, 6, false)};
    const char *expected =
        "{\"__metadata__\":{\"adamd.param_groups\":\"[{\\\"betas\\\":[0.90000000000000002,0.5],"
        "\\\"lr\\\":{\\\"tensor\\\":1.0},\\\"eps\\\":1e-08,\\\"weight_decay\\\":0.0,"
        "\\\"amsgrad\\\":true,\\\"maximize\\\":false,\\\"foreach\\\":null,"
        "\\\"capturable\\\":false,\\\"differentiable\\\":false,\\\"fused\\\":false,"
        "\\\"decoupled_weight_decay\\\":false,\\\"name\\\":\\\"head\\\","
        "\\\"params\\\":[\\\"w\\\",\\\"b\\\"]}]\"},"
        "\"w\":{\"shape\":[3],\"dtype\":\"F32\",\"data_offsets\":[0,12]},"
        "\"b\":{\"shape\":[],\"dtype\":\"F32\",\"data_offsets\":[12,16]}}";
    const uint64_t shape[] = {3};
    const adamd_tensor_t tensors[] = {{.key = "w", .shape = shape, .rank = 1}, {.key = "b"}};
    const adamd_data_t pieces[] = {{parameters, 12}, {parameters + 3, 4}};
    const adamd_extra_t extra = {"name", "\"head\""};
    adamd_adam_options_t adam = ADAMD_ADAM_OPTIONS_INIT;
    adamd_add_group_options_t options = ADAMD_ADD_GROUP_OPTIONS_INIT;
    adamd_add_group_result_t result = ADAMD_ADD_GROUP_RESULT_INIT;
    Adamd__V1__PushHeader *header = NULL;
    const struct fake_request *request = NULL;
    struct client_fixture fixture;

    adam.lr = 1;
    adam.beta2 = 0.5;
    adam.tensor_lr = 1;
    adam.amsgrad = 1;
    adam.fused = ADAMD_TRISTATE_FALSE;
    options.tensors = tensors;
    options.tensor_count = 2;
    options.options = &adam;
    options.extras = &extra;
    options.extra_count = 1;
    options.pieces = pieces;
    options.piece_count = 2;
    fixture_start(&fixture, lines, 3, 5000);
    fixture_register(&fixture);
    expect_success(adamd_add_param_group(fixture.session, &options, &result));
    ck_assert_uint_eq(result.group, 2);
    ck_assert_uint_eq(result.first_tensor, 7);
    ck_assert_uint_eq(result.version, 5);
    expect_success(fixture_push(&fixture, parameters, COUNT, NULL));
    fixture_stop(&fixture);
    request = &fixture.daemon.requests[1];
    ck_assert_ptr_nonnull(strstr(request->head, "POST /v1/models/m/groups "));
    ck_assert_ptr_nonnull(strstr(request->head, "Content-Type: application/x-safetensors\r\n"));
    ck_assert_mem_eq(request->body + 8, expected, strlen(expected));
    ck_assert_mem_eq(request->body + request->body_size - 16, parameters, 16);
    header = push_of(&fixture, 2);
    ck_assert_str_eq(header->layout_digest, "longer");
    adamd__v1__push_header__free_unpacked(header, NULL);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_group_whose_answer_was_lost_is_not_added_again)
{
    struct fake_line lines[] = {answer_registered(9, sizeof parameters), {.closes = true}};
    const adamd_tensor_t tensor = {.key = "b"};
    const adamd_data_t piece = {parameters, 4};
    adamd_add_group_options_t options = ADAMD_ADD_GROUP_OPTIONS_INIT;
    struct client_fixture fixture;

    options.tensors = &tensor;
    options.tensor_count = 1;
    options.pieces = &piece;
    options.piece_count = 1;
    fixture_start(&fixture, lines, 2, 5000);
    fixture_register(&fixture);
    expect_reason(adamd_add_param_group(fixture.session, &options, NULL), "CONNECTION");
    fixture_stop(&fixture);
    ck_assert_uint_eq(fixture.daemon.request_count, 2);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_group_that_cannot_be_is_refused_here)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof parameters)};
    const adamd_tensor_t nameless = {.rank = 0}, named = {.key = "b"},
                         pairs = {.key = "c", .dtype = ADAMD_DTYPE_COMPLEX128};
    const adamd_data_t piece = {parameters, 8};
    adamd_add_group_options_t options = ADAMD_ADD_GROUP_OPTIONS_INIT;
    struct client_fixture fixture;
    adamd_error_t *error = NULL;

    fixture_start(&fixture, lines, 1, 5000);
    fixture_register(&fixture);
    options.tensors = &nameless;
    options.tensor_count = 1;
    error = adamd_add_param_group(fixture.session, &options, NULL);
    ck_assert_str_eq(adamd_error_field(error), "tensors");
    expect_reason(error, "BAD_FIELD");
    options.tensors = &pairs;
    expect_reason(adamd_add_param_group(fixture.session, &options, NULL), "BAD_FIELD");
    options.tensors = &named;
    options.pieces = &piece;
    options.piece_count = 1;
    expect_reason(adamd_add_param_group(fixture.session, &options, NULL), "LAYOUT_MISMATCH");
    options.extra_count = 1;
    expect_reason(adamd_add_param_group(fixture.session, &options, NULL), "BAD_FIELD");
    fixture_finish(&fixture);
}
END_TEST

// ------------------------------------------------------------------------------------------- state

START_TEST(a_state_that_was_cut_off_is_read_again)
{
    struct fake_line lines[] = {answer_parameters("0123", 4, 8),
                                answer_parameters("01234567", 8, 8)};
    adamd_state_options_t options = ADAMD_STATE_OPTIONS_INIT;
    struct client_fixture fixture;
    adamd_state_dict_t *dict = NULL;

    lines[0].closes = true;
    options.format = "pt";
    options.content = "all";
    fixture_start(&fixture, lines, 2, 5000);
    expect_success(adamd_read_state(fixture.client, &options, &dict));
    ck_assert_uint_eq(adamd_state_dict_byte_size(dict), 8);
    ck_assert_mem_eq(adamd_state_dict_data(dict), "01234567", 8);
    ck_assert_uint_eq(adamd_state_dict_version(dict), 7);
    adamd_state_dict_destroy(dict);
    fixture_stop(&fixture);
    ck_assert_ptr_nonnull(
        strstr(fixture.daemon.requests[1].head, "GET /v1/models/m/state?format=pt&content=all "));
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_format_that_there_is_not_is_refused)
{
    const adamd_data_t piece = {"x", 1};
    adamd_state_options_t options = ADAMD_STATE_OPTIONS_INIT;
    struct client_fixture fixture;
    adamd_state_dict_t *dict = NULL;

    options.format = "pickle&force=true";
    fixture_start(&fixture, NULL, 0, 5000);
    expect_reason(adamd_read_state(fixture.client, &options, &dict), "BAD_FIELD");
    options.format = "pt";
    options.content = "weights";
    expect_reason(adamd_read_state(fixture.client, &options, &dict), "BAD_FIELD");
    options.load = "all";
    expect_reason(adamd_write_state(fixture.client, &options, &piece, 1), "BAD_FIELD");
    fixture_finish(&fixture);
}
END_TEST

static int open_file(const char *text) {
    char name[] = "/tmp/adamd-state-XXXXXX";
    const int fd = mkstemp(name);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(unlink(name), 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return fd;
}

START_TEST(a_state_is_saved_from_the_offset_on_whatever_was_cut_off)
{
    struct fake_line lines[] = {answer_parameters("0123", 4, 8),
                                answer_parameters("abcdefgh", 8, 8)};
    adamd_pull_result_t result = ADAMD_PULL_RESULT_INIT;
    struct client_fixture fixture;
    char text[16] = {0};
    const int fd = open_file("head:");

    lines[0].closes = true;
    fixture_start(&fixture, lines, 2, 5000);
    expect_success(adamd_save_state(fixture.client, NULL, fd, &result));
    ck_assert_uint_eq(result.version, 7);
    ck_assert_int_eq(pread(fd, text, sizeof text, 0), 13);
    ck_assert_str_eq(text, "head:abcdefgh");
    ck_assert_int_eq(close(fd), 0);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_state_is_restored_from_the_offset_on)
{
    const struct fake_line lines[] = {{.answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}};
    adamd_state_options_t options = ADAMD_STATE_OPTIONS_INIT;
    struct client_fixture fixture;
    const int fd = open_file("head:abcdefgh");

    ck_assert_int_eq(lseek(fd, 5, SEEK_SET), 5);
    fixture_start(&fixture, lines, 1, 5000);
    options.load = "moments";
    expect_success(adamd_restore_state(fixture.client, &options, fd));
    fixture_stop(&fixture);
    ck_assert_ptr_nonnull(
        strstr(fixture.daemon.requests[0].head, "state?force=true&load=moments "));
    ck_assert_uint_eq(fixture.daemon.requests[0].body_size, 8);
    ck_assert_mem_eq(fixture.daemon.requests[0].body, "abcdefgh", 8);
    ck_assert_int_eq(close(fd), 0);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(what_is_no_file_is_named)
{
    struct client_fixture fixture;
    adamd_error_t *error = NULL;
    const int fd = open_file("x");
    int ends[2];

    ck_assert_int_eq(pipe(ends), 0);
    fixture_start(&fixture, NULL, 0, 5000);
    error = adamd_save_state(fixture.client, NULL, ends[1], NULL);
    ck_assert_str_eq(adamd_error_field(error), "fd");
    expect_reason(error, "BAD_FIELD");
    expect_reason(adamd_restore_state(fixture.client, NULL, ends[0]), "BAD_FIELD");
    expect_reason(adamd_restore_state(fixture.client, NULL, -1), "BAD_FIELD");
    expect_reason(adamd_restore_state(fixture.client, NULL, fd), "BAD_FIELD"); // at its end
    expect_reason(adamd_write_state(fixture.client, NULL, NULL, 0), "BAD_FIELD");
    fixture_finish(&fixture);
    ck_assert_int_eq(close(ends[0]) | close(ends[1]) | close(fd), 0);
}
END_TEST

// ------------------------------------------------------------------------------------------- types

START_TEST(types_have_their_sizes)
{
    static const size_t sizes[] = {4, 4, 2, 2, 8, 8, 16, 0};

    ck_assert_uint_eq(adamd_dtype_size((adamd_dtype_t)_i), sizes[_i]);
}
END_TEST

START_TEST(a_model_of_many_types_says_them)
{
    Adamd__V1__Model answer = ADAMD__V1__MODEL__INIT;
    Adamd__V1__Tensor tensors[2] = {ADAMD__V1__TENSOR__INIT, ADAMD__V1__TENSOR__INIT};
    Adamd__V1__Tensor *list[2] = {&tensors[0], &tensors[1]};
    Adamd__V1__ParamGroup groups[2] = {ADAMD__V1__PARAM_GROUP__INIT, ADAMD__V1__PARAM_GROUP__INIT};
    Adamd__V1__ParamGroup *group_list[2] = {&groups[0], &groups[1]};
    struct fake_line lines[] = {{.answer = NULL},
                                {.answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"}};
    const char *expected = "{\"a\":{\"shape\":[],\"dtype\":\"F64\",\"data_offsets\":[0,8]},"
                           "\"b\":{\"shape\":[],\"dtype\":\"BF16\",\"data_offsets\":[8,10]}}";
    const adamd_data_t piece = {parameters, 10};
    struct client_fixture fixture;
    adamd_model_t *model = NULL;

    tensors[0].key = "a";
    tensors[0].data_type = ADAMD__V1__DATA_TYPE__DATA_TYPE_FLOAT64;
    tensors[1].key = "b";
    tensors[1].data_type = ADAMD__V1__DATA_TYPE__DATA_TYPE_BFLOAT16;
    tensors[1].group = 1;
    answer.name = "models/m";
    answer.tensors = list;
    answer.n_tensors = 2;
    answer.param_groups = group_list;
    answer.n_param_groups = 2;
    answer.byte_size = 10;
    lines[0] = answer_message("200 OK", &answer.base);
    fixture_start(&fixture, lines, 2, 5000);
    expect_success(adamd_model_get(fixture.client, NULL, &model));
    ck_assert_int_eq(adamd_model_tensor(model, 0)->dtype, ADAMD_DTYPE_FLOAT64);
    ck_assert_int_eq(adamd_model_tensor(model, 1)->dtype, ADAMD_DTYPE_BFLOAT16);
    ck_assert_uint_eq(adamd_model_tensor_group(model, 1), 1);
    ck_assert_uint_eq(adamd_model_tensor_group(model, 2), SIZE_MAX);
    ck_assert_uint_eq(adamd_model_group_count(model), 2);
    expect_success(adamd_put_parameters(fixture.client, model, &piece, 1, 0, 0));
    adamd_model_destroy(model);
    fixture_stop(&fixture);
    ck_assert_mem_eq(fixture.daemon.requests[1].body + 8, expected, strlen(expected));
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_type_of_tomorrow_is_no_answer)
{
    Adamd__V1__Model answer = ADAMD__V1__MODEL__INIT;
    Adamd__V1__Tensor tensor = ADAMD__V1__TENSOR__INIT, *list[1] = {&tensor};
    struct fake_line lines[] = {{.answer = NULL}};
    struct client_fixture fixture;
    adamd_model_t *model = NULL;

    tensor.key = "a";
    tensor.data_type = (Adamd__V1__DataType)99;
    answer.tensors = list;
    answer.n_tensors = 1;
    lines[0] = answer_message("200 OK", &answer.base);
    fixture_start(&fixture, lines, 1, 5000);
    expect_reason(adamd_model_get(fixture.client, NULL, &model), "BAD_ANSWER");
    fixture_finish(&fixture);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("client_optim");
    TCase *tests = tcase_create("optim");
    SRunner *runner = srunner_create(suite);
    int failed = 0;

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_closure_is_evaluated_once_and_its_loss_is_a_metric);
    tcase_add_test(tests, a_step_pulls_in_the_same_round_trip);
    tcase_add_test(tests, a_closure_that_fails_ends_the_step_before_anything_is_sent);
    tcase_add_test(tests, a_lost_answer_does_not_evaluate_again);
    tcase_add_test(tests, without_a_closure_no_loss_is_reported);
    tcase_add_test(tests, under_manual_a_staged_push_is_stepped_and_then_pulled);
    tcase_add_test(tests, a_step_without_a_push_is_refused);
    tcase_add_test(tests, options_of_one_group_change_and_say_from_when);
    tcase_add_test(tests, options_of_all_groups_change_at_once);
    tcase_add_test(tests, options_of_nothing_or_of_both_are_refused);
    tcase_add_test(tests, a_group_is_added_with_its_values_and_the_session_knows_it);
    tcase_add_test(tests, a_group_whose_answer_was_lost_is_not_added_again);
    tcase_add_test(tests, a_group_that_cannot_be_is_refused_here);
    tcase_add_test(tests, a_state_that_was_cut_off_is_read_again);
    tcase_add_test(tests, a_format_that_there_is_not_is_refused);
    tcase_add_test(tests, a_state_is_saved_from_the_offset_on_whatever_was_cut_off);
    tcase_add_test(tests, a_state_is_restored_from_the_offset_on);
    tcase_add_test(tests, what_is_no_file_is_named);
    tcase_add_loop_test(tests, types_have_their_sizes, 0, 8);
    tcase_add_test(tests, a_model_of_many_types_says_them);
    tcase_add_test(tests, a_type_of_tomorrow_is_no_answer);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
