// Rounds (BARRIER): when they close, who is waited for, and that the order of arrival changes no
// bit.
#include "backend_deferred.h"
#include "modelkit.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WORKERS = 3 };

static struct kit kit;
static uint64_t epochs[WORKERS];
static const char *const names[WORKERS] = {"a", "b", "c"};

static struct adamd_policy policy_of(uint32_t quorum, uint64_t deadline_ms, uint32_t min_workers) {
    return (struct adamd_policy){.trigger = ADAMD_BARRIER,
                                 .quorum = quorum,
                                 .deadline_ms = deadline_ms,
                                 .min_workers = min_workers,
                                 .max_staleness = UINT64_MAX,
                                 .lease_ms = 1000};
}

static void create(struct adamd_policy policy) {
    struct kit_plan plan = kit_plan(ADAMD_BARRIER);

    plan.policy = policy;
    kit_create(&kit, &plan);
    for (uint32_t i = 0; i < WORKERS; i++) {
        epochs[i] = kit_register(&kit, names[i], i);
    }
}

static void set_up(void) {
    create(policy_of(0, 0, 0));
}

static void tear_down(void) {
    kit_destroy(&kit);
}

static enum adamd_status push_as(int worker, uint64_t sequence, float value, struct kit_end *end) {
    const struct adamd_push_head head = kit_head(names[worker], epochs[worker], sequence);
    return kit_push(&kit, &head, value, end);
}

static uint64_t version(void) {
    return adamd_model_info(kit.model, kit.now_ms).version;
}

// Time passes while the workers given keep their leases.
static void wait_with(uint64_t ms, const char *alive) {
    for (uint64_t passed = 0; passed < ms; passed += 100) {
        for (int i = 0; i < WORKERS; i++) {
            if (strstr(alive, names[i]) != NULL) {
                ck_assert_int_eq(
                    adamd_model_renew(kit.model, names[i], epochs[i], kit.now_ms, NULL), ADAMD_OK);
            }
        }
        kit_wait(&kit, 100);
    }
}

START_TEST(a_round_closes_when_all_that_live_have_pushed)
{
    static struct kit_end ends[WORKERS];
    const struct adamd_step_record *record;

    for (int i = 0; i < WORKERS; i++) {
        ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
        ck_assert_int_eq(push_as(i, 1, (float)i, &ends[i]), ADAMD_OK);
    }
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1);
    kit_run(&kit);
    for (int i = 0; i < WORKERS; i++) {
        ck_assert_int_eq(ends[i].count, 1);
        ck_assert_int_eq(ends[i].outcome.kind, ADAMD_APPLIED);
        ck_assert_uint_eq(ends[i].outcome.version, 1);
        ck_assert_uint_eq(ends[i].outcome.contributors, 3);
        ck_assert_double_eq_tol(ends[i].outcome.grad_norm, sqrt(23), 1e-6); // the mean is 1
    }
    record = adamd_model_record_of(kit.model, 1);
    ck_assert_uint_eq(record->contribution_count, 3);
    ck_assert_str_eq(record->contributions[2].worker, "c");
}
END_TEST

START_TEST(any_order_of_arrival_gives_the_same_bits)
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const float values[3] = {0.1F, 1e8F, -0.7F};
    static const float weights[3] = {0.3F, 1.7F, 2.9F};
    uint64_t first[2] = {0};

    for (int o = 0; o < 6; o++) {
        uint64_t digest[2];
        struct kit_end ends[3];
        if (o > 0) {
            tear_down();
            set_up();
        }
        for (uint64_t round = 1; round <= 3; round++) {
            for (int i = 0; i < 3; i++) {
                const int w = orders[(o + (int)round) % 6][i];
                struct adamd_push_head head = kit_head(names[w], epochs[w], round);
                head.weight = (double)weights[w];
                ck_assert_int_eq(kit_push(&kit, &head, values[w], &ends[i]), ADAMD_OK);
            }
            kit_run(&kit);
        }
        ck_assert_uint_eq(version(), 3);
        kit_digest(&kit, digest);
        if (o == 0) {
            memcpy(first, digest, sizeof first);
        }
        ck_assert_mem_eq(first, digest, sizeof first);
    }
}
END_TEST

