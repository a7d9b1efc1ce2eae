// MANUAL: what backward(), step() and zero_grad() do in PyTorch.
#include "backend_deferred.h"
#include "modelkit.h"

#include <float.h>
#include <math.h>
#include <string.h>

static struct kit kit;
static uint64_t epoch;
static uint64_t sequence;

static void set_up(void) {
    const struct kit_plan plan = kit_plan(ADAMD_MANUAL);

    kit_create(&kit, &plan);
    epoch = kit_register(&kit, "a", 0);
    sequence = 0;
}

static void tear_down(void) {
    kit_destroy(&kit);
}

static struct kit_end push(float value, const uint32_t *tensors, uint32_t count, bool replace) {
    struct adamd_push_head head = kit_head("a", epoch, ++sequence);
    struct kit_end end;

    head.tensors = tensors;
    head.tensor_count = count;
    head.replace = replace;
    ck_assert_int_eq(kit_push(&kit, &head, value, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.outcome.kind, ADAMD_STAGED);
    return end;
}

static const struct adamd_step_record *step(void) {
    struct kit_end end = {0};

    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &end, NULL),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_OK);
    return end.record;
}

START_TEST(pushes_add_up_until_zero_grad)
{
    const struct adamd_step_record *record;

    push(1, NULL, 0, false);
    push(2, NULL, 0, false);
    record = step();
    ck_assert_double_eq_tol(record->grad_norm, 3 * sqrt(23), 1e-5);
    ck_assert_uint_eq(record->version, 1);
    // The gradient stays: PyTorch's user who forgets zero_grad() gets this too.
    ck_assert_double_eq_tol(step()->grad_norm, 3 * sqrt(23), 1e-5);
    push(-1, NULL, 0, false);
    ck_assert_double_eq_tol(step()->grad_norm, 2 * sqrt(23), 1e-5);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 3);
}
END_TEST

START_TEST(replace_replaces_only_what_is_pushed)
{
    const uint32_t first = 0;

    push(1, NULL, 0, false);
    push(5, &first, 1, true);
    ck_assert_double_eq_tol(step()->grad_norm, sqrt(3 * 25 + 20), 1e-5);
}
END_TEST

START_TEST(a_parameter_without_a_gradient_is_skipped_and_one_with_zeros_is_stepped)
{
    const uint32_t first = 0;
    float values[20];

    push(1, NULL, 0, false);
    step();
    ck_assert_int_eq(adamd_model_zero_grad(kit.model, true, NULL), ADAMD_OK);
    push(0, &first, 1, false);
    step();
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 2);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 1);
    kit_params(&kit, 0, values);
    ck_assert_float_lt(values[0], -1.2e-3F); // momentum moves it on
    kit_params(&kit, 1, values);
    ck_assert_float_eq_tol(values[0], -1e-3F, 1e-8F);
}
END_TEST

START_TEST(set_to_none_forgets_and_false_keeps_zeros)
{
    const uint32_t first = 0;

    push(1, &first, 1, false);
    ck_assert_int_eq(adamd_model_zero_grad(kit.model, false, NULL), ADAMD_OK);
    ck_assert_double_eq(step()->grad_norm, 0);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 1);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 0); // None stays None
    push(2, NULL, 0, false);
    ck_assert_double_eq_tol(step()->grad_norm, 2 * sqrt(23), 1e-5);
    ck_assert_int_eq(adamd_model_zero_grad(kit.model, true, NULL), ADAMD_OK);
    ck_assert_ptr_null(step());
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 2);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).slots_in_use, 0);
}
END_TEST

START_TEST(tensors_join_the_gradient_one_by_one)
{
    const uint32_t first = 0;
    const uint32_t second = 1;

    push(2, &second, 1, false);
    push(1, &first, 1, false); // copied: there was none
    push(1, NULL, 0, false);   // added to both
    ck_assert_double_eq_tol(step()->grad_norm, sqrt(3 * 4 + 20 * 9), 1e-5);
}
END_TEST

