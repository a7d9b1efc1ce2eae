// Goal: the numbers are PyTorch's. Vectors made with its for-loop in float64, to be met in float64
// but for the last digits and in float32 within its tolerances; its for-loop and its fused kernel
// in bfloat16, to be met exactly; and a longer run beside the same formulas in double, synchronised
// after each step, so that errors are those of one step.
#include "scene.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct tolerance {
    double relative, absolute;
};

static const struct tolerance of_float32 = {1.3e-6, 1e-5};
static const struct tolerance of_float64 = {1e-12, 1e-15};
static const struct tolerance exact = {0, 0};

static const double theta0[4] = {1.0, -2.0, 0.5, 0.0};
static const double gradients[3][4] = {
    {0.5, -1.25, 0.0, 2.0}, {0.125, 0.75, 0.0, -0.5}, {-0.25, 0.0625, 0.0, 0.03125}};

// clang-format off
static const struct vector {
    const char *name;
    struct adamd_options options;
    double theta[4], m[4], v[4], x[4];
} vectors[] = {
    {"A: Adam", {.lr = 1e-3, .betas = {0.9, 0.999}, .eps = 1e-8},
     {0.9978708507737185, -1.9986879970313502, 0.5, -0.001842018382683986},
     {0.026749999999999996, -0.027499999999999997, 0, 0.12012499999999998},
     {0.0003276096250000003, 0.002125220312500002, 0, 0.004242730562500004}, {0}},
    {"B: weight_decay", {.lr = 1e-2, .betas = {0.9, 0.999}, .eps = 1e-8, .weight_decay = 0.1},
     {0.9759153632491181, -1.9830356706260817, 0.4700213351546591, -0.018408273569844258},
     {0.05357119208487818, -0.08147381262956573, 0.013260057814844687, 0.11988809482573914},
     {0.0004324761726002629, 0.002420128090922012, 7.197657004885355e-06, 0.00424364090387384}, {0}},
    {"C: B with maximize",
     {.lr = 1e-2, .betas = {0.9, 0.999}, .eps = 1e-8, .weight_decay = 0.1, .maximize = true},
     {1.017061156207917, -2.008775484477475, 0.4700213351546591, 0.018408273569844258},
     {0.0006113444402243776, -0.026889684744346765, 0.013260057814844687, -0.11988809482573914},
     {0.00028395793099031646, 0.002073223290099069, 7.197657004885355e-06, 0.00424364090387384}, {0}},
    {"D: amsgrad", {.lr = 1e-2, .betas = {0.9, 0.5}, .eps = 1e-8, .amsgrad = true},
     {0.9799754898747564, -1.9869922712222687, 0.5, -0.01712184347283435},
     {0.026749999999999996, -0.027499999999999997, 0, 0.12012499999999998},
     {0.06640625, 0.337890625, 0, 0.56298828125}, {0.125, 0.78125, 0, 2}},
    {"E: AdamW",
     {.lr = 1e-2, .betas = {0.9, 0.999}, .eps = 1e-8, .weight_decay = 0.1,
      .decoupled_weight_decay = true},
     {0.9757398027118944, -1.9809078732936758, 0.4985014995, -0.018395499145259946},
     {0.026749999999999996, -0.027499999999999997, 0, 0.12012499999999998},
     {0.0003276096250000003, 0.002125220312500002, 0, 0.004242730562500004}, {0}},
    {"F: AdamW with amsgrad and maximize",
     {.lr = 1e-2, .betas = {0.9, 0.5}, .eps = 1e-3, .weight_decay = 0.1, .amsgrad = true,
      .maximize = true, .decoupled_weight_decay = true},
     {1.0169551996932098, -2.0069807991352864, 0.4985014995, 0.01708817647948667},
     {-0.026749999999999996, 0.027499999999999997, 0, -0.12012499999999998},
     {0.06640625, 0.337890625, 0, 0.56298828125}, {0.125, 0.78125, 0, 2}},
    {"G: second branch of lerp", {.lr = 0.1, .betas = {0.25, 0.75}, .eps = 1e-6},
     {0.8881648123854712, -1.9525914853040027, 0.5, -0.10231858220904959},
     {-0.140625, 0.12890625, 0, 0.0234375},
     {0.0537109375, 0.326171875, 0, 0.609619140625}, {0}},
};
// clang-format on
enum { VECTOR_COUNT = sizeof vectors / sizeof vectors[0] };

static void expect_close(const char *name, const char *what, struct tolerance tolerance, double got,
                         double expected) {
    if (!(fabs(got - expected) <= tolerance.absolute + tolerance.relative * fabs(expected))) {
        ck_abort_msg("%s: %s is %.17g, expected %.17g", name, what, got, expected);
    }
}

