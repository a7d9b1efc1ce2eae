// The oracle and its comparison. Each operation is done in double and rounded to the computing
// type: for float that is the same as computing in float, but for the multiply-add, which is fmaf.
#include "scene.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void scene_init(struct scene *scene) {
    static const double weights[SCENE_SOURCES_MAX] = {1.0, 3.0, 0.25, 7.5, 0.1};

    memset(scene, 0, sizeof *scene);
    memcpy(scene->weights, weights, sizeof weights);
    for (int k = 0; k < SCENE_SOURCES_MAX; k++) {
        scene->weight_sum += weights[k];
    }
    scene->source_count = SCENE_SOURCES_MAX;
}

void scene_add_run(struct scene *scene, uint64_t gap, uint64_t count, uint32_t rule,
                   uint32_t sources) {
    ck_assert_uint_lt(scene->run_count, SCENE_RUNS_MAX);
    struct adamd_run *run = &scene->runs[scene->run_count++];

    *run = (struct adamd_run){.offset = scene->arena_bytes + gap * SCENE_LINE,
                              .count = count,
                              .dtype = scene->dtype,
                              .rule = rule,
                              .sources_first = scene->source_index_count,
                              .sources_count = sources};
    // A run's sources need not be in the order of the table, nor begin with its first.
    for (uint32_t k = 0; k < sources; k++) {
        scene->source_indices[scene->source_index_count++] =
            (k * 3 + scene->run_count) % SCENE_SOURCES_MAX;
    }
    const uint64_t end = run->offset + count * adamd_dtype_size(run->dtype);
    scene->arena_bytes = (end + SCENE_LINE - 1) / SCENE_LINE * SCENE_LINE;
}

void scene_add_tail(struct scene *scene, uint64_t lines) {
    scene->arena_bytes += lines * SCENE_LINE;
}

// ------------------------------------------------------------------------------------------ values

static uint32_t next_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

// Below the smallest normal number, mostly.
static double tiny_of(enum adamd_dtype dtype) {
    switch (dtype) {
    case ADAMD_FLOAT16:
        return 1e-4;
    case ADAMD_FLOAT64:
        return 3e-308;
    default:
        return 1e-38;
    }
}

static double draw(uint32_t *state, enum values values, enum adamd_dtype dtype) {
    const uint32_t random = next_random(state);
    const double sign = random & 1 ? -1.0 : 1.0;
    const double unit = (double)next_random(state) / 4294967296.0;
    const double finer = unit + (double)next_random(state) / 4294967296.0 / 4294967296.0;

    if (random % 64 == 2) {
        return sign * 0.0;
    }
    if (values == TINY) {
        return sign * finer * tiny_of(dtype);
    }
    if (values == NONFINITE && random % 16 == 4) {
        return random & 32 ? NAN : sign * INFINITY;
    }
    return sign * pow(10.0, finer * 9.0 - 6.0);
}

static unsigned char *make_array(uint64_t bytes) {
    unsigned char *array = calloc(1, bytes + 1);

    ck_assert_ptr_nonnull(array);
    return array;
}

// Gaps hold anything.
static unsigned char *draw_array(const struct scene *scene, enum values values, bool positive,
                                 uint32_t *state) {
    unsigned char *array = make_array(scene->arena_bytes);

    for (uint64_t i = 0; i < scene->arena_bytes; i++) {
        array[i] = (unsigned char)(i * 31 + i / 253);
    }
    for (uint32_t r = 0; r < scene->run_count; r++) {
        const struct adamd_run *run = &scene->runs[r];
        for (uint64_t i = 0; i < run->count; i++) {
            const double value = draw(state, values, run->dtype);
            value_set(array + run->offset, run->dtype, i, positive ? fabs(value) : value);
        }
    }
    return array;
}

