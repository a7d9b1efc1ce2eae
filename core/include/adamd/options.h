/**
 * The options of torch.optim.Adam, their validation, and the scalars of one step that follow from
 * them. All of it in double, as PyTorch's for-loop has it; a kernel rounds each scalar once, to its
 * computing type.
 */
#ifndef ADAMD_OPTIONS_H
#define ADAMD_OPTIONS_H

#include "adamd/status.h"

#include <stdbool.h>

enum adamd_tristate { ADAMD_NONE = 0, ADAMD_FALSE, ADAMD_TRUE }; // PyTorch's None, False, True

/** One param group's options, by PyTorch's names. */
struct adamd_options {
    double lr, betas[2], eps, weight_decay;
    bool amsgrad, maximize, capturable, differentiable, decoupled_weight_decay;
    enum adamd_tristate foreach, fused;
};

/** torch.optim.Adam's defaults. */
extern const struct adamd_options adamd_options_default;

/**
 * PyTorch's checks, in the order and with the texts of its constructor; `field` is the option's
 * name. What this build cannot do yet (capturable, differentiable) is UNSUPPORTED.
 */
ADAMD_MUST_USE enum adamd_status adamd_options_check(const struct adamd_options *options,
                                                     struct adamd_fault *fault);

enum adamd_decay { ADAMD_DECAY_NONE, ADAMD_DECAY_L2, ADAMD_DECAY_DECOUPLED };

/** What one step of one parameter needs, with the bias corrections folded in. */
struct adamd_rule {
    double lerp_weight;     // 1 - beta1
    double beta2;           //
    double one_minus_beta2; //
    double root_correction; // sqrt(1 - beta2^t)
    double step_size;       // lr / (1 - beta1^t)
    double eps;             //
    double weight_decay;    // for L2
    double keep;            // 1 - lr * weight_decay, for decoupled
    enum adamd_decay decay;
    bool amsgrad, maximize;
};

/** The rule of step `t`, counted from 1. */
struct adamd_rule adamd_rule_of(const struct adamd_options *options, uint64_t t);

#endif
