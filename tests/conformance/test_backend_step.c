// Goal: a step gives the formulas' bits on every backend: each dtype and rounding, each kind of
// update, each count around a vector's, a block's and a unit's length, any layout of runs, any
// number of sources.
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

// The dtypes and, of those that are rounded differently by them, PyTorch's implementations.
static const struct flavour {
    enum adamd_dtype dtype;
    enum adamd_tristate foreach, fused;
    bool capturable, differentiable;
} flavours[] = {
    {.dtype = ADAMD_FLOAT32},
    {.dtype = ADAMD_FLOAT64, .foreach = ADAMD_TRUE},
    {.dtype = ADAMD_FLOAT16},
    {.dtype = ADAMD_FLOAT16, .foreach = ADAMD_TRUE, .fused = ADAMD_FALSE},
    {.dtype = ADAMD_FLOAT16, .fused = ADAMD_TRUE},
    {.dtype = ADAMD_BFLOAT16, .foreach = ADAMD_FALSE, .fused = ADAMD_FALSE},
    {.dtype = ADAMD_BFLOAT16, .foreach = ADAMD_TRUE},
    {.dtype = ADAMD_BFLOAT16, .foreach = ADAMD_FALSE, .fused = ADAMD_TRUE},
    {.dtype = ADAMD_FLOAT32, .capturable = true, .foreach = ADAMD_TRUE},
    {.dtype = ADAMD_FLOAT64, .differentiable = true},
    {.dtype = ADAMD_FLOAT16, .capturable = true},
    {.dtype = ADAMD_BFLOAT16, .capturable = true, .foreach = ADAMD_TRUE},
    {.dtype = ADAMD_FLOAT32, .capturable = true, .fused = ADAMD_TRUE}, // which ignores it
};
enum { FLAVOURS = sizeof flavours / sizeof flavours[0] };

static struct adamd_options flavoured(struct adamd_options options, size_t flavour) {
    options.foreach = flavours[flavour].foreach;
    options.fused = flavours[flavour].fused;
    options.capturable = flavours[flavour].capturable;
    options.differentiable = flavours[flavour].differentiable;
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
    const size_t flavour = (size_t)_i;

    for (int kind = 0; kind < 24; kind++) {
        struct scene scene;
        scene_init(&scene);
        scene.dtype = flavours[flavour].dtype;
        add_rule(&scene, flavoured(options_of_kind(kind), flavour), (uint64_t)kind + 1);
        for (uint64_t count = 0; count <= 67; count++) {
            scene_add_run(&scene, 0, count, 0, 1);
        }
        // A few of the long ones for each kind: all of them for all kinds is slow under sanitizers.
        for (size_t e = 0; e < 2; e++) {
            scene_add_run(&scene, 0, edges[((size_t)kind * 2 + e + flavour) % 9], 0, 1);
        }
        scene.publishes = kind % 2 == 1;
        scene_fill(&scene, ORDINARY, (uint32_t)kind);
        scene_check_everywhere(&scene);
        scene_finish(&scene);
    }
}
END_TEST

START_TEST(a_run_alone_of_any_length_gives_the_formulas_bits)
{
    struct bench bench;

    bench_open(&bench, _i);
    for (uint64_t count = 0; count <= 67; count++) {
        const size_t flavour = count % FLAVOURS;
        struct scene scene;
        scene_init(&scene);
        scene.dtype = flavours[flavour].dtype;
        add_rule(&scene, flavoured(adamw, flavour), count + 1);
        scene_add_run(&scene, count % 3, count, 0, 1);
        scene_add_tail(&scene, count % 2);
        scene.publishes = count % 2 == 1;
        scene_fill(&scene, ORDINARY, (uint32_t)count);
        scene_check(&scene, &bench);
        scene_finish(&scene);
    }
    bench_close(&bench);
}
END_TEST

// Runs of all dtypes with one to five sources each.
static void make_mixed_scene(struct scene *scene, enum values values, uint32_t seed) {
    static const uint32_t sources[] = {1, 2, 5, 3, 4};

    scene_init(scene);
    for (size_t flavour = 0; flavour < FLAVOURS; flavour++) {
        add_rule(scene, flavoured(options_of_kind(5), flavour), 3 + flavour);
    }
    for (uint32_t r = 0; r < 3 * FLAVOURS; r++) {
        scene->dtype = flavours[r % FLAVOURS].dtype;
        scene_add_run(scene, (uint64_t)(r % 2) * 2, 1 + 371 * (uint64_t)(r % 17), r % FLAVOURS,
                      sources[r % 5]);
    }
    scene->publishes = true;
    scene_fill(scene, values, seed);
}

START_TEST(one_two_and_five_sources_are_averaged_in_their_order)
{
    struct scene scene;

    make_mixed_scene(&scene, ORDINARY, 7);
    scene_check_everywhere(&scene);
    scene_finish(&scene);
}
END_TEST

