// The scalars of a step's derivative, before and after the elements.
#include "adamd/differentiate.h"

static enum adamd_decay decay_of(const struct adamd_options *options) {
    if (options->weight_decay == 0.0) {
        return ADAMD_DECAY_NONE;
    }
    return options->decoupled_weight_decay ? ADAMD_DECAY_DECOUPLED : ADAMD_DECAY_L2;
}

struct adamd_vjp_rule adamd_vjp_rule_of(const struct adamd_options *options, uint64_t t) {
    const double step = (double)t;
    const double beta1 = options->betas[0];
    const double beta2 = options->betas[1];
    const double correction1 = 1.0 - pow(beta1, step);

    return (struct adamd_vjp_rule){
        .beta1 = beta1,
        .one_minus_beta1 = 1.0 - beta1,
        .beta2 = beta2,
        .one_minus_beta2 = 1.0 - beta2,
        .correction1 = correction1,
        .root_correction = sqrt(1.0 - pow(beta2, step)),
        .slope1 = step * pow(beta1, step - 1.0),
        .slope2 = step * pow(beta2, step - 1.0),
        .lr = options->lr,
        .step_size = options->lr / correction1,
        .eps = options->eps,
        .weight_decay = options->weight_decay,
        .keep = 1.0 - options->lr * options->weight_decay,
        .decay = decay_of(options),
        .amsgrad = options->amsgrad,
        .maximize = options->maximize,
    };
}

// The step size is lr / c1 and the denominator holds sqrt(c2): through both the betas count twice.
void adamd_vjp_fold(const struct adamd_vjp_rule *rule, const struct adamd_vjp_sums *sums,
                    struct adamd_option_cotangents *to) {
    const double c1 = rule->correction1;
    const double r2 = rule->root_correction;
    const double rate = sums->sums[ADAMD_VJP_RATE];
    const double decay = sums->sums[ADAMD_VJP_DECAY];

    to->lr -= rate / c1;
    to->betas[0] += sums->sums[ADAMD_VJP_BETA1] - rule->slope1 * rate * rule->lr / (c1 * c1);
    to->betas[1] += sums->sums[ADAMD_VJP_BETA2] +
                    rule->slope2 * sums->sums[ADAMD_VJP_ROOT] / (2.0 * r2 * r2 * r2);
    to->eps += sums->sums[ADAMD_VJP_EPS];
    if (rule->decay == ADAMD_DECAY_L2) {
        to->weight_decay += decay;
    } else if (rule->decay == ADAMD_DECAY_DECOUPLED) {
        to->lr -= rule->weight_decay * decay;
        to->weight_decay -= rule->lr * decay;
    }
    to->has_weight_decay = to->has_weight_decay || rule->decay != ADAMD_DECAY_NONE;
}
