/**
 * The update rule, once. C kernels of every instruction set and CUDA compile this text, without
 * contraction: each multiply-add is written where it happens, so all give the same bits.
 *
 * The rule is that of PyTorch's CPU kernels (torch/optim/adam.py; aten's FusedAdamKernel). float32
 * and float64 have one rounding, whichever of the three implementations a group names. float16 and
 * bfloat16 are computed in float: by `fused` throughout and rounded when they are stored; by the
 * for-loop and by `foreach` rounded after each operation, with some scalars rounded first.
 */
#ifndef ADAMD_UPDATE_H
#define ADAMD_UPDATE_H

#include "adamd/options.h"
#include "adamd/storage.h"

#include <math.h>

/** The kinds of update that differ in their operations, not only in their numbers. */
struct adamd_kind {
    enum adamd_decay decay;
    enum adamd_dtype storage;
    bool amsgrad;
    bool lerp_small;   // |1 - beta1| < 0.5
    bool rounds_each;  // to storage, after each operation
    bool divides;      // the denominator, at last
    bool scales_apart; // (1 - beta2) * g is a result of its own; only where `divides`
};

#define ADAMD_TYPED(stem) stem##_f32
#define ADAMD_REAL float
#define ADAMD_FMA fmaf
#define ADAMD_SQRT sqrtf
#define ADAMD_ROUND(storage, asked, x) ((asked) ? adamd_round_f32((storage), (x)) : (x))
#include "adamd/update_rule.h"
#undef ADAMD_TYPED
#undef ADAMD_REAL
#undef ADAMD_FMA
#undef ADAMD_SQRT
#undef ADAMD_ROUND

// Nothing is rounded further.
#define ADAMD_TYPED(stem) stem##_f64
#define ADAMD_REAL double
#define ADAMD_FMA fma
#define ADAMD_SQRT sqrt
#define ADAMD_ROUND(storage, asked, x) ((void)(storage), (void)(asked), (x))
#include "adamd/update_rule.h"
#undef ADAMD_TYPED
#undef ADAMD_REAL
#undef ADAMD_FMA
#undef ADAMD_SQRT
#undef ADAMD_ROUND

#endif
