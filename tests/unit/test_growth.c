// Goal: a group that is added while the model trains disturbs nothing that was there, is there
// whole or not at all, and whatever has the size of the model grows with it.
#include "backend_deferred.h"
#include "modelkit.h"

#include <math.h>

#include <stdlib.h>
#include <string.h>

static struct kit kit;
static struct adamd_wait wait;
static struct kit_end added_end;
static struct adamd_added added;

static const struct adamd_tensor_spec new_tensors[] = {
    {.key = "n0", .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {5}},
    {.key = "n1", .dtype = ADAMD_FLOAT32, .rank = 0}};
static const float values[6] = {1, 2, 3, 4, 5, 6};

static void set_up(void) {
    added_end = (struct kit_end){0};
    added = (struct adamd_added){0};
    wait = (struct adamd_wait){0};
}

static void create(enum adamd_trigger trigger) {
    const struct kit_plan plan = kit_plan(trigger);

    kit_create(&kit, &plan);
}

static struct adamd_group_spec group_of(double lr) {
    struct adamd_group_spec group = {.options = adamd_options_default};

    group.options.lr = lr;
    return group;
}

static struct adamd_addition *begin(double lr) {
    const struct adamd_group_spec group = group_of(lr);
    struct adamd_addition *addition = NULL;
    struct adamd_fault fault = {0};

    ck_assert_msg(adamd_addition_begin(kit.model, new_tensors, 2, &group, &addition, &fault) ==
                      ADAMD_OK,
                  "%s: %s", fault.field, fault.message);
    return addition;
}

static void commit(struct adamd_addition *addition) {
    ck_assert_int_eq(adamd_addition_commit(addition, &added, &wait, kit_on_ready, &added_end, NULL),
                     ADAMD_OK);
}

// With values 1 to 6.
static void add(double lr) {
    struct adamd_addition *addition = begin(lr);

    ck_assert_int_eq(adamd_addition_write(addition, 0, values, 8, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_addition_write(addition, 1, values + 5, 4, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_addition_write(addition, 0, values + 2, 12, NULL), ADAMD_OK);
    commit(addition);
}

static void check_added(uint32_t group, uint64_t version) {
    ck_assert_int_eq(added_end.count, 1);
    ck_assert_int_eq(added_end.status, ADAMD_OK);
    ck_assert_uint_eq(added.group, group);
    ck_assert_uint_eq(added.first_tensor, 2);
    ck_assert_uint_eq(added.tensor_count, 2);
    ck_assert_uint_eq(added.version, version);
}

static void push(uint64_t epoch, uint64_t sequence, float value, struct kit_end *end) {
    const struct adamd_push_head head = kit_head("a", epoch, sequence);

    ck_assert_int_eq(kit_push(&kit, &head, value, end), ADAMD_OK);
}

START_TEST(a_new_group_has_its_values_and_leaves_the_others_alone)
{
    static struct kit_end end;
    float old[20];
    float before[20];
    float now[20];
    uint64_t epoch;

    create(ADAMD_EACH_PUSH);
    epoch = kit_register(&kit, "a", 0);
    push(epoch, 1, 1, &end);
    kit_run(&kit);
    kit_params(&kit, 1, before);
    add(0.5);
    kit_run(&kit);
    check_added(1, 1);
    ck_assert_uint_eq(adamd_model_layout(kit.model)->tensor_count, 4);
    ck_assert_uint_eq(adamd_model_layout(kit.model)->wire_bytes, 4 * 29);
    kit_params(&kit, 1, old);
    ck_assert_mem_eq(old, before, sizeof old);
    kit_params(&kit, 2, now);
    ck_assert_mem_eq(now, values, 20);
    kit_params(&kit, 3, now);
    ck_assert_float_eq(now[0], 6);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 1);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 2), 0);
    ck_assert_uint_eq(adamd_model_group_of(kit.model, 3), 1);
    ck_assert_uint_eq(adamd_model_group_since(kit.model, 1), 2);
    // The next step is the new ones' first, with their own lr, and the others' second.
    push(epoch, 2, 1, &end);
    kit_run(&kit);
    kit_params(&kit, 2, now);
    ck_assert_float_eq_tol(now[0], 0.5F, 1e-6F);
    kit_params(&kit, 1, now);
    ck_assert_float_eq_tol(now[0], -2e-3F, 1e-6F);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 2), 1);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 2);
    kit_destroy(&kit);
}
END_TEST

