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

/** The numbers among the options, as bits. */
enum adamd_number {
    ADAMD_NUMBER_LR = 1,
    ADAMD_NUMBER_EPS = 2,
    ADAMD_NUMBER_WEIGHT_DECAY = 4,
    ADAMD_NUMBER_BETA0 = 8,
    ADAMD_NUMBER_BETA1 = 16,
};

/** One param group's options, by PyTorch's names. */
struct adamd_options {
    double lr, betas[2], eps, weight_decay;
    bool amsgrad, maximize, capturable, differentiable, decoupled_weight_decay;
    bool lr_is_tensor, betas_are_tensors; // of one element: their float32 value is what counts
    bool betas_are_mixed;                 // one is a tensor, one is not: always refused
    enum adamd_tristate foreach, fused;
    unsigned ints; // enum adamd_number: those that are ints in Python; for messages and files alone
    uint32_t lr_elements, betas_elements[2]; // of the tensors: 0 means 1, all else is refused
};

/** torch.optim.Adam's defaults. */
extern const struct adamd_options adamd_options_default;

/** A tensor's value is what float32 makes of it. Harmless if it was done before. */
void adamd_options_round(struct adamd_options *options);

/**
 * PyTorch's checks, in the order and with the texts of its constructor, then what it would refuse
 * at the first step; `field` is the option's name. It is the one check for every way in: PyTorch
 * looks at its constructor's own values only, not at those of groups and loaded states.
 */
ADAMD_MUST_USE enum adamd_status adamd_options_check(const struct adamd_options *options,
                                                     struct adamd_fault *fault);

enum adamd_decay { ADAMD_DECAY_NONE, ADAMD_DECAY_L2, ADAMD_DECAY_DECOUPLED };

/** PyTorch's three implementations, which round float16 and bfloat16 differently. */
enum adamd_rounding { ADAMD_ROUNDING_FORLOOP, ADAMD_ROUNDING_FOREACH, ADAMD_ROUNDING_FUSED };

/** Which one runs for a group, by PyTorch's rule on a CPU: `None` for both is the for-loop. */
enum adamd_rounding adamd_rounding_of(const struct adamd_options *options);

/** What one step of one parameter needs, with the bias corrections folded in. */
struct adamd_rule {
    double beta1;           //
    double lerp_weight;     // 1 - beta1
    double beta2;           //
    double one_minus_beta2; //
    double root_correction; // sqrt(1 - beta2^t)
    double minus_step_size; // -lr / (1 - beta1^t)
    double eps;             //
    double weight_decay;    // for L2
    double keep;            // 1 - lr * weight_decay, for decoupled
    double divisor;         // of the denominator, after eps was added; usually 1
    enum adamd_decay decay;
    enum adamd_rounding rounding;
    bool amsgrad, maximize;
    bool scales_apart;     // (1 - beta2) * g is an operation of its own
    bool beta1_in_storage; // beta1 and 1 - beta1 are tensors of the parameter's dtype
};

/** The rule of step `t`, counted from 1. */
struct adamd_rule adamd_rule_of(const struct adamd_options *options, uint64_t t);

#endif