START_TEST(a_mean_alone_and_its_norms_are_those_of_a_step)
{
    struct bench bench;

    bench_open(&bench, _i);
    for (int values = ORDINARY; values <= NONFINITE; values++) {
        struct scene scene;
        make_mixed_scene(&scene, (enum values)values, 11);
        scene_check_mean_and_norm(&scene, &bench);
        scene_finish(&scene);
    }
    bench_close(&bench);
}
END_TEST

START_TEST(odd_layouts_of_runs_and_gaps_give_the_formulas_bits)
{
    const uint32_t round = (uint32_t)_i;
    uint32_t state = 99 + round;
    struct scene scene;

    scene_init(&scene);
    for (int kind = 0; kind < 24; kind++) {
        add_rule(&scene, flavoured(options_of_kind(kind), (size_t)kind % FLAVOURS),
                 (uint64_t)kind * 5 + round + 1);
    }
    const uint32_t runs = 1 + round * 10;
    for (uint32_t r = 0; r < runs; r++) {
        state = state * 1664525U + 1013904223U;
        const uint64_t gap = (state >> 8) % 4 == 0 ? (state >> 10) % 700 : 0;
        const uint64_t count = (state >> 4) % 7 == 0 ? (state >> 12) % 9000 : state >> 25;
        scene.dtype = flavours[(state >> 16) % 24 % FLAVOURS].dtype;
        scene_add_run(&scene, gap, count, (state >> 16) % 24, 1 + (state >> 20) % 5);
    }
    scene_add_tail(&scene, (uint64_t)(round % 3) * 512);
    scene.publishes = round % 2 == 0;
    scene_fill(&scene, ORDINARY, round);
    scene_check_everywhere(&scene);
    scene_finish(&scene);
}
END_TEST

START_TEST(subnormals_and_zeros_are_kept)
{
    const size_t flavour = (size_t)_i;

    for (int kind = 0; kind < 24; kind++) {
        struct scene scene;
        scene_init(&scene);
        scene.dtype = flavours[flavour].dtype;
        add_rule(&scene, flavoured(options_of_kind(kind), flavour), 2);
        scene.options[0].eps = kind % 2 == 0 ? 1e-8 : 0.0; // 0/0 is NaN, and must be
        scene_add_run(&scene, 0, 200, 0, 1 + (uint32_t)kind % 2);
        scene_fill(&scene, TINY, (uint32_t)kind);
        scene_check_everywhere(&scene);
        scene_finish(&scene);
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
    const size_t flavour = (size_t)_i;

    for (int kind = 0; kind < 24; kind++) {
        struct scene scene;
        scene_init(&scene);
        scene.dtype = flavours[flavour].dtype;
        add_rule(&scene, flavoured(options_of_kind(kind), flavour), 1);
        scene_add_run(&scene, 1, 1000, 0, 1 + (uint32_t)kind % 3);
        scene_fill(&scene, NONFINITE, (uint32_t)kind);
        scene_check_everywhere(&scene);
        scene_finish(&scene);
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
    for (size_t r = 0; r < FLAVOURS * (sizeof rows / sizeof rows[0]); r++) {
        const size_t flavour = r % FLAVOURS;
        struct scene scene;
        struct adamd_options options = flavoured(adamw, flavour);
        options.lr = rows[r / FLAVOURS].lr;
        options.betas[0] = rows[r / FLAVOURS].beta1;
        options.betas[1] = rows[r / FLAVOURS].beta2;
        options.eps = rows[r / FLAVOURS].eps;
        scene_init(&scene);
        scene.dtype = flavours[flavour].dtype;
        add_rule(&scene, options, rows[r / FLAVOURS].t);
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
    tcase_add_loop_test(tests, every_kind_and_count_gives_the_formulas_bits, 0, FLAVOURS);
    tcase_add_loop_test(tests, a_run_alone_of_any_length_gives_the_formulas_bits, 0, subjects);
    tcase_add_test(tests, one_two_and_five_sources_are_averaged_in_their_order);
    tcase_add_loop_test(tests, a_mean_alone_and_its_norms_are_those_of_a_step, 0, subjects);
    tcase_add_loop_test(tests, odd_layouts_of_runs_and_gaps_give_the_formulas_bits, 0, 12);
    tcase_add_loop_test(tests, subnormals_and_zeros_are_kept, 0, FLAVOURS);
    tcase_add_loop_test(tests, flushed_subnormals_of_the_creating_thread_do_not_spread, 0,
                        subjects);
    tcase_add_loop_test(tests, nan_and_infinity_go_where_the_formulas_send_them, 0, FLAVOURS);
    tcase_add_loop_test(tests, numbers_at_the_edge_give_the_formulas_bits, 0, subjects);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
