// The whole state: out of one version, into another model, and nothing half done.
#include "backend_deferred.h"
#include "modelkit.h"

#include <math.h>
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

static struct kit_end pushed;

static void start_push(float value) {
    struct adamd_push_head head = kit_head("a", epoch, ++sequence);
    ck_assert_int_eq(kit_push(&kit, &head, value, &pushed), ADAMD_OK);
}

static void push_once(float value) {
    start_push(value);
    kit_run(&kit);
    ck_assert_int_eq(pushed.outcome.kind, ADAMD_APPLIED);
}

static const struct adamd_capture *capture(struct kit_end *end) {
    static struct adamd_wait wait;

    *end = (struct kit_end){0};
    adamd_model_capture(kit.model, &wait, kit_on_ready, end);
    kit_run(&kit);
    ck_assert_int_eq(end->count, 1);
    ck_assert_int_eq(end->status, ADAMD_OK);
    return end->what;
}

// Writes all of a capture into a restore, in small odd pieces.
static void refill(struct adamd_restore *restore, const struct adamd_capture *from) {
    const struct adamd_layout *layout = adamd_model_layout(kit.model);

    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        for (uint32_t i = layout->tensor_count; i-- > 0 && from->arrays[array] != NULL;) {
            const unsigned char *bytes = from->arrays[array] + layout->tensors[i].offset;
            const size_t size = (size_t)layout->tensors[i].count * 4;
            for (size_t at = 0; at < size; at += 7) {
                ck_assert_int_eq(adamd_restore_write(restore, (enum adamd_array)array, i,
                                                     bytes + at, size - at < 7 ? size - at : 7,
                                                     NULL),
                                 ADAMD_OK);
            }
        }
    }
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        adamd_restore_step(restore, i, from->steps[i]);
    }
}

static struct adamd_restore *begin(void) {
    struct adamd_restore *restore = NULL;
    ck_assert_int_eq(adamd_restore_begin(kit.model, &restore, NULL), ADAMD_OK);
    return restore;
}

static void write_params(struct adamd_restore *restore, float value) {
    const struct adamd_layout *layout = adamd_model_layout(kit.model);

    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        for (uint64_t k = 0; k < layout->tensors[i].count; k++) {
            ck_assert_int_eq(
                adamd_restore_write(restore, ADAMD_PARAM, i, &value, sizeof value, NULL), ADAMD_OK);
        }
    }
}

START_TEST(a_restored_capture_has_the_same_digest_and_goes_on_with_the_same_bits)
{
    struct kit_end end;
    const struct adamd_capture *state;
    struct adamd_restore *restore;
    struct adamd_capture view;
    struct adamd_wait wait = {0};
    struct kit_end restored = {0};
    uint64_t digests[4][2];

    push_once(1);
    push_once(-3);
    state = capture(&end);
    ck_assert_uint_eq(state->version, 2);
    adamd_state_digest(adamd_model_layout(kit.model), state, 1, digests[0]);
    restore = begin();
    refill(restore, state);
    adamd_capture_release(kit.model, state);
    adamd_restore_view(restore, &view);
    adamd_state_digest(adamd_model_layout(kit.model), &view, 1, digests[1]);
    ck_assert_mem_eq(digests[0], digests[1], sizeof digests[0]);
    push_once(5);
    kit_digest(&kit, digests[2]);
    ck_assert_int_eq(adamd_restore_commit(restore, 2, &wait, kit_on_ready, &restored, NULL),
                     ADAMD_OK);
    ck_assert_int_eq(adamd_model_info(kit.model, kit.now_ms).state, ADAMD_MODEL_RESTORING);
    kit_run(&kit);
    ck_assert_int_eq(restored.status, ADAMD_OK);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).generation, 2);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 2);
    kit_digest(&kit, digests[1]);
    ck_assert_mem_eq(digests[0], digests[1], sizeof digests[0]);
    epoch = kit_register(&kit, "a", 0);
    ck_assert_uint_eq(epoch, 2);
    sequence = 0;
    push_once(5);
    kit_digest(&kit, digests[3]);
    ck_assert_mem_eq(digests[2], digests[3], sizeof digests[2]);
    ck_assert_mem_ne(digests[2], digests[0], sizeof digests[2]);
}
END_TEST