START_TEST(a_dead_worker_is_waited_for_until_its_lease_ends)
{
    static struct kit_end ends[2];

    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    wait_with(900, "ab");
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
    wait_with(200, "ab");
    kit_run(&kit);
    ck_assert_int_eq(ends[0].outcome.kind, ADAMD_APPLIED);
    ck_assert_uint_eq(ends[0].outcome.contributors, 2);
}
END_TEST

START_TEST(what_a_worker_staged_before_it_died_counts)
{
    static struct kit_end ends[3];

    ck_assert_int_eq(push_as(2, 1, 3, &ends[2]), ADAMD_OK);
    wait_with(1500, "ab");
    ck_assert_int_eq(push_as(0, 1, 0, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push_as(1, 1, 0, &ends[1]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(ends[2].outcome.contributors, 3);
    ck_assert_double_eq_tol(ends[2].outcome.grad_norm, sqrt(23), 1e-6);
}
END_TEST

START_TEST(a_deadline_closes_a_round_only_with_its_quorum)
{
    static struct kit_end ends[2];

    tear_down();
    create(policy_of(2, 500, 0));
    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    wait_with(600, "abc");
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
    ck_assert_uint_lt(kit.now_ms, adamd_model_next_due(kit.model, kit.now_ms));
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK); // the deadline has passed already
    kit_run(&kit);
    ck_assert_uint_eq(ends[1].outcome.contributors, 2);
    ck_assert_uint_eq(version(), 1);
}
END_TEST

START_TEST(a_quorum_waits_for_its_deadline)
{
    static struct kit_end ends[2];
    uint64_t due;

    tear_down();
    create(policy_of(2, 300, 0));
    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    due = adamd_model_next_due(kit.model, kit.now_ms);
    ck_assert_uint_le(due, kit.now_ms + 300);
    wait_with(200, "abc");
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
    wait_with(100, "abc");
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1);
}
END_TEST

START_TEST(a_deadline_without_a_quorum_closes_nothing)
{
    static struct kit_end end;

    tear_down();
    create(policy_of(0, 300, 0));
    ck_assert_int_eq(push_as(0, 1, 1, &end), ADAMD_OK);
    wait_with(3000, "abc");
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
}
END_TEST

START_TEST(no_round_is_smaller_than_min_workers)
{
    static struct kit_end ends[2];

    tear_down();
    create(policy_of(0, 0, 2));
    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    wait_with(3000, "a");
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1);
}
END_TEST

START_TEST(a_worker_that_leaves_is_not_waited_for)
{
    static struct kit_end ends[2];

    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(adamd_model_deregister(kit.model, "c", 0, kit.now_ms, NULL), ADAMD_OK);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1);
}
END_TEST