START_TEST(without_values_the_new_parameters_are_zeros)
{
    float now[20] = {9};

    create(ADAMD_EACH_PUSH);
    commit(begin(1));
    kit_run(&kit);
    check_added(1, 0);
    kit_params(&kit, 2, now);
    for (int i = 0; i < 5; i++) {
        ck_assert_float_eq(now[i], 0);
    }
    kit_destroy(&kit);
}
END_TEST

START_TEST(the_bits_are_those_of_a_model_that_had_the_group_from_the_start)
{
    static const uint64_t counts[] = {3, 20, 5, 1};
    static const uint32_t first[] = {0, 1};
    struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);
    static struct kit_end end;
    float grown[4][20] = {{0}};
    float whole[4][20] = {{0}};
    struct adamd_push_head head;
    uint64_t epoch;

    // Grown at version 1.
    kit_create(&kit, &plan);
    epoch = kit_register(&kit, "a", 0);
    push(epoch, 1, 0.5F, &end);
    kit_run(&kit);
    commit(begin(1e-3));
    kit_run(&kit);
    push(epoch, 2, 0.25F, &end);
    kit_run(&kit);
    for (uint32_t i = 0; i < 4; i++) {
        kit_params(&kit, i, grown[i]);
    }
    kit_destroy(&kit);
    // With them all along, and no gradient for them in the first push.
    plan.counts = counts;
    plan.tensor_count = 4;
    kit_create(&kit, &plan);
    epoch = kit_register(&kit, "a", 0);
    head = kit_head("a", epoch, 1);
    head.tensors = first;
    head.tensor_count = 2;
    ck_assert_int_eq(kit_push(&kit, &head, 0.5F, &end), ADAMD_OK);
    kit_run(&kit);
    push(epoch, 2, 0.25F, &end);
    kit_run(&kit);
    for (uint32_t i = 0; i < 4; i++) {
        kit_params(&kit, i, whole[i]);
    }
    ck_assert_mem_eq(whole, grown, sizeof whole);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_step_in_flight_ends_before_the_group_is_there)
{
    static struct kit_end end;

    create(ADAMD_EACH_PUSH);
    push(kit_register(&kit, "a", 0), 1, 1, &end);
    add(1);
    ck_assert_int_eq(added_end.count, 0);
    ck_assert_uint_eq(adamd_model_layout(kit.model)->tensor_count, 2);
    kit_run_one(&kit);
    check_added(1, 1);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    kit_run(&kit);
    kit_destroy(&kit);
}
END_TEST

