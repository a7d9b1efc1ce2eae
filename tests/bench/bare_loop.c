// The bare loops, one object per instruction set, as the kernels.
#include "bare_loop.h"

extern const struct bare_loop BARE_LOOP;

static void step(struct adamd_rule_f32 rule, struct bare_arrays arrays, size_t begin, size_t end) {
    const struct adamd_kind adam = {
        .decay = ADAMD_DECAY_NONE, .storage = ADAMD_FLOAT32, .lerp_small = true};
    const float *restrict g = arrays.grad;
    float *restrict p = arrays.param;
    float *restrict m = arrays.exp_avg;
    float *restrict v = arrays.exp_avg_sq;

    for (size_t i = begin; i < end; i++) {
        adamd_update_f32(adam, rule, g[i], &p[i], &m[i], &v[i], NULL);
    }
}

static void stream(struct adamd_rule_f32 rule, struct bare_arrays arrays, size_t begin,
                   size_t end) {
    const float *restrict g = arrays.grad;
    float *restrict p = arrays.param;
    float *restrict m = arrays.exp_avg;
    float *restrict v = arrays.exp_avg_sq;

    (void)rule;
    for (size_t i = begin; i < end; i++) {
        p[i] += g[i];
        m[i] += g[i];
        v[i] += g[i];
    }
}

const struct bare_loop BARE_LOOP = {.variant = BARE_LOOP_VARIANT, .step = step, .stream = stream};
