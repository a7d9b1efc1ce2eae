/**
 * Flags that set options of the optimizer and of the policy, as the API's JSON.
 */
#ifndef ADAMCTL_SETTINGS_H
#define ADAMCTL_SETTINGS_H

#include "ctl.h"

#define OPTION_FLAGS                                                                        \
    "lr betas eps weight-decay amsgrad maximize decoupled-weight-decay foreach capturable " \
    "differentiable fused"
#define POLICY_FLAGS "policy nonfinite quorum min-workers deadline lease max-staleness"

/**
 * Adds members "defaults" and "stepPolicy" to `model` for the flags that were given, and their
 * paths to `mask` (may be NULL), comma-separated. EXIT_USAGE if a value is none.
 */
int settings_add(const struct ctl *ctl, cJSON *model, char *mask, size_t mask_size);

/** Only the optimizer's options, for one step; `*ret_options` is NULL without any. */
int settings_options(const struct ctl *ctl, cJSON **ret_options);

#endif