void scene_fill(struct scene *scene, enum values values, uint32_t seed) {
    uint32_t state = seed * 2654435761U + 1U;

    scene->before.param = draw_array(scene, values, false, &state);
    scene->before.exp_avg = draw_array(scene, values, false, &state);
    scene->before.exp_avg_sq = draw_array(scene, values, true, &state);
    scene->before.max_exp_avg_sq = draw_array(scene, values, true, &state);
    scene->before.publish = draw_array(scene, values, false, &state);
    for (uint32_t k = 0; k < scene->source_count; k++) {
        scene->grads[k] = draw_array(scene, values, false, &state);
    }
}

void arrays_finish(struct arrays *arrays) {
    free(arrays->param);
    free(arrays->exp_avg);
    free(arrays->exp_avg_sq);
    free(arrays->max_exp_avg_sq);
    free(arrays->publish);
}

void scene_finish(struct scene *scene) {
    arrays_finish(&scene->before);
    for (uint32_t k = 0; k < SCENE_SOURCES_MAX; k++) {
        free(scene->grads[k]);
    }
}

// ------------------------------------------------------------------------------------- arithmetic

// To the type in which `dtype` is computed.
static double narrow(enum adamd_dtype dtype, double x) {
    return dtype == ADAMD_FLOAT64 ? x : (double)(float)x;
}

static double multiply_add(enum adamd_dtype dtype, double a, double b, double c) {
    return dtype == ADAMD_FLOAT64 ? fma(a, b, c) : (double)fmaf((float)a, (float)b, (float)c);
}

static double expect_mean(const struct scene *scene, const struct adamd_run *run, uint64_t i) {
    const uint32_t *sources = &scene->source_indices[run->sources_first];
    const enum adamd_dtype dtype = run->dtype;
    double sum = value_get(scene->grads[sources[0]] + run->offset, dtype, i);

    if (run->sources_count == 1) {
        return sum;
    }
    sum = narrow(dtype, narrow(dtype, scene->weights[sources[0]]) * sum);
    for (uint32_t k = 1; k < run->sources_count; k++) {
        sum = multiply_add(dtype, narrow(dtype, scene->weights[sources[k]]),
                           value_get(scene->grads[sources[k]] + run->offset, dtype, i), sum);
    }
    return value_round(dtype, narrow(dtype, sum / narrow(dtype, scene->weight_sum)));
}

// NaN from either side, as torch.maximum.
static double expect_maximum(double a, double b) {
    if (isnan(a) || isnan(b)) {
        return NAN;
    }
    return a > b ? a : b;
}

// How the results of operations and the scalars of some of them are rounded.
struct style {
    enum adamd_dtype dtype;
    bool loop, foreach; // one of PyTorch's two unfused paths; the second of them
    bool captured;      // the step count is a tensor
};

// The result of an operation.
static double result(struct style style, double x) {
    return style.loop ? value_round(style.dtype, narrow(style.dtype, x)) : narrow(style.dtype, x);
}

// A scalar that is rounded to the tensor's dtype first, where `rounds`.
static double scalar(struct style style, bool rounds, double x) {
    return rounds ? value_round(style.dtype, x) : narrow(style.dtype, x);
}

static double expect_exp_avg(struct style style, double beta1, double m, double g) {
    const double w = narrow(style.dtype, 1.0 - beta1);
    const double difference = narrow(style.dtype, g - m);

    if (fabs(w) < 0.5) {
        return result(style, multiply_add(style.dtype, w, difference, m));
    }
    return result(style, multiply_add(style.dtype, -difference, narrow(style.dtype, 1.0 - w), g));
}

static double expect_exp_avg_sq(struct style style, double beta2, double v, double g) {
    const double decayed = result(style, v * scalar(style, style.foreach, beta2));
    const double part = narrow(style.dtype, narrow(style.dtype, 1.0 - beta2) * g);

    return result(style, multiply_add(style.dtype, part, g, decayed));
}