START_TEST(a_capture_is_of_one_version_and_holds_up_no_step)
{
    struct adamd_wait waits[2] = {{0}};
    struct kit_end ends[2] = {{0}};
    const struct adamd_capture *state;
    float value;

    push_once(1);
    start_push(1);
    adamd_model_capture(kit.model, &waits[0], kit_on_ready, &ends[0]);
    adamd_model_capture(kit.model, &waits[1], kit_on_ready, &ends[1]);
    ck_assert_int_eq(ends[1].status, ADAMD_OPERATION_RUNNING);
    start_push(1); // behind the capture
    kit_run(&kit);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 3);
    state = ends[0].what;
    ck_assert_uint_eq(state->version, 2);
    ck_assert_uint_eq(state->steps[0], 2);
    ck_assert_ptr_null(state->arrays[ADAMD_MAX_EXP_AVG_SQ]);
    memcpy(&value, state->arrays[ADAMD_PARAM], sizeof value);
    ck_assert_float_eq_tol(value, -2e-3F, 1e-7F);
    adamd_capture_release(kit.model, state);
    ck_assert_uint_eq(adamd_backend_resident(kit.backend),
                      adamd_model_info(kit.model, kit.now_ms).resident_bytes);
}
END_TEST

START_TEST(a_capture_that_is_given_up_keeps_no_memory)
{
    const uint64_t before = adamd_model_info(kit.model, kit.now_ms).resident_bytes;
    struct adamd_wait wait = {0};
    struct kit_end end = {0};

    adamd_model_capture(kit.model, &wait, kit_on_ready, &end);
    adamd_wait_cancel(&wait);
    kit_run(&kit);
    kit_wait(&kit, 10);
    ck_assert_int_eq(end.count, 0);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).resident_bytes, before);
}
END_TEST

START_TEST(an_abandoned_restore_changes_nothing)
{
    uint64_t before[2];
    uint64_t after[2];
    struct adamd_restore *restore;
    const uint64_t resident = adamd_model_info(kit.model, kit.now_ms).resident_bytes;

    push_once(1);
    kit_digest(&kit, before);
    restore = begin();
    write_params(restore, 4);
    adamd_restore_abandon(restore);
    kit_digest(&kit, after);
    ck_assert_mem_eq(before, after, sizeof before);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).resident_bytes, resident);
}
END_TEST

START_TEST(an_incomplete_restore_names_what_is_missing_and_changes_nothing)
{
    const float value = 1;
    uint64_t before[2];
    uint64_t after[2];
    struct adamd_wait wait = {0};
    struct kit_end end = {0};
    struct adamd_fault fault = {0};
    struct adamd_restore *restore;

    push_once(1);
    kit_digest(&kit, before);
    restore = begin();
    if (_i == 0) {
        ck_assert_int_eq(adamd_restore_write(restore, ADAMD_PARAM, 1, &value, 4, NULL), ADAMD_OK);
    } else {
        write_params(restore, 1);
        ck_assert_int_eq(adamd_restore_write(restore, ADAMD_EXP_AVG, 0, &value, 4, NULL), ADAMD_OK);
    }
    ck_assert_int_eq(adamd_restore_commit(restore, 7, &wait, kit_on_ready, &end, &fault),
                     ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, _i == 0 ? "param" : "exp_avg");
    ck_assert_ptr_nonnull(strstr(fault.message, "t0"));
    ck_assert_int_eq(end.count, 0);
    kit_digest(&kit, after);
    ck_assert_mem_eq(before, after, sizeof before);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).generation, 1);
    push_once(1); // the worker's epoch holds
}
END_TEST

