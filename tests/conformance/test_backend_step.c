// Goal: a step gives the formulas' bits on every backend: each kind of update, each count around
// a vector's, a block's and a unit's length, any layout of runs, any number of sources.
#include "scene.h"

#include <check.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

static const struct adamd_options adamw = {.lr = 1e-2,
                                           .betas = {0.9, 0.999},
                                           .eps = 1e-8,
                                           .weight_decay = 0.1,
                                           .decoupled_weight_decay = true};

// Row `i` of 24: decay, amsgrad, maximize and the two branches of lerp.
static struct adamd_options options_of_kind(int i) {
    struct adamd_options options = adamw;

    options.weight_decay = i % 3 == 0 ? 0.0 : 0.1;
    options.decoupled_weight_decay = i % 3 == 1;
    options.amsgrad = i / 3 % 2 == 1;
    options.maximize = i / 6 % 2 == 1;
    if (i / 12 % 2 == 1) {
        options.betas[0] = 0.25;
        options.betas[1] = 0.75;
    }
    return options;
}

static void check_and_close(struct scene *scene, struct bench *bench) {
    scene_check(scene, bench);
    scene_finish(scene);
    bench_close(bench);
}

static void add_rule(struct scene *scene, struct adamd_options options, uint64_t t) {
    scene->options[scene->rule_count] = options;
    scene->t[scene->rule_count++] = t;
}

START_TEST(every_kind_and_count_gives_the_formulas_bits)
{
    static const uint64_t edges[] = {4095, 4096, 4097, 8191, 8192, 8193, 32767, 32768, 32769};
    struct bench bench;

    for (int kind = 0; kind < 24; kind++) {
        struct scene scene;
        scene_init(&scene);
        add_rule(&scene, options_of_kind(kind), (uint64_t)kind + 1);
        for (uint64_t count = 0; count <= 67; count++) {
            scene_add_run(&scene, 0, count, 0, 1);
        }
        // A few of the long ones for each kind: all of them for all kinds is slow under sanitizers.
        for (size_t e = 0; e < 3; e++) {
            scene_add_run(&scene, 0, edges[((size_t)kind * 3 + e) % 9], 0, 1);
        }
        scene.publishes = kind % 2 == 1;
        scene_fill(&scene, ORDINARY, (uint32_t)kind);
        bench_open(&bench, _i);
        check_and_close(&scene, &bench);
    }
}
END_TEST

START_TEST(a_run_alone_of_any_length_gives_the_formulas_bits)
{
    struct bench bench;

    bench_open(&bench, _i);
    for (uint64_t count = 0; count <= 67; count++) {
        struct scene scene;
        scene_init(&scene);
        add_rule(&scene, adamw, count + 1);
        scene_add_run(&scene, count % 3 * 16, count, 0, 1);
        scene_add_tail(&scene, count % 2 * 16);
        scene.publishes = count % 2 == 1;
        scene_fill(&scene, ORDINARY, (uint32_t)count);
        scene_check(&scene, &bench);
        scene_finish(&scene);
    }
    bench_close(&bench);
}
END_TEST

START_TEST(one_two_and_five_sources_are_averaged_in_their_order)
{
    static const uint32_t sources[] = {1, 2, 5, 3, 4};
    struct bench bench;
    struct scene scene;

    scene_init(&scene);
    add_rule(&scene, options_of_kind(5), 3);
    for (uint32_t r = 0; r < 20; r++) {
        scene_add_run(&scene, (uint64_t)(r % 2) * 32, 1 + 571 * (uint64_t)r, 0, sources[r % 5]);
    }
    scene.publishes = true;
    scene_fill(&scene, ORDINARY, 7);
    bench_open(&bench, _i);
    check_and_close(&scene, &bench);
}
END_TEST

START_TEST(odd_layouts_of_runs_and_gaps_give_the_formulas_bits)
{
    struct bench bench;
    uint32_t state = 99;

    bench_open(&bench, _i);
    for (uint32_t round = 0; round < 12; round++) {
        struct scene scene;
        scene_init(&scene);
        for (int kind = 0; kind < 24; kind++) {
            add_rule(&scene, options_of_kind(kind), (uint64_t)kind * 5 + round + 1);
        }
        const uint32_t runs = 1 + round * 10;
        for (uint32_t r = 0; r < runs; r++) {
            state = state * 1664525U + 1013904223U;
            const uint64_t gap = (state >> 8) % 4 == 0 ? (uint64_t)((state >> 10) % 700) * 16 : 0;
            const uint64_t count = (state >> 4) % 7 == 0 ? (state >> 12) % 9000 : state >> 25;
            scene_add_run(&scene, gap, count, (state >> 16) % 24, 1 + (state >> 20) % 5);
        }
        scene_add_tail(&scene, (uint64_t)(round % 3) * 8192);
        scene.publishes = round % 2 == 0;
        scene_fill(&scene, ORDINARY, round);
        scene_check(&scene, &bench);
        scene_finish(&scene);
    }
    bench_close(&bench);
}
END_TEST

