// The n-th call of the backend fails, for every n: every call that was begun ends once, with a
// clean status, and nothing is left behind. And what only a wrong specification can cause.
#include "backend_deferred.h"
#include "modelkit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLS = 110, ALLOCATIONS = 180 }; // of the scene, at most

static struct kit kit;
static struct backend_faulty faulty;

// This program's core is compiled to allocate here: the n-th call fails.
void *test_malloc(size_t size);
void *test_calloc(size_t count, size_t size);
void *test_realloc(void *memory, size_t size);

static int allocations_left = -1; // negative: none fails
static int allocations;

static bool allocation_fails(void) {
    allocations++;
    return allocations_left >= 0 && allocations_left-- == 0;
}

void *test_malloc(size_t size) {
    return allocation_fails() ? NULL : malloc(size);
}

void *test_calloc(size_t count, size_t size) {
    return allocation_fails() ? NULL : calloc(count, size);
}

void *test_realloc(void *memory, size_t size) {
    return allocation_fails() ? NULL : realloc(memory, size);
}

static bool is_clean(enum adamd_status status) {
    switch (status) {
    case ADAMD_OK:
    case ADAMD_NO_MEMORY:
    case ADAMD_BUSY:
    case ADAMD_DEVICE_LOST:
    case ADAMD_OUT_OF_ORDER:
    case ADAMD_CANCELLED:
        return true;
    default:
        return false;
    }
}

static struct kit_end pushes[8];
static struct kit_end pulls[2];
static struct kit_end steps[2];
static struct kit_end captured;
static struct kit_end restored;
static struct kit_end added_end;
static struct adamd_added added;
static struct kit_end turned;
static struct adamd_wait waits[6];
static bool begun[8], stepped[2];

static void settle(void) {
    for (int i = 0; i < 20; i++) {
        kit_run(&kit);
        kit.now_ms += 10;
        adamd_model_tick(kit.model, kit.now_ms);
    }
}

static void push(int i, uint64_t epoch, uint64_t sequence, bool wants_parameters) {
    struct adamd_push_head head = kit_head("a", epoch, sequence);
    enum adamd_status status;

    head.wants_parameters = wants_parameters;
    status = kit_push(&kit, &head, 1, &pushes[i]);
    begun[i] = status == ADAMD_OK;
    ck_assert_msg(is_clean(status), "push: %s", adamd_status_name(status));
}

static void release_pull(int i) {
    ck_assert_int_le(pulls[i].count, 1);
    if (pulls[i].count == 1 && pulls[i].status == ADAMD_OK) {
        adamd_published_release(kit.model, pulls[i].what);
    }
}

static void restore_zeros(void) {
    const struct adamd_layout *layout = adamd_model_layout(kit.model);
    static const float zeros[20];
    struct adamd_restore *restore = NULL;
    enum adamd_status status = adamd_restore_begin(kit.model, &restore, NULL);

    ck_assert(is_clean(status));
    if (status != ADAMD_OK) {
        return;
    }
    for (int array = 0; array < 2 && status == ADAMD_OK; array++) {
        for (uint32_t i = 0; i < layout->tensor_count && status == ADAMD_OK; i++) {
            status = adamd_restore_write(restore, (enum adamd_array)array, i, zeros,
                                         (size_t)layout->tensors[i].count * 4, NULL);
        }
    }
    ck_assert(is_clean(status));
    if (status != ADAMD_OK) {
        adamd_restore_abandon(restore);
        return;
    }
    status = adamd_restore_commit(restore, 9, &waits[3], kit_on_ready, &restored, NULL);
    settle();
    ck_assert_int_eq(restored.count, status == ADAMD_OK ? 1 : 0);
    ck_assert(is_clean(restored.status));
}