// theta + (factor * m) / ((sqrt(u) / root + eps) / divisor)
struct scalars {
    double root, eps, factor, divisor;
};

// With the step count as a tensor, in float32: for the for-loop the step size is folded into root
// and eps, for foreach it divides at last.
static struct scalars captured_scalars(struct style style, const struct adamd_options *o,
                                       uint64_t t) {
    const float power1 = powf((float)o->betas[0], (float)t);
    const float power2 = powf((float)o->betas[1], (float)t);

    if (style.foreach) {
        const float quotient = (power1 - 1.0F) / (float)o->lr;
        return (struct scalars){.root = (double)sqrtf(1.0F - power2),
                                .eps = scalar(style, true, o->eps),
                                .factor = 1.0,
                                .divisor = (double)(1.0F / quotient)};
    }
    const float reciprocal = 1.0F / (1.0F - power1);
    const float n = -(reciprocal * (float)o->lr);
    const float inverse = 1.0F / n;
    return (struct scalars){.root = (double)(sqrtf(1.0F - power2) * n),
                            .eps = scalar(style, style.loop, (double)(inverse * (float)o->eps)),
                            .factor = 1.0,
                            .divisor = 1.0};
}

static struct scalars expect_scalars(struct style style, const struct adamd_options *o,
                                     uint64_t t) {
    const double c1 = 1.0 - pow(o->betas[0], (double)t);
    const double c2 = 1.0 - pow(o->betas[1], (double)t);

    if (style.captured) {
        return captured_scalars(style, o, t);
    }
    return (struct scalars){.root = narrow(style.dtype, pow(c2, 0.5)),
                            .eps = scalar(style, style.loop, o->eps),
                            .factor = narrow(style.dtype, -(o->lr / c1)),
                            .divisor = 1.0};
}

static void expect_element(struct style style, const struct adamd_options *o, struct scalars s,
                           double grad, struct arrays *at, uint64_t offset, uint64_t i) {
    const enum adamd_dtype dtype = style.dtype;
    double theta = value_get(at->param + offset, dtype, i);
    double g = o->maximize ? -grad : grad;

    if (o->weight_decay != 0.0 && o->decoupled_weight_decay) {
        theta = result(style, theta * scalar(style, style.foreach, 1.0 - o->lr * o->weight_decay));
    } else if (o->weight_decay != 0.0) {
        g = result(style,
                   multiply_add(dtype, scalar(style, style.loop, o->weight_decay), theta, g));
    }
    const double m =
        expect_exp_avg(style, o->betas[0], value_get(at->exp_avg + offset, dtype, i), g);
    const double v =
        expect_exp_avg_sq(style, o->betas[1], value_get(at->exp_avg_sq + offset, dtype, i), g);
    double u = v;
    if (o->amsgrad) {
        u = expect_maximum(value_get(at->max_exp_avg_sq + offset, dtype, i), v);
        value_set(at->max_exp_avg_sq + offset, dtype, i, u);
    }
    double d = result(style, dtype == ADAMD_FLOAT64 ? sqrt(u) : (double)sqrtf((float)u));
    d = result(style, d / s.root);
    d = result(style, d + s.eps);
    d = result(style, d / s.divisor);
    const double numerator = narrow(dtype, s.factor * m);
    const double quotient = narrow(dtype, numerator / d);
    value_set(at->param + offset, dtype, i, narrow(dtype, theta + quotient));
    value_set(at->exp_avg + offset, dtype, i, m);
    value_set(at->exp_avg_sq + offset, dtype, i, v);
}

