/**
 * The commands. Each returns an exit code.
 */
#ifndef ADAMCTL_COMMANDS_H
#define ADAMCTL_COMMANDS_H

#include "ctl.h"

int run_status(const struct ctl *ctl);
int run_health(const struct ctl *ctl);
int run_raw(const struct ctl *ctl);

int run_model_list(const struct ctl *ctl);
int run_model_get(const struct ctl *ctl);
int run_model_create(const struct ctl *ctl);
int run_model_update(const struct ctl *ctl);
int run_model_initialize(const struct ctl *ctl);
int run_model_pause(const struct ctl *ctl);
int run_model_resume(const struct ctl *ctl);
int run_model_delete(const struct ctl *ctl);

int run_group_list(const struct ctl *ctl);
int run_group_update(const struct ctl *ctl);
int run_group_add(const struct ctl *ctl);

int run_worker_list(const struct ctl *ctl);

int run_hook_list(const struct ctl *ctl);
int run_hook_add(const struct ctl *ctl);
int run_hook_remove(const struct ctl *ctl);

int run_push(const struct ctl *ctl);
int run_pull(const struct ctl *ctl);
int run_state_save(const struct ctl *ctl);
int run_state_load(const struct ctl *ctl);
int run_differentiate(const struct ctl *ctl);

int run_step(const struct ctl *ctl);
int run_zero_grad(const struct ctl *ctl);
int run_steps(const struct ctl *ctl);

/** Prints models, as `model list` and `status` do. */
void print_models(const struct ctl *ctl, const cJSON *models);

#endif
