// Goal: hooks of the library keep the rules of torch.optim.Optimizer, one by one.

#include "client_fixture.h"

#include <stdlib.h>
#include <string.h>

enum { COUNT = 4, LOG_MAX = 32 };

static const float gradient[COUNT] = {1, 2, 3, 4};

// What ran, a letter each.
static char trace[LOG_MAX];
static size_t released;

struct probe {
    char letter;
    const char *fails;               // with this reason
    uint64_t removes, *registers;    // another hook, while it runs
    const struct probe *newcomer;    //
    const adamd_push_options_t *put; // in the place of the push
    const char *dict;                // ... of the state dict
    const char *expects_dict;        // is what it gets
    size_t *events;                  // by event
};

static void begin_trace(void) {
    memset(trace, 0, sizeof trace);
    released = 0;
}

static void note(char letter) {
    const size_t length = strlen(trace);

    ck_assert_uint_lt(length + 1, LOG_MAX);
    trace[length] = letter;
}

static void release(void *arg) {
    (void)arg;
    released++;
}

static adamd_error_t *run_probe(void *arg, adamd_hook_call_t *call);

static uint64_t add(adamd_session_t *session, adamd_hook_event_t event, const struct probe *probe,
                    int prepend) {
    const adamd_hook_t hook = {.run = run_probe, .release = release, .arg = (void *)probe};
    uint64_t id = 0;

    expect_success(adamd_register_hook(session, event, &hook, prepend, &id));
    ck_assert_uint_gt(id, 0);
    return id;
}

static uint64_t add_shared(adamd_hook_event_t event, const struct probe *probe) {
    const adamd_hook_t hook = {.run = run_probe, .release = release, .arg = (void *)probe};
    uint64_t id = 0;

    expect_success(adamd_register_optimizer_hook(event, &hook, &id));
    return id;
}

static void expect_dict(const adamd_state_dict_t *dict, const char *text) {
    ck_assert_ptr_nonnull(dict);
    ck_assert_uint_eq(adamd_state_dict_byte_size(dict), strlen(text));
    ck_assert_mem_eq(adamd_state_dict_data(dict), text, strlen(text));
}

static adamd_error_t *run_probe(void *arg, adamd_hook_call_t *call) {
    const struct probe *probe = arg;

    note(probe->letter);
    ck_assert_ptr_nonnull(call->session);
    if (probe->removes != 0) {
        ck_assert_int_eq(adamd_remove_hook(call->session, probe->removes), 1);
    }
    if (probe->registers != NULL) {
        *probe->registers = add(call->session, call->event, probe->newcomer, 0);
    }
    if (probe->put != NULL) {
        call->args->push = probe->put;
    }
    if (probe->expects_dict != NULL) {
        expect_dict(call->dict, probe->expects_dict);
    }
    if (probe->dict != NULL) {
        adamd_state_dict_t *dict = adamd_state_dict_new(probe->dict, strlen(probe->dict));
        expect_success(adamd_hook_replace(call, dict));
    }
    if (probe->events != NULL) {
        probe->events[call->event]++;
        ck_assert_int_eq(call->args != NULL,
                         call->event == ADAMD_STEP_PRE || call->event == ADAMD_STEP_POST);
    }
    return probe->fails != NULL ? adamd_error_new(probe->fails, "the hook said no") : NULL;
}

static adamd_error_t *step(struct client_fixture *fixture) {
    adamd_push_options_t push = ADAMD_PUSH_OPTIONS_INIT;
    adamd_step_args_t args = ADAMD_STEP_ARGS_INIT;

    push.flat = gradient;
    push.flat_bytes = sizeof gradient;
    args.push = &push;
    return adamd_step_closure(fixture->session, NULL, NULL, &args, NULL, NULL, NULL);
}

static void begin(struct client_fixture *fixture, const struct fake_line *lines, size_t count) {
    begin_trace();
    fixture_start(fixture, lines, count, 5000);
    fixture_register(fixture);
}

