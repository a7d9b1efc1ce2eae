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

#define LOOP(stem) stem##_f32
#define STORAGE ADAMD_FLOAT32
#define STORED float
#define LOAD(x) (x)
#define SAVE(x) (x)
#include "kernel_loops.h"
#undef LOOP
#undef STORAGE
#undef STORED
#undef LOAD
#undef SAVE

#define LOOP(stem) stem##_f16
#define STORAGE ADAMD_FLOAT16
#define STORED uint16_t
#define LOAD adamd_f32_of_f16
#define SAVE adamd_f16_of_f32
#include "kernel_loops.h"
#undef LOOP
#undef STORAGE
#undef STORED
#undef LOAD
#undef SAVE

#define LOOP(stem) stem##_bf16
#define STORAGE ADAMD_BFLOAT16
#define STORED uint16_t
#define LOAD adamd_f32_of_bf16
#define SAVE adamd_bf16_of_f32
#include "kernel_loops.h"
#undef LOOP
#undef STORAGE
#undef STORED
#undef LOAD
#undef SAVE

#undef REAL
#undef REAL_MAX
#undef RULE
#undef RULE_OF
#undef KIND_OF
#undef UPDATE
#undef FMA
#undef ADD_SQUARE

#define REAL double
#define REAL_MAX DBL_MAX
#define RULE struct adamd_rule_f64
#define RULE_OF adamd_rule_to_f64
#define KIND_OF adamd_kind_of_f64
#define UPDATE adamd_update_f64
#define FMA fma
#define ADD_SQUARE add_rounded_square
#define LOOP(stem) stem##_f64
#define STORAGE ADAMD_FLOAT64
#define STORED double
#define LOAD(x) (x)
#define SAVE(x) (x)
#include "kernel_loops.h"

const struct kernel ADAMD_KERNEL = {
    .variant = ADAMD_KERNEL_VARIANT,
    .loops = {[ADAMD_FLOAT32] = &loops_f32,
              [ADAMD_FLOAT16] = &loops_f16,
              [ADAMD_BFLOAT16] = &loops_bf16,
              [ADAMD_FLOAT64] = &loops_f64},
};
