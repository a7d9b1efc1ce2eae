// The loops, written once and plainly: the vectors are the compiler's business. CMake compiles this
// file once per instruction set, with ADAMD_KERNEL and ADAMD_KERNEL_VARIANT as the table's names.
#include "kernel.h"

#include "adamd/square_sum.h"

extern const struct kernel ADAMD_KERNEL;

// How far ahead the arrays are asked for. The hardware follows four to six streams, but stops at
// each page; see tests/bench/README.md for what this distance was chosen by.
enum { AHEAD_ELEMENTS = 512 };

ADAMD_INLINE void prefetch(const struct kernel_block *block, struct adamd_kind kind, size_t i) {
    __builtin_prefetch(block->grad + i, 0);
    __builtin_prefetch(block->param + i, 1);
    __builtin_prefetch(block->exp_avg + i, 1);
    __builtin_prefetch(block->exp_avg_sq + i, 1);
    if (kind.amsgrad) {
        __builtin_prefetch(block->max_exp_avg_sq + i, 1);
    }
}

// The one loop. `kind` and `publishes` are constants wherever it is inlined, so that it has no
// branches: a row of 16 lanes at a time, then what is left.
ADAMD_INLINE double update_loop(const struct adamd_rule_f32 *rule_of_step, struct adamd_kind kind,
                                const struct kernel_block *block, bool publishes) {
    const struct adamd_rule_f32 rule = *rule_of_step;
    const size_t count = block->count;
    const float *restrict g = block->grad;
    float *restrict p = block->param;
    float *restrict m = block->exp_avg;
    float *restrict v = block->exp_avg_sq;
    float *restrict x = block->max_exp_avg_sq;
    float *restrict published = block->publish;
    double lanes[ADAMD_LANES] = {0};
    size_t i = 0;

    for (; i + ADAMD_LANES <= count; i += ADAMD_LANES) {
        prefetch(block, kind, i + AHEAD_ELEMENTS);
        for (size_t l = 0; l < ADAMD_LANES; l++) {
            adamd_update_f32(kind, rule, g[i + l], &p[i + l], &m[i + l], &v[i + l],
                             kind.amsgrad ? &x[i + l] : NULL);
            if (publishes) {
                published[i + l] = p[i + l];
            }
        }
        for (size_t l = 0; l < ADAMD_LANES; l++) {
            lanes[l] += (double)g[i + l] * (double)g[i + l];
        }
    }
    for (size_t l = 0; i < count; i++, l++) {
        adamd_update_f32(kind, rule, g[i], &p[i], &m[i], &v[i], kind.amsgrad ? &x[i] : NULL);
        if (publishes) {
            published[i] = p[i];
        }
        lanes[l] += (double)g[i] * (double)g[i];
    }
    return adamd_fold_lanes(lanes);
}

// From here to update(): each function makes one member of `kind` a constant.
ADAMD_INLINE double fix_publish(const struct adamd_rule_f32 *rule, struct adamd_kind kind,
                                const struct kernel_block *block) {
    return block->publish != NULL ? update_loop(rule, kind, block, true)
                                  : update_loop(rule, kind, block, false);
}

ADAMD_INLINE double fix_lerp(const struct adamd_rule_f32 *rule, struct adamd_kind kind,
                             const struct kernel_block *block) {
    if (kind.lerp_small) {
        kind.lerp_small = true;
        return fix_publish(rule, kind, block);
    }
    kind.lerp_small = false;
    return fix_publish(rule, kind, block);
}

ADAMD_INLINE double fix_maximize(const struct adamd_rule_f32 *rule, struct adamd_kind kind,
                                 const struct kernel_block *block) {
    if (kind.maximize) {
        kind.maximize = true;
        return fix_lerp(rule, kind, block);
    }
    kind.maximize = false;
    return fix_lerp(rule, kind, block);
}

ADAMD_INLINE double fix_amsgrad(const struct adamd_rule_f32 *rule, struct adamd_kind kind,
                                const struct kernel_block *block) {
    if (kind.amsgrad) {
        kind.amsgrad = true;
        return fix_maximize(rule, kind, block);
    }
    kind.amsgrad = false;
    return fix_maximize(rule, kind, block);
}

static double update(const struct adamd_rule_f32 *rule, struct adamd_kind kind,
                     const struct kernel_block *block) {
    switch (kind.decay) {
    case ADAMD_DECAY_L2:
        kind.decay = ADAMD_DECAY_L2;
        return fix_amsgrad(rule, kind, block);
    case ADAMD_DECAY_DECOUPLED:
        kind.decay = ADAMD_DECAY_DECOUPLED;
        return fix_amsgrad(rule, kind, block);
    case ADAMD_DECAY_NONE:
    default:
        kind.decay = ADAMD_DECAY_NONE;
        return fix_amsgrad(rule, kind, block);
    }
}

static void scale(float *restrict to, const float *restrict from, float weight, size_t count) {
    for (size_t i = 0; i < count; i++) {
        to[i] = weight * from[i];
    }
}

static void scale_add(float *restrict to, const float *restrict from, float weight, size_t count) {
    for (size_t i = 0; i < count; i++) {
        to[i] = fmaf(weight, from[i], to[i]);
    }
}

static void divide(float *to, float divisor, size_t count) {
    for (size_t i = 0; i < count; i++) {
        to[i] = to[i] / divisor;
    }
}

static void add(float *restrict to, const float *restrict from, size_t count) {
    for (size_t i = 0; i < count; i++) {
        to[i] = to[i] + from[i];
    }
}

const struct kernel ADAMD_KERNEL = {
    .variant = ADAMD_KERNEL_VARIANT,
    .update = update,
    .scale = scale,
    .scale_add = scale_add,
    .divide = divide,
    .add = add,
};