START_TEST(a_step_is_between_process_wide_and_own_hooks)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false), answer_pushed(2, 7, false)};
    const struct probe probes[] = {{.letter = 'a'}, {.letter = 'b'}, {.letter = 'c'},
                                   {.letter = 'd'}, {.letter = 'e'}, {.letter = 'f'}};
    struct client_fixture fixture;
    uint64_t shared[2], own[4];

    begin(&fixture, lines, 3);
    own[0] = add(fixture.session, ADAMD_STEP_POST, &probes[3], 0);
    shared[1] = add_shared(ADAMD_STEP_POST, &probes[5]);
    own[1] = add(fixture.session, ADAMD_STEP_PRE, &probes[1], 0);
    own[2] = add(fixture.session, ADAMD_STEP_PRE, &probes[2], 0);
    own[3] = add(fixture.session, ADAMD_STEP_POST, &probes[4], 0);
    shared[0] = add_shared(ADAMD_STEP_PRE, &probes[0]);
    expect_success(step(&fixture));
    ck_assert_str_eq(trace, "abcdef");
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(adamd_remove_hook(fixture.session, own[i]), 1);
    }
    ck_assert_int_eq(adamd_remove_optimizer_hook(shared[0]), 1);
    ck_assert_int_eq(adamd_remove_optimizer_hook(shared[1]), 1);
    ck_assert_uint_eq(released, 6);
    expect_success(step(&fixture));
    ck_assert_str_eq(trace, "abcdef");
    fixture_finish(&fixture);
}
END_TEST

START_TEST(process_wide_hooks_run_for_every_session)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_registered(10, sizeof gradient),
                                      answer_pushed(1, 6, false), answer_pushed(1, 7, false)};
    const struct probe shared = {.letter = 's'}, own = {.letter = 'o'};
    adamd_register_options_t options = ADAMD_REGISTER_OPTIONS_INIT;
    struct client_fixture fixture;
    adamd_session_t *first = NULL;
    uint64_t id = 0;

    begin(&fixture, lines, 4);
    first = fixture.session;
    options.worker = "w1";
    expect_success(adamd_register(fixture.client, &options, &fixture.session, NULL));
    id = add_shared(ADAMD_STEP_PRE, &shared);
    (void)add(first, ADAMD_STEP_PRE, &own, 0);
    expect_success(step(&fixture)); // of the second session: not the hook of the first
    ck_assert_str_eq(trace, "s");
    adamd_session_destroy(fixture.session);
    fixture.session = first;
    expect_success(step(&fixture));
    ck_assert_str_eq(trace, "sso");
    ck_assert_int_eq(adamd_remove_optimizer_hook(id), 1);
    fixture_finish(&fixture);
    ck_assert_uint_eq(released, 2); // the session's own went with it
}
END_TEST

START_TEST(handles_come_from_one_counter_and_are_removed_once)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient)};
    const struct probe probe = {.letter = 'a'};
    struct client_fixture fixture;
    uint64_t one = 0, two = 0, three = 0;

    begin(&fixture, lines, 1);
    one = add(fixture.session, ADAMD_STATE_DICT_PRE, &probe, 0);
    two = add_shared(ADAMD_STEP_PRE, &probe);
    three = add(fixture.session, ADAMD_LOAD_STATE_DICT_POST, &probe, 0);
    ck_assert_uint_lt(one, two);
    ck_assert_uint_lt(two, three);
    ck_assert_int_eq(adamd_remove_hook(fixture.session, one), 1);
    ck_assert_int_eq(adamd_remove_hook(fixture.session, one), 0);
    ck_assert_int_eq(adamd_remove_hook(fixture.session, two), 0); // not one of this session
    ck_assert_int_eq(adamd_remove_hook(fixture.session, 0), 0);
    ck_assert_int_eq(adamd_remove_optimizer_hook(two), 1);
    ck_assert_int_eq(adamd_remove_optimizer_hook(two), 0);
    ck_assert_uint_eq(released, 2);
    fixture_finish(&fixture);
    ck_assert_uint_eq(released, 3);
}
END_TEST

START_TEST(a_pre_hook_puts_other_arguments_in_their_place)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false)};
    const float halved[COUNT] = {0.5f, 1, 1.5f, 2};
    adamd_push_options_t other = ADAMD_PUSH_OPTIONS_INIT;
    const struct probe replaces = {.letter = 'r', .put = &other};
    const struct fake_request *request = NULL;
    struct client_fixture fixture;

    other.flat = halved;
    other.flat_bytes = sizeof halved;
    begin(&fixture, lines, 2);
    (void)add(fixture.session, ADAMD_STEP_PRE, &replaces, 0);
    expect_success(step(&fixture));
    fixture_stop(&fixture);
    request = &fixture.daemon.requests[1];
    ck_assert_mem_eq(request->body + request->body_size - sizeof halved, halved, sizeof halved);
    fixture_finish(&fixture);
}
END_TEST

static adamd_error_t *expect_other(void *arg, adamd_hook_call_t *call) {
    ck_assert_ptr_eq(call->args->push, arg);
    note('x');
    return NULL;
}

