// A push from its first byte to its decision, under EACH_PUSH: what is let in, what is counted, and
// in what order it is decided.
#include "adamd/crc32c.h"
#include "backend_deferred.h"
#include "modelkit.h"

#include <math.h>
#include <string.h>

static struct kit kit;

static void set_up(void) {
    const struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);
    kit_create(&kit, &plan);
}

static void tear_down(void) {
    kit_destroy(&kit);
}

START_TEST(a_push_is_a_step) {
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end end;
    float values[20];

    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
    ck_assert_int_eq(end.count, 0); // not before the backend is done
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 0);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_OK);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    ck_assert_uint_eq(end.outcome.version, 1);
    ck_assert_double_eq_tol(end.outcome.grad_norm, sqrt(23), 1e-6);
    kit_params(&kit, 1, values);
    for (int i = 0; i < 20; i++) {
        ck_assert_float_eq_tol(values[i], -1e-3F, 1e-8F); // Adam's first step is lr wide
    }
}
END_TEST

static Suite *push_suite(void) {
    Suite *suite = suite_create("push");
    TCase *tcase = tcase_create("each push");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, a_push_is_a_step);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(push_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