// The state after a step becomes the state before the next.
static void advance(struct scene *scene, struct arrays after) {
    arrays_finish(&scene->before);
    scene->before = after;
    scene->t[0]++;
}

static void zero_state(struct scene *scene) {
    memset(scene->before.exp_avg, 0, scene->arena_bytes);
    memset(scene->before.exp_avg_sq, 0, scene->arena_bytes);
    memset(scene->before.max_exp_avg_sq, 0, scene->arena_bytes);
}

// Three steps over the four elements of the vectors.
static void run_vector(struct scene *scene, struct bench *bench,
                       const struct adamd_options *options, enum adamd_dtype dtype) {
    scene_init(scene);
    scene->dtype = dtype;
    scene->options[0] = *options;
    scene->t[0] = 1;
    scene->rule_count = 1;
    scene_add_run(scene, 0, 4, 0, 1);
    scene_fill(scene, ORDINARY, 1);
    zero_state(scene);
    for (uint64_t i = 0; i < 4; i++) {
        value_set(scene->before.param, dtype, i, theta0[i]);
    }
    for (int step = 0; step < 3; step++) {
        for (uint64_t i = 0; i < 4; i++) {
            value_set(scene->grads[scene->source_indices[0]], dtype, i, gradients[step][i]);
        }
        advance(scene, scene_run(scene, bench));
    }
}

static void check_vector(struct bench *bench, const struct vector *vector, enum adamd_dtype dtype,
                         struct tolerance tolerance) {
    struct scene scene;

    run_vector(&scene, bench, &vector->options, dtype);
    for (uint64_t i = 0; i < 4; i++) {
        expect_close(vector->name, "param", tolerance, value_get(scene.before.param, dtype, i),
                     vector->theta[i]);
        expect_close(vector->name, "exp_avg", tolerance, value_get(scene.before.exp_avg, dtype, i),
                     vector->m[i]);
        expect_close(vector->name, "exp_avg_sq", tolerance,
                     value_get(scene.before.exp_avg_sq, dtype, i), vector->v[i]);
        if (vector->options.amsgrad) {
            expect_close(vector->name, "max_exp_avg_sq", tolerance,
                         value_get(scene.before.max_exp_avg_sq, dtype, i), vector->x[i]);
        }
    }
    scene_finish(&scene);
}

START_TEST(golden_vectors_come_out_at_pytorch_tolerance)
{
    struct bench bench;

    bench_open(&bench, _i);
    for (int v = 0; v < VECTOR_COUNT; v++) {
        check_vector(&bench, &vectors[v], ADAMD_FLOAT32, of_float32);
    }
    bench_close(&bench);
}
END_TEST

START_TEST(golden_vectors_come_out_in_float64)
{
    struct bench bench;

    bench_open(&bench, _i);
    for (int v = 0; v < VECTOR_COUNT; v++) {
        check_vector(&bench, &vectors[v], ADAMD_FLOAT64, of_float64);
    }
    bench_close(&bench);
}
END_TEST

// Case B in bfloat16, as whole vectors have it: PyTorch 2.15 rounds the product of the L2 term in
// the last elements of a tensor, which gives 0.0537109375 in the place of 0.05322265625.
static const struct {
    enum adamd_tristate fused;
    double theta[4], m[4];
} bfloat16_rows[] = {
    {ADAMD_NONE,
     {0.9765625, -1.9921875, 0.470703125, -0.0185546875},
     {0.05322265625, -0.08203125, 0.01324462890625, 0.1201171875}},
    {ADAMD_TRUE,
     {0.9765625, -1.9921875, 0.470703125, -0.0184326171875},
     {0.0537109375, -0.08154296875, 0.01324462890625, 0.11962890625}},
};

START_TEST(the_for_loop_and_fused_round_bfloat16_as_pytorch_does)
{
    struct bench bench;

    bench_open(&bench, _i);
    for (size_t r = 0; r < sizeof bfloat16_rows / sizeof bfloat16_rows[0]; r++) {
        struct adamd_options options = vectors[1].options;
        struct scene scene;
        options.fused = bfloat16_rows[r].fused;
        run_vector(&scene, &bench, &options, ADAMD_BFLOAT16);
        for (uint64_t i = 0; i < 4; i++) {
            expect_close("bfloat16", "param", exact,
                         value_get(scene.before.param, ADAMD_BFLOAT16, i),
                         bfloat16_rows[r].theta[i]);
            expect_close("bfloat16", "exp_avg", exact,
                         value_get(scene.before.exp_avg, ADAMD_BFLOAT16, i), bfloat16_rows[r].m[i]);
        }
        scene_finish(&scene);
    }
    bench_close(&bench);
}
END_TEST

