// The oracle and its comparison. One multiply-add is written as one fmaf, everything else rounds.
#include "scene.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void scene_init(struct scene *scene) {
    static const float weights[SCENE_SOURCES_MAX] = {1.0F, 3.0F, 0.25F, 7.5F, 0.1F};

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

    *run = (struct adamd_run){.offset = scene->element_count + gap,
                              .count = count,
                              .rule = rule,
                              .sources_first = scene->source_index_count,
                              .sources_count = sources};
    // A run's sources need not be in the order of the table, nor begin with its first.
    for (uint32_t k = 0; k < sources; k++) {
        scene->source_indices[scene->source_index_count++] =
            (k * 3 + scene->run_count) % SCENE_SOURCES_MAX;
    }
    scene->element_count = (run->offset + count + 15) / 16 * 16;
}

void scene_add_tail(struct scene *scene, uint64_t count) {
    scene->element_count += count;
}

// ------------------------------------------------------------------------------------------ values

static uint32_t next_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static float draw(uint32_t *state, enum values values) {
    const uint32_t random = next_random(state);
    const float sign = random & 1 ? -1.0F : 1.0F;
    const double unit = (double)next_random(state) / 4294967296.0;

    if (random % 64 == 2) {
        return sign * 0.0F;
    }
    if (values == TINY) {
        return sign * (float)(unit * 1e-38); // mostly below FLT_MIN
    }
    if (values == NONFINITE && random % 16 == 4) {
        return random & 32 ? NAN : sign * INFINITY;
    }
    return sign * (float)pow(10.0, unit * 9.0 - 6.0);
}

static float *draw_array(uint64_t count, enum values values, bool positive, uint32_t *state) {
    float *array = calloc(count + 1, sizeof *array);

    ck_assert_ptr_nonnull(array);
    for (uint64_t i = 0; i < count; i++) {
        const float value = draw(state, values);
        array[i] = positive ? fabsf(value) : value;
    }
    return array;
}

