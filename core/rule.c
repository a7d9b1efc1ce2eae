// The scalars of one step. Where the step count or an option is a tensor, PyTorch forms them in
// float32, with an operation of its own for each sign; this file follows it, in its order.
#include "adamd/options.h"

#include <math.h>

enum adamd_rounding adamd_rounding_of(const struct adamd_options *options) {
    if (options->fused == ADAMD_TRUE) {
        return ADAMD_ROUNDING_FUSED;
    }
    return options->foreach == ADAMD_TRUE ? ADAMD_ROUNDING_FOREACH : ADAMD_ROUNDING_FORLOOP;
}

static enum adamd_decay decay_of(const struct adamd_options *options) {
    if (options->weight_decay == 0.0) {
        return ADAMD_DECAY_NONE;
    }
    return options->decoupled_weight_decay ? ADAMD_DECAY_DECOUPLED : ADAMD_DECAY_L2;
}

// ---------------------------------------------------------------------------------- in double

static void correct(struct adamd_rule *rule, const struct adamd_options *options, uint64_t t) {
    const double step = (double)t;
    const double correction1 = 1.0 - pow(options->betas[0], step);
    const double correction2 = 1.0 - pow(options->betas[1], step);

    rule->root_correction = pow(correction2, 0.5); // as Python's `** 0.5`, not sqrt()
    rule->minus_step_size = -(options->lr / correction1);
}

// --------------------------------------------------------------------------------- in float32

// A Python number divided by a tensor.
static float divide_number(double number, float tensor) {
    const float reciprocal = 1.0F / tensor;
    return reciprocal * (float)number;
}

static float divide_lr(const struct adamd_options *options, float correction) {
    return options->lr_is_tensor ? (float)options->lr / correction
                                 : divide_number(options->lr, correction);
}

// A tensor to a power that is a number: the cube is two products.
static float raise(double base, uint64_t t) {
    const float b = (float)base;

    if (t == 3) {
        const float square = b * b;
        return square * b;
    }
    return t == 2 ? b * b : powf(b, (float)t);
}

// The for-loop with tensor options: the betas' corrections are tensors, or lr alone is one.
static void correct_tensors(struct adamd_rule *rule, const struct adamd_options *options,
                            uint64_t t) {
    if (!options->betas_are_tensors) {
        correct(rule, options, t);
        const double correction1 = 1.0 - pow(options->betas[0], (double)t);
        rule->minus_step_size = -(double)((float)options->lr / (float)correction1);
        return;
    }
    const float correction1 = 1.0F - raise(options->betas[0], t);
    const float correction2 = 1.0F - raise(options->betas[1], t);

    rule->root_correction = (double)sqrtf(correction2);
    rule->minus_step_size = -(double)divide_lr(options, correction1);
}

// The for-loop with the step count as a tensor: theta + m / (sqrt(u) / (r n) + eps / n), where n is
// the negative step size.
static void correct_captured(struct adamd_rule *rule, const struct adamd_options *options,
                             uint64_t t) {
    const float correction1 = 1.0F - powf((float)options->betas[0], (float)t);
    const float correction2 = 1.0F - powf((float)options->betas[1], (float)t);
    const float n = -divide_lr(options, correction1);

    rule->root_correction = (double)(sqrtf(correction2) * n);
    rule->eps = (double)divide_number(options->eps, n);
    rule->minus_step_size = 1.0;
}

// The same with foreach: theta + m / ((sqrt(u) / r + eps) / n).
static void correct_captured_lists(struct adamd_rule *rule, const struct adamd_options *options,
                                   uint64_t t) {
    const float minus_correction1 = powf((float)options->betas[0], (float)t) - 1.0F;
    const float minus_correction2 = powf((float)options->betas[1], (float)t) - 1.0F;

    rule->root_correction = (double)sqrtf(-minus_correction2);
    rule->divisor = (double)(1.0F / (minus_correction1 / (float)options->lr));
    rule->minus_step_size = 1.0;
}

static void form_tensor_scalars(struct adamd_rule *rule, const struct adamd_options *options) {
    if (options->lr_is_tensor) {
        const float product = (float)options->lr * (float)options->weight_decay;
        rule->keep = (double)(1.0F - product);
    }
    if (options->betas_are_tensors) {
        rule->one_minus_beta2 = (double)(1.0F - (float)options->betas[1]);
        rule->beta1_in_storage = rule->rounding == ADAMD_ROUNDING_FORLOOP;
    }
    if (options->betas_are_tensors && !rule->beta1_in_storage) {
        rule->lerp_weight = (double)(1.0F - (float)options->betas[0]);
        rule->scales_apart = true;
    }
}

struct adamd_rule adamd_rule_of(const struct adamd_options *options, uint64_t t) {
    const bool captured = options->capturable || options->differentiable;
    struct adamd_rule rule = {
        .beta1 = options->betas[0],
        .lerp_weight = 1.0 - options->betas[0],
        .beta2 = options->betas[1],
        .one_minus_beta2 = 1.0 - options->betas[1],
        .eps = options->eps,
        .weight_decay = options->weight_decay,
        .keep = 1.0 - options->lr * options->weight_decay,
        .divisor = 1.0,
        .decay = decay_of(options),
        .rounding = adamd_rounding_of(options),
        .amsgrad = options->amsgrad,
        .maximize = options->maximize,
    };

    // `fused` reads every tensor as a double, and ignores capturable.
    if (rule.rounding == ADAMD_ROUNDING_FUSED) {
        correct(&rule, options, t);
        return rule;
    }
    form_tensor_scalars(&rule, options);
    if (captured && rule.rounding == ADAMD_ROUNDING_FOREACH) {
        correct_captured_lists(&rule, options, t);
    } else if (captured) {
        correct_captured(&rule, options, t);
    } else if (options->lr_is_tensor || options->betas_are_tensors) {
        correct_tensors(&rule, options, t);
    } else {
        correct(&rule, options, t);
    }
    return rule;
}