START_TEST(a_repeat_of_a_step_gets_its_record)
{
    struct kit_end ends[5] = {{0}};

    push(1, NULL, 0, false);
    for (int i = 0; i < 2; i++) { // the second while the first is in flight
        ck_assert_int_eq(adamd_model_step(kit.model, 0, NULL, kit_on_stepped, &ends[i], NULL),
                         ADAMD_OK);
    }
    kit_run(&kit);
    ck_assert_int_eq(adamd_model_step(kit.model, 0, NULL, kit_on_stepped, &ends[2], NULL),
                     ADAMD_OK);
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(ends[i].count, 1);
        ck_assert_int_eq(ends[i].duplicate, i > 0);
        ck_assert_uint_eq(ends[i].record->version, 1);
    }
    ck_assert_int_eq(adamd_model_step(kit.model, 2, NULL, kit_on_stepped, &ends[3], NULL),
                     ADAMD_ETAG_MISMATCH);
    ck_assert_int_eq(adamd_model_step(kit.model, 1, NULL, kit_on_stepped, &ends[4], NULL),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert(!ends[4].duplicate);
    ck_assert_uint_eq(ends[4].record->version, 2);
}
END_TEST

START_TEST(what_is_asked_for_behind_a_step_comes_behind_it)
{
    struct kit_end steps[3] = {{0}};
    struct kit_end pushed;
    struct adamd_push_head head;

    push(1, NULL, 0, false);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(
            adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &steps[i], NULL),
            ADAMD_OK);
    }
    ck_assert_int_eq(adamd_model_zero_grad(kit.model, true, NULL), ADAMD_OK);
    head = kit_head("a", epoch, ++sequence);
    ck_assert_int_eq(kit_push(&kit, &head, 7, &pushed), ADAMD_OK);
    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &steps[2], NULL),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_double_eq_tol(steps[1].record->grad_norm, sqrt(23), 1e-5);
    ck_assert_double_eq_tol(steps[2].record->grad_norm, 7 * sqrt(23), 1e-5);
    ck_assert_uint_eq(steps[2].record->version, 3);
}
END_TEST

START_TEST(a_slot_that_a_step_reads_is_not_received_into)
{
    struct kit_end stepped = {0};
    struct kit_end pushed;
    struct adamd_push_head head;

    push(1, NULL, 0, false);
    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &stepped, NULL),
                     ADAMD_OK);
    ck_assert_int_eq(adamd_model_zero_grad(kit.model, true, NULL), ADAMD_OK);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).slots_in_use, 1);
    head = kit_head("a", epoch, ++sequence);
    ck_assert_int_eq(kit_push(&kit, &head, 9, &pushed), ADAMD_OK);
    kit_run(&kit);
    ck_assert_double_eq_tol(stepped.record->grad_norm, sqrt(23), 1e-5);
}
END_TEST

START_TEST(options_of_a_step_hold_for_it_alone)
{
    struct adamd_options options = adamd_options_default;
    struct kit_end end = {0};
    float values[3];

    push(1, NULL, 0, false);
    options.lr = 0.5;
    options.amsgrad = true;
    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, &options, kit_on_stepped, &end, NULL),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_double_eq(end.record->lr, 0.5);
    kit_params(&kit, 0, values);
    ck_assert_float_eq_tol(values[0], -0.5F, 1e-5F);
    ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, 1e-3);
    options.lr = -1;
    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, &options, kit_on_stepped, &end, NULL),
                     ADAMD_BAD_FIELD);
}
END_TEST