// While gradients are accumulated: all that has the model's size is made anew, or nothing.
static void add_group(void) {
    static const struct adamd_tensor_spec tensor = {
        .key = "new", .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {5}};
    static const float values[5] = {1, 2, 3, 4, 5};
    static const struct adamd_extra extra = {"initial_lr", "1"};
    const struct adamd_group_spec group = {.options = adamd_options_default,
                                           .keys = {.extras = &extra, .extra_count = 1}};
    const uint32_t before = adamd_model_info(kit.model, kit.now_ms).group_count;
    struct adamd_addition *addition = NULL;
    enum adamd_status status = adamd_addition_begin(kit.model, &tensor, 1, &group, &addition, NULL);

    ck_assert(is_clean(status));
    if (status != ADAMD_OK) {
        return;
    }
    status = adamd_addition_write(addition, 0, values, sizeof values, NULL);
    ck_assert(is_clean(status));
    if (status != ADAMD_OK) {
        adamd_addition_abandon(addition);
        return;
    }
    status = adamd_addition_commit(addition, &added, &waits[4], kit_on_ready, &added_end, NULL);
    ck_assert(is_clean(status));
    settle();
    ck_assert_int_eq(added_end.count, status == ADAMD_OK ? 1 : 0);
    ck_assert(is_clean(added_end.status));
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).group_count,
                      before + (status == ADAMD_OK && added_end.status == ADAMD_OK ? 1 : 0));
    ck_assert_uint_eq(adamd_model_layout(kit.model)->tensor_count,
                      adamd_model_info(kit.model, kit.now_ms).group_count + 1);
}

// The last step, if there is one that was kept.
static void differentiate(void) {
    struct adamd_differentiation *differentiation = NULL;
    const float ones[3] = {1, 1, 1};
    enum adamd_status status =
        adamd_differentiate_begin(kit.model, UINT64_MAX, &differentiation, NULL);

    // The options may not have been taken, or the push.
    ck_assert(is_clean(status) || status == ADAMD_BAD_FIELD || status == ADAMD_NOT_FOUND);
    if (status != ADAMD_OK) {
        return;
    }
    status = adamd_differentiate_write(differentiation, ADAMD_PARAM, 0, ones, sizeof ones, NULL);
    ck_assert_int_eq(status, ADAMD_OK);
    status = adamd_differentiate_commit(differentiation, &waits[5], kit_on_ready, &turned, NULL);
    settle();
    ck_assert(is_clean(status));
    ck_assert(is_clean(turned.status));
    ck_assert_int_eq(turned.count, status == ADAMD_OK ? 1 : 0);
    adamd_differentiate_end(differentiation);
}

static void run_scene(void) {
    const struct adamd_policy manual = {.trigger = ADAMD_MANUAL};
    struct adamd_options options = adamd_options_default;
    struct adamd_registration registration = {0};
    uint64_t version;

    if (adamd_model_register(kit.model, "a", "", 0, 0, 0, kit.now_ms, &registration, NULL) !=
        ADAMD_OK) {
        return;
    }
    push(0, registration.epoch, 1, true);
    push(1, registration.epoch, 2, false);
    adamd_model_pull(kit.model, 1, &waits[0], kit_on_ready, &pulls[0]);
    adamd_model_capture(kit.model, &waits[2], kit_on_ready, &captured);
    settle();
    adamd_model_pull(kit.model, 0, &waits[1], kit_on_ready, &pulls[1]);
    settle();
    options.amsgrad = true;
    options.differentiable = true;
    ck_assert(is_clean(adamd_model_set_options(kit.model, 0, &options, &version, NULL)));
    push(2, registration.epoch, adamd_model_workers(kit.model)->list[0]->last_sequence + 1, false);
    settle();
    differentiate();
    release_pull(0);
    release_pull(1);
    if (captured.count == 1 && captured.status == ADAMD_OK) {
        adamd_capture_release(kit.model, captured.what);
    }
    if (adamd_model_set_policy(kit.model, &manual, kit.now_ms, NULL) == ADAMD_OK) {
        const uint64_t next = adamd_model_workers(kit.model)->list[0]->last_sequence + 1;
        push(3, registration.epoch, next, false);
        push(4, registration.epoch, next + 1, false);
        add_group();
        for (int i = 0; i < 2; i++) {
            stepped[i] = adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &steps[i],
                                          NULL) == ADAMD_OK;
            ck_assert(is_clean(adamd_model_zero_grad(kit.model, i == 1, NULL)));
        }
        settle();
    }
    restore_zeros();
}

