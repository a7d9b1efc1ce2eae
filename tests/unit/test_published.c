// Versions for readers: whole, of exactly one version, and never in a step's way.
#include "backend_deferred.h"
#include "modelkit.h"

#include <stdlib.h>
#include <string.h>

static struct kit kit;
static uint64_t epoch;
static uint64_t sequence;

static void set_up(void) {
    const struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);

    kit_create(&kit, &plan);
    epoch = kit_register(&kit, "a", 0);
    sequence = 0;
}

static void tear_down(void) {
    kit_destroy(&kit);
}

static void start_push(bool wants_parameters) {
    static struct kit_end end;
    struct adamd_push_head head = kit_head("a", epoch, ++sequence);

    head.wants_parameters = wants_parameters;
    ck_assert_int_eq(kit_push(&kit, &head, 1, &end), ADAMD_OK);
}

static void push_once(void) {
    start_push(false);
    kit_run(&kit);
}

static void pull(uint64_t min_version, struct adamd_wait *wait, struct kit_end *end) {
    *end = (struct kit_end){0};
    adamd_model_pull(kit.model, min_version, wait, kit_on_ready, end);
}

static const struct adamd_published *published_of(const struct kit_end *end) {
    ck_assert_int_eq(end->count, 1);
    ck_assert_int_eq(end->status, ADAMD_OK);
    return end->what;
}

static float first_of(const struct adamd_published *published) {
    float value;
    memcpy(&value, published->host, sizeof value);
    return value;
}

START_TEST(a_copy_is_made_once_for_all_who_pull)
{
    struct adamd_wait waits[3] = {{0}};
    struct kit_end ends[3];

    push_once();
    for (int i = 0; i < 3; i++) {
        pull(0, &waits[i], &ends[i]);
    }
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1);
    kit_run(&kit);
    ck_assert_ptr_eq(published_of(&ends[0]), published_of(&ends[2]));
    ck_assert_uint_eq(published_of(&ends[0])->version, 1);
    ck_assert_float_lt(first_of(published_of(&ends[0])), 0);
    for (int i = 0; i < 3; i++) {
        adamd_published_release(kit.model, published_of(&ends[i]));
    }
    pull(1, &waits[0], &ends[0]); // it is still there: at once, from inside the call
    adamd_published_release(kit.model, published_of(&ends[0]));
}
END_TEST

START_TEST(a_pull_waits_for_its_version_and_the_step_publishes_it)
{
    struct adamd_wait wait = {0};
    struct kit_end end;

    pull(1, &wait, &end);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
    start_push(false);
    ck_assert_ptr_nonnull(backend_deferred_peek(kit.deferred, 0)->step.publish);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1);
    kit_run(&kit);
    ck_assert_uint_eq(published_of(&end)->version, 1);
    ck_assert_float_eq_tol(first_of(published_of(&end)), -1e-3F, 1e-8F);
    adamd_published_release(kit.model, published_of(&end));
}
END_TEST

START_TEST(a_step_publishes_for_a_pusher_that_will_pull)
{
    struct adamd_wait wait = {0};
    struct kit_end end;

    start_push(true);
    kit_run(&kit);
    pull(1, &wait, &end);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
    adamd_published_release(kit.model, published_of(&end));
    start_push(false); // what was pulled once is likely to be pulled again
    ck_assert_ptr_nonnull(backend_deferred_peek(kit.deferred, 0)->step.publish);
    kit_run(&kit);
    start_push(false); // and was not
    ck_assert_ptr_null(backend_deferred_peek(kit.deferred, 0)->step.publish);
    kit_run(&kit);
}
END_TEST

START_TEST(a_pull_during_a_step_gets_the_new_version)
{
    struct adamd_wait wait = {0};
    struct kit_end end;

    start_push(false);
    pull(0, &wait, &end);
    kit_run(&kit);
    ck_assert_uint_eq(published_of(&end)->version, 1);
    adamd_published_release(kit.model, published_of(&end));
}
END_TEST

START_TEST(a_copy_asked_for_before_a_step_is_of_the_version_before_it)
{
    struct adamd_wait wait = {0};
    struct kit_end end;

    pull(0, &wait, &end); // the copy is in flight
    start_push(false);    // and the step behind it
    kit_run(&kit);
    ck_assert_uint_eq(published_of(&end)->version, 0);
    ck_assert_float_eq(first_of(published_of(&end)), 0);
    adamd_published_release(kit.model, published_of(&end));
}
END_TEST

START_TEST(slow_readers_hold_their_versions_and_no_step)
{
    struct adamd_wait waits[3] = {{0}};
    struct kit_end ends[3];
    float values[2];

    for (int i = 0; i < 2; i++) {
        push_once();
        pull(0, &waits[i], &ends[i]);
        kit_run(&kit);
        values[i] = first_of(published_of(&ends[i]));
    }
    pull(3, &waits[2], &ends[2]);
    for (int i = 0; i < 10; i++) {
        push_once();
    }
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 12);
    for (int i = 0; i < 2; i++) {
        ck_assert_uint_eq(published_of(&ends[i])->version, (uint64_t)i + 1);
        ck_assert_float_eq(first_of(published_of(&ends[i])), values[i]);
    }
    ck_assert_int_eq(ends[2].count, 0); // no buffer is free
    adamd_published_release(kit.model, published_of(&ends[0]));
    kit_run(&kit);
    ck_assert_uint_eq(published_of(&ends[2])->version, 12);
    ck_assert_float_eq(first_of(published_of(&ends[1])), values[1]);
    adamd_published_release(kit.model, published_of(&ends[1]));
    adamd_published_release(kit.model, published_of(&ends[2]));
}
END_TEST

