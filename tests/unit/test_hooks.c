// Goal: each rule of PyTorch's hooks, on lists alone: order, prepend, handles, replacement, what a
// failure stops, and lists that change while they run.
#include "hooks_impl.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static struct hook_lists shared, own;
static uint64_t last_id;
static char order[64]; // a letter for each call
static int released;
static struct adamd_fault fault;
static struct hook_run run;

static void set_up(void) {
    shared = (struct hook_lists){0};
    own = (struct hook_lists){0};
    run = (struct hook_run){0};
    last_id = 0;
    order[0] = '\0';
    released = 0;
    fault = (struct adamd_fault){0};
}

static void tear_down(void) {
    hook_run_end(&run);
    hooks_finish(&shared);
    hooks_finish(&own);
}

static void note(char letter) {
    const size_t size = strlen(order);

    ck_assert_uint_lt(size + 1, sizeof order);
    order[size] = letter;
    order[size + 1] = '\0';
}

static enum adamd_hook_answer write_letter(void *arg, struct adamd_hook_call *call) {
    (void)call;
    note(*(const char *)arg);
    return ADAMD_HOOK_DONE;
}

static void count_release(void *arg) {
    (void)arg;
    released++;
}

static uint64_t add_to(struct hook_lists *lists, enum adamd_hook_event event, adamd_hook_fn *fn,
                       const void *arg, bool prepend) {
    const struct adamd_hook hook = {
        .name = "letter", .run = fn, .release = count_release, .arg = (void *)arg};
    uint64_t id = 0;

    ck_assert_int_eq(hook_add(lists, &last_id, event, &hook, prepend, &id, &fault), ADAMD_OK);
    return id;
}

static uint64_t add(enum adamd_hook_event event, const char *letter, bool prepend) {
    return add_to(&own, event, write_letter, letter, prepend);
}

static enum adamd_hook_answer run_all(enum adamd_hook_event event, struct adamd_hook_call *call) {
    call->event = event;
    call->fault = &fault;
    hook_run_begin(&run, event, &shared, &own);
    const enum adamd_hook_answer answer = hook_run_continue(&run, call);
    hook_run_end(&run);
    return answer;
}

static void expect_order(enum adamd_hook_event event, const char *letters) {
    struct adamd_hook_call call = {.event = event};

    order[0] = '\0';
    ck_assert_int_eq(run_all(event, &call), ADAMD_HOOK_DONE);
    ck_assert_str_eq(order, letters);
}

START_TEST(a_list_runs_in_the_order_of_registration)
{
    for (int event = 0; event < ADAMD_HOOK_EVENT_COUNT; event++) {
        add((enum adamd_hook_event)event, "a", false);
        add((enum adamd_hook_event)event, "b", false);
        add((enum adamd_hook_event)event, "c", false);
        expect_order((enum adamd_hook_event)event, "abc");
    }
}
END_TEST

START_TEST(around_a_step_the_shared_hooks_stand_outside)
{
    add_to(&own, ADAMD_STEP_POST, write_letter, "C", false);
    add_to(&shared, ADAMD_STEP_POST, write_letter, "D", false);
    add_to(&own, ADAMD_STEP_PRE, write_letter, "B", false);
    add_to(&shared, ADAMD_STEP_PRE, write_letter, "A", false);
    expect_order(ADAMD_STEP_PRE, "AB");
    expect_order(ADAMD_STEP_POST, "CD");
}
END_TEST

START_TEST(prepend_moves_to_the_very_front)
{
    for (int event = ADAMD_STATE_DICT_PRE; event < ADAMD_HOOK_EVENT_COUNT; event++) {
        add((enum adamd_hook_event)event, "a", false);
        add((enum adamd_hook_event)event, "b", true);
        add((enum adamd_hook_event)event, "c", true);
        add((enum adamd_hook_event)event, "d", false);
        expect_order((enum adamd_hook_event)event, "cbad");
    }
}
END_TEST