// Blocks of 4096 from the run's start, element i in lane i mod 16, lanes folded in halves.
static double expect_block_sum(const struct scene *scene, const struct adamd_run *run,
                               uint64_t begin, uint64_t end) {
    double lane[16] = {0};

    for (uint64_t i = begin; i < end; i++) {
        const double g = expect_mean(scene, run, i);
        const double square = g * g;
        lane[(i - begin) % 16] += square;
    }
    for (int l = 0; l < 8; l++) {
        lane[l] += lane[l + 8];
    }
    for (int l = 0; l < 4; l++) {
        lane[l] += lane[l + 4];
    }
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

// Adds the blocks' sums to `sum`, one after another.
static double expect_square_sum(const struct scene *scene, const struct adamd_run *run,
                                double sum) {
    for (uint64_t i = 0; i < run->count; i += 4096) {
        const uint64_t end = run->count - i < 4096 ? run->count : i + 4096;
        sum += expect_block_sum(scene, run, i, end);
    }
    return sum;
}

static unsigned char *duplicate(const unsigned char *array, uint64_t bytes) {
    unsigned char *copy = make_array(bytes);

    memcpy(copy, array, bytes);
    return copy;
}

static struct arrays duplicate_arrays(const struct arrays *from, uint64_t bytes) {
    return (struct arrays){
        .param = duplicate(from->param, bytes),
        .exp_avg = duplicate(from->exp_avg, bytes),
        .exp_avg_sq = duplicate(from->exp_avg_sq, bytes),
        .max_exp_avg_sq = duplicate(from->max_exp_avg_sq, bytes),
        .publish = duplicate(from->publish, bytes),
    };
}

static struct arrays expect(const struct scene *scene) {
    struct arrays after = duplicate_arrays(&scene->before, scene->arena_bytes);

    for (uint32_t r = 0; r < scene->run_count; r++) {
        const struct adamd_run *run = &scene->runs[r];
        const struct adamd_options *options = &scene->options[run->rule];
        const struct style style = {.dtype = run->dtype,
                                    .loop = options->fused != ADAMD_TRUE,
                                    .foreach = options->fused != ADAMD_TRUE &&
                                               options->foreach == ADAMD_TRUE,
                                    .captured = options->fused != ADAMD_TRUE &&
                                                (options->capturable || options->differentiable)};
        const struct scalars scalars = expect_scalars(style, options, scene->t[run->rule]);
        after.square_sum = expect_square_sum(scene, run, after.square_sum);
        for (uint64_t i = 0; i < run->count; i++) {
            expect_element(style, options, scalars, expect_mean(scene, run, i), &after, run->offset,
                           i);
        }
    }
    if (scene->publishes) {
        memcpy(after.publish, after.param, scene->arena_bytes);
    }
    return after;
}

// ----------------------------------------------------------------------------------------- running

static struct adamd_buffer *load(struct bench *bench, enum adamd_memory memory,
                                 const unsigned char *array, uint64_t bytes) {
    struct adamd_buffer *buffer = bench_alloc(bench, memory, (size_t)bytes + 1);

    bench_write(bench, buffer, array, (size_t)bytes + 1); // arrays have one byte more
    return buffer;
}

static unsigned char *unload(struct bench *bench, struct adamd_buffer *buffer, uint64_t bytes) {
    unsigned char *array = make_array(bytes);

    bench_read(bench, buffer, array, (size_t)bytes + 1);
    adamd_backend_free(bench->backend, buffer);
    return array;
}

static void load_sources(const struct scene *scene, struct bench *bench,
                         struct adamd_source *sources) {
    for (uint32_t k = 0; k < scene->source_count; k++) {
        // Gradients are read where they were received, or where they were accumulated.
        const enum adamd_memory memory = k % 2 == 0 ? ADAMD_STAGING : ADAMD_DEVICE;
        sources[k].gradient = load(bench, memory, scene->grads[k], scene->arena_bytes);
        sources[k].weight = scene->weights[k];
    }
}

static void free_sources(const struct scene *scene, struct bench *bench,
                         const struct adamd_source *sources) {
    for (uint32_t k = 0; k < scene->source_count; k++) {
        adamd_backend_free(bench->backend, sources[k].gradient);
    }
}

struct arrays scene_run(const struct scene *scene, struct bench *bench) {
    const uint64_t bytes = scene->arena_bytes;
    struct adamd_source sources[SCENE_SOURCES_MAX];
    struct adamd_rule rules[SCENE_RULES_MAX];
    struct arrays after = {0};

    load_sources(scene, bench, sources);
    for (uint32_t i = 0; i < scene->rule_count; i++) {
        rules[i] = adamd_rule_of(&scene->options[i], scene->t[i]);
    }
    struct adamd_buffer *publish = load(bench, ADAMD_STAGING, scene->before.publish, bytes);
    const struct adamd_op op = {
        .kind = ADAMD_OP_STEP,
        .step = {.param = load(bench, ADAMD_DEVICE, scene->before.param, bytes),
                 .exp_avg = load(bench, ADAMD_DEVICE, scene->before.exp_avg, bytes),
                 .exp_avg_sq = load(bench, ADAMD_DEVICE, scene->before.exp_avg_sq, bytes),
                 .max_exp_avg_sq = load(bench, ADAMD_DEVICE, scene->before.max_exp_avg_sq, bytes),
                 .publish = scene->publishes ? publish : NULL,
                 .arena_bytes = bytes,
                 .rules = rules,
                 .rule_count = scene->rule_count,
                 .sources = sources,
                 .source_count = scene->source_count,
                 .source_indices = scene->source_indices,
                 .source_index_count = scene->source_index_count,
                 .weight_sum = scene->weight_sum,
                 .runs = scene->runs,
                 .run_count = scene->run_count,
                 .ret_square_sum = &after.square_sum},
    };
    bench_submit(bench, &op);
    bench_wait(bench);
    after.param = unload(bench, op.step.param, bytes);
    after.exp_avg = unload(bench, op.step.exp_avg, bytes);
    after.exp_avg_sq = unload(bench, op.step.exp_avg_sq, bytes);
    after.max_exp_avg_sq = unload(bench, op.step.max_exp_avg_sq, bytes);
    after.publish = unload(bench, publish, bytes);
    free_sources(scene, bench, sources);
    return after;
}

// -------------------------------------------------------------------------------------- comparing

static bool same(double a, double b) {
    uint64_t bits[2];

    memcpy(&bits[0], &a, sizeof a);
    memcpy(&bits[1], &b, sizeof b);
    return (isnan(a) && isnan(b)) || bits[0] == bits[1];
}

static void compare_bytes(const char *what, const unsigned char *got, const unsigned char *expected,
                          uint64_t begin, uint64_t end) {
    if (memcmp(got + begin, expected + begin, end - begin) != 0) {
        ck_abort_msg("%s: the gap [%llu, %llu) differs", what, (unsigned long long)begin,
                     (unsigned long long)end);
    }
}

// Asserts where it differs only: an assertion of Check is a write to a pipe.
static void compare_run(const char *what, const struct adamd_run *run, const unsigned char *got,
                        const unsigned char *expected) {
    for (uint64_t i = 0; i < run->count; i++) {
        const double g = value_get(got + run->offset, run->dtype, i);
        const double e = value_get(expected + run->offset, run->dtype, i);
        if (!same(g, e)) {
            ck_abort_msg("%s[%llu] of %s is %a, expected %a", what, (unsigned long long)i,
                         adamd_dtype_name(run->dtype), g, e);
        }
    }
}

static void compare(const struct scene *scene, const char *what, const unsigned char *got,
                    const unsigned char *expected) {
    uint64_t end = 0;

    for (uint32_t r = 0; r < scene->run_count; r++) {
        const struct adamd_run *run = &scene->runs[r];
        compare_bytes(what, got, expected, end, run->offset);
        compare_run(what, run, got, expected);
        end = run->offset + run->count * adamd_dtype_size(run->dtype);
    }
    compare_bytes(what, got, expected, end, scene->arena_bytes);
}

static void check_against(const struct scene *scene, const struct arrays *expected,
                          struct bench *bench) {
    struct arrays got = scene_run(scene, bench);

    compare(scene, "exp_avg", got.exp_avg, expected->exp_avg);
    compare(scene, "exp_avg_sq", got.exp_avg_sq, expected->exp_avg_sq);
    compare(scene, "max_exp_avg_sq", got.max_exp_avg_sq, expected->max_exp_avg_sq);
    compare(scene, "param", got.param, expected->param);
    compare(scene, "publish", got.publish, expected->publish);
    ck_assert_msg(same(got.square_sum, expected->square_sum),
                  "the sum of squares is %a, expected %a", got.square_sum, expected->square_sum);
    arrays_finish(&got);
}

void scene_check(struct scene *scene, struct bench *bench) {
    struct arrays expected = expect(scene);

    check_against(scene, &expected, bench);
    arrays_finish(&expected);
}

void scene_check_everywhere(struct scene *scene) {
    struct arrays expected = expect(scene);

    for (int i = 0; i < subject_count(); i++) {
        struct bench bench;
        bench_open(&bench, i);
        check_against(scene, &expected, &bench);
        bench_close(&bench);
    }
    arrays_finish(&expected);
}

// --------------------------------------------------------------------------------- mean and norm

static void check_part(const struct scene *scene, const struct adamd_run *run,
                       struct adamd_norm_part got) {
    struct adamd_norm_part expected = {.square_sum = expect_square_sum(scene, run, 0.0)};

    for (uint64_t i = 0; i < run->count; i++) {
        const double g = fabs(expect_mean(scene, run, i));
        expected.max_abs = g > expected.max_abs ? g : expected.max_abs;
        expected.nonfinite += isfinite(g) ? 0 : 1;
    }
    ck_assert_msg(same(got.square_sum, expected.square_sum), "square_sum is %a, expected %a",
                  got.square_sum, expected.square_sum);
    ck_assert_msg(same(got.max_abs, expected.max_abs), "max_abs is %a, expected %a", got.max_abs,
                  expected.max_abs);
    ck_assert_uint_eq(got.nonfinite, expected.nonfinite);
}

void scene_check_mean_and_norm(struct scene *scene, struct bench *bench) {
    struct adamd_source sources[SCENE_SOURCES_MAX];
    struct adamd_norm_part parts[SCENE_RUNS_MAX];
    unsigned char *expected = duplicate(scene->before.param, scene->arena_bytes);

    load_sources(scene, bench, sources);
    const struct adamd_op mean = {
        .kind = ADAMD_OP_MEAN,
        .mean = {.to = load(bench, ADAMD_STAGING, scene->before.param, scene->arena_bytes),
                 .sources = sources,
                 .source_count = scene->source_count,
                 .source_indices = scene->source_indices,
                 .source_index_count = scene->source_index_count,
                 .weight_sum = scene->weight_sum,
                 .runs = scene->runs,
                 .run_count = scene->run_count}};
    const struct adamd_op norm = {.kind = ADAMD_OP_NORM,
                                  .norm = {.from = mean.mean.to,
                                           .runs = scene->runs,
                                           .run_count = scene->run_count,
                                           .ret_parts = parts}};
    bench_submit(bench, &mean);
    bench_submit(bench, &norm);
    bench_wait(bench);
    for (uint32_t r = 0; r < scene->run_count; r++) {
        const struct adamd_run *run = &scene->runs[r];
        check_part(scene, run, parts[r]);
        for (uint64_t i = 0; i < run->count; i++) {
            value_set(expected + run->offset, run->dtype, i, expect_mean(scene, run, i));
        }
    }
    unsigned char *got = unload(bench, mean.mean.to, scene->arena_bytes);
    compare(scene, "mean", got, expected);
    free(got);
    free(expected);
    free_sources(scene, bench, sources);
}