START_TEST(a_sum_that_may_overflow_is_refused)
{
    struct adamd_push_head head;
    struct kit_end end;

    push(FLT_MAX / 1.5F, NULL, 0, false);
    head = kit_head("a", epoch, ++sequence);
    ck_assert_int_eq(kit_push(&kit, &head, FLT_MAX / 1.5F, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.status, ADAMD_NONFINITE);
    ck_assert_double_eq_tol(step()->grad_norm / (double)FLT_MAX, sqrt(23) / 1.5, 1e-5);
}
END_TEST

START_TEST(a_skipped_push_does_not_enter_the_gradient)
{
    const struct adamd_policy policy = {.trigger = ADAMD_MANUAL, .nonfinite = ADAMD_NONFINITE_SKIP};
    struct adamd_push_head head;
    struct kit_end end;

    ck_assert_int_eq(adamd_model_set_policy(kit.model, &policy, kit.now_ms, NULL), ADAMD_OK);
    push(1, NULL, 0, false);
    head = kit_head("a", epoch, ++sequence);
    ck_assert_int_eq(kit_push(&kit, &head, NAN, &end), ADAMD_OK);
    ck_assert_int_eq(end.outcome.kind, ADAMD_SKIPPED_NONFINITE);
    ck_assert_uint_eq(adamd_model_next_record(kit.model, 0)->counts.skipped, 1);
    ck_assert_double_eq_tol(step()->grad_norm, sqrt(23), 1e-5);
}
END_TEST

START_TEST(steps_are_for_manual_models_and_manual_gradients_hold_the_trigger)
{
    const struct adamd_policy each = {.trigger = ADAMD_EACH_PUSH};
    struct kit_end end = {0};
    struct adamd_fault fault;

    push(1, NULL, 0, false);
    ck_assert_int_eq(adamd_model_set_policy(kit.model, &each, kit.now_ms, &fault), ADAMD_BAD_FIELD);
    ck_assert_int_eq(adamd_model_zero_grad(kit.model, true, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_model_set_policy(kit.model, &each, kit.now_ms, &fault), ADAMD_OK);
    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &end, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_int_eq(adamd_model_zero_grad(kit.model, true, &fault), ADAMD_BAD_FIELD);
}
END_TEST

START_TEST(many_scattered_tensors_are_added_through_a_full_backend)
{
    enum { TENSORS = 1200 };
    static uint64_t element_counts[TENSORS];
    static uint32_t odd[TENSORS / 2];
    struct kit_plan plan = kit_plan(ADAMD_MANUAL);

    for (uint32_t i = 0; i < TENSORS; i++) {
        element_counts[i] = 1 + i % 3;
        odd[i / 2] = i | 1;
    }
    tear_down();
    plan.counts = element_counts;
    plan.tensor_count = TENSORS;
    kit_create(&kit, &plan);
    epoch = kit_register(&kit, "a", 0);
    sequence = 0;
    push(1, odd, TENSORS / 2, false);
    push(2, NULL, 0, false); // 600 tensors added, 600 copied, in turns
    // 800 elements on odd indices at 3, 1,600 on even ones at 2; the counts repeat 1, 2, 3.
    ck_assert_double_eq_tol(step()->grad_norm, sqrt(1200 * 9 + 1200 * 4), 1e-4);
}
END_TEST

START_TEST(steps_that_wait_are_bounded)
{
    struct kit_end ends[70] = {{0}};
    enum adamd_status status = ADAMD_OK;
    int count = 0;

    push(1, NULL, 0, false);
    while (status == ADAMD_OK && count < 70) {
        status = adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &ends[count], NULL);
        count += status == ADAMD_OK ? 1 : 0;
    }
    ck_assert_int_eq(status, ADAMD_BUSY);
    kit_run(&kit);
    for (int i = 0; i < count; i++) {
        ck_assert_uint_eq(ends[i].record->version, (uint64_t)i + 1);
    }
}
END_TEST

static Suite *manual_suite(void) {
    Suite *suite = suite_create("manual");
    TCase *tcase = tcase_create("manual");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, pushes_add_up_until_zero_grad);
    tcase_add_test(tcase, replace_replaces_only_what_is_pushed);
    tcase_add_test(tcase, a_parameter_without_a_gradient_is_skipped_and_one_with_zeros_is_stepped);
    tcase_add_test(tcase, set_to_none_forgets_and_false_keeps_zeros);
    tcase_add_test(tcase, tensors_join_the_gradient_one_by_one);
    tcase_add_test(tcase, a_repeat_of_a_step_gets_its_record);
    tcase_add_test(tcase, what_is_asked_for_behind_a_step_comes_behind_it);
    tcase_add_test(tcase, a_slot_that_a_step_reads_is_not_received_into);
    tcase_add_test(tcase, options_of_a_step_hold_for_it_alone);
    tcase_add_test(tcase, a_sum_that_may_overflow_is_refused);
    tcase_add_test(tcase, a_skipped_push_does_not_enter_the_gradient);
    tcase_add_test(tcase, steps_are_for_manual_models_and_manual_gradients_hold_the_trigger);
    tcase_add_test(tcase, many_scattered_tensors_are_added_through_a_full_backend);
    tcase_add_test(tcase, steps_that_wait_are_bounded);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(manual_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