void scene_fill(struct scene *scene, enum values values, uint32_t seed) {
    const uint64_t count = scene->element_count;
    uint32_t state = seed * 2654435761U + 1U;

    scene->before.param = draw_array(count, values, false, &state);
    scene->before.exp_avg = draw_array(count, values, false, &state);
    scene->before.exp_avg_sq = draw_array(count, values, true, &state);
    scene->before.max_exp_avg_sq = draw_array(count, values, true, &state);
    scene->before.publish = draw_array(count, values, false, &state);
    for (uint32_t k = 0; k < scene->source_count; k++) {
        scene->grads[k] = draw_array(count, values, false, &state);
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

// ------------------------------------------------------------------------------------------ oracle

static float expect_mean(const struct scene *scene, const struct adamd_run *run, uint64_t i) {
    const uint32_t *sources = &scene->source_indices[run->sources_first];
    float sum = 0.0F;

    if (run->sources_count == 1) {
        return scene->grads[sources[0]][i];
    }
    sum = scene->weights[sources[0]] * scene->grads[sources[0]][i];
    for (uint32_t k = 1; k < run->sources_count; k++) {
        sum = fmaf(scene->weights[sources[k]], scene->grads[sources[k]][i], sum);
    }
    return sum / scene->weight_sum;
}

// NaN from either side, as torch.maximum.
static float expect_maximum(float a, float b) {
    if (isnan(a) || isnan(b)) {
        return NAN;
    }
    return a > b ? a : b;
}

static void expect_element(const struct adamd_options *o, uint64_t t, float grad, struct arrays *at,
                           uint64_t i) {
    const double c1 = 1.0 - pow(o->betas[0], (double)t);
    const double c2 = 1.0 - pow(o->betas[1], (double)t);
    const float w = (float)(1.0 - o->betas[0]);
    float theta = at->param[i];
    float g = o->maximize ? -grad : grad;
    float m = at->exp_avg[i];
    float v = at->exp_avg_sq[i];

    if (o->weight_decay != 0.0 && o->decoupled_weight_decay) {
        theta = theta * (float)(1.0 - o->lr * o->weight_decay);
    } else if (o->weight_decay != 0.0) {
        g = fmaf((float)o->weight_decay, theta, g);
    }
    m = fabsf(w) < 0.5F ? fmaf(w, g - m, m) : fmaf(-(g - m), 1.0F - w, g);
    v = v * (float)o->betas[1];
    v = fmaf((float)(1.0 - o->betas[1]) * g, g, v);
    float u = v;
    if (o->amsgrad) {
        u = expect_maximum(at->max_exp_avg_sq[i], v);
        at->max_exp_avg_sq[i] = u;
    }
    float d = sqrtf(u);
    d = d / (float)pow(c2, 0.5);
    d = d + (float)o->eps;
    const float numerator = (float)-(o->lr / c1) * m;
    const float quotient = numerator / d;
    at->param[i] = theta + quotient;
    at->exp_avg[i] = m;
    at->exp_avg_sq[i] = v;
}

// Blocks of 4096 from the run's start, element i in lane i mod 16, lanes folded in halves.
static double expect_block_sum(const struct scene *scene, const struct adamd_run *run,
                               uint64_t begin, uint64_t end) {
    double lane[16] = {0};

    for (uint64_t i = begin; i < end; i++) {
        const double g = expect_mean(scene, run, i);
        lane[(i - begin) % 16] += g * g;
    }
    for (int l = 0; l < 8; l++) {
        lane[l] += lane[l + 8];
    }
    for (int l = 0; l < 4; l++) {
        lane[l] += lane[l + 4];
    }
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

static float *duplicate(const float *array, uint64_t count) {
    float *copy = calloc(count + 1, sizeof *copy);

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, array, count * sizeof *copy);
    return copy;
}

static struct arrays duplicate_arrays(const struct arrays *from, uint64_t count) {
    return (struct arrays){
        .param = duplicate(from->param, count),
        .exp_avg = duplicate(from->exp_avg, count),
        .exp_avg_sq = duplicate(from->exp_avg_sq, count),
        .max_exp_avg_sq = duplicate(from->max_exp_avg_sq, count),
        .publish = duplicate(from->publish, count),
    };
}

static struct arrays expect(const struct scene *scene) {
    struct arrays after = duplicate_arrays(&scene->before, scene->element_count);

    for (uint32_t r = 0; r < scene->run_count; r++) {
        const struct adamd_run *run = &scene->runs[r];
        const uint64_t end = run->offset + run->count;
        for (uint64_t i = run->offset; i < end; i += 4096) {
            after.square_sum += expect_block_sum(scene, run, i, end - i < 4096 ? end : i + 4096);
        }
        for (uint64_t i = run->offset; i < end; i++) {
            expect_element(&scene->options[run->rule], scene->t[run->rule],
                           expect_mean(scene, run, i), &after, i);
        }
    }
    if (scene->publishes) {
        memcpy(after.publish, after.param, scene->element_count * sizeof(float));
    }
    return after;
}

// ------------------------------------------------------------------------------------------
// running

static struct adamd_buffer *load(struct bench *bench, enum adamd_memory memory, const float *array,
                                 uint64_t count) {
    const size_t bytes = (size_t)count * sizeof(float);
    struct adamd_buffer *buffer = bench_alloc(bench, memory, bytes + 1);

    bench_write(bench, buffer, array, bytes + 1); // arrays have one element more
    return buffer;
}

static float *unload(struct bench *bench, struct adamd_buffer *buffer, uint64_t count) {
    float *array = calloc(count + 1, sizeof *array);

    ck_assert_ptr_nonnull(array);
    bench_read(bench, buffer, array, (size_t)count * sizeof(float) + 1);
    adamd_backend_free(bench->backend, buffer);
    return array;
}

struct arrays scene_run(const struct scene *scene, struct bench *bench) {
    const uint64_t count = scene->element_count;
    struct adamd_source sources[SCENE_SOURCES_MAX];
    struct adamd_rule rules[SCENE_RULES_MAX];
    struct arrays after = {0};

    for (uint32_t k = 0; k < scene->source_count; k++) {
        // Gradients are read where they were received, or where they were accumulated.
        const enum adamd_memory memory = k % 2 == 0 ? ADAMD_STAGING : ADAMD_DEVICE;
        sources[k].gradient = load(bench, memory, scene->grads[k], count);
        sources[k].weight = scene->weights[k];
    }
    for (uint32_t i = 0; i < scene->rule_count; i++) {
        rules[i] = adamd_rule_of(&scene->options[i], scene->t[i]);
    }
    struct adamd_buffer *publish = load(bench, ADAMD_STAGING, scene->before.publish, count);
    const struct adamd_op op = {
        .kind = ADAMD_OP_STEP,
        .step = {.param = load(bench, ADAMD_DEVICE, scene->before.param, count),
                 .exp_avg = load(bench, ADAMD_DEVICE, scene->before.exp_avg, count),
                 .exp_avg_sq = load(bench, ADAMD_DEVICE, scene->before.exp_avg_sq, count),
                 .max_exp_avg_sq = load(bench, ADAMD_DEVICE, scene->before.max_exp_avg_sq, count),
                 .publish = scene->publishes ? publish : NULL,
                 .element_count = count,
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
    after.param = unload(bench, op.step.param, count);
    after.exp_avg = unload(bench, op.step.exp_avg, count);
    after.exp_avg_sq = unload(bench, op.step.exp_avg_sq, count);
    after.max_exp_avg_sq = unload(bench, op.step.max_exp_avg_sq, count);
    after.publish = unload(bench, publish, count);
    for (uint32_t k = 0; k < scene->source_count; k++) {
        adamd_backend_free(bench->backend, sources[k].gradient);
    }
    return after;
}

static bool same(float a, float b) {
    uint32_t bits[2];

    memcpy(&bits[0], &a, sizeof a);
    memcpy(&bits[1], &b, sizeof b);
    return (isnan(a) && isnan(b)) || bits[0] == bits[1];
}

static bool same_sum(double a, double b) {
    uint64_t bits[2];

    memcpy(&bits[0], &a, sizeof a);
    memcpy(&bits[1], &b, sizeof b);
    return (isnan(a) && isnan(b)) || bits[0] == bits[1];
}

// Asserts where it differs only: an assertion of Check is a write to a pipe.
static void compare(const char *what, const float *got, const float *expected, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (!same(got[i], expected[i])) {
            ck_abort_msg("%s[%llu] is %a, expected %a", what, (unsigned long long)i, (double)got[i],
                         (double)expected[i]);
        }
    }
}

void scene_check(struct scene *scene, struct bench *bench) {
    struct arrays expected = expect(scene);
    struct arrays got = scene_run(scene, bench);
    const uint64_t count = scene->element_count;

    compare("param", got.param, expected.param, count);
    compare("exp_avg", got.exp_avg, expected.exp_avg, count);
    compare("exp_avg_sq", got.exp_avg_sq, expected.exp_avg_sq, count);
    compare("max_exp_avg_sq", got.max_exp_avg_sq, expected.max_exp_avg_sq, count);
    compare("publish", got.publish, expected.publish, count);
    ck_assert_msg(same_sum(got.square_sum, expected.square_sum),
                  "the sum of squares is %a, expected %a", got.square_sum, expected.square_sum);
    arrays_finish(&got);
    arrays_finish(&expected);
}
