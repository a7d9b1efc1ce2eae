/**
 * The update rule, once. C kernels of every instruction set and CUDA compile this text, without
 * contraction: each multiply-add is written where it happens, so all give the same bits.
 *
 * The rule is that of PyTorch's for-loop in float32 (torch/optim/adam.py, _single_tensor_adam; in
 * the rounding of its CPU kernels): the scalars were computed in double and rounded once to float.
 */
#ifndef ADAMD_UPDATE_H
#define ADAMD_UPDATE_H

#include "adamd/options.h"

#include <math.h>

#ifdef __CUDACC__
#define ADAMD_INLINE static __host__ __device__ __forceinline__
#else
#define ADAMD_INLINE static inline __attribute__((always_inline))
#endif

/** adamd_rule in the computing type, float32. */
struct adamd_rule_f32 {
    float lerp_weight, lerp_rest; // rest: 1 - weight, for the second branch
    float beta2, one_minus_beta2, root_correction, minus_step_size, eps, weight_decay, keep;
};

/** The kinds of update that differ in their operations, not only in their numbers. */
struct adamd_kind {
    enum adamd_decay decay;
    bool amsgrad, maximize;
    bool lerp_small; // |1 - beta1| < 0.5
};

ADAMD_INLINE struct adamd_rule_f32 adamd_rule_to_f32(const struct adamd_rule *rule) {
    struct adamd_rule_f32 f;
    f.lerp_weight = (float)rule->lerp_weight;
    f.lerp_rest = 1.0F - f.lerp_weight;
    f.beta2 = (float)rule->beta2;
    f.one_minus_beta2 = (float)rule->one_minus_beta2;
    f.root_correction = (float)rule->root_correction;
    f.minus_step_size = (float)-rule->step_size;
    f.eps = (float)rule->eps;
    f.weight_decay = (float)rule->weight_decay;
    f.keep = (float)rule->keep;
    return f;
}

ADAMD_INLINE struct adamd_kind adamd_kind_of(const struct adamd_rule *rule) {
    struct adamd_kind kind;
    kind.decay = rule->decay;
    kind.amsgrad = rule->amsgrad;
    kind.maximize = rule->maximize;
    kind.lerp_small = fabs((double)(float)rule->lerp_weight) < 0.5;
    return kind;
}

/** One element. `max_exp_avg_sq` is touched only with amsgrad. */
ADAMD_INLINE void adamd_update_f32(struct adamd_kind kind, struct adamd_rule_f32 rule, float grad,
                                   float *param, float *exp_avg, float *exp_avg_sq,
                                   float *max_exp_avg_sq) {
    float theta = *param;
    float g = kind.maximize ? -grad : grad;

    if (kind.decay == ADAMD_DECAY_L2) {
        g = fmaf(rule.weight_decay, theta, g);
    } else if (kind.decay == ADAMD_DECAY_DECOUPLED) {
        theta = theta * rule.keep;
    }

    const float difference = g - *exp_avg;
    const float m = kind.lerp_small ? fmaf(rule.lerp_weight, difference, *exp_avg)
                                    : fmaf(-difference, rule.lerp_rest, g);
    const float v = fmaf(rule.one_minus_beta2 * g, g, *exp_avg_sq * rule.beta2);
    float u = v;

    if (kind.amsgrad) {
        // max(x, v) as PyTorch: NaN from either side wins.
        const float x = *max_exp_avg_sq;
        u = x > v || x != x ? x : v;
        *max_exp_avg_sq = u;
    }

    const float denominator = sqrtf(u) / rule.root_correction + rule.eps;
    *param = theta + (rule.minus_step_size * m) / denominator;
    *exp_avg = m;
    *exp_avg_sq = v;
}

#endif
