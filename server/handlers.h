/** Every handler and every unary call: what the route table is made of. */
#ifndef ADAMD_SERVER_HANDLERS_H
#define ADAMD_SERVER_HANDLERS_H

#include "call.h"

// handlers_server.c
extern const struct handler live_handler, ready_handler, index_handler;
extern const struct call call_get_server, call_drain_server;

// handlers_models.c
extern const struct call call_create_model, call_get_model, call_list_models, call_delete_model,
    call_initialize_model, call_pause_model, call_resume_model, call_list_tensors;

// handlers_update.c
extern const struct call call_update_model;

// handlers_groups.c
extern const struct call call_get_param_group, call_list_param_groups, call_update_param_group;

// handlers_groups_add.c: answered at a version boundary; over REST a file may come in
extern const struct handler add_group_handler, add_group_call_handler;
extern const struct call call_add_param_group;

// handlers_hooks.c
extern const struct call call_create_hook, call_get_hook, call_list_hooks, call_delete_hook;

// handlers_workers.c
extern const struct call call_register_worker, call_renew_lease, call_deregister_worker,
    call_get_worker, call_list_workers;

// handlers_step.c: OptimStep is answered later, so it has a handler of its own
extern const struct handler step_handler;
extern const struct call call_optim_step, call_zero_grad;

// handlers_push.c, handlers_pull.c, handlers_state.c, handlers_restore.c
extern const struct handler push_handler, pull_handler, state_handler, restore_handler;

// handlers_differentiate.c
extern const struct handler differentiate_handler;

// handlers_records.c
extern const struct handler records_handler;
extern const struct call call_list_steps;

// RPC streams, which HTTP/1.1 paths of REST serve better
extern const struct handler stream_handler;

#endif