static void check_ends(void) {
    struct adamd_push_counts counts = adamd_model_info(kit.model, kit.now_ms).counts;
    uint64_t all_begun = 0;

    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(pushes[i].count, begun[i] ? 1 : 0);
        ck_assert_msg(is_clean(pushes[i].status), "%s", adamd_status_name(pushes[i].status));
        all_begun += begun[i] ? 1 : 0;
    }
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(steps[i].count, stepped[i] ? 1 : 0);
        ck_assert(is_clean(steps[i].status));
    }
    // Those refused at the door are counted too.
    ck_assert_uint_ge(counts.applied + counts.staged + counts.rejected + counts.aborted, all_begun);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).slots_in_use, 0);
    ck_assert(adamd_model_idle(kit.model));
}

static void run_with(uint64_t calls, enum adamd_status answer) {
    struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);
    enum adamd_status status;

    faulty = (struct backend_faulty){.calls_left = calls, .answer = answer};
    plan.faulty = &faulty;
    status = kit_try_create(&kit, &plan);
    ck_assert(is_clean(status));
    if (status == ADAMD_OK) {
        run_scene();
        settle();
        check_ends();
    }
    adamd_model_destroy(kit.model);
    kit_run(&kit);
    ck_assert_uint_eq(faulty.live, 0);
    ck_assert(!adamd_queue_busy(kit.queue));
    adamd_queue_destroy(kit.queue);
    adamd_backend_destroy(kit.backend);
}

START_TEST(a_failure_anywhere_leaves_a_clean_status_and_no_leak)
{ run_with((uint64_t)_i, ADAMD_NO_MEMORY); }
END_TEST

START_TEST(a_backend_that_is_full_for_a_moment_costs_nothing)
{ run_with((uint64_t)_i, ADAMD_BUSY); }
END_TEST

START_TEST(a_lost_device_at_any_operation_leaks_nothing)
{ run_with((uint64_t)_i, ADAMD_DEVICE_LOST); }
END_TEST

START_TEST(an_allocation_that_fails_anywhere_leaves_a_clean_status_and_no_leak)
{
    struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);

    faulty = (struct backend_faulty){.calls_left = UINT64_MAX};
    plan.faulty = &faulty;
    kit_create(&kit, &plan);
    allocations_left = _i;
    run_scene();
    allocations_left = -1;
    settle();
    check_ends();
    adamd_model_destroy(kit.model);
    kit_run(&kit);
    ck_assert_uint_eq(faulty.live, 0);
    adamd_queue_destroy(kit.queue);
    adamd_backend_destroy(kit.backend);
}
END_TEST

START_TEST(a_model_that_cannot_be_made_leaves_nothing)
{
    struct adamd_tensor_spec tensor = {.key = "w", .rank = 1, .shape = {4}};
    const uint32_t index = 0;
    const struct adamd_group_spec group = {
        .options = adamd_options_default, .tensors = &index, .tensor_count = 1};
    const struct adamd_model_spec spec = {.tensors = &tensor,
                                          .tensor_count = 1,
                                          .groups = &group,
                                          .group_count = 1,
                                          .slots_max = 1,
                                          .published_max = 2};
    struct adamd_backend *backend = backend_deferred_create(NULL, NULL);
    struct adamd_queue *queue = adamd_queue_create(backend);
    enum adamd_status status = ADAMD_NO_MEMORY;

    for (int n = 0; status != ADAMD_OK; n++) {
        struct adamd_model *model = NULL;
        struct adamd_fault fault = {0};
        allocations_left = n;
        status = adamd_model_create(queue, &spec, &model, &fault);
        allocations_left = -1;
        ck_assert_int_eq(status, model == NULL ? ADAMD_NO_MEMORY : ADAMD_OK);
        ck_assert_int_eq(fault.status, status);
        adamd_model_destroy(model);
        ck_assert_uint_eq(backend_deferred_live(backend), 0);
        ck_assert_int_lt(n, 100);
    }
    adamd_queue_destroy(queue);
    adamd_backend_destroy(backend);
}
END_TEST