START_TEST(hooks_of_a_step_have_no_prepend)
{
    const struct adamd_hook hook = {.name = "letter", .run = write_letter, .arg = (void *)"a"};
    const enum adamd_hook_event event = _i == 0 ? ADAMD_STEP_PRE : ADAMD_STEP_POST;
    uint64_t id = 77;

    ck_assert_int_eq(hook_add(&own, &last_id, event, &hook, true, &id, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "prepend");
    ck_assert_uint_eq(id, 77);
    expect_order(event, "");
}
END_TEST

START_TEST(ids_ascend_over_all_lists_and_are_never_used_twice)
{
    const uint64_t first = add(ADAMD_STEP_PRE, "a", false);
    const uint64_t second = add_to(&shared, ADAMD_STEP_PRE, write_letter, "b", false);

    ck_assert_uint_gt(second, first);
    ck_assert(hook_remove(&shared, second));
    ck_assert_uint_gt(add(ADAMD_STATE_DICT_PRE, "c", true), second);
}
END_TEST

START_TEST(remove_is_idempotent_and_releases_once)
{
    const uint64_t id = add(ADAMD_STEP_PRE, "a", false);
    add(ADAMD_STEP_PRE, "b", false);

    ck_assert(hook_remove(&own, id));
    ck_assert(!hook_remove(&own, id));
    ck_assert(!hook_remove(&own, 12345));
    ck_assert_int_eq(released, 1);
    expect_order(ADAMD_STEP_PRE, "b");
}
END_TEST

START_TEST(a_list_has_a_limit)
{
    const struct adamd_hook hook = {.name = "letter", .run = write_letter, .arg = (void *)"a"};
    uint64_t id = 0;

    for (int i = 0; i < ADAMD_HOOKS_MAX; i++) {
        add(i % 2 == 0 ? ADAMD_STEP_PRE : ADAMD_STATE_DICT_POST, "a", false);
    }
    ck_assert_int_eq(hook_add(&own, &last_id, ADAMD_STEP_POST, &hook, false, &id, &fault),
                     ADAMD_TOO_LARGE);
    ck_assert_str_eq(fault.field, "hooks");
}
END_TEST

// ------------------------------------------------------------------------------ what they change

static enum adamd_hook_answer double_lr(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    call->args->options[0].lr *= 2;
    return ADAMD_HOOK_DONE;
}

static enum adamd_hook_answer see_lr(void *arg, struct adamd_hook_call *call) {
    *(double *)arg = call->args->options[0].lr;
    return ADAMD_HOOK_DONE;
}

START_TEST(later_hooks_see_changed_arguments)
{
    struct adamd_options options = {.lr = 0.25};
    struct adamd_step_args args = {.options = &options, .group_count = 1};
    struct adamd_hook_call call = {.args = &args};
    double seen = 0;

    add_to(&shared, ADAMD_STEP_PRE, double_lr, NULL, false);
    add_to(&own, ADAMD_STEP_PRE, see_lr, &seen, false);
    ck_assert_int_eq(run_all(ADAMD_STEP_PRE, &call), ADAMD_HOOK_DONE);
    ck_assert_double_eq(seen, 0.5);
    ck_assert_double_eq(options.lr, 0.5);
}
END_TEST

static enum adamd_hook_answer put_dict(void *arg, struct adamd_hook_call *call) {
    call->dict = arg;
    return ADAMD_HOOK_DONE;
}

static const void *seen_dict;

static enum adamd_hook_answer see_dict(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    seen_dict = call->dict;
    return ADAMD_HOOK_DONE;
}

START_TEST(a_dict_is_replaced_for_later_hooks_and_the_caller)
{
    static const char original[1], other[1];
    const enum adamd_hook_event event = _i == 0 ? ADAMD_STATE_DICT_POST : ADAMD_LOAD_STATE_DICT_PRE;
    struct adamd_hook_call call = {.dict = (const void *)original};

    add_to(&own, event, see_dict, NULL, false);
    ck_assert_int_eq(run_all(event, &call), ADAMD_HOOK_DONE);
    ck_assert_ptr_eq(seen_dict, original);
    ck_assert_ptr_eq(call.dict, original);

    add_to(&own, event, put_dict, other, true);
    ck_assert_int_eq(run_all(event, &call), ADAMD_HOOK_DONE);
    ck_assert_ptr_eq(seen_dict, other);
    ck_assert_ptr_eq(call.dict, other);
}
END_TEST

// ---------------------------------------------------------------------------------- stop and wait

static enum adamd_hook_answer fail_with(void *arg, struct adamd_hook_call *call) {
    note('!');
    if (arg != NULL) {
        adamd_fail(call->fault, ADAMD_NO_MEMORY, "lr", "%s", (const char *)arg);
    }
    return ADAMD_HOOK_FAIL;
}

START_TEST(a_failure_stops_the_rest_and_names_the_hook)
{
    struct adamd_hook_call call = {0};

    add(ADAMD_STEP_PRE, "a", false);
    const uint64_t failing = add_to(&own, ADAMD_STEP_PRE, fail_with, NULL, false);
    add(ADAMD_STEP_PRE, "b", false);
    ck_assert_int_eq(run_all(ADAMD_STEP_PRE, &call), ADAMD_HOOK_FAIL);
    ck_assert_str_eq(order, "a!");
    ck_assert_int_eq(fault.status, ADAMD_HOOK_FAILED);
    ck_assert_str_eq(fault.message, "letter: the hook failed");

    ck_assert(hook_remove(&own, failing));
    expect_order(ADAMD_STEP_PRE, "ab");
}
END_TEST

START_TEST(a_failures_own_status_and_field_stay)
{
    struct adamd_hook_call call = {0};

    add_to(&own, ADAMD_STATE_DICT_PRE, fail_with, "no room for the copy", false);
    ck_assert_int_eq(run_all(ADAMD_STATE_DICT_PRE, &call), ADAMD_HOOK_FAIL);
    ck_assert_int_eq(fault.status, ADAMD_NO_MEMORY);
    ck_assert_str_eq(fault.field, "lr");
    ck_assert_str_eq(fault.message, "letter: no room for the copy");
}
END_TEST

static enum adamd_hook_answer skip(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    (void)call;
    note('-');
    return ADAMD_HOOK_SKIP;
}

START_TEST(a_skip_stops_the_rest_without_a_fault)
{
    struct adamd_hook_call call = {0};

    add_to(&own, ADAMD_STEP_PRE, skip, NULL, false);
    add(ADAMD_STEP_PRE, "b", false);
    ck_assert_int_eq(run_all(ADAMD_STEP_PRE, &call), ADAMD_HOOK_SKIP);
    ck_assert_str_eq(order, "-");
    ck_assert_int_eq(fault.status, ADAMD_OK);
}
END_TEST

static enum adamd_hook_answer wait_twice(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    note((char)('0' + call->turn));
    return call->turn < 2 ? ADAMD_HOOK_WAIT : ADAMD_HOOK_DONE;
}

START_TEST(a_hook_that_waits_is_called_again_before_the_next)
{
    struct adamd_hook_call call = {.event = ADAMD_STEP_PRE, .fault = &fault};

    add_to(&own, ADAMD_STEP_PRE, wait_twice, NULL, false);
    add_to(&own, ADAMD_STEP_PRE, wait_twice, NULL, false);
    hook_run_begin(&run, ADAMD_STEP_PRE, NULL, &own);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(hook_run_continue(&run, &call), ADAMD_HOOK_WAIT);
    }
    ck_assert_int_eq(hook_run_continue(&run, &call), ADAMD_HOOK_DONE);
    ck_assert_str_eq(order, "012012");
}
END_TEST

