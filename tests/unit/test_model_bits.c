// The same rounds on every backend that this machine can run, with any number of threads and in any
// order of arrival: one digest.
#include "modelkit.h"

#include <stdlib.h>
#include <string.h>

enum { WORKERS = 3, ROUNDS = 12 };

static const uint64_t element_counts[] = {70001, 1, 15, 16, 17, 0, 4099};
static const char *const names[WORKERS] = {"a", "b", "c"};

static uint32_t random_state;

static float next_value(void) {
    random_state = random_state * 1664525U + 1013904223U;
    return (float)(int32_t)random_state / 1e9F;
}

static void push_gradient(struct kit *kit, int worker, uint64_t round, const uint64_t *epochs,
                          struct kit_end *end) {
    static const uint32_t some[] = {0, 2, 4, 6};
    const struct adamd_layout *layout = adamd_model_layout(kit->model);
    struct adamd_push_head head = kit_head(names[worker], epochs[worker], round);
    enum adamd_status status;
    struct adamd_push *push;
    uint64_t bytes = layout->wire_bytes;

    if (round % 3 == 2 && worker == 1) {
        head.tensors = some;
        head.tensor_count = 4;
        bytes = 4 * (70001 + 15 + 17 + 4099);
    }
    head.weight = 0.5 + worker;
    push = kit_begin(kit, &head, end, &status);
    ck_assert_int_eq(status, ADAMD_OK);
    random_state = (uint32_t)round * 31 + (uint32_t)worker;
    for (uint64_t i = 0; i < bytes / 4; i++) {
        const float value = next_value();
        ck_assert_int_eq(adamd_push_append(push, &value, sizeof value, NULL), ADAMD_OK);
    }
    ck_assert_int_eq(adamd_push_commit(push, kit->now_ms, NULL), ADAMD_OK);
}

static void run_rounds(const char *variant, unsigned threads, int first, uint64_t ret_digest[2]) {
    struct kit_plan plan = kit_plan(ADAMD_BARRIER);
    struct kit kit;
    static struct kit_end ends[WORKERS];
    uint64_t epochs[WORKERS];

    plan.counts = element_counts;
    plan.tensor_count = sizeof element_counts / sizeof element_counts[0];
    plan.options.weight_decay = 0.01;
    plan.options.amsgrad = true;
    plan.variant = variant;
    plan.threads = threads;
    kit_create(&kit, &plan);
    for (uint32_t i = 0; i < WORKERS; i++) {
        epochs[i] = kit_register(&kit, names[i], i);
    }
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < WORKERS; i++) {
            push_gradient(&kit, (first + i) % WORKERS, round, epochs, &ends[i]);
        }
        kit_run(&kit);
        ck_assert_uint_eq(ends[0].outcome.version, round);
    }
    kit_digest(&kit, ret_digest);
    kit_destroy(&kit);
}

START_TEST(every_backend_thread_count_and_order_gives_one_digest)
{
    uint64_t expected[2];
    uint64_t digest[2];
    int first = 0;

    run_rounds(NULL, 0, 0, expected); // one scalar thread
    for (const char *const *variant = adamd_cpu_variants(); *variant != NULL; variant++) {
        for (unsigned threads = 1; threads <= 3; threads += 2) {
            run_rounds(*variant, threads, ++first % WORKERS, digest);
            ck_assert_mem_eq(expected, digest, sizeof expected);
        }
    }
    ck_assert_int_ge(first, 2);
}
END_TEST

static Suite *bits_suite(void) {
    Suite *suite = suite_create("model bits");
    TCase *tcase = tcase_create("bits");

    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, every_backend_thread_count_and_order_gives_one_digest);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(bits_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