START_TEST(too_many_bytes_are_refused)
{
    const float values[4] = {0};
    struct adamd_restore *restore = begin();
    struct adamd_restore *other = NULL;

    ck_assert_int_eq(adamd_restore_write(restore, ADAMD_PARAM, 0, values, 13, NULL),
                     ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(adamd_restore_begin(kit.model, &other, NULL), ADAMD_OPERATION_RUNNING);
    adamd_restore_abandon(restore);
}
END_TEST

START_TEST(a_restore_ends_all_pushes_in_flight)
{
    struct kit_end ends[3];
    struct kit_end restored = {0};
    struct kit_end future = {0};
    struct adamd_wait waits[2] = {{0}};
    struct adamd_restore *restore = begin();
    struct adamd_push_head head = kit_head("a", epoch, 1);
    struct adamd_push *receiving;
    enum adamd_status status;
    float values[3];

    write_params(restore, 2);
    ck_assert_int_eq(kit_push(&kit, &head, 1, &ends[0]), ADAMD_OK); // its step is in flight
    head.sequence = 2;
    ck_assert_int_eq(kit_push(&kit, &head, 1, &ends[1]), ADAMD_OK);
    head.sequence = 3;
    receiving = kit_begin(&kit, &head, &ends[2], &status);
    adamd_model_pull(kit.model, 100, &waits[1], kit_on_ready, &future);
    ck_assert_int_eq(adamd_restore_commit(restore, 50, &waits[0], kit_on_ready, &restored, NULL),
                     ADAMD_OK);
    ck_assert_int_eq(ends[1].status, ADAMD_RUN_RESTORED);
    ck_assert_int_eq(adamd_push_append(receiving, values, 4, NULL), ADAMD_RUN_RESTORED);
    adamd_push_abandon(receiving);
    head.sequence = 4;
    ck_assert_ptr_null(kit_begin(&kit, &head, &ends[2], &status));
    ck_assert_int_eq(status, ADAMD_BUSY);
    kit_run(&kit);
    ck_assert_int_eq(ends[0].status, ADAMD_OK); // a version boundary lies behind it
    ck_assert_int_eq(restored.status, ADAMD_OK);
    ck_assert_int_eq(future.status, ADAMD_RUN_RESTORED);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 50);
    ck_assert_ptr_null(kit_begin(&kit, &head, &ends[2], &status));
    ck_assert_int_eq(status, ADAMD_UNKNOWN_WORKER);
    head.generation = 1;
    ck_assert_ptr_null(kit_begin(&kit, &head, &ends[2], &status));
    ck_assert_int_eq(status, ADAMD_RUN_RESTORED);
    kit_params(&kit, 0, values);
    ck_assert_float_eq(values[0], 2);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 0);
}
END_TEST

START_TEST(a_restore_into_a_new_model_makes_it_active_in_its_first_generation)
{
    struct adamd_tensor_spec tensor = {.key = "w", .rank = 1, .shape = {5}};
    const uint32_t index = 0;
    const struct adamd_group_spec group = {
        .options = adamd_options_default, .tensors = &index, .tensor_count = 1};
    const struct adamd_model_spec spec = {.tensors = &tensor,
                                          .tensor_count = 1,
                                          .groups = &group,
                                          .group_count = 1,
                                          .slots_max = 1,
                                          .published_max = 2};
    struct adamd_model *old = kit.model;
    struct adamd_wait wait = {0};
    struct kit_end end = {0};
    struct adamd_restore *restore;

    ck_assert_int_eq(adamd_model_create(kit.queue, &spec, &kit.model, NULL), ADAMD_OK);
    epoch = kit_register(&kit, "a", 0);
    restore = begin();
    write_params(restore, 1);
    ck_assert_int_eq(adamd_restore_commit(restore, 0, &wait, kit_on_ready, &end, NULL), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(adamd_model_info(kit.model, kit.now_ms).state, ADAMD_MODEL_ACTIVE);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).generation, 1);
    ck_assert_int_eq(adamd_model_renew(kit.model, "a", epoch, kit.now_ms, NULL), ADAMD_OK);
    adamd_model_destroy(kit.model);
    kit.model = old;
}
END_TEST