// --------------------------------------------------------------------- lists that change meanwhile

static uint64_t victim;

static enum adamd_hook_answer change_list(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    (void)call;
    note('x');
    (void)hook_remove(&own, victim);
    add(ADAMD_STEP_PRE, "n", false);
    return ADAMD_HOOK_DONE;
}

START_TEST(a_run_goes_over_the_list_as_it_was)
{
    add_to(&own, ADAMD_STEP_PRE, change_list, NULL, false);
    victim = add(ADAMD_STEP_PRE, "v", false);
    expect_order(ADAMD_STEP_PRE, "xv"); // the removed one still, the added one not yet
    ck_assert_int_eq(released, 1);
    expect_order(ADAMD_STEP_PRE, "xn");
}
END_TEST

static enum adamd_hook_answer remove_itself(void *arg, struct adamd_hook_call *call) {
    (void)call;
    note('s');
    ck_assert(hook_remove(&own, *(const uint64_t *)arg));
    ck_assert_int_eq(released, 0); // it is being called
    return ADAMD_HOOK_DONE;
}

START_TEST(a_hook_may_remove_itself)
{
    static uint64_t id;

    id = add_to(&own, ADAMD_STEP_POST, remove_itself, &id, false);
    add(ADAMD_STEP_POST, "b", false);
    expect_order(ADAMD_STEP_POST, "sb");
    ck_assert_int_eq(released, 1);
    expect_order(ADAMD_STEP_POST, "b");
}
END_TEST

