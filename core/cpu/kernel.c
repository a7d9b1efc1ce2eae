// The loops, written once and plainly: the vectors are the compiler's business. CMake compiles this
// file once per instruction set, with ADAMD_KERNEL and ADAMD_KERNEL_VARIANT as the table's names.
#include "kernel.h"

#include "adamd/square_sum.h"

extern const struct kernel ADAMD_KERNEL;

// How far ahead the arrays are asked for: the hardware follows the streams, but stops at each page.
// Of 0, 128, 256, 512 and 1024 (AMD Zen 3, huge pages), 128 was the best and 1024 the worst.
enum { AHEAD_ELEMENTS = 128 };

ADAMD_INLINE void prefetch(const struct kernel_block *block, struct adamd_kind kind, size_t i) {
    __builtin_prefetch(block->grad + i, 0);
    __builtin_prefetch(block->param + i, 1);
    __builtin_prefetch(block->exp_avg + i, 1);
    __builtin_prefetch(block->exp_avg_sq + i, 1);
    if (kind.amsgrad) {
        __builtin_prefetch(block->max_exp_avg_sq + i, 1);
    }
}

// Sixteen elements side by side. `restrict` counts where it stands on a parameter, as here: without
// it gcc compares addresses in each row.
ADAMD_INLINE void update_row(struct adamd_rule_f32 rule, struct adamd_kind kind,
                             const float *restrict g, float *restrict p, float *restrict m,
                             float *restrict v, float *restrict x) {
    for (size_t l = 0; l < ADAMD_LANES; l++) {
        adamd_update_f32(kind, rule, g[l], &p[l], &m[l], &v[l], kind.amsgrad ? &x[l] : NULL);
    }
}

ADAMD_INLINE void copy_row(const float *restrict from, float *restrict to) {
    for (size_t l = 0; l < ADAMD_LANES; l++) {
        to[l] = from[l];
    }
}

// The square is exact in double, so that a multiply-add where there is one changes no bit.
ADAMD_INLINE double add_square(double sum, float value) {
#ifdef __FMA__
    return fma((double)value, (double)value, sum);
#else
    return sum + (double)value * (double)value;
#endif
}

ADAMD_INLINE void add_squares_of_row(const float *restrict g, double *restrict lanes) {
    for (size_t l = 0; l < ADAMD_LANES; l++) {
        lanes[l] = add_square(lanes[l], g[l]);
    }
}

// The one loop. `kind` and `publishes` are constants wherever it is inlined, so that it has no
// branches: rows, then what is left.
ADAMD_INLINE double update_loop(const struct adamd_rule_f32 *rule_of_step, struct adamd_kind kind,
                                const struct kernel_block *block, bool publishes) {
    const struct adamd_rule_f32 rule = *rule_of_step;
    const struct kernel_block b = *block;
    double lanes[ADAMD_LANES] = {0};
    size_t i = 0;

    for (; i + ADAMD_LANES <= b.count; i += ADAMD_LANES) {
        float *x = kind.amsgrad ? b.max_exp_avg_sq + i : NULL;
        prefetch(&b, kind, i + AHEAD_ELEMENTS);
        add_squares_of_row(b.grad + i, lanes);
        update_row(rule, kind, b.grad + i, b.param + i, b.exp_avg + i, b.exp_avg_sq + i, x);
        if (publishes) {
            copy_row(b.param + i, b.publish + i);
        }
    }
    for (size_t l = 0; i < b.count; i++, l++) {
        lanes[l] = add_square(lanes[l], b.grad[i]);
        adamd_update_f32(kind, rule, b.grad[i], &b.param[i], &b.exp_avg[i], &b.exp_avg_sq[i],
                         kind.amsgrad ? &b.max_exp_avg_sq[i] : NULL);
        if (publishes) {
            b.publish[i] = b.param[i];
        }
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