struct wide {
    double theta, m, v, x;
};

// One element in double, from the same state.
static struct wide step_wide(const struct adamd_options *o, uint64_t t, double g, struct wide s) {
    const double c1 = 1.0 - pow(o->betas[0], (double)t);
    const double c2 = 1.0 - pow(o->betas[1], (double)t);

    g = o->maximize ? -g : g;
    if (o->decoupled_weight_decay) {
        s.theta *= 1.0 - o->lr * o->weight_decay;
    } else {
        g += o->weight_decay * s.theta;
    }
    s.m = s.m + (1.0 - o->betas[0]) * (g - s.m);
    s.v = s.v * o->betas[1] + (1.0 - o->betas[1]) * g * g;
    s.x = fmax(s.x, s.v);
    const double u = o->amsgrad ? s.x : s.v;
    s.theta -= o->lr / c1 * s.m / (sqrt(u) / sqrt(c2) + o->eps);
    return s;
}

// Gradients of one magnitude, as a network's are: over nine decades at once, the absolute part of
// the tolerance would hide the small ones and a cancellation in m break the large ones.
static void check_against_double(struct bench *bench, const struct adamd_options *options) {
    enum { COUNT = 5000, STEPS = 7 };
    struct scene scene;

    scene_init(&scene);
    scene.options[0] = *options;
    scene.t[0] = 1;
    scene.rule_count = 1;
    scene_add_run(&scene, 0, COUNT, 0, 1);
    scene_fill(&scene, ORDINARY, 3);
    zero_state(&scene);
    unsigned char *grad = scene.grads[scene.source_indices[0]];
    const struct arrays *now = &scene.before;
    for (uint64_t i = 0; i < COUNT; i++) {
        value_set(now->param, ADAMD_FLOAT32, i, sin((double)i));
    }
    for (int step = 0; step < STEPS; step++) {
        struct wide expected[COUNT];
        for (uint64_t i = 0; i < COUNT; i++) {
            value_set(grad, ADAMD_FLOAT32, i, cos((double)i * 3 + step * 11) * 1.5);
            expected[i] =
                step_wide(options, scene.t[0], value_get(grad, ADAMD_FLOAT32, i),
                          (struct wide){value_get(now->param, ADAMD_FLOAT32, i),
                                        value_get(now->exp_avg, ADAMD_FLOAT32, i),
                                        value_get(now->exp_avg_sq, ADAMD_FLOAT32, i),
                                        value_get(now->max_exp_avg_sq, ADAMD_FLOAT32, i)});
        }
        advance(&scene, scene_run(&scene, bench));
        for (uint64_t i = 0; i < COUNT; i++) {
            expect_close("double", "param", of_float32, value_get(now->param, ADAMD_FLOAT32, i),
                         expected[i].theta);
            expect_close("double", "exp_avg", of_float32, value_get(now->exp_avg, ADAMD_FLOAT32, i),
                         expected[i].m);
            expect_close("double", "exp_avg_sq", of_float32,
                         value_get(now->exp_avg_sq, ADAMD_FLOAT32, i), expected[i].v);
        }
    }
    scene_finish(&scene);
}

START_TEST(float32_stays_at_double_within_pytorch_tolerance)
{
    struct bench bench;

    bench_open(&bench, _i);
    for (int kind = 0; kind < 8; kind++) {
        const struct adamd_options options = {
            .lr = 1e-2,
            .betas = {kind == 7 ? 0.25 : 0.9, kind == 7 ? 0.75 : 0.999},
            .eps = 1e-8,
            .weight_decay = 0.1,
            .amsgrad = kind % 2 == 1,
            .maximize = kind / 2 % 2 == 1,
            .decoupled_weight_decay = kind / 4 == 1,
        };
        check_against_double(&bench, &options);
    }
    bench_close(&bench);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("golden vectors");
    TCase *tests = tcase_create("every backend");

    subject_print_all();
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, golden_vectors_come_out_at_pytorch_tolerance, 0, subject_count());
    tcase_add_loop_test(tests, golden_vectors_come_out_in_float64, 0, subject_count());
    tcase_add_loop_test(tests, the_for_loop_and_fused_round_bfloat16_as_pytorch_does, 0,
                        subject_count());
    tcase_add_loop_test(tests, float32_stays_at_double_within_pytorch_tolerance, 0,
                        subject_count());
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
