// Goal: the client library and the real daemon understand each other: the life of a worker under
// each policy, over TCP and over a Unix socket, and what the daemon refuses.
//
//     test_client_daemon ADAMD

#define _GNU_SOURCE // mkdtemp

#include "adamd/client.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 7, MANY = 3 << 20 };

static const char *program;

struct daemon {
    char directory[64], socket[96], endpoint[64];
    pid_t pid;
};

// What the daemon wrote as its port; 0 while it has not.
static long read_port(const char *path) {
    char text[16] = "", *end = NULL;
    FILE *file = fopen(path, "r");
    long port = 0;

    if (file == NULL) {
        return 0;
    }
    if (fgets(text, sizeof text, file) != NULL) {
        port = strtol(text, &end, 10);
        port = *end == '\n' ? port : 0;
    }
    (void)fclose(file);
    return port;
}

static void start(struct daemon *daemon) {
    char port_file[96];
    long port = 0;

    snprintf(daemon->directory, sizeof daemon->directory, "/tmp/adamd-client-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(daemon->directory));
    snprintf(port_file, sizeof port_file, "%s/port", daemon->directory);
    snprintf(daemon->socket, sizeof daemon->socket, "unix:%s/socket", daemon->directory);
    daemon->pid = fork();
    if (daemon->pid == 0) {
        execl(program, program, "--listen", "127.0.0.1:0", "--listen", daemon->socket,
              "--port-file", port_file, "--log-level", "error", (char *)NULL);
        _exit(127);
    }
    for (unsigned i = 0; i < 3000 && port == 0; i++) {
        (void)usleep(10000);
        port = read_port(port_file);
    }
    ck_assert_int_gt(port, 0);
    snprintf(daemon->endpoint, sizeof daemon->endpoint, "http://127.0.0.1:%ld", port);
}

static void stop(struct daemon *daemon) {
    char path[128];
    int status = -1;

    ck_assert_int_eq(kill(daemon->pid, SIGTERM), 0);
    ck_assert_int_eq(waitpid(daemon->pid, &status, 0), daemon->pid);
    ck_assert_int_eq(status, 0);
    snprintf(path, sizeof path, "%s/port", daemon->directory);
    (void)unlink(path);
    snprintf(path, sizeof path, "%s/socket", daemon->directory);
    (void)unlink(path);
    (void)rmdir(daemon->directory);
}

static void expect_success(adamd_error_t *error) {
    if (error != NULL) {
        ck_abort_msg("%s (%s)", adamd_error_message(error), adamd_error_reason(error));
    }
}

static void expect_reason(adamd_error_t *error, const char *reason) {
    ck_assert_ptr_nonnull(error);
    ck_assert_str_eq(adamd_error_reason(error), reason);
    adamd_error_destroy(error);
}

static adamd_client_t *connect_to(const char *endpoint, const char *worker) {
    adamd_conf_t *conf = adamd_conf_new();
    adamd_client_t *client = NULL;

    ck_assert_int_eq(adamd_conf_set(conf, "endpoint", endpoint, NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "model", "m", NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "worker", worker, NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "timeout_ms", "20000", NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "crc", "on", NULL, 0), 0);
    client = adamd_client_new(conf, NULL, 0);
    ck_assert_ptr_nonnull(client);
    return client;
}

// "w" of 2 x 3 and "b", a scalar; or "w" of MANY. All zeros.
static void make_model(adamd_client_t *client, adamd_trigger_t trigger, int is_large) {
    const uint64_t small[] = {2, 3}, large[] = {MANY};
    const adamd_tensor_t tensors[] = {
        {.key = "w", .shape = is_large ? large : small, .rank = is_large ? 1 : 2}, {.key = "b"}};
    adamd_adam_options_t adam = ADAMD_ADAM_OPTIONS_INIT;
    adamd_policy_t policy = ADAMD_POLICY_INIT;
    adamd_model_options_t options = ADAMD_MODEL_OPTIONS_INIT;
    adamd_model_t *model = NULL;
    adamd_data_t pieces[2] = {{NULL, 0}, {NULL, sizeof(float)}};

    adam.lr = 0.125;
    policy.trigger = trigger;
    policy.max_staleness = 1;
    policy.min_workers = trigger == ADAMD_TRIGGER_BARRIER ? 2 : 0;
    options.tensors = tensors;
    options.tensor_count = 2;
    options.options = &adam;
    options.policy = &policy;
    expect_success(adamd_model_create(client, &options));
    expect_reason(adamd_model_create(client, &options), "EXISTS");
    expect_success(adamd_model_get(client, NULL, &model));
    ck_assert_str_eq(adamd_model_id(model), "m");
    ck_assert_str_eq(adamd_model_state(model), "INITIALIZING");
    ck_assert_str_eq(adamd_model_tensor(model, 0)->key, "w");
    ck_assert_uint_eq(adamd_model_tensor(model, 1)->rank, 0);
    pieces[0].byte_size = adamd_model_byte_size(model) - sizeof(float);
    pieces[0].data = calloc(1, pieces[0].byte_size);
    pieces[1].data = pieces[0].data;
    expect_success(adamd_put_parameters(client, model, pieces, 2, 0, 0));
    expect_reason(adamd_put_parameters(client, model, pieces, 2, 0, 0), "PRECONDITION_REQUIRED");
    free((void *)pieces[0].data);
    adamd_model_destroy(model);
}

static adamd_push_options_t push_of(const float *values, size_t count) {
    adamd_push_options_t options = ADAMD_PUSH_OPTIONS_INIT;

    options.flat = values;
    options.flat_bytes = count * sizeof *values;
    return options;
}

static adamd_pull_options_t pull_of(const adamd_buffer_t *buffer) {
    adamd_pull_options_t options = ADAMD_PULL_OPTIONS_INIT;

    options.buffers = buffer;
    options.buffer_count = 1;
    return options;
}

// Adam's first step moves each parameter by lr against the sign of its gradient, but for eps.
static void expect_moved(const float *values, size_t count, float by) {
    for (size_t i = 0; i < count; i++) {
        ck_assert_float_eq_tol(values[i], by, 1e-5f);
    }
}

START_TEST(a_worker_pushes_and_pulls)
{
    struct daemon daemon;
    const float gradient[COUNT] = {1, 1, 1, 1, 1, 1, 1};
    float values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};
    adamd_push_options_t push = push_of(gradient, COUNT);
    adamd_pull_options_t pull = pull_of(&buffer);
    adamd_push_result_t pushed = ADAMD_PUSH_RESULT_INIT;
    adamd_pull_result_t pulled = ADAMD_PULL_RESULT_INIT;
    adamd_session_t *session = NULL;
    adamd_client_t *client = NULL;

    start(&daemon);
    client = connect_to(_i == 0 ? daemon.endpoint : daemon.socket, "w0");
    make_model(client, ADAMD_TRIGGER_EACH_PUSH, 0);
    expect_success(adamd_register(client, NULL, &session, NULL));
    expect_success(adamd_pull(session, &pull, &pulled));
    ck_assert_uint_eq(pulled.version, 0);
    expect_success(adamd_push(session, &push, &pushed));
    ck_assert_int_eq(pushed.outcome, ADAMD_OUTCOME_APPLIED);
    ck_assert_uint_eq(pushed.version, 1);
    ck_assert_double_eq_tol(pushed.grad_norm, sqrt(COUNT), 1e-6);
    pull.if_changed = 1;
    expect_success(adamd_pull(session, &pull, &pulled));
    expect_moved(values, COUNT, -0.125f);
    expect_success(adamd_pull(session, &pull, &pulled));
    ck_assert_int_eq(pulled.not_modified, 1);
    expect_success(adamd_push_pull(session, &push, &pull, &pushed, &pulled));
    ck_assert_uint_eq(pulled.version, 2);
    expect_moved(values, COUNT, -0.25f);
    expect_success(adamd_renew(session, 0));
    expect_success(adamd_deregister(session, 0));
    expect_reason(adamd_push(session, &push, NULL), "UNKNOWN_WORKER");
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

START_TEST(what_the_daemon_refuses_leaves_no_trace)
{
    struct daemon daemon;
    float gradient[COUNT] = {1, NAN, 1, 1, 1, 1, 1};
    const adamd_gradient_t pieces[] = {{1, gradient, 4}, {9, gradient, 4}};
    adamd_push_options_t push = push_of(gradient, COUNT), strange = ADAMD_PUSH_OPTIONS_INIT;
    adamd_push_result_t pushed = ADAMD_PUSH_RESULT_INIT;
    adamd_session_t *session = NULL, *other = NULL;
    adamd_client_t *client = NULL;

    start(&daemon);
    client = connect_to(daemon.endpoint, "w0");
    make_model(client, ADAMD_TRIGGER_EACH_PUSH, 0);
    expect_success(adamd_register(client, NULL, &session, NULL));
    expect_reason(adamd_push(session, &push, NULL), "NONFINITE");
    gradient[1] = 1;
    strange.gradients = pieces;
    strange.gradient_count = 2;
    expect_reason(adamd_push(session, &strange, NULL), "LAYOUT_MISMATCH");
    strange.gradient_count = 1; // "b" alone: "w" has no gradient
    expect_success(adamd_push(session, &strange, &pushed));
    ck_assert_uint_eq(pushed.version, 1);
    ck_assert_uint_eq(pushed.sequence, 1);
    push.base_version = 9;
    expect_reason(adamd_push(session, &push, NULL), "FUTURE_VERSION");
    push.base_version = 0;
    expect_success(adamd_push(session, &push, NULL)); // one version behind
    expect_reason(adamd_push(session, &push, &pushed), "STALE");
    ck_assert_int_eq(pushed.outcome, ADAMD_OUTCOME_STALE);
    ck_assert_uint_eq(pushed.version, 2);
    push.base_version = 2;
    expect_success(adamd_push(session, &push, &pushed));
    ck_assert_uint_eq(pushed.sequence, 4);
    expect_success(adamd_register(client, NULL, &other, NULL));
    expect_reason(adamd_push(session, &push, NULL), "FENCED");
    adamd_session_destroy(session);
    adamd_session_destroy(other);
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

START_TEST(after_a_restore_a_worker_registers_again)
{
    struct daemon daemon;
    const float gradient[COUNT] = {1, 1, 1, 1, 1, 1, 1};
    const adamd_data_t zeros = {(const float[COUNT]){0}, sizeof gradient};
    adamd_push_options_t push = push_of(gradient, COUNT);
    adamd_register_result_t registered = ADAMD_REGISTER_RESULT_INIT;
    adamd_session_t *session = NULL;
    adamd_client_t *client = NULL;
    adamd_model_t *model = NULL;
    adamd_error_t *error = NULL;

    start(&daemon);
    client = connect_to(daemon.endpoint, "w0");
    make_model(client, ADAMD_TRIGGER_EACH_PUSH, 0);
    expect_success(adamd_register(client, NULL, &session, NULL));
    expect_success(adamd_push(session, &push, NULL));
    expect_success(adamd_model_get(client, "m", &model));
    expect_success(adamd_put_parameters(client, model, &zeros, 1, 1, 0));
    error = adamd_push(session, &push, NULL);
    ck_assert_ptr_nonnull(error);
    ck_assert_int_eq(adamd_error_wants_register(error), 1);
    expect_reason(error, "RUN_RESTORED");
    expect_success(adamd_reregister(session, NULL, &registered));
    ck_assert_uint_gt(registered.generation, adamd_model_generation(model));
    push.base_version = ADAMD_NO_VERSION;
    expect_success(adamd_push(session, &push, NULL));
    adamd_model_destroy(model);
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

START_TEST(manual_steps_when_it_is_told)
{
    struct daemon daemon;
    const float gradient[COUNT] = {1, 1, 1, 1, 1, 1, 1};
    float values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};
    adamd_push_options_t push = push_of(gradient, COUNT);
    adamd_pull_options_t pull = pull_of(&buffer);
    adamd_push_result_t pushed = ADAMD_PUSH_RESULT_INIT;
    adamd_step_options_t options = ADAMD_STEP_OPTIONS_INIT;
    adamd_step_result_t stepped = ADAMD_STEP_RESULT_INIT;
    adamd_adam_options_t adam = ADAMD_ADAM_OPTIONS_INIT;
    adamd_session_t *session = NULL;
    adamd_client_t *client = NULL;

    start(&daemon);
    client = connect_to(daemon.endpoint, "w0");
    make_model(client, ADAMD_TRIGGER_MANUAL, 0);
    expect_success(adamd_register(client, NULL, &session, NULL));
    expect_success(adamd_optim_step(session, NULL, &stepped));
    ck_assert_uint_eq(stepped.version, 0); // nothing to step with
    expect_success(adamd_push(session, &push, &pushed));
    ck_assert_int_eq(pushed.outcome, ADAMD_OUTCOME_STAGED);
    adam.lr = 0.5;
    options.options = &adam;
    options.expected_version = 0;
    expect_success(adamd_optim_step(session, &options, &stepped));
    ck_assert_uint_eq(stepped.version, 1);
    ck_assert_int_eq(stepped.duplicate, 0);
    expect_success(adamd_optim_step(session, &options, &stepped));
    ck_assert_int_eq(stepped.duplicate, 1);
    expect_success(adamd_zero_grad(session, 1, 0));
    expect_success(adamd_pull(session, &pull, NULL));
    expect_moved(values, COUNT, -0.5f);
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

// One of two workers of a round.
struct worker {
    const char *endpoint, *name;
    float gradient, parameter;
    uint64_t version;
};

static void *run_worker(void *arg) {
    struct worker *worker = arg;
    float gradient[COUNT] = {0}, values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};
    adamd_push_options_t push = push_of(gradient, COUNT);
    adamd_pull_options_t pull = pull_of(&buffer);
    adamd_push_result_t pushed = ADAMD_PUSH_RESULT_INIT;
    adamd_client_t *client = connect_to(worker->endpoint, worker->name);
    adamd_session_t *session = NULL;

    expect_success(adamd_register(client, NULL, &session, NULL));
    for (size_t i = 0; i < COUNT; i++) {
        gradient[i] = worker->gradient;
    }
    for (unsigned i = 0; i < 20; i++) {
        expect_success(adamd_push_pull(session, &push, &pull, &pushed, NULL));
        ck_assert_uint_eq(pushed.contributors, 2);
    }
    worker->parameter = values[0];
    worker->version = pushed.version;
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    return NULL;
}

START_TEST(a_round_waits_for_all_workers)
{
    struct daemon daemon;
    struct worker workers[2] = {{.name = "a", .gradient = 3}, {.name = "b", .gradient = -1}};
    pthread_t threads[2];
    adamd_client_t *client = NULL;

    start(&daemon);
    client = connect_to(daemon.endpoint, "maker");
    make_model(client, ADAMD_TRIGGER_BARRIER, 0);
    for (size_t i = 0; i < 2; i++) {
        workers[i].endpoint = daemon.endpoint;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_worker, &workers[i]), 0);
    }
    for (size_t i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_uint_eq(workers[i].version, 20);
    }
    ck_assert_float_eq(workers[0].parameter, workers[1].parameter);
    ck_assert_float_eq_tol(workers[0].parameter, -2.5f,
                           1e-3f); // 20 steps of 0.125 against the mean
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

START_TEST(large_gradients_arrive_whole)
{
    struct daemon daemon;
    float *gradient = malloc((MANY + 1) * sizeof *gradient),
          *values = malloc((MANY + 1) * sizeof *values);
    const adamd_gradient_t pieces[] = {{0, gradient, MANY * sizeof *gradient},
                                       {1, gradient + MANY, sizeof *gradient}};
    const adamd_buffer_t buffers[] = {{values, 12345},
                                      {(char *)values + 12345, (MANY + 1) * 4 - 12345}};
    adamd_push_options_t push = ADAMD_PUSH_OPTIONS_INIT;
    adamd_pull_options_t pull = ADAMD_PULL_OPTIONS_INIT;
    adamd_session_t *session = NULL;
    adamd_client_t *client = NULL;
    size_t wrong = 0;

    start(&daemon);
    client = connect_to(_i == 0 ? daemon.endpoint : daemon.socket, "w0");
    make_model(client, ADAMD_TRIGGER_EACH_PUSH, 1);
    expect_success(adamd_register(client, NULL, &session, NULL));
    for (size_t i = 0; i <= MANY; i++) {
        gradient[i] = i % 3 == 0 ? 1.0f : -1.0f;
    }
    push.gradients = pieces;
    push.gradient_count = 2;
    pull.buffers = buffers;
    pull.buffer_count = 2;
    expect_success(adamd_push_pull(session, &push, &pull, NULL, NULL));
    for (size_t i = 0; i <= MANY; i++) {
        wrong += fabsf(values[i] + 0.125f * gradient[i]) > 1e-5f;
    }
    ck_assert_uint_eq(wrong, 0);
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    stop(&daemon);
    free(gradient);
    free(values);
}
END_TEST

START_TEST(a_version_that_does_not_come_is_not_waited_for_beyond_its_time)
{
    struct daemon daemon;
    float values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};
    adamd_pull_options_t pull = pull_of(&buffer);
    adamd_client_t *client = NULL;

    start(&daemon);
    client = connect_to(daemon.endpoint, "w0");
    expect_reason(adamd_pull_model(client, NULL, &pull, NULL), "NOT_FOUND");
    make_model(client, ADAMD_TRIGGER_EACH_PUSH, 0);
    pull.min_version = 1;
    pull.wait_ms = 300;
    expect_reason(adamd_pull_model(client, NULL, &pull, NULL), "TIMED_OUT");
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

// The step records, as curl gets them.
static void read_records(const struct daemon *daemon, char *text, size_t size) {
    char command[160];
    FILE *output = NULL;

    snprintf(command, sizeof command, "curl -s %s/v1/models/m/steps", daemon->endpoint);
    output = popen(command, "r");
    ck_assert_ptr_nonnull(output);
    text[fread(text, 1, size - 1, output)] = '\0';
    ck_assert_int_eq(pclose(output), 0);
}

static adamd_error_t *evaluate(void *arg, double *ret_loss) {
    float *gradient = arg;

    for (size_t i = 0; i < COUNT; i++) {
        gradient[i] = 1;
    }
    *ret_loss = 0.375;
    return NULL;
}

START_TEST(a_closures_loss_stands_in_the_step_record)
{
    const adamd_trigger_t triggers[] = {ADAMD_TRIGGER_EACH_PUSH, ADAMD_TRIGGER_MANUAL};
    struct daemon daemon;
    float gradient[COUNT] = {0}, values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};
    adamd_push_options_t push = push_of(gradient, COUNT);
    adamd_pull_options_t pull = pull_of(&buffer);
    adamd_step_args_t args = ADAMD_STEP_ARGS_INIT;
    adamd_push_result_t pushed = ADAMD_PUSH_RESULT_INIT;
    adamd_pull_result_t pulled = ADAMD_PULL_RESULT_INIT;
    adamd_session_t *session = NULL;
    adamd_client_t *client = NULL;
    char records[2048];
    double loss = 0;

    start(&daemon);
    client = connect_to(daemon.endpoint, "w0");
    make_model(client, triggers[_i], 0);
    expect_success(adamd_register(client, NULL, &session, NULL));
    args.push = &push;
    args.pull = &pull;
    expect_success(adamd_step_closure(session, evaluate, gradient, &args, &loss, &pushed, &pulled));
    ck_assert_double_eq(loss, 0.375);
    ck_assert_uint_eq(pushed.version, 1);
    ck_assert_uint_eq(pulled.version, 1);
    expect_moved(values, COUNT, -0.125f);
    read_records(&daemon, records, sizeof records);
    ck_assert_ptr_nonnull(strstr(records, "{\"key\":\"loss\",\"value\":0.375}"));
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

START_TEST(options_change_from_the_version_that_is_told)
{
    struct daemon daemon;
    const float gradient[COUNT] = {1, 1, 1, 1, 1, 1, 1};
    float values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};
    const adamd_push_options_t push = push_of(gradient, COUNT);
    const adamd_pull_options_t pull = pull_of(&buffer);
    adamd_adam_options_t adam = ADAMD_ADAM_OPTIONS_INIT;
    const adamd_extra_t extra = {"initial_lr", "0.125"};
    const adamd_group_update_t group = {.options = &adam, .extras = &extra, .extra_count = 1};
    adamd_set_options_t options = ADAMD_SET_OPTIONS_INIT;
    adamd_session_t *session = NULL;
    adamd_client_t *client = NULL;
    uint64_t version = 0;

    start(&daemon);
    client = connect_to(daemon.endpoint, "w0");
    make_model(client, ADAMD_TRIGGER_EACH_PUSH, 0);
    expect_success(adamd_register(client, NULL, &session, NULL));
    expect_success(adamd_push_pull(session, &push, &pull, NULL, NULL));
    options.groups = &group;
    options.group_count = 1;
    adam.lr = -1;
    expect_reason(adamd_set_options(client, &options, &version), "BAD_FIELD");
    adam.lr = 0;
    expect_success(adamd_set_options(client, &options, &version));
    ck_assert_uint_eq(version, 2);
    expect_success(adamd_push_pull(session, &push, &pull, NULL, NULL));
    expect_moved(values, COUNT, -0.125f);
    options.groups = NULL;
    options.all = &adam;
    adam.lr = 0.125;
    expect_success(adamd_set_options(client, &options, &version));
    ck_assert_uint_eq(version, 3);
    expect_success(adamd_push_pull(session, &push, &pull, NULL, NULL));
    expect_moved(values, COUNT, -0.25f);
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

START_TEST(a_group_is_added_while_the_model_trains)
{
    struct daemon daemon;
    const float gradient[COUNT + 2] = {1, 1, 1, 1, 1, 1, 1, 1, 1}, start_at[2] = {10, 20};
    float values[COUNT + 2] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};
    const adamd_push_options_t push = push_of(gradient, COUNT),
                               longer = push_of(gradient, COUNT + 2);
    const adamd_pull_options_t pull = pull_of(&buffer);
    const uint64_t shape[] = {2};
    const adamd_tensor_t tensor = {.key = "head", .shape = shape, .rank = 1};
    const adamd_data_t piece = {start_at, sizeof start_at};
    adamd_adam_options_t adam = ADAMD_ADAM_OPTIONS_INIT;
    adamd_add_group_options_t options = ADAMD_ADD_GROUP_OPTIONS_INIT;
    adamd_add_group_result_t result = ADAMD_ADD_GROUP_RESULT_INIT;
    adamd_session_t *session = NULL, *other = NULL;
    adamd_client_t *client = NULL, *other_client = NULL;

    start(&daemon);
    client = connect_to(daemon.endpoint, "w0");
    other_client = connect_to(daemon.endpoint, "w1");
    make_model(client, ADAMD_TRIGGER_EACH_PUSH, 0);
    expect_success(adamd_register(client, NULL, &session, NULL));
    expect_success(adamd_register(other_client, NULL, &other, NULL));
    expect_success(adamd_push(session, &push, NULL));
    adam.lr = 0.5;
    options.tensors = &tensor;
    options.tensor_count = 1;
    options.options = &adam;
    options.pieces = &piece;
    options.piece_count = 1;
    expect_success(adamd_add_param_group(session, &options, &result));
    ck_assert_uint_eq(result.group, 1);
    ck_assert_uint_eq(result.first_tensor, 2);
    ck_assert_uint_eq(result.byte_size, sizeof values);
    expect_reason(adamd_add_param_group(session, &options, NULL), "BAD_FIELD"); // its key is taken
    expect_success(adamd_push_pull(session, &longer, &pull, NULL, NULL));
    expect_moved(values, COUNT, -0.25f);
    ck_assert_float_eq_tol(values[COUNT], 9.5f, 1e-4f);
    ck_assert_float_eq_tol(values[COUNT + 1], 19.5f, 1e-4f);
    expect_reason(adamd_push(other, &push, NULL), "LAYOUT_MISMATCH");
    expect_success(adamd_reregister(other, NULL, NULL));
    expect_success(adamd_push(other, &longer, NULL));
    adamd_session_destroy(other);
    adamd_session_destroy(session);
    adamd_client_destroy(other_client);
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

START_TEST(a_state_goes_out_and_comes_back)
{
    struct daemon daemon;
    const float gradient[COUNT] = {1, 1, 1, 1, 1, 1, 1};
    float values[COUNT] = {0};
    const adamd_buffer_t buffer = {values, sizeof values};
    const adamd_push_options_t push = push_of(gradient, COUNT);
    const adamd_pull_options_t pull = pull_of(&buffer);
    adamd_pull_result_t saved = ADAMD_PULL_RESULT_INIT;
    adamd_state_dict_t *dict = NULL;
    adamd_session_t *session = NULL;
    adamd_client_t *client = NULL;
    FILE *file = tmpfile();

    ck_assert_ptr_nonnull(file);
    start(&daemon);
    client = connect_to(daemon.endpoint, "w0");
    make_model(client, ADAMD_TRIGGER_EACH_PUSH, 0);
    expect_success(adamd_register(client, NULL, &session, NULL));
    expect_success(adamd_push(session, &push, NULL));
    expect_success(adamd_state_dict(session, NULL, &dict));
    ck_assert_uint_eq(adamd_state_dict_version(dict), 1);
    expect_success(adamd_push(session, &push, NULL));
    expect_success(adamd_save_state(client, NULL, fileno(file), &saved));
    ck_assert_uint_eq(saved.version, 2);
    expect_success(adamd_load_state_dict(session, NULL, dict, NULL));
    ck_assert_uint_eq(adamd_session_generation(session), 2);
    expect_success(adamd_pull(session, &pull, NULL));
    expect_moved(values, COUNT, -0.125f);
    expect_success(adamd_push_pull(session, &push, &pull, NULL, NULL));
    expect_moved(values, COUNT, -0.25f);
    expect_success(adamd_restore_state(client, NULL, fileno(file)));
    expect_reason(adamd_push(session, &push, NULL), "RUN_RESTORED");
    expect_success(adamd_pull_model(client, NULL, &pull, NULL));
    expect_moved(values, COUNT, -0.25f);
    adamd_state_dict_destroy(dict);
    ck_assert_int_eq(fclose(file), 0);
    adamd_session_destroy(session);
    adamd_client_destroy(client);
    stop(&daemon);
}
END_TEST

int main(int argc, char **argv) {
    Suite *suite = suite_create("client_daemon");
    TCase *tests = tcase_create("daemon");
    SRunner *runner = srunner_create(suite);
    int failed = 0;

    if (argc != 2) {
        fputs("usage: test_client_daemon ADAMD\n", stderr);
        return EXIT_FAILURE;
    }
    program = argv[1];
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, a_worker_pushes_and_pulls, 0, 2);
    tcase_add_test(tests, what_the_daemon_refuses_leaves_no_trace);
    tcase_add_test(tests, after_a_restore_a_worker_registers_again);
    tcase_add_test(tests, manual_steps_when_it_is_told);
    tcase_add_test(tests, a_round_waits_for_all_workers);
    tcase_add_loop_test(tests, large_gradients_arrive_whole, 0, 2);
    tcase_add_loop_test(tests, a_closures_loss_stands_in_the_step_record, 0, 2);
    tcase_add_test(tests, options_change_from_the_version_that_is_told);
    tcase_add_test(tests, a_group_is_added_while_the_model_trains);
    tcase_add_test(tests, a_state_goes_out_and_comes_back);
    tcase_add_test(tests, a_version_that_does_not_come_is_not_waited_for_beyond_its_time);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
