/*
 * The text of the rule, for one computing type: ADAMD_REAL, with ADAMD_FMA, ADAMD_SQRT and
 * ADAMD_ROUND, and ADAMD_TYPED for the names. Included by update.h for each, hence without a guard.
 */

/** adamd_rule in the computing type. */
struct ADAMD_TYPED(adamd_rule) {
    ADAMD_REAL lerp_weight, lerp_rest; // rest: 1 - weight, for the second branch
    ADAMD_REAL beta2, one_minus_beta2, root_correction, minus_step_size, eps, weight_decay, keep;
    ADAMD_REAL divisor; // of the denominator, where kind.divides
    ADAMD_REAL sign;    // of the gradient: -1 to maximize. A product, since a choice keeps gcc from
                        // making vectors of narrow types
};

ADAMD_INLINE ADAMD_REAL ADAMD_TYPED(adamd_lerp_weight)(const struct adamd_rule *rule,
                                                       enum adamd_dtype storage) {
    const ADAMD_REAL beta1 = ADAMD_ROUND(storage, true, (ADAMD_REAL)rule->beta1);
    const ADAMD_REAL stored = ADAMD_ROUND(storage, true, 1 - beta1);

    return rule->beta1_in_storage ? stored : (ADAMD_REAL)rule->lerp_weight;
}

/** The scalars as a tensor of dtype `storage` meets them: section 1.3a of the specification. */
ADAMD_INLINE struct ADAMD_TYPED(adamd_rule)
    ADAMD_TYPED(adamd_rule_to)(const struct adamd_rule *rule, enum adamd_dtype storage) {
    const bool add_scalars = rule->rounding != ADAMD_ROUNDING_FUSED;
    const bool mul_scalars = rule->rounding == ADAMD_ROUNDING_FOREACH;
    struct ADAMD_TYPED(adamd_rule) f;

    f.lerp_weight = ADAMD_TYPED(adamd_lerp_weight)(rule, storage);
    f.lerp_rest = 1 - f.lerp_weight;
    f.beta2 = ADAMD_ROUND(storage, mul_scalars, (ADAMD_REAL)rule->beta2);
    f.one_minus_beta2 = (ADAMD_REAL)rule->one_minus_beta2;
    f.root_correction = (ADAMD_REAL)rule->root_correction;
    f.minus_step_size = (ADAMD_REAL)rule->minus_step_size;
    f.eps = ADAMD_ROUND(storage, add_scalars, (ADAMD_REAL)rule->eps);
    f.weight_decay = ADAMD_ROUND(storage, add_scalars, (ADAMD_REAL)rule->weight_decay);
    f.keep = ADAMD_ROUND(storage, mul_scalars, (ADAMD_REAL)rule->keep);
    f.divisor = (ADAMD_REAL)rule->divisor;
    f.sign = rule->maximize ? -1 : 1;
    return f;
}

/** A result of one of PyTorch's operations: rounded to storage where each of them is. */
ADAMD_INLINE ADAMD_REAL ADAMD_TYPED(adamd_result)(struct adamd_kind kind, ADAMD_REAL x) {
    return ADAMD_ROUND(kind.storage, kind.rounds_each, x);
}

/** What is different about an update of a tensor of dtype `storage`. */
ADAMD_INLINE struct adamd_kind ADAMD_TYPED(adamd_kind_of)(const struct adamd_rule *rule,
                                                          enum adamd_dtype storage) {
    const ADAMD_REAL weight = ADAMD_TYPED(adamd_lerp_weight)(rule, storage);
    struct adamd_kind kind;

    kind.decay = rule->decay;
    kind.storage = storage;
    kind.amsgrad = rule->amsgrad;
    kind.lerp_small = weight < (ADAMD_REAL)0.5; // it is not negative
    kind.rounds_each = rule->rounding != ADAMD_ROUNDING_FUSED &&
                       (storage == ADAMD_FLOAT16 || storage == ADAMD_BFLOAT16);
    kind.divides = rule->divisor != 1.0;
    kind.scales_apart = kind.divides && rule->scales_apart;
    return kind;
}

/** One element. `max_exp_avg_sq` is touched only with amsgrad. What is written is rounded by
 * whoever stores it. */
ADAMD_INLINE void ADAMD_TYPED(adamd_update)(struct adamd_kind kind,
                                            struct ADAMD_TYPED(adamd_rule) rule, ADAMD_REAL grad,
                                            ADAMD_REAL *param, ADAMD_REAL *exp_avg,
                                            ADAMD_REAL *exp_avg_sq, ADAMD_REAL *max_exp_avg_sq) {
    ADAMD_REAL theta = *param;
    ADAMD_REAL g = rule.sign * grad;

    if (kind.decay == ADAMD_DECAY_L2) {
        g = ADAMD_TYPED(adamd_result)(kind, ADAMD_FMA(rule.weight_decay, theta, g));
    } else if (kind.decay == ADAMD_DECAY_DECOUPLED) {
        theta = ADAMD_TYPED(adamd_result)(kind, theta * rule.keep);
    }

    const ADAMD_REAL difference = g - *exp_avg;
    const ADAMD_REAL lerped = kind.lerp_small ? ADAMD_FMA(rule.lerp_weight, difference, *exp_avg)
                                              : ADAMD_FMA(-difference, rule.lerp_rest, g);
    const ADAMD_REAL m = ADAMD_TYPED(adamd_result)(kind, lerped);
    const ADAMD_REAL decayed = ADAMD_TYPED(adamd_result)(kind, *exp_avg_sq * rule.beta2);
    ADAMD_REAL scaled = rule.one_minus_beta2 * g;
    if (kind.divides && kind.scales_apart) {
        scaled = ADAMD_TYPED(adamd_result)(kind, scaled);
    }
    const ADAMD_REAL v = ADAMD_TYPED(adamd_result)(kind, ADAMD_FMA(scaled, g, decayed));
    ADAMD_REAL u = v;

    if (kind.amsgrad) {
        // max(x, v) as PyTorch: NaN from either side wins.
        const ADAMD_REAL x = *max_exp_avg_sq;
        u = x > v || x != x ? x : v;
        *max_exp_avg_sq = u;
    }

    ADAMD_REAL denominator = ADAMD_TYPED(adamd_result)(kind, ADAMD_SQRT(u));
    denominator = ADAMD_TYPED(adamd_result)(kind, denominator / rule.root_correction);
    denominator = ADAMD_TYPED(adamd_result)(kind, denominator + rule.eps);
    if (kind.divides) {
        denominator = ADAMD_TYPED(adamd_result)(kind, denominator / rule.divisor);
    }
    *param = theta + (rule.minus_step_size * m) / denominator;
    *exp_avg = m;
    *exp_avg_sq = v;
}