START_TEST(a_worker_that_starts_again_is_expected_again)
{
    static struct kit_end ends[4];

    ck_assert_int_eq(push_as(2, 1, 9, &ends[3]), ADAMD_OK);
    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    epochs[2] = kit_register(&kit, "c", UINT32_MAX);
    ck_assert_int_eq(ends[3].status, ADAMD_FENCED);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
    ck_assert_int_eq(push_as(2, 1, 1, &ends[2]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(ends[2].outcome.contributors, 3);
    ck_assert_double_eq_tol(ends[2].outcome.grad_norm, sqrt(23), 1e-6);
}
END_TEST

START_TEST(a_late_push_of_a_closed_round_is_stale)
{
    static struct kit_end ends[3];
    struct adamd_push_head head;
    enum adamd_status status;

    tear_down();
    create(policy_of(2, 100, 0));
    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    wait_with(100, "abc");
    head = kit_head("c", epochs[2], 1);
    head.has_base_version = true;
    ck_assert_int_eq(kit_push(&kit, &head, 1, &ends[2]), ADAMD_OK); // its round's step is in flight
    kit_run(&kit);
    ck_assert_int_eq(ends[2].outcome.kind, ADAMD_OUTCOME_STALE);
    ck_assert_uint_eq(ends[2].outcome.version, 1);
    head.sequence = 2;
    ck_assert_ptr_null(kit_begin(&kit, &head, &ends[2], &status));
    ck_assert_int_eq(status, ADAMD_STALE);
    head.sequence = 3;
    head.base_version = 1;
    ck_assert_int_eq(kit_push(&kit, &head, 1, &ends[2]), ADAMD_OK);
    ck_assert_int_eq(ends[2].count, 0);
}
END_TEST

START_TEST(a_worker_has_one_push_in_a_round_and_its_next_waits)
{
    static struct kit_end ends[4];

    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push_as(0, 2, 1, &ends[3]), ADAMD_OK);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(push_as(2, 1, 1, &ends[2]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(version(), 1);
    ck_assert_int_eq(ends[0].count, 1);
    ck_assert_int_eq(ends[3].count, 0);
    ck_assert_int_eq(push_as(1, 2, 1, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(push_as(2, 2, 1, &ends[2]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(ends[3].outcome.version, 2);
}
END_TEST

START_TEST(weights_weigh)
{
    static struct kit_end end;
    float values[3];

    for (int i = 0; i < WORKERS; i++) {
        struct adamd_push_head head = kit_head(names[i], epochs[i], 1);
        head.weight = i + 1;
        ck_assert_int_eq(kit_push(&kit, &head, (float)(i == 2 ? 4 : 1), &end), ADAMD_OK);
    }
    kit_run(&kit); // (1 + 2 + 3 * 4) / 6
    ck_assert_double_eq_tol(end.outcome.grad_norm, 2.5 * sqrt(23), 1e-5);
    kit_params(&kit, 0, values);
    ck_assert_float_eq_tol(values[0], -1e-3F, 1e-8F);
    ck_assert_double_eq(adamd_model_record_of(kit.model, 1)->weight, 6);
}
END_TEST

START_TEST(a_missing_gradient_counts_as_zero_and_one_that_nobody_has_is_skipped)
{
    const uint32_t first = 0;
    struct adamd_push_head head;
    static struct kit_end end;
    float values[20];

    for (int i = 0; i < WORKERS; i++) {
        head = kit_head(names[i], epochs[i], 1);
        head.tensors = &first;
        head.tensor_count = 1;
        ck_assert_int_eq(kit_push(&kit, &head, 3, &end), ADAMD_OK);
    }
    kit_run(&kit);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 0);
    ck_assert_double_eq_tol(end.outcome.grad_norm, 3 * sqrt(3), 1e-5);
    for (int i = 0; i < WORKERS; i++) {
        head = kit_head(names[i], epochs[i], 2);
        head.tensors = i == 1 ? NULL : &first;
        head.tensor_count = i == 1 ? 0 : 1;
        ck_assert_int_eq(kit_push(&kit, &head, 3, &end), ADAMD_OK);
    }
    kit_run(&kit);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 2);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 1);
    // 3 elements of 3, and 20 of 3 / 3: one of three had them.
    ck_assert_double_eq_tol(end.outcome.grad_norm, sqrt(3 * 9 + 20), 1e-5);
    kit_params(&kit, 1, values);
    ck_assert_float_eq_tol(values[0], -1e-3F, 1e-8F);
}
END_TEST

static void set_nonfinite(enum adamd_nonfinite nonfinite) {
    struct adamd_policy policy = policy_of(0, 0, 0);

    policy.nonfinite = nonfinite;
    ck_assert_int_eq(adamd_model_set_policy(kit.model, &policy, kit.now_ms, NULL), ADAMD_OK);
}

START_TEST(one_workers_nan_is_skipped_and_the_others_step)
{
    static struct kit_end ends[3];

    set_nonfinite(ADAMD_NONFINITE_SKIP);
    ck_assert_int_eq(push_as(0, 1, NAN, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(push_as(2, 1, 1, &ends[2]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(ends[0].outcome.kind, ADAMD_SKIPPED_NONFINITE);
    ck_assert_uint_eq(ends[0].outcome.version, 1);
    ck_assert_int_eq(ends[1].outcome.kind, ADAMD_APPLIED);
    ck_assert_uint_eq(ends[1].outcome.contributors, 2);
    ck_assert_double_eq_tol(ends[1].outcome.grad_norm, sqrt(23), 1e-6);
}
END_TEST

START_TEST(a_round_of_nothing_but_nan_is_skipped_whole)
{
    static struct kit_end ends[3];

    set_nonfinite(ADAMD_NONFINITE_SKIP);
    for (int i = 0; i < WORKERS; i++) {
        ck_assert_int_eq(push_as(i, 1, INFINITY, &ends[i]), ADAMD_OK);
    }
    kit_run(&kit);
    for (int i = 0; i < WORKERS; i++) {
        ck_assert_int_eq(ends[i].outcome.kind, ADAMD_SKIPPED_NONFINITE);
    }
    ck_assert_uint_eq(version(), 0);
    ck_assert(adamd_model_next_record(kit.model, 0)->skipped);
    ck_assert_uint_eq(adamd_model_next_record(kit.model, 0)->contribution_count, 3);
}
END_TEST

START_TEST(a_sum_that_may_overflow_is_treated_as_not_finite)
{
    static const enum adamd_nonfinite policies[] = {ADAMD_NONFINITE_SKIP, ADAMD_NONFINITE_REJECT,
                                                    ADAMD_NONFINITE_ALLOW};
    static struct kit_end ends[3];
    uint64_t before[2];
    uint64_t after[2];

    set_nonfinite(policies[_i]);
    kit_digest(&kit, before);
    for (int i = 0; i < WORKERS; i++) {
        ck_assert_int_eq(push_as(i, 1, FLT_MAX / 2, &ends[i]), ADAMD_OK);
    }
    kit_run(&kit);
    for (int i = 0; i < WORKERS; i++) {
        ck_assert_int_eq(ends[i].count, 1);
        ck_assert_int_eq(ends[i].status, _i == 1 ? ADAMD_NONFINITE : ADAMD_OK);
        ck_assert_int_eq(ends[i].outcome.kind, _i == 0   ? ADAMD_SKIPPED_NONFINITE
                                               : _i == 1 ? ADAMD_UNDECIDED
                                                         : ADAMD_APPLIED);
        // A refused number is free again.
        ck_assert_uint_eq(adamd_model_workers(kit.model)->list[i]->last_sequence, _i == 1 ? 0 : 1);
    }
    kit_digest(&kit, after);
    ck_assert_int_eq(memcmp(before, after, sizeof before) == 0, _i != 2);
}
END_TEST

START_TEST(huge_values_that_fit_are_stepped)
{
    static struct kit_end ends[3];

    for (int i = 0; i < WORKERS; i++) {
        ck_assert_int_eq(push_as(i, 1, 1e38F, &ends[i]), ADAMD_OK);
    }
    kit_run(&kit);
    ck_assert_int_eq(ends[0].outcome.kind, ADAMD_APPLIED);
    ck_assert_double_eq_tol(ends[0].outcome.grad_norm / 1e38, sqrt(23), 1e-5);
}
END_TEST

START_TEST(a_standstill_of_the_daemon_expels_nobody)
{
    static struct kit_end ends[3];

    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    kit.now_ms += 60000;
    adamd_model_tick(kit.model, kit.now_ms);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).live_workers, 3);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 0);
    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(push_as(2, 1, 1, &ends[2]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(ends[0].outcome.contributors, 3);
}
END_TEST

START_TEST(draining_aborts_a_round_that_cannot_close)
{
    static struct kit_end ends[2];
    static struct kit_end receiving_end;
    struct adamd_push_head head = kit_head("b", epochs[1], 1);
    enum adamd_status status;
    struct adamd_push *receiving;

    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    receiving = kit_begin(&kit, &head, &receiving_end, &status);
    adamd_model_drain(kit.model, kit.now_ms);
    ck_assert_int_eq(ends[0].count, 0); // a body is still on the way
    adamd_push_abandon(receiving);
    ck_assert_int_eq(ends[0].status, ADAMD_STEP_ABORTED);
    ck_assert(adamd_model_idle(kit.model));
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).counts.aborted, 2);
}
END_TEST

START_TEST(staged_pushes_are_decided_under_a_new_policy)
{
    static struct kit_end ends[2];
    const struct adamd_policy policy = {.trigger = ADAMD_EACH_PUSH, .max_staleness = UINT64_MAX};

    ck_assert_int_eq(push_as(1, 1, 1, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(push_as(0, 1, 1, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(adamd_model_set_policy(kit.model, &policy, kit.now_ms, NULL), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(ends[1].outcome.version, 1);
    ck_assert_uint_eq(ends[0].outcome.version, 2);
}
END_TEST

START_TEST(next_due_never_lies_so_far_that_a_lease_is_missed)
{
    const uint64_t due = adamd_model_next_due(kit.model, kit.now_ms);

    ck_assert_uint_gt(due, kit.now_ms);
    ck_assert_uint_le(due, kit.now_ms + 250);
}
END_TEST

static Suite *round_suite(void) {
    Suite *suite = suite_create("round");
    TCase *tcase = tcase_create("barrier");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, a_round_closes_when_all_that_live_have_pushed);
    tcase_add_test(tcase, any_order_of_arrival_gives_the_same_bits);
    tcase_add_test(tcase, a_dead_worker_is_waited_for_until_its_lease_ends);
    tcase_add_test(tcase, what_a_worker_staged_before_it_died_counts);
    tcase_add_test(tcase, a_deadline_closes_a_round_only_with_its_quorum);
    tcase_add_test(tcase, a_quorum_waits_for_its_deadline);
    tcase_add_test(tcase, a_deadline_without_a_quorum_closes_nothing);
    tcase_add_test(tcase, no_round_is_smaller_than_min_workers);
    tcase_add_test(tcase, a_worker_that_leaves_is_not_waited_for);
    tcase_add_test(tcase, a_worker_that_starts_again_is_expected_again);
    tcase_add_test(tcase, a_late_push_of_a_closed_round_is_stale);
    tcase_add_test(tcase, a_worker_has_one_push_in_a_round_and_its_next_waits);
    tcase_add_test(tcase, weights_weigh);
    tcase_add_test(tcase, a_missing_gradient_counts_as_zero_and_one_that_nobody_has_is_skipped);
    tcase_add_test(tcase, one_workers_nan_is_skipped_and_the_others_step);
    tcase_add_test(tcase, a_round_of_nothing_but_nan_is_skipped_whole);
    tcase_add_loop_test(tcase, a_sum_that_may_overflow_is_treated_as_not_finite, 0, 3);
    tcase_add_test(tcase, huge_values_that_fit_are_stepped);
    tcase_add_test(tcase, a_standstill_of_the_daemon_expels_nobody);
    tcase_add_test(tcase, draining_aborts_a_round_that_cannot_close);
    tcase_add_test(tcase, staged_pushes_are_decided_under_a_new_policy);
    tcase_add_test(tcase, next_due_never_lies_so_far_that_a_lease_is_missed);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(round_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
