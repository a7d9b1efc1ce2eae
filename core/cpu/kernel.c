// The loops, written once and plainly: the vectors are the compiler's business. CMake compiles this
// file once per instruction set, with ADAMD_KERNEL and ADAMD_KERNEL_VARIANT as the table's names.
#include "kernel.h"

#include "adamd/square_sum.h"
#include "adamd/update.h"

#include <float.h>

extern const struct kernel ADAMD_KERNEL;

// How far ahead the arrays are asked for: the hardware follows the streams, but stops at each page.
// Of 0, 512, 1024, 2048 and 4096 (AMD Zen 3, huge pages, float32), 512 was the best and 4096 the
// worst.
enum { AHEAD_BYTES = 512 };

// The square of what is computed in float is exact in double, so that a multiply-add where there is
// one changes no bit.
ADAMD_INLINE double add_exact_square(double sum, float value) {
#ifdef __FMA__
    return fma((double)value, (double)value, sum);
#else
    return sum + (double)value * (double)value;
#endif
}

// Rounded twice, on every machine.
ADAMD_INLINE double add_rounded_square(double sum, double value) {
    const double square = value * value;
    return sum + square;
}

#define REAL float
#define REAL_MAX FLT_MAX
#define RULE struct adamd_rule_f32
#define RULE_OF adamd_rule_to_f32
#define KIND_OF adamd_kind_of_f32
#define UPDATE adamd_update_f32
#define FMA fmaf
#define ADD_SQUARE add_exact_square
#define ROW 16
#define ROUNDS false

#define LOOP(stem) stem##_f32
#define STORAGE ADAMD_FLOAT32
#define STORED float
#define LOAD(x) (x)
#define SAVE(x) (x)
#define SAVE_DOUBLE(x) ((STORED)(x))
#include "kernel_loops.h"
#undef LOOP
#undef STORAGE
#undef STORED
#undef LOAD
#undef SAVE
#undef SAVE_DOUBLE
#undef ROW
#undef ROUNDS

// A vector of what is stored, so that gcc makes one of the row.
#define ROW 32
#define ROUNDS true

#define LOOP(stem) stem##_f16
#define STORAGE ADAMD_FLOAT16
#define STORED uint16_t
#define LOAD adamd_f32_of_f16
#define SAVE adamd_f16_of_f32
#define SAVE_DOUBLE adamd_f16_of_f64
#include "kernel_loops.h"
#undef LOOP
#undef STORAGE
#undef STORED
#undef LOAD
#undef SAVE
#undef SAVE_DOUBLE

#define LOOP(stem) stem##_bf16
#define STORAGE ADAMD_BFLOAT16
#define STORED uint16_t
#define LOAD adamd_f32_of_bf16
#define SAVE adamd_bf16_of_f32
#define SAVE_DOUBLE adamd_bf16_of_f64
#include "kernel_loops.h"
#undef LOOP
#undef STORAGE
#undef STORED
#undef LOAD
#undef SAVE
#undef SAVE_DOUBLE

#undef REAL
#undef REAL_MAX
#undef RULE
#undef RULE_OF
#undef KIND_OF
#undef UPDATE
#undef FMA
#undef ADD_SQUARE
#undef ROW
#undef ROUNDS

#define REAL double
#define REAL_MAX DBL_MAX
#define RULE struct adamd_rule_f64
#define RULE_OF adamd_rule_to_f64
#define KIND_OF adamd_kind_of_f64
#define UPDATE adamd_update_f64
#define FMA fma
#define ADD_SQUARE add_rounded_square
#define ROW 16
#define ROUNDS false
#define LOOP(stem) stem##_f64
#define STORAGE ADAMD_FLOAT64
#define STORED double
#define LOAD(x) (x)
#define SAVE(x) (x)
#define SAVE_DOUBLE(x) ((STORED)(x))
#include "kernel_loops.h"

// -------------------------------------------------------------------------------- differentiating