START_TEST(later_hooks_and_post_hooks_see_the_new_arguments)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false)};
    adamd_push_options_t other = ADAMD_PUSH_OPTIONS_INIT;
    const struct probe replaces = {.letter = 'r', .put = &other};
    const adamd_hook_t looks = {.run = expect_other, .arg = &other};
    struct client_fixture fixture;
    uint64_t id = 0;

    other.flat = gradient;
    other.flat_bytes = sizeof gradient;
    begin(&fixture, lines, 2);
    (void)add(fixture.session, ADAMD_STEP_PRE, &replaces, 0);
    expect_success(adamd_register_hook(fixture.session, ADAMD_STEP_PRE, &looks, 0, &id));
    expect_success(adamd_register_hook(fixture.session, ADAMD_STEP_POST, &looks, 0, &id));
    expect_success(step(&fixture));
    ck_assert_str_eq(trace, "rxx");
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_pre_hook_that_fails_stops_the_rest_and_nothing_is_sent)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false)};
    const struct probe probes[] = {
        {.letter = 'a'}, {.letter = 'b', .fails = "NO"}, {.letter = 'c'}, {.letter = 'd'}};
    struct client_fixture fixture;
    uint64_t id = 0;

    begin(&fixture, lines, 2);
    (void)add(fixture.session, ADAMD_STEP_PRE, &probes[0], 0);
    id = add(fixture.session, ADAMD_STEP_PRE, &probes[1], 0);
    (void)add(fixture.session, ADAMD_STEP_PRE, &probes[2], 0);
    (void)add(fixture.session, ADAMD_STEP_POST, &probes[3], 0);
    expect_reason(step(&fixture), "NO");
    ck_assert_str_eq(trace, "ab");
    ck_assert_uint_eq(adamd_session_sequence(fixture.session), 1);
    ck_assert_int_eq(adamd_remove_hook(fixture.session, id), 1);
    expect_success(step(&fixture)); // the session is as good as before
    ck_assert_str_eq(trace, "abacd");
    fixture_stop(&fixture);
    ck_assert_uint_eq(fixture.daemon.request_count, 2);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_post_hook_that_fails_stops_the_rest_but_the_push_counted)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false)};
    const struct probe probes[] = {{.letter = 'a', .fails = "NO"}, {.letter = 'b'}};
    struct client_fixture fixture;

    begin(&fixture, lines, 2);
    (void)add(fixture.session, ADAMD_STEP_POST, &probes[0], 0);
    (void)add(fixture.session, ADAMD_STEP_POST, &probes[1], 0);
    expect_reason(step(&fixture), "NO");
    ck_assert_str_eq(trace, "a");
    ck_assert_uint_eq(adamd_session_sequence(fixture.session), 2);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(post_hooks_do_not_run_after_a_push_that_failed)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_refused(422, "NONFINITE", "")};
    const struct probe probe = {.letter = 'a'};
    struct client_fixture fixture;

    begin(&fixture, lines, 2);
    (void)add(fixture.session, ADAMD_STEP_POST, &probe, 0);
    expect_reason(step(&fixture), "NONFINITE");
    ck_assert_str_eq(trace, "");
    fixture_finish(&fixture);
}
END_TEST

START_TEST(a_list_that_changes_while_it_runs_is_run_as_it_was)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false), answer_pushed(2, 7, false)};
    const struct probe newcomer = {.letter = 'n'}, victim = {.letter = 'v'};
    uint64_t newcomer_id = 0, id = 0;
    struct probe changes = {.letter = 'c', .registers = &newcomer_id, .newcomer = &newcomer};
    struct client_fixture fixture;

    begin(&fixture, lines, 3);
    id = add(fixture.session, ADAMD_STEP_PRE, &changes, 0);
    changes.removes = add(fixture.session, ADAMD_STEP_PRE, &victim, 0);
    expect_success(step(&fixture));
    ck_assert_str_eq(trace, "cv"); // removed, and called this once more; added, and not yet
    ck_assert_uint_eq(released, 1);
    ck_assert_int_eq(adamd_remove_hook(fixture.session, id), 1);
    expect_success(step(&fixture));
    ck_assert_str_eq(trace, "cvn");
    fixture_finish(&fixture);
}
END_TEST