START_TEST(one_synchronous_worker_takes_24_bytes_a_parameter)
{
    static const uint64_t count = 1 << 20;
    struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);
    struct adamd_wait wait = {0};
    struct kit_end end;
    struct kit_end pushed;
    float *body = calloc(count, sizeof *body);

    tear_down();
    plan.counts = &count;
    plan.tensor_count = 1;
    kit_create(&kit, &plan);
    epoch = kit_register(&kit, "a", 0);
    for (uint64_t i = 1; i <= 4; i++) {
        struct adamd_push_head head = kit_head("a", epoch, i);
        enum adamd_status status;
        struct adamd_push *push = kit_begin(&kit, &head, &pushed, &status);
        ck_assert_int_eq(adamd_push_append(push, body, count * sizeof *body, NULL), ADAMD_OK);
        ck_assert_int_eq(adamd_push_commit(push, kit.now_ms, NULL), ADAMD_OK);
        pull(i, &wait, &end);
        kit_run(&kit);
        adamd_published_release(kit.model, published_of(&end));
    }
    ck_assert_uint_le(adamd_model_info(kit.model, kit.now_ms).resident_bytes, 24 * count);
    ck_assert_uint_eq(adamd_backend_resident(kit.backend),
                      adamd_model_info(kit.model, kit.now_ms).resident_bytes);
    free(body);
}
END_TEST

START_TEST(a_wait_that_is_given_up_is_not_called)
{
    struct adamd_wait waits[2] = {{0}};
    struct kit_end ends[2];

    adamd_wait_cancel(&waits[0]);
    pull(1, &waits[0], &ends[0]);
    pull(1, &waits[1], &ends[1]);
    adamd_wait_cancel(&waits[0]);
    push_once();
    ck_assert_int_eq(ends[0].count, 0);
    adamd_published_release(kit.model, published_of(&ends[1]));
    adamd_wait_cancel(&waits[1]);
}
END_TEST

static struct adamd_wait other_wait;

static void cancel_other(void *arg, enum adamd_status status, const void *what) {
    kit_on_ready(arg, status, what);
    adamd_wait_cancel(&other_wait);
    adamd_published_release(kit.model, what);
}

START_TEST(a_callback_may_give_up_the_next_wait_and_release_its_copy)
{
    struct adamd_wait wait = {0};
    struct kit_end ends[2] = {{0}};

    adamd_model_pull(kit.model, 1, &wait, cancel_other, &ends[0]);
    pull(1, &other_wait, &ends[1]);
    push_once();
    ck_assert_int_eq(ends[0].count, 1);
    ck_assert_int_eq(ends[1].count, 0);
}
END_TEST

START_TEST(pulls_that_wait_are_bounded)
{
    struct adamd_wait *waits = calloc(1025, sizeof *waits);
    struct kit_end *ends = calloc(1025, sizeof *ends);

    for (int i = 0; i < 1025; i++) {
        pull(1, &waits[i], &ends[i]);
    }
    ck_assert_int_eq(ends[1023].count, 0);
    ck_assert_int_eq(ends[1024].status, ADAMD_BUSY);
    push_once();
    for (int i = 0; i < 1024; i++) {
        adamd_published_release(kit.model, published_of(&ends[i]));
    }
    free(waits);
    free(ends);
}
END_TEST

START_TEST(a_reader_may_outlive_the_model)
{
    struct adamd_wait waits[2] = {{0}};
    struct kit_end ends[2];

    push_once();
    pull(0, &waits[0], &ends[0]);
    kit_run(&kit);
    pull(9, &waits[1], &ends[1]);
    adamd_model_destroy(kit.model);
    ck_assert_int_eq(ends[1].status, ADAMD_CANCELLED);
    ck_assert_float_lt(first_of(published_of(&ends[0])), 0);
    adamd_published_release(kit.model, published_of(&ends[0]));
    kit.model = NULL;
    ck_assert_uint_eq(backend_deferred_live(kit.deferred), 0);
}
END_TEST

static Suite *published_suite(void) {
    Suite *suite = suite_create("published");
    TCase *tcase = tcase_create("published");

    tcase_set_timeout(tcase, 60); // plain loops over a million parameters
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, a_copy_is_made_once_for_all_who_pull);
    tcase_add_test(tcase, a_pull_waits_for_its_version_and_the_step_publishes_it);
    tcase_add_test(tcase, a_step_publishes_for_a_pusher_that_will_pull);
    tcase_add_test(tcase, a_pull_during_a_step_gets_the_new_version);
    tcase_add_test(tcase, a_copy_asked_for_before_a_step_is_of_the_version_before_it);
    tcase_add_test(tcase, slow_readers_hold_their_versions_and_no_step);
    tcase_add_test(tcase, one_synchronous_worker_takes_24_bytes_a_parameter);
    tcase_add_test(tcase, a_wait_that_is_given_up_is_not_called);
    tcase_add_test(tcase, a_callback_may_give_up_the_next_wait_and_release_its_copy);
    tcase_add_test(tcase, pulls_that_wait_are_bounded);
    tcase_add_test(tcase, a_reader_may_outlive_the_model);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(published_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