// `width` elements side by side, the first of which adds to lane 0.
ADAMD_INLINE void vjp_row(struct adamd_vjp_kind kind, const struct adamd_vjp_rule *rule,
                          const struct kernel_chunk *restrict at,
                          struct kernel_chunk *restrict bars, size_t first, size_t width,
                          struct kernel_vjp_lanes *restrict lanes) {
    for (size_t l = 0; l < width; l++) {
        const size_t i = first + l;
        const struct adamd_vjp_element read = {at->param[i], at->grad[i], at->exp_avg[i],
                                               at->exp_avg_sq[i], at->max_exp_avg_sq[i]};
        struct adamd_vjp_element bar = {bars->param[i], 0.0, bars->exp_avg[i], bars->exp_avg_sq[i],
                                        bars->max_exp_avg_sq[i]};
        struct adamd_vjp_sums terms;
        adamd_vjp(kind, rule, &read, &bar, &terms);
        bars->param[i] = bar.param;
        bars->grad[i] = bar.grad;
        bars->exp_avg[i] = bar.exp_avg;
        bars->exp_avg_sq[i] = bar.exp_avg_sq;
        bars->max_exp_avg_sq[i] = bar.max_exp_avg_sq;
        for (size_t s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
            lanes->lanes[s][l] += terms.sums[s];
        }
    }
}

// But for `maximize`, `kind` is a constant wherever it is inlined.
ADAMD_INLINE void vjp_loop(struct adamd_vjp_kind kind, const struct adamd_vjp_rule *rule_of_step,
                           const struct kernel_chunk *at, struct kernel_chunk *bars, size_t count,
                           struct kernel_vjp_lanes *lanes) {
    const struct adamd_vjp_rule rule = *rule_of_step;
    size_t i = 0;

    for (; i + ADAMD_LANES <= count; i += ADAMD_LANES) {
        vjp_row(kind, &rule, at, bars, i, ADAMD_LANES, lanes);
    }
    vjp_row(kind, &rule, at, bars, i, count - i, lanes);
}

ADAMD_INLINE void vjp_fix_amsgrad(struct adamd_vjp_kind kind, const struct adamd_vjp_rule *rule,
                                  const struct kernel_chunk *at, struct kernel_chunk *bars,
                                  size_t count, struct kernel_vjp_lanes *lanes) {
    if (kind.amsgrad) {
        kind.amsgrad = true;
        vjp_loop(kind, rule, at, bars, count, lanes);
    } else {
        kind.amsgrad = false;
        vjp_loop(kind, rule, at, bars, count, lanes);
    }
}

static void differentiate(const struct adamd_vjp_rule *rule, const struct kernel_chunk *at,
                          struct kernel_chunk *bars, size_t count, struct kernel_vjp_lanes *lanes) {
    struct adamd_vjp_kind kind = adamd_vjp_kind_of(rule);

    switch (kind.decay) {
    case ADAMD_DECAY_L2:
        kind.decay = ADAMD_DECAY_L2;
        vjp_fix_amsgrad(kind, rule, at, bars, count, lanes);
        return;
    case ADAMD_DECAY_DECOUPLED:
        kind.decay = ADAMD_DECAY_DECOUPLED;
        vjp_fix_amsgrad(kind, rule, at, bars, count, lanes);
        return;
    case ADAMD_DECAY_NONE:
    default:
        kind.decay = ADAMD_DECAY_NONE;
        vjp_fix_amsgrad(kind, rule, at, bars, count, lanes);
        return;
    }
}

const struct kernel ADAMD_KERNEL = {
    .variant = ADAMD_KERNEL_VARIANT,
    .differentiate = differentiate,
    .loops = {[ADAMD_FLOAT32] = &loops_f32,
              [ADAMD_FLOAT16] = &loops_f16,
              [ADAMD_BFLOAT16] = &loops_bf16,
              [ADAMD_FLOAT64] = &loops_f64},
};