START_TEST(what_was_accumulated_survives)
{
    static struct kit_end ends[3];
    static struct kit_end stepped;
    float now[20];
    uint64_t epoch;

    create(ADAMD_MANUAL);
    epoch = kit_register(&kit, "a", 0);
    push(epoch, 1, 1, &ends[0]);
    push(epoch, 2, 1, &ends[1]);
    kit_run(&kit);
    add(0.5);
    kit_run(&kit);
    check_added(1, 0);
    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &stepped, NULL),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(stepped.status, ADAMD_OK);
    ck_assert_double_eq_tol(stepped.record->grad_norm, 2 * sqrt(23), 1e-12);
    kit_params(&kit, 2, now); // no gradient: not stepped
    ck_assert_mem_eq(now, values, 20);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 2), 0);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 1);
    // The next push is of all, and adds to what is there.
    push(epoch, 3, 1, &ends[2]);
    kit_run(&kit);
    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &stepped, NULL),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_double_eq_tol(stepped.record->grad_norm, sqrt(9 * 23 + 6), 1e-12);
    kit_params(&kit, 2, now);
    ck_assert_float_eq_tol(now[0], 0.5F, 1e-6F);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_push_that_was_on_its_way_is_of_the_parameters_that_there_were)
{
    static const float ones[23] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                   1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static struct kit_end end;
    struct adamd_push_head head;
    struct adamd_push *push_handle;
    enum adamd_status status;

    create(ADAMD_EACH_PUSH);
    head = kit_head("a", kit_register(&kit, "a", 0), 1);
    push_handle = kit_begin(&kit, &head, &end, &status);
    ck_assert_int_eq(status, ADAMD_OK);
    ck_assert_int_eq(adamd_push_append(push_handle, ones, 40, NULL), ADAMD_OK);
    add(1);
    kit_run(&kit);
    check_added(1, 0);
    ck_assert_int_eq(adamd_push_append(push_handle, ones, 52, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_push_append(push_handle, ones, 4, NULL), ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(adamd_push_commit(push_handle, kit.now_ms, NULL), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    ck_assert_double_eq_tol(end.outcome.grad_norm, sqrt(23), 1e-12);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 1);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 2), 0);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_round_that_is_open_goes_on)
{
    static struct kit_end ends[2];
    struct adamd_push_head head;
    uint64_t epochs[2];
    float now[20];

    create(ADAMD_BARRIER);
    epochs[0] = kit_register(&kit, "a", 0);
    epochs[1] = kit_register(&kit, "b", 1);
    push(epochs[0], 1, 1, &ends[0]);
    commit(begin(1));
    kit_run(&kit);
    check_added(1, 0);
    head = kit_head("b", epochs[1], 1); // of the new layout
    ck_assert_int_eq(kit_push(&kit, &head, 3, &ends[1]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(ends[0].outcome.kind, ADAMD_APPLIED);
    ck_assert_int_eq(ends[1].outcome.kind, ADAMD_APPLIED);
    // Means: 2 for the old ones; 1.5 for the new ones, since a missing one counts as zeros.
    ck_assert_double_eq_tol(ends[1].outcome.grad_norm, sqrt(23 * 4 + 6 * 2.25), 1e-12);
    kit_params(&kit, 2, now);
    ck_assert_float_eq_tol(now[0], -1, 1e-6F);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_push_of_the_old_size_is_refused)
{
    static struct kit_end end;
    struct adamd_push_head head;
    enum adamd_status status;

    create(ADAMD_EACH_PUSH);
    head = kit_head("a", kit_register(&kit, "a", 0), 1);
    head.byte_size = 92;
    add(1);
    kit_run(&kit);
    ck_assert_ptr_null(kit_begin(&kit, &head, &end, &status));
    ck_assert_int_eq(status, ADAMD_LAYOUT_MISMATCH);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_reader_keeps_the_copy_that_it_has)
{
    static struct kit_end pulled;
    struct adamd_wait pull = {0};
    const struct adamd_published *published;
    float now[20];

    create(ADAMD_EACH_PUSH);
    adamd_model_pull(kit.model, 0, &pull, kit_on_ready, &pulled);
    kit_run(&kit);
    published = pulled.what;
    add(1);
    kit_run(&kit);
    check_added(1, 0);
    ck_assert_float_eq(((const float *)(const void *)published->host)[0], 0);
    kit_params(&kit, 2, now);
    ck_assert_mem_eq(now, values, 20);
    adamd_published_release(kit.model, published);
    kit_params(&kit, 2, now);
    ck_assert_mem_eq(now, values, 20);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_capture_is_waited_for_until_it_is_detached)
{
    static struct kit_end captured;
    static struct kit_end end;
    struct adamd_wait capture = {0};
    const uint64_t epoch = (create(ADAMD_EACH_PUSH), kit_register(&kit, "a", 0));

    adamd_model_capture(kit.model, &capture, kit_on_ready, &captured);
    kit_run(&kit);
    add(1);
    kit_run(&kit);
    ck_assert_int_eq(added_end.count, 0);
    push(epoch, 1, 1, &end); // steps go on meanwhile
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    if (_i == 0) {
        adamd_capture_detach(kit.model, captured.what);
        kit_run(&kit);
        check_added(1, 1);
        adamd_capture_release(kit.model, captured.what);
    } else {
        adamd_capture_release(kit.model, captured.what);
        kit_run(&kit);
        check_added(1, 1);
    }
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_group_and_a_state_exclude_each_other)
{
    const struct adamd_group_spec group = group_of(1);
    struct adamd_addition *addition;
    struct adamd_addition *second = NULL;
    struct adamd_restore *restore = NULL;

    create(ADAMD_EACH_PUSH);
    addition = begin(1);
    ck_assert_int_eq(adamd_restore_begin(kit.model, &restore, NULL), ADAMD_OPERATION_RUNNING);
    ck_assert_int_eq(adamd_addition_begin(kit.model, new_tensors, 2, &group, &second, NULL),
                     ADAMD_OPERATION_RUNNING);
    adamd_addition_abandon(addition);
    ck_assert_int_eq(adamd_restore_begin(kit.model, &restore, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_addition_begin(kit.model, new_tensors, 2, &group, &second, NULL),
                     ADAMD_OPERATION_RUNNING);
    adamd_restore_abandon(restore);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).group_count, 1);
    kit_destroy(&kit);
}
END_TEST

START_TEST(what_cannot_be_added_is_said_and_adds_nothing)
{
    struct adamd_tensor_spec tensor = {.key = "t0", .dtype = ADAMD_FLOAT32, .rank = 0};
    struct adamd_group_spec group = group_of(-1);
    struct adamd_addition *addition = NULL;
    struct adamd_fault fault = {0};

    create(ADAMD_EACH_PUSH);
    ck_assert_int_eq(adamd_addition_begin(kit.model, new_tensors, 2, &group, &addition, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "lr");
    ck_assert_str_eq(fault.message, "Invalid learning rate: -1.0");
    group = group_of(1);
    ck_assert_int_eq(adamd_addition_begin(kit.model, &tensor, 1, &group, &addition, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "tensors[0].key");
    group.keys.unnamed = true;
    ck_assert_int_eq(adamd_addition_begin(kit.model, new_tensors, 2, &group, &addition, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.message,
                     "all optimizer param groups should be with/without names. cannot add param "
                     "group without names to the optimizer");
    addition = begin(1);
    ck_assert_int_eq(adamd_addition_write(addition, 0, values, 16, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_addition_write(addition, 0, values, 8, &fault), ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(
        adamd_addition_commit(addition, &added, &wait, kit_on_ready, &added_end, &fault),
        ADAMD_LAYOUT_MISMATCH);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).group_count, 1);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).config_count, 0);
    kit_destroy(&kit);
}
END_TEST

START_TEST(an_empty_group_can_be_added)
{
    const struct adamd_group_spec group = group_of(0.5);
    struct adamd_addition *addition = NULL;
    static struct kit_end end;

    create(ADAMD_EACH_PUSH);
    ck_assert_int_eq(adamd_addition_begin(kit.model, NULL, 0, &group, &addition, NULL), ADAMD_OK);
    commit(addition);
    ck_assert_int_eq(added_end.count, 1);
    ck_assert_uint_eq(added.group, 1);
    ck_assert_uint_eq(adamd_model_layout(kit.model)->tensor_count, 2);
    push(kit_register(&kit, "a", 0), 1, 1, &end);
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    kit_destroy(&kit);
}
END_TEST

START_TEST(amsgrad_comes_with_the_group_that_asks_for_it)
{
    struct adamd_group_spec group = group_of(1);
    struct adamd_addition *addition = NULL;
    static struct kit_end end;

    create(ADAMD_EACH_PUSH);
    group.options.amsgrad = true;
    ck_assert_int_eq(adamd_addition_begin(kit.model, new_tensors, 2, &group, &addition, NULL),
                     ADAMD_OK);
    commit(addition);
    push(kit_register(&kit, "a", 0), 1, 1, &end);
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    kit_destroy(&kit);
}
END_TEST

START_TEST(steps_that_wait_with_options_of_their_own_still_run)
{
    static struct kit_end ends[2];
    static struct kit_end stepped[2];
    struct adamd_options options = adamd_options_default;
    float now[20];

    create(ADAMD_MANUAL);
    push(kit_register(&kit, "a", 0), 1, 1, &ends[0]);
    options.lr = 1;
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(
            adamd_model_step(kit.model, UINT64_MAX, &options, kit_on_stepped, &stepped[i], NULL),
            ADAMD_OK);
    }
    add(1);
    kit_run(&kit);
    ck_assert_int_eq(stepped[1].count, 1);
    ck_assert_int_eq(stepped[1].status, ADAMD_OK);
    ck_assert_int_eq(added_end.count, 1);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 2);
    kit_params(&kit, 0, now);
    ck_assert_float_eq_tol(now[0], -2, 1e-5F);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_group_outlives_neither_its_model_nor_the_other_way_round)
{
    struct adamd_addition *addition;

    create(ADAMD_EACH_PUSH);
    addition = begin(1);
    ck_assert_int_eq(adamd_addition_write(addition, 0, values, 8, NULL), ADAMD_OK);
    adamd_model_destroy(kit.model);
    ck_assert_int_eq(adamd_addition_write(addition, 0, values, 8, NULL), ADAMD_CANCELLED);
    adamd_addition_abandon(addition);
    kit.model = NULL;
    kit_destroy(&kit);
    // Destroyed with the copies in flight.
    create(ADAMD_EACH_PUSH);
    add(1);
    ck_assert_int_eq(added_end.count, 1);
    kit_destroy(&kit);
}
END_TEST