START_TEST(the_registry_takes_hooks_of_a_step)
{
    struct adamd_hook_registry *registry = adamd_hook_registry_create();
    const struct adamd_hook hook = {
        .name = "letter", .run = write_letter, .release = count_release, .arg = (void *)"r"};
    uint64_t first = 0;
    uint64_t second = 0;

    ck_assert_ptr_nonnull(registry);
    ck_assert_int_eq(adamd_register_optimizer_hook(registry, ADAMD_STEP_PRE, &hook, &first, &fault),
                     ADAMD_OK);
    ck_assert_int_eq(
        adamd_register_optimizer_hook(registry, ADAMD_STEP_POST, &hook, &second, &fault), ADAMD_OK);
    ck_assert_uint_gt(second, first);
    ck_assert(adamd_remove_optimizer_hook(registry, first));
    ck_assert(!adamd_remove_optimizer_hook(registry, first));
    adamd_hook_registry_destroy(registry);
    ck_assert_int_eq(released, 2);
    adamd_hook_registry_destroy(NULL);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("hooks");
    TCase *rules = tcase_create("rules");

    tcase_add_checked_fixture(rules, set_up, tear_down);
    tcase_add_test(rules, a_list_runs_in_the_order_of_registration);
    tcase_add_test(rules, around_a_step_the_shared_hooks_stand_outside);
    tcase_add_test(rules, prepend_moves_to_the_very_front);
    tcase_add_loop_test(rules, hooks_of_a_step_have_no_prepend, 0, 2);
    tcase_add_test(rules, ids_ascend_over_all_lists_and_are_never_used_twice);
    tcase_add_test(rules, remove_is_idempotent_and_releases_once);
    tcase_add_test(rules, a_list_has_a_limit);
    tcase_add_test(rules, later_hooks_see_changed_arguments);
    tcase_add_loop_test(rules, a_dict_is_replaced_for_later_hooks_and_the_caller, 0, 2);
    tcase_add_test(rules, a_failure_stops_the_rest_and_names_the_hook);
    tcase_add_test(rules, a_failures_own_status_and_field_stay);
    tcase_add_test(rules, a_skip_stops_the_rest_without_a_fault);
    tcase_add_test(rules, a_hook_that_waits_is_called_again_before_the_next);
    tcase_add_test(rules, a_run_goes_over_the_list_as_it_was);
    tcase_add_test(rules, a_hook_may_remove_itself);
    tcase_add_test(rules, the_registry_takes_hooks_of_a_step);
    suite_add_tcase(suite, rules);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
