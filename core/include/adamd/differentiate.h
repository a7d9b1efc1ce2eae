/**
 * One step differentiated: from the cotangents of what it wrote (param, exp_avg, exp_avg_sq,
 * max_exp_avg_sq) to those of what it read, the gradient and the group's options among it. What
 * PyTorch's autograd gives through a step with differentiable=True.
 *
 * Written once, as update.h, and in double for parameters of every dtype: values are widened when
 * they are loaded and rounded once when they are stored. Sums over elements are formed in
 * square_sum.h's order, so every backend, instruction set and number of threads gives the same
 * bits.
 *
 * With T, M, V, X the cotangents of the results, q the gradient after maximize and L2, and m, v, u
 * what the step wrote (u: the larger one with amsgrad):
 *
 *     d = sqrt(u) / r2 + eps;   n = T * s / d;   ratio = m / d;   dbar = n * ratio
 *     mu = M - n;               ub = dbar / (2 * sqrt(u) * r2)
 *     vb = V + ub, with amsgrad ub + X goes to the larger one of v and x
 *     qbar = (1 - b1) * mu + 2 * (1 - b2) * q * vb
 *
 * Where it is not smooth it is PyTorch's: at a tie of amsgrad each gets half; a square root of 0
 * has an infinite slope, so a gradient of 0 at step 1 gives infinities, or NaN where its cotangent
 * is 0 as well; a weight_decay of exactly 0 is a branch not taken, so it has no derivative.
 */
#ifndef ADAMD_DIFFERENTIATE_H
#define ADAMD_DIFFERENTIATE_H

#include "adamd/options.h"
#include "adamd/update.h"

/** What one step of one parameter was made of. Unlike a struct adamd_rule never rounded. */
struct adamd_vjp_rule {
    double beta1, one_minus_beta1, beta2, one_minus_beta2;
    double correction1, root_correction; // 1 - beta1^t, sqrt(1 - beta2^t)
    double slope1, slope2;               // t * beta^(t - 1): minus the corrections' slopes
    double lr, step_size, eps, weight_decay, keep;
    enum adamd_decay decay;
    bool amsgrad, maximize;
};

/** The rule of step `t`, counted from 1. */
struct adamd_vjp_rule adamd_vjp_rule_of(const struct adamd_options *options, uint64_t t);

/** One element: its values, or their cotangents. */
struct adamd_vjp_element {
    double param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq;
};

/** Sums over elements of one rule, of which the cotangents of the options are made. */
enum adamd_vjp_sum {
    ADAMD_VJP_RATE,  // T * ratio
    ADAMD_VJP_DECAY, // what weight_decay multiplied: qbar * theta (L2), T * theta (decoupled)
    ADAMD_VJP_BETA1, // mu * (exp_avg - q)
    ADAMD_VJP_BETA2, // vb * (exp_avg_sq - q^2)
    ADAMD_VJP_ROOT,  // dbar * sqrt(u)
    ADAMD_VJP_EPS,   // dbar
    ADAMD_VJP_SUM_COUNT
};

struct adamd_vjp_sums {
    double sums[ADAMD_VJP_SUM_COUNT];
};

/** The kinds of step that differ in their operations, not only in their numbers. */
struct adamd_vjp_kind {
    enum adamd_decay decay;
    bool amsgrad, maximize;
};

ADAMD_INLINE struct adamd_vjp_kind adamd_vjp_kind_of(const struct adamd_vjp_rule *rule) {
    struct adamd_vjp_kind kind;
    kind.decay = rule->decay;
    kind.amsgrad = rule->amsgrad;
    kind.maximize = rule->maximize;
    return kind;
}

// The part of `whole` that goes to `mine` of max(mine, other). NaN takes it: torch.maximum's rule.
ADAMD_INLINE double adamd_vjp_share(double mine, double other, double whole) {
    const double part = mine == other ? 0.5 * whole : whole;
    return mine < other ? 0.0 : part;
}

/**
 * One element. `at` is what the step read; `bar` are the cotangents of what it wrote (its `grad`
 * counts for nothing) and become those of what it read. Without amsgrad, max_exp_avg_sq is left
 * alone. `terms` are this element's part of the sums.
 */
ADAMD_INLINE void adamd_vjp(struct adamd_vjp_kind kind, const struct adamd_vjp_rule *rule,
                            const struct adamd_vjp_element *at, struct adamd_vjp_element *bar,
                            struct adamd_vjp_sums *terms) {
    const double theta = at->param;
    double q = kind.maximize ? -at->grad : at->grad;

    if (kind.decay == ADAMD_DECAY_L2) {
        q = q + rule->weight_decay * theta;
    }
    const double square = q * q;
    const double m = rule->beta1 * at->exp_avg + rule->one_minus_beta1 * q;
    const double v = rule->beta2 * at->exp_avg_sq + rule->one_minus_beta2 * square;
    const double x = at->max_exp_avg_sq;
    double u = v;
    if (kind.amsgrad) {
        u = x > v || x != x ? x : v;
    }
    const double root = sqrt(u);
    const double d = root / rule->root_correction + rule->eps;
    const double n = bar->param * rule->step_size / d;
    const double ratio = m / d;
    const double dbar = n * ratio;
    const double mu = bar->exp_avg - n;
    const double ub = dbar / (2.0 * root * rule->root_correction);
    double vb = bar->exp_avg_sq + ub;
    if (kind.amsgrad) {
        const double whole = ub + bar->max_exp_avg_sq;
        vb = bar->exp_avg_sq + adamd_vjp_share(v, x, whole);
        bar->max_exp_avg_sq = adamd_vjp_share(x, v, whole);
    }
    const double qbar = rule->one_minus_beta1 * mu + 2.0 * rule->one_minus_beta2 * q * vb;

    terms->sums[ADAMD_VJP_RATE] = bar->param * ratio;
    terms->sums[ADAMD_VJP_DECAY] = 0.0;
    terms->sums[ADAMD_VJP_BETA1] = mu * (at->exp_avg - q);
    terms->sums[ADAMD_VJP_BETA2] = vb * (at->exp_avg_sq - square);
    terms->sums[ADAMD_VJP_ROOT] = dbar * root;
    terms->sums[ADAMD_VJP_EPS] = dbar;
    if (kind.decay == ADAMD_DECAY_L2) {
        terms->sums[ADAMD_VJP_DECAY] = qbar * theta;
        bar->param = bar->param + rule->weight_decay * qbar;
    } else if (kind.decay == ADAMD_DECAY_DECOUPLED) {
        terms->sums[ADAMD_VJP_DECAY] = bar->param * theta;
        bar->param = bar->param * rule->keep;
    }
    bar->grad = kind.maximize ? -qbar : qbar;
    bar->exp_avg = rule->beta1 * mu;
    bar->exp_avg_sq = rule->beta2 * vb;
}

/** The cotangents of one group's options. */
struct adamd_option_cotangents {
    double lr, betas[2], eps, weight_decay;
    bool has_weight_decay; // it was not 0
};

/** Adds what the elements of one rule contribute. Rules of a group in ascending order. */
void adamd_vjp_fold(const struct adamd_vjp_rule *rule, const struct adamd_vjp_sums *sums,
                    struct adamd_option_cotangents *to);

#endif