START_TEST(growing_stays_within_the_models_memory)
{
    struct adamd_tensor_spec large = {
        .key = "large", .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {1 << 20}};
    const struct adamd_tensor_spec first = {
        .key = "w", .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {16}};
    static const uint32_t index = 0;
    struct adamd_group_spec group = group_of(1);
    struct adamd_model_spec spec = {.tensors = &first,
                                    .tensor_count = 1,
                                    .groups = &group,
                                    .group_count = 1,
                                    .slots_max = 2,
                                    .published_max = 2,
                                    .resident_bytes_max = 1 << 20};
    struct adamd_addition *addition = NULL;
    struct adamd_fault fault = {0};

    create(ADAMD_EACH_PUSH);
    adamd_model_destroy(kit.model);
    kit_run(&kit);
    group.tensors = &index;
    group.tensor_count = 1;
    ck_assert_int_eq(adamd_model_create(kit.queue, &spec, &kit.model, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_addition_begin(kit.model, &large, 1, &group, &addition, &fault),
                     ADAMD_TOO_LARGE);
    ck_assert_str_eq(fault.field, "tensors");
    kit_destroy(&kit);
}
END_TEST

static Suite *growth_suite(void) {
    Suite *suite = suite_create("growth");
    TCase *tcase = tcase_create("growth");

    tcase_add_checked_fixture(tcase, set_up, NULL);
    tcase_add_test(tcase, a_new_group_has_its_values_and_leaves_the_others_alone);
    tcase_add_test(tcase, without_values_the_new_parameters_are_zeros);
    tcase_add_test(tcase, the_bits_are_those_of_a_model_that_had_the_group_from_the_start);
    tcase_add_test(tcase, a_step_in_flight_ends_before_the_group_is_there);
    tcase_add_test(tcase, what_was_accumulated_survives);
    tcase_add_test(tcase, a_push_that_was_on_its_way_is_of_the_parameters_that_there_were);
    tcase_add_test(tcase, a_round_that_is_open_goes_on);
    tcase_add_test(tcase, a_push_of_the_old_size_is_refused);
    tcase_add_test(tcase, a_reader_keeps_the_copy_that_it_has);
    tcase_add_loop_test(tcase, a_capture_is_waited_for_until_it_is_detached, 0, 2);
    tcase_add_test(tcase, a_group_and_a_state_exclude_each_other);
    tcase_add_test(tcase, what_cannot_be_added_is_said_and_adds_nothing);
    tcase_add_test(tcase, an_empty_group_can_be_added);
    tcase_add_test(tcase, amsgrad_comes_with_the_group_that_asks_for_it);
    tcase_add_test(tcase, steps_that_wait_with_options_of_their_own_still_run);
    tcase_add_test(tcase, a_group_outlives_neither_its_model_nor_the_other_way_round);
    tcase_add_test(tcase, growing_stays_within_the_models_memory);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(growth_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