START_TEST(options_come_with_the_state_and_bring_amsgrads_array)
{
    struct adamd_options options = adamd_options_default;
    struct adamd_restore *restore = begin();
    struct adamd_wait wait = {0};
    struct kit_end end = {0};
    const struct adamd_capture *state;
    float value;

    options.lr = -1;
    ck_assert_int_eq(adamd_restore_options(restore, &options, 1, NULL), ADAMD_BAD_FIELD);
    options.lr = 0.25;
    options.amsgrad = true;
    ck_assert_int_eq(adamd_restore_options(restore, &options, 2, NULL), ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(adamd_restore_options(restore, &options, 1, NULL), ADAMD_OK);
    write_params(restore, 1);
    ck_assert_int_eq(adamd_restore_commit(restore, 3, &wait, kit_on_ready, &end, NULL), ADAMD_OK);
    kit_run(&kit);
    ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, 0.25);
    state = capture(&end);
    ck_assert_ptr_nonnull(state->arrays[ADAMD_MAX_EXP_AVG_SQ]);
    memcpy(&value, state->arrays[ADAMD_MAX_EXP_AVG_SQ], sizeof value);
    ck_assert_float_eq(value, 0);
    adamd_capture_release(kit.model, state);
}
END_TEST

START_TEST(each_number_of_the_state_is_in_the_digest)
{
    const struct adamd_layout *layout = adamd_model_layout(kit.model);
    float arena[48] = {0};
    uint64_t steps[2] = {1, 1};
    struct adamd_options options = adamd_options_default;
    struct adamd_capture state = {.steps = steps, .options = &options};
    uint64_t base[2];
    uint64_t other[2];

    for (int array = 0; array < 3; array++) {
        state.arrays[array] = (const unsigned char *)arena;
    }
    adamd_state_digest(layout, &state, 1, base);
    state.arrays[ADAMD_EXP_AVG] = NULL; // zeros, never written
    adamd_state_digest(layout, &state, 1, other);
    ck_assert_mem_eq(base, other, sizeof base);
    arena[5] = 1; // a gap
    adamd_state_digest(layout, &state, 1, other);
    ck_assert_mem_eq(base, other, sizeof base);
    arena[35] = 1;
    adamd_state_digest(layout, &state, 1, other);
    ck_assert_mem_ne(base, other, sizeof base);
    arena[35] = 0;
    steps[1] = 2;
    adamd_state_digest(layout, &state, 1, other);
    ck_assert_mem_ne(base, other, sizeof base);
    steps[1] = 1;
    options.eps = 1e-7;
    adamd_state_digest(layout, &state, 1, other);
    ck_assert_mem_ne(base, other, sizeof base);
}
END_TEST

START_TEST(a_restore_outlives_its_model)
{
    const float value = 0;
    struct adamd_restore *restore = begin();
    struct adamd_fault fault;
    struct adamd_wait wait = {0};
    struct kit_end end = {0};

    write_params(restore, 1);
    adamd_model_destroy(kit.model);
    kit.model = NULL;
    ck_assert_uint_gt(backend_deferred_live(kit.deferred), 0); // another thread may read a view
    ck_assert_int_eq(adamd_restore_write(restore, ADAMD_PARAM, 0, &value, 4, &fault),
                     ADAMD_CANCELLED);
    ck_assert_int_eq(adamd_restore_commit(restore, 0, &wait, kit_on_ready, &end, &fault),
                     ADAMD_CANCELLED);
    ck_assert_uint_eq(backend_deferred_live(kit.deferred), 0);
}
END_TEST