START_TEST(the_scene_reaches_every_call)
{
    run_with(UINT64_MAX, ADAMD_NO_MEMORY);
    ck_assert_uint_gt(faulty.calls, 25);
    ck_assert_uint_le(faulty.calls, CALLS);
    ck_assert_int_eq(turned.count, 1);
    ck_assert_int_eq(restored.status, ADAMD_OK);
    ck_assert_int_eq(restored.count, 1);
    ck_assert_ptr_nonnull(steps[1].record);
    ck_assert_int_gt(allocations, 50);
    ck_assert_int_lt(allocations, ALLOCATIONS); // the scene's part is fewer than are tried
    ck_assert_int_eq(added_end.count, 1);
    ck_assert_int_eq(added_end.status, ADAMD_OK);
}
END_TEST

// ---------------------------------------------------------------------------------- specifications

static struct adamd_tensor_spec tensors[] = {{.key = "w", .rank = 1, .shape = {4}},
                                             {.key = "b", .rank = 0}};
static const uint32_t both[] = {0, 1};
static const uint32_t twice[] = {0, 0};
static const uint32_t unknown[] = {0, 2};

static enum adamd_status try_spec(struct adamd_model_spec spec, struct adamd_fault *fault) {
    uint64_t bytes;

    *fault = (struct adamd_fault){0};
    return adamd_model_validate(&spec, &bytes, fault);
}

START_TEST(a_wrong_specification_names_its_field)
{
    struct adamd_options bad = adamd_options_default;
    const struct adamd_group_spec good = {
        .options = adamd_options_default, .tensors = both, .tensor_count = 2};
    const struct adamd_model_spec base = {.tensors = tensors,
                                          .tensor_count = 2,
                                          .groups = &good,
                                          .group_count = 1,
                                          .slots_max = 1,
                                          .published_max = 2};
    struct adamd_model_spec spec = base;
    struct adamd_group_spec group = good;
    struct adamd_fault fault;

    ck_assert_int_eq(try_spec(base, &fault), ADAMD_OK);
    spec.groups = &group;
    group.tensors = twice;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "param_groups[0].tensors");
    group.tensors = unknown;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_BAD_FIELD);
    group.tensors = both;
    group.tensor_count = 1;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "param_groups");
    group = good;
    bad.lr = -1;
    group.options = bad;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "param_groups[0].lr");
    spec = base;
    spec.group_count = 0;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_BAD_FIELD);
    spec = base;
    spec.resident_bytes_max = 100;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_TOO_LARGE);
    spec = base;
    spec.policy.lease_ms = 5;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "step_policy.lease");
    spec = base;
    spec.policy.trigger = (enum adamd_trigger)7;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_BAD_FIELD);
    spec = base;
    spec.published_max = 1;
    ck_assert_int_eq(try_spec(spec, &fault), ADAMD_BAD_FIELD);
}
END_TEST

START_TEST(tensors_without_elements_have_their_t)
{
    static const uint64_t nothing = 0;
    struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);
    struct adamd_push_head head;
    static struct kit_end end;

    plan.counts = &nothing;
    plan.tensor_count = 1;
    kit_create(&kit, &plan);
    head = kit_head("a", kit_register(&kit, "a", 0), 1);
    ck_assert_int_eq(kit_push(&kit, &head, 1, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 1);
    kit_destroy(&kit);
}
END_TEST

static Suite *failures_suite(void) {
    Suite *suite = suite_create("model failures");
    TCase *tcase = tcase_create("failures");

    tcase_add_loop_test(tcase, a_failure_anywhere_leaves_a_clean_status_and_no_leak, 0, CALLS);
    tcase_add_loop_test(tcase, a_backend_that_is_full_for_a_moment_costs_nothing, 0, CALLS);
    tcase_add_loop_test(tcase, a_lost_device_at_any_operation_leaks_nothing, 0, CALLS);
    tcase_add_loop_test(tcase, an_allocation_that_fails_anywhere_leaves_a_clean_status_and_no_leak,
                        0, ALLOCATIONS);
    tcase_add_test(tcase, a_model_that_cannot_be_made_leaves_nothing);
    tcase_add_test(tcase, the_scene_reaches_every_call);
    tcase_add_test(tcase, a_wrong_specification_names_its_field);
    tcase_add_test(tcase, tensors_without_elements_have_their_t);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(failures_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
