// The n-th allocation or call of the backend fails while a model with every hook steps, is captured
// and restored: each call ends once, with a clean status, and nothing is left behind.
#include "adamd/actions.h"
#include "backend_deferred.h"
#include "modelkit.h"

#include <stdlib.h>
#include <string.h>

enum { CALLS = 80, ALLOCATIONS = 220 };

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
    return status == ADAMD_OK || status == ADAMD_NO_MEMORY || status == ADAMD_BUSY ||
           status == ADAMD_DEVICE_LOST || status == ADAMD_OUT_OF_ORDER ||
           status == ADAMD_RUN_RESTORED || status == ADAMD_NOT_FOUND;
}

static void settle(void) {
    for (int i = 0; i < 20; i++) {
        kit_run(&kit);
        kit.now_ms += 10;
        adamd_model_tick(kit.model, kit.now_ms);
    }
}

static void add_hooks(void) {
    static const char *const names[] = {"unscale",         "clip_grad_norm", "clip_grad_value",
                                        "nonfinite_guard", "lr_schedule",    "ema"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct adamd_action action;
        uint64_t id = 0;
        ck_assert_int_eq(adamd_action_default(names[i], &action, NULL), ADAMD_OK);
        if (action.kind == ADAMD_CLIP_GRAD_NORM) {
            action.clip_grad_norm.max_norm = 0.5;
        } else if (action.kind == ADAMD_CLIP_GRAD_VALUE) {
            action.clip_grad_value.clip_value = 0.1;
        } else if (action.kind == ADAMD_LR_SCHEDULE) {
            action.lr_schedule.kind = ADAMD_SCHEDULE_LINEAR;
        }
        ck_assert(is_clean(
            adamd_model_add_action(kit.model, ADAMD_HOOK_EVENT_COUNT, &action, false, &id, NULL)));
    }
}

static struct kit_end pushes[4], pulled, captured, restored;
static bool begun[4];
static struct adamd_wait waits[3];

// Both workers' pushes of one round.
static void push_round(int first, const uint64_t epochs[2], uint64_t sequence) {
    static const char *const names[] = {"a", "b"};

    for (int i = 0; i < 2; i++) {
        const struct adamd_push_head head = kit_head(names[i], epochs[i], sequence);
        const enum adamd_status status = kit_push(&kit, &head, 2, &pushes[first + i]);
        ck_assert_msg(is_clean(status), "push: %s", adamd_status_name(status));
        begun[first + i] = status == ADAMD_OK;
    }
    settle();
}

static enum adamd_status write_all(struct adamd_restore *restore,
                                   const struct adamd_capture *dict) {
    const struct adamd_layout *layout = adamd_model_layout(kit.model);
    enum adamd_status status =
        adamd_restore_hooks(restore, dict->hooks != NULL ? dict->hooks : "", NULL);

    for (int array = 0; array < ADAMD_ARRAY_COUNT && status == ADAMD_OK; array++) {
        for (uint32_t i = 0; dict->arrays[array] != NULL && i < 2 && status == ADAMD_OK; i++) {
            status = adamd_restore_write(restore, (enum adamd_array)array, i,
                                         dict->arrays[array] + layout->tensors[i].offset,
                                         (size_t)adamd_tensor_bytes(&layout->tensors[i]), NULL);
        }
    }
    return status;
}

static void restore(const struct adamd_capture *dict) {
    struct adamd_restore *handle = NULL;
    enum adamd_status status = adamd_restore_begin(kit.model, &handle, NULL);

    ck_assert(is_clean(status));
    if (status != ADAMD_OK) {
        return;
    }
    status = write_all(handle, dict);
    ck_assert_msg(is_clean(status), "write: %s", adamd_status_name(status));
    if (status != ADAMD_OK) {
        adamd_restore_abandon(handle);
        return;
    }
    status = adamd_restore_commit(handle, 9, &waits[2], kit_on_ready, &restored, NULL);
    settle();
    ck_assert_int_eq(restored.count, status == ADAMD_OK ? 1 : 0);
    ck_assert(is_clean(status) && is_clean(restored.status));
}

static void run_scene(void) {
    struct adamd_registration registration = {0};
    uint64_t epochs[2];

    memset(pushes, 0, sizeof pushes);
    for (int i = 0; i < 2; i++) {
        if (adamd_model_register(kit.model, i == 0 ? "a" : "b", "", (uint32_t)i, 0, 0, kit.now_ms,
                                 &registration, NULL) != ADAMD_OK) {
            return;
        }
        epochs[i] = registration.epoch;
    }
    add_hooks();
    push_round(0, epochs, 1);
    adamd_model_pull_ema(kit.model, &waits[0], kit_on_ready, &pulled);
    adamd_model_capture(kit.model, &waits[1], kit_on_ready, &captured);
    settle();
    push_round(2, epochs, adamd_model_workers(kit.model)->list[0]->last_sequence + 1);
    ck_assert_int_eq(pulled.count, 1);
    ck_assert(is_clean(pulled.status));
    if (pulled.status == ADAMD_OK) {
        adamd_published_release(kit.model, pulled.what);
    }
    ck_assert_int_eq(captured.count, 1);
    ck_assert(is_clean(captured.status));
    if (captured.status == ADAMD_OK) {
        restore(captured.what);
        adamd_capture_release(kit.model, captured.what);
    }
    settle();
}

static void check_ends(void) {
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pushes[i].count, begun[i] ? 1 : 0);
        ck_assert_msg(is_clean(pushes[i].status), "%s", adamd_status_name(pushes[i].status));
    }
    ck_assert(adamd_model_idle(kit.model));
}

static void run_with(uint64_t calls, enum adamd_status answer, int allocation) {
    struct kit_plan plan = kit_plan(ADAMD_BARRIER);
    enum adamd_status status;

    faulty = (struct backend_faulty){.calls_left = calls, .answer = answer};
    plan.faulty = &faulty;
    status = kit_try_create(&kit, &plan);
    ck_assert(is_clean(status));
    if (status == ADAMD_OK) {
        allocations_left = allocation;
        run_scene();
        allocations_left = -1;
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

START_TEST(a_failure_of_the_backend_leaves_a_clean_status)
{
    static const enum adamd_status answers[] = {ADAMD_NO_MEMORY, ADAMD_BUSY, ADAMD_DEVICE_LOST};

    run_with((uint64_t)_i / 3, answers[_i % 3], -1);
}
END_TEST

START_TEST(an_allocation_that_fails_leaves_a_clean_status)
{ run_with(UINT64_MAX, ADAMD_NO_MEMORY, _i); }
END_TEST

START_TEST(the_scene_reaches_every_hook)
{
    run_with(UINT64_MAX, ADAMD_NO_MEMORY, -1);
    ck_assert_int_eq(pushes[2].outcome.kind, ADAMD_APPLIED);
    ck_assert_int_eq(pulled.status, ADAMD_OK);
    ck_assert_int_eq(restored.count, 1);
    ck_assert_int_eq(restored.status, ADAMD_OK);
    ck_assert_uint_le(faulty.calls, CALLS);
    ck_assert_int_le(allocations, ALLOCATIONS);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("hook failures");
    TCase *all = tcase_create("all");

    tcase_add_loop_test(all, a_failure_of_the_backend_leaves_a_clean_status, 0, 3 * CALLS);
    tcase_add_loop_test(all, an_allocation_that_fails_leaves_a_clean_status, 0, ALLOCATIONS);
    tcase_add_test(all, the_scene_reaches_every_hook);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