START_TEST(prepended_hooks_run_first_the_latest_before_all)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_parameters("12345678", 8, 8)};
    const struct probe probes[] = {{.letter = 'a'}, {.letter = 'b'}, {.letter = 'c'}};
    struct client_fixture fixture;
    adamd_state_dict_t *dict = NULL;

    begin(&fixture, lines, 2);
    for (size_t i = 0; i < 3; i++) {
        (void)add(fixture.session, ADAMD_STATE_DICT_PRE, &probes[i], i > 0);
    }
    expect_success(adamd_state_dict(fixture.session, NULL, &dict));
    ck_assert_str_eq(trace, "cba");
    adamd_state_dict_destroy(dict);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(hooks_of_a_step_are_not_prepended)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient)};
    const adamd_hook_t hook = {.run = run_probe};
    const adamd_hook_t nothing = {.run = NULL};
    struct client_fixture fixture;
    adamd_error_t *error = NULL;
    uint64_t id = 77;

    begin(&fixture, lines, 1);
    error = adamd_register_hook(fixture.session, ADAMD_STEP_PRE, &hook, 1, &id);
    ck_assert_str_eq(adamd_error_field(error), "prepend");
    expect_reason(error, "BAD_FIELD");
    expect_reason(adamd_register_hook(fixture.session, (adamd_hook_event_t)6, &hook, 0, &id),
                  "BAD_FIELD");
    expect_reason(adamd_register_hook(fixture.session, ADAMD_STEP_PRE, &nothing, 0, &id),
                  "BAD_FIELD");
    expect_reason(adamd_register_optimizer_hook(ADAMD_STATE_DICT_PRE, &hook, &id), "BAD_FIELD");
    ck_assert_uint_eq(id, 77);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(what_a_state_dict_post_hook_returns_is_what_the_next_and_the_caller_get)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_parameters("of daemon", 9, 9)};
    const struct probe probes[] = {{.letter = 'a', .expects_dict = "of daemon"},
                                   {.letter = 'b', .dict = "first"},
                                   {.letter = 'c', .expects_dict = "first", .dict = "second"}};
    struct client_fixture fixture;
    adamd_state_dict_t *dict = NULL;

    begin(&fixture, lines, 2);
    for (size_t i = 0; i < 3; i++) {
        (void)add(fixture.session, ADAMD_STATE_DICT_POST, &probes[i], 0);
    }
    expect_success(adamd_state_dict(fixture.session, NULL, &dict));
    ck_assert_str_eq(trace, "abc");
    expect_dict(dict, "second");
    adamd_state_dict_destroy(dict);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(what_a_load_pre_hook_returns_is_loaded_and_the_callers_dict_stays)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      {.answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
                                      answer_registered(10, sizeof gradient)};
    const struct probe probes[] = {{.letter = 'a', .expects_dict = "given", .dict = "replaced"},
                                   {.letter = 'b', .expects_dict = "replaced"},
                                   {.letter = 'c'}};
    struct client_fixture fixture;
    adamd_state_dict_t *dict = adamd_state_dict_new("given", 5);

    begin(&fixture, lines, 3);
    (void)add(fixture.session, ADAMD_LOAD_STATE_DICT_PRE, &probes[0], 0);
    (void)add(fixture.session, ADAMD_LOAD_STATE_DICT_PRE, &probes[1], 0);
    (void)add(fixture.session, ADAMD_LOAD_STATE_DICT_POST, &probes[2], 0);
    expect_success(adamd_load_state_dict(fixture.session, NULL, dict, NULL));
    ck_assert_str_eq(trace, "abc");
    ck_assert_uint_eq(adamd_session_epoch(fixture.session), 10);
    expect_dict(dict, "given");
    fixture_stop(&fixture);
    ck_assert_ptr_nonnull(
        strstr(fixture.daemon.requests[1].head, "PUT /v1/models/m/state?force=true "));
    ck_assert_uint_eq(fixture.daemon.requests[1].body_size, 8);
    ck_assert_mem_eq(fixture.daemon.requests[1].body, "replaced", 8);
    adamd_state_dict_destroy(dict);
    fixture_finish(&fixture);
}
END_TEST