START_TEST(new_options_hold_from_the_next_step_on)
{
    struct adamd_options options = adamd_options_default;
    uint64_t version = 0;
    float values[3];

    start_push(1);
    options.lr = 1;
    ck_assert_int_eq(adamd_model_set_options(kit.model, 0, &options, &version, NULL), ADAMD_OK);
    ck_assert_uint_eq(version, 2);
    kit_run(&kit);
    kit_params(&kit, 0, values);
    ck_assert_float_eq_tol(values[0], -1e-3F, 1e-8F);
    push_once(1);
    kit_params(&kit, 0, values);
    ck_assert_float_eq_tol(values[0], -1.001F, 1e-5F);
    options.betas[0] = 1;
    ck_assert_int_eq(adamd_model_set_options(kit.model, 0, &options, &version, NULL),
                     ADAMD_BAD_FIELD);
    ck_assert_int_eq(adamd_model_set_options(kit.model, 1, &options, &version, NULL),
                     ADAMD_NOT_FOUND);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).config_count, 1);
}
END_TEST

// What a commit makes of a model after two steps: its parameters and its moments, by array.
static const struct adamd_capture *commit_and_capture(struct adamd_restore *restore,
                                                      uint64_t version, struct kit_end *end) {
    struct adamd_wait wait = {0};
    struct kit_end restored = {0};

    ck_assert_int_eq(adamd_restore_commit(restore, version, &wait, kit_on_ready, &restored, NULL),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(restored.status, ADAMD_OK);
    return capture(end);
}

static float first_of(const struct adamd_capture *state, enum adamd_array array) {
    float value = 0;
    memcpy(&value, state->arrays[array], sizeof value);
    return value;
}

START_TEST(new_parameters_leave_the_state_that_is_kept)
{
    struct kit_end end;
    struct adamd_restore *restore;

    push_once(1);
    push_once(1);
    restore = begin();
    write_params(restore, 4);
    adamd_restore_keep(restore, false, true);
    const struct adamd_capture *state = commit_and_capture(restore, ADAMD_SAME_VERSION, &end);
    ck_assert_uint_eq(state->version, 2);
    ck_assert_uint_eq(state->generation, 2);
    ck_assert_uint_eq(state->steps[0], 2);
    ck_assert_float_eq(first_of(state, ADAMD_PARAM), 4);
    ck_assert_float_eq_tol(first_of(state, ADAMD_EXP_AVG), 0.19F, 1e-6F);
    adamd_capture_release(kit.model, state);
}
END_TEST

START_TEST(new_moments_leave_the_parameters_that_are_kept)
{
    struct kit_end end;
    struct adamd_restore *restore;
    struct adamd_fault fault = {0};
    unsigned char *place = NULL;
    const float moment = 7;

    push_once(1);
    restore = begin();
    ck_assert_int_eq(adamd_restore_place(restore, ADAMD_EXP_AVG, 0, &place, &fault), ADAMD_OK);
    memset(place, 0, (size_t)adamd_model_layout(kit.model)->tensors[0].count * sizeof moment);
    memcpy(place, &moment, sizeof moment);
    adamd_restore_step(restore, 0, 9);
    adamd_restore_keep(restore, true, false);
    const struct adamd_capture *state = commit_and_capture(restore, 9, &end);
    ck_assert_uint_eq(state->version, 9);
    ck_assert_uint_eq(state->steps[0], 9);
    ck_assert_float_eq_tol(first_of(state, ADAMD_PARAM), -1e-3F, 1e-7F);
    ck_assert_float_eq(first_of(state, ADAMD_EXP_AVG), 7);
    ck_assert_float_eq(first_of(state, ADAMD_EXP_AVG_SQ), 0);
    adamd_capture_release(kit.model, state);
}
END_TEST

START_TEST(a_restore_that_keeps_the_parameters_can_reset_the_state)
{
    struct kit_end end;
    struct adamd_restore *restore;

    push_once(1);
    restore = begin();
    adamd_restore_keep(restore, true, false);
    const struct adamd_capture *state = commit_and_capture(restore, 0, &end);
    ck_assert_uint_eq(state->steps[0], 0);
    ck_assert_float_eq_tol(first_of(state, ADAMD_PARAM), -1e-3F, 1e-7F);
    ck_assert_float_eq(first_of(state, ADAMD_EXP_AVG), 0);
    adamd_capture_release(kit.model, state);
}
END_TEST

START_TEST(parameters_that_are_not_there_cannot_be_kept)
{
    struct adamd_tensor_spec tensor = {.key = "w", .rank = 1, .shape = {5}};
    const uint32_t index = 0;
    const struct adamd_group_spec group = {
        .options = adamd_options_default, .tensors = &index, .tensor_count = 1};
    const struct adamd_model_spec spec = {.tensors = &tensor,
                                          .tensor_count = 1,
                                          .groups = &group,
                                          .group_count = 1,
                                          .slots_max = 1,
                                          .published_max = 2};
    struct adamd_model *old = kit.model;
    struct adamd_wait wait = {0};
    struct kit_end end = {0};
    struct adamd_restore *restore;

    ck_assert_int_eq(adamd_model_create(kit.queue, &spec, &kit.model, NULL), ADAMD_OK);
    restore = begin();
    adamd_restore_keep(restore, true, false);
    ck_assert_int_eq(adamd_restore_commit(restore, 0, &wait, kit_on_ready, &end, NULL),
                     ADAMD_INITIALIZING);
    ck_assert_int_eq(adamd_model_info(kit.model, kit.now_ms).state, ADAMD_MODEL_INITIALIZING);
    restore = begin();
    write_params(restore, 4);
    adamd_restore_keep(restore, false, true);
    const struct adamd_capture *state = commit_and_capture(restore, ADAMD_SAME_VERSION, &end);
    ck_assert_uint_eq(state->version, 0);
    ck_assert_uint_eq(state->generation, 1);
    ck_assert_float_eq(first_of(state, ADAMD_EXP_AVG), 0);
    adamd_capture_release(kit.model, state);
    adamd_model_destroy(kit.model);
    kit.model = old;
}
END_TEST

static Suite *state_suite(void) {
    Suite *suite = suite_create("state");
    TCase *tcase = tcase_create("state");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, a_restored_capture_has_the_same_digest_and_goes_on_with_the_same_bits);
    tcase_add_test(tcase, a_capture_is_of_one_version_and_holds_up_no_step);
    tcase_add_test(tcase, a_capture_that_is_given_up_keeps_no_memory);
    tcase_add_test(tcase, an_abandoned_restore_changes_nothing);
    tcase_add_loop_test(tcase, an_incomplete_restore_names_what_is_missing_and_changes_nothing, 0,
                        2);
    tcase_add_test(tcase, new_parameters_leave_the_state_that_is_kept);
    tcase_add_test(tcase, new_moments_leave_the_parameters_that_are_kept);
    tcase_add_test(tcase, a_restore_that_keeps_the_parameters_can_reset_the_state);
    tcase_add_test(tcase, parameters_that_are_not_there_cannot_be_kept);
    tcase_add_test(tcase, too_many_bytes_are_refused);
    tcase_add_test(tcase, a_restore_ends_all_pushes_in_flight);
    tcase_add_test(tcase, a_restore_into_a_new_model_makes_it_active_in_its_first_generation);
    tcase_add_test(tcase, options_come_with_the_state_and_bring_amsgrads_array);
    tcase_add_test(tcase, each_number_of_the_state_is_in_the_digest);
    tcase_add_test(tcase, a_restore_outlives_its_model);
    tcase_add_test(tcase, new_options_hold_from_the_next_step_on);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(state_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