START_TEST(subnormals_and_zeros_are_kept)
{
    struct bench bench;

    for (int kind = 0; kind < 24; kind++) {
        struct scene scene;
        scene_init(&scene);
        add_rule(&scene, options_of_kind(kind), 2);
        scene.options[0].eps = kind % 2 == 0 ? 1e-8 : 0.0; // 0/0 is NaN, and must be
        scene_add_run(&scene, 0, 200, 0, 1 + (uint32_t)kind % 2);
        scene_fill(&scene, TINY, (uint32_t)kind);
        bench_open(&bench, _i);
        check_and_close(&scene, &bench);
    }
}
END_TEST

START_TEST(flushed_subnormals_of_the_creating_thread_do_not_spread)
{
    struct bench bench;
    struct scene scene;

    scene_init(&scene);
    add_rule(&scene, adamw, 2);
    scene_add_run(&scene, 0, 1000, 0, 1);
    scene_fill(&scene, TINY, 5);
#if defined(__x86_64__)
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040U);
#endif
    bench_open(&bench, _i == 0 ? 1 : _i); // the deferred backend computes in this thread
#if defined(__x86_64__)
    _mm_setcsr(before);
#endif
    check_and_close(&scene, &bench);
}
END_TEST

START_TEST(nan_and_infinity_go_where_the_formulas_send_them)
{
    struct bench bench;

    for (int kind = 0; kind < 24; kind++) {
        struct scene scene;
        scene_init(&scene);
        add_rule(&scene, options_of_kind(kind), 1);
        scene_add_run(&scene, 16, 1000, 0, 1 + (uint32_t)kind % 3);
        scene_fill(&scene, NONFINITE, (uint32_t)kind);
        bench_open(&bench, _i);
        check_and_close(&scene, &bench);
    }
}
END_TEST

START_TEST(numbers_at_the_edge_give_the_formulas_bits)
{
    static const struct {
        double lr, beta1, beta2, eps;
        uint64_t t;
    } rows[] = {
        {0.0, 0.9, 0.999, 1e-8, 1},         {1e-3, 0.0, 0.0, 1e-8, 1},
        {1e-3, 0.5, 0.5, 0.0, 2},           {1e30, 0.9, 0.999, 1e-8, 1},
        {1e-3, 0.9, 0.999, 1e-8, 1u << 24}, {1e-45, 0.51, 0.9, 1e-30, 9},
    };
    struct bench bench;

    bench_open(&bench, _i);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct scene scene;
        struct adamd_options options = adamw;
        options.lr = rows[r].lr;
        options.betas[0] = rows[r].beta1;
        options.betas[1] = rows[r].beta2;
        options.eps = rows[r].eps;
        scene_init(&scene);
        add_rule(&scene, options, rows[r].t);
        scene_add_run(&scene, 0, 500, 0, 1);
        scene_fill(&scene, ORDINARY, (uint32_t)r);
        scene_check(&scene, &bench);
        scene_finish(&scene);
    }
    bench_close(&bench);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("backend step");
    TCase *tests = tcase_create("every backend");
    const int subjects = subject_count();

    subject_print_all();
    tcase_set_timeout(tests, 200);
    tcase_add_loop_test(tests, every_kind_and_count_gives_the_formulas_bits, 0, subjects);
    tcase_add_loop_test(tests, a_run_alone_of_any_length_gives_the_formulas_bits, 0, subjects);
    tcase_add_loop_test(tests, one_two_and_five_sources_are_averaged_in_their_order, 0, subjects);
    tcase_add_loop_test(tests, odd_layouts_of_runs_and_gaps_give_the_formulas_bits, 0, subjects);
    tcase_add_loop_test(tests, subnormals_and_zeros_are_kept, 0, subjects);
    tcase_add_loop_test(tests, flushed_subnormals_of_the_creating_thread_do_not_spread, 0,
                        subjects);
    tcase_add_loop_test(tests, nan_and_infinity_go_where_the_formulas_send_them, 0, subjects);
    tcase_add_loop_test(tests, numbers_at_the_edge_give_the_formulas_bits, 0, subjects);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
