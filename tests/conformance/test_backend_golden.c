// Goal: the numbers are PyTorch's. Vectors made with its for-loop in float64, and its tolerances
// for float32; and a longer run beside the same formulas in double, synchronised after each step,
// so that errors are those of one step.
#include "scene.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

static const double relative = 1.3e-6;
static const double absolute = 1e-5;

static bool close_to(double got, double expected) {
    return fabs(got - expected) <= absolute + relative * fabs(expected);
}

static const float theta0[4] = {1.0F, -2.0F, 0.5F, 0.0F};
static const float gradients[3][4] = {
    {0.5F, -1.25F, 0.0F, 2.0F}, {0.125F, 0.75F, 0.0F, -0.5F}, {-0.25F, 0.0625F, 0.0F, 0.03125F}};

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

static void expect_close(const char *name, const char *what, const float *got,
                         const double *expected, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (!close_to((double)got[i], expected[i])) {
            ck_abort_msg("%s: %s[%llu] is %.9g, expected %.9g", name, what, (unsigned long long)i,
                         (double)got[i], expected[i]);
        }
    }
}

// The state after a step becomes the state before the next.
static void advance(struct scene *scene, struct arrays after) {
    arrays_finish(&scene->before);
    scene->before = after;
    scene->t[0]++;
}

static void zero_state(struct scene *scene) {
    for (uint64_t i = 0; i < scene->element_count; i++) {
        scene->before.exp_avg[i] = 0.0F;
        scene->before.exp_avg_sq[i] = 0.0F;
        scene->before.max_exp_avg_sq[i] = 0.0F;
    }
}

static void check_vector(struct bench *bench, const struct vector *vector) {
    struct scene scene;

    scene_init(&scene);
    scene.options[0] = vector->options;
    scene.t[0] = 1;
    scene.rule_count = 1;
    scene_add_run(&scene, 0, 4, 0, 1);
    scene_fill(&scene, ORDINARY, 1);
    zero_state(&scene);
    for (int i = 0; i < 4; i++) {
        scene.before.param[i] = theta0[i];
    }
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 4; i++) {
            scene.grads[scene.source_indices[0]][i] = gradients[step][i];
        }
        advance(&scene, scene_run(&scene, bench));
    }
    expect_close(vector->name, "param", scene.before.param, vector->theta, 4);
    expect_close(vector->name, "exp_avg", scene.before.exp_avg, vector->m, 4);
    expect_close(vector->name, "exp_avg_sq", scene.before.exp_avg_sq, vector->v, 4);
    if (vector->options.amsgrad) {
        expect_close(vector->name, "max_exp_avg_sq", scene.before.max_exp_avg_sq, vector->x, 4);
    }
    scene_finish(&scene);
}

START_TEST(golden_vectors_come_out_at_pytorch_tolerance)
{
    struct bench bench;

    bench_open(&bench, _i);
    for (int v = 0; v < VECTOR_COUNT; v++) {
        check_vector(&bench, &vectors[v]);
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
    float *grad = scene.grads[scene.source_indices[0]];
    for (int step = 0; step < STEPS; step++) {
        struct wide expected[COUNT];
        for (int i = 0; i < COUNT; i++) {
            scene.before.param[i] = step == 0 ? (float)sin(i) : scene.before.param[i];
            grad[i] = (float)(cos(i * 3 + step * 11) * 1.5);
            expected[i] = step_wide(options, scene.t[0], (double)grad[i],
                                    (struct wide){(double)scene.before.param[i],
                                                  (double)scene.before.exp_avg[i],
                                                  (double)scene.before.exp_avg_sq[i],
                                                  (double)scene.before.max_exp_avg_sq[i]});
        }
        advance(&scene, scene_run(&scene, bench));
        for (int i = 0; i < COUNT; i++) {
            expect_close("double", "param", &scene.before.param[i], &expected[i].theta, 1);
            expect_close("double", "exp_avg", &scene.before.exp_avg[i], &expected[i].m, 1);
            expect_close("double", "exp_avg_sq", &scene.before.exp_avg_sq[i], &expected[i].v, 1);
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
    tcase_add_loop_test(tests, float32_stays_at_double_within_pytorch_tolerance, 0,
                        subject_count());
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