// state_dict pre, state_dict post, load pre: each ends the call before what it stands in front of.
START_TEST(a_hook_of_a_dict_that_fails_ends_the_call)
{
    static const adamd_hook_event_t events[] = {ADAMD_STATE_DICT_PRE, ADAMD_STATE_DICT_POST,
                                                ADAMD_LOAD_STATE_DICT_PRE};
    static const size_t requests[] = {1, 2, 1};
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_parameters("12345678", 8, 8)};
    const struct probe fails = {.letter = 'a', .dict = _i > 0 ? "x" : NULL, .fails = "NO"},
                       never = {.letter = 'b'};
    struct client_fixture fixture;
    adamd_state_dict_t *given = adamd_state_dict_new("given", 5), *dict = NULL;

    begin(&fixture, lines, 2);
    (void)add(fixture.session, events[_i], &fails, 0);
    (void)add(fixture.session, events[_i], &never, 0);
    (void)add(fixture.session, ADAMD_LOAD_STATE_DICT_POST, &never, 0);
    expect_reason(_i < 2 ? adamd_state_dict(fixture.session, NULL, &dict)
                         : adamd_load_state_dict(fixture.session, NULL, given, NULL),
                  "NO");
    ck_assert_ptr_null(dict);
    ck_assert_str_eq(trace, "a");
    adamd_state_dict_destroy(given);
    fixture_stop(&fixture);
    ck_assert_uint_eq(fixture.daemon.request_count, requests[_i]);
    fixture_finish(&fixture);
}
END_TEST

START_TEST(each_event_runs_its_own_hooks_only)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false),
                                      answer_parameters("12345678", 8, 8),
                                      {.answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
                                      answer_registered(10, sizeof gradient)};
    size_t events[6] = {0};
    const struct probe probe = {.letter = '.', .events = events};
    struct client_fixture fixture;
    adamd_state_dict_t *dict = NULL;

    begin(&fixture, lines, 5);
    for (int event = 0; event < 6; event++) {
        (void)add(fixture.session, (adamd_hook_event_t)event, &probe, 0);
    }
    expect_success(step(&fixture));
    expect_success(adamd_state_dict(fixture.session, NULL, &dict));
    expect_success(adamd_load_state_dict(fixture.session, NULL, dict, NULL));
    for (int event = 0; event < 6; event++) {
        ck_assert_uint_eq(events[event], 1);
    }
    adamd_state_dict_destroy(dict);
    fixture_finish(&fixture);
}
END_TEST

static adamd_error_t *try_to_replace(void *arg, adamd_hook_call_t *call) {
    adamd_state_dict_t *dict = adamd_state_dict_new("x", 1);

    (void)arg;
    expect_reason(adamd_hook_replace(call, dict), "BAD_FIELD");
    adamd_state_dict_destroy(dict);
    note('t');
    return NULL;
}

START_TEST(a_hook_without_a_dict_has_none_to_replace)
{
    const struct fake_line lines[] = {answer_registered(9, sizeof gradient),
                                      answer_pushed(1, 6, false)};
    const adamd_hook_t hook = {.run = try_to_replace};
    struct client_fixture fixture;
    uint64_t id = 0;

    begin(&fixture, lines, 2);
    expect_success(adamd_register_hook(fixture.session, ADAMD_STEP_PRE, &hook, 0, &id));
    expect_success(step(&fixture));
    ck_assert_str_eq(trace, "t");
    fixture_finish(&fixture);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("client_hooks");
    TCase *tests = tcase_create("rules");
    SRunner *runner = srunner_create(suite);
    int failed = 0;

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, a_step_is_between_process_wide_and_own_hooks);
    tcase_add_test(tests, process_wide_hooks_run_for_every_session);
    tcase_add_test(tests, handles_come_from_one_counter_and_are_removed_once);
    tcase_add_test(tests, a_pre_hook_puts_other_arguments_in_their_place);
    tcase_add_test(tests, later_hooks_and_post_hooks_see_the_new_arguments);
    tcase_add_test(tests, a_pre_hook_that_fails_stops_the_rest_and_nothing_is_sent);
    tcase_add_test(tests, a_post_hook_that_fails_stops_the_rest_but_the_push_counted);
    tcase_add_test(tests, post_hooks_do_not_run_after_a_push_that_failed);
    tcase_add_test(tests, a_list_that_changes_while_it_runs_is_run_as_it_was);
    tcase_add_test(tests, prepended_hooks_run_first_the_latest_before_all);
    tcase_add_test(tests, hooks_of_a_step_are_not_prepended);
    tcase_add_test(tests, what_a_state_dict_post_hook_returns_is_what_the_next_and_the_caller_get);
    tcase_add_test(tests, what_a_load_pre_hook_returns_is_loaded_and_the_callers_dict_stays);
    tcase_add_loop_test(tests, a_hook_of_a_dict_that_fails_ends_the_call, 0, 3);
    tcase_add_test(tests, each_event_runs_its_own_hooks_only);
    tcase_add_test(tests, a_hook_without_a_dict_has_none_to_replace);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
