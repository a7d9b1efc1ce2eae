/**
 * Lists of hooks, and running them by the rules of client.h.
 */
#ifndef ADAMD_CLIENT_HOOKS_H
#define ADAMD_CLIENT_HOOKS_H

#include "error.h"

enum { HOOK_EVENT_COUNT = 6 };

/** One registration; lives until it was removed and no run has it any more. */
struct hook_entry {
    struct hook_entry *next;
    struct adamd_hook hook;
    uint64_t id;
    uint32_t uses; // the list that it is in, and runs
};

/** The hooks of a session, or the process-wide ones. Zeroed means empty. */
struct hook_lists {
    struct hook_entry *first[HOOK_EVENT_COUNT];
};

/** Releases the hooks of a session. */
void hooks_finish(struct hook_lists *lists);

/** What adamd_hook_replace() finds behind the call that a hook was given. */
struct hook_call {
    struct adamd_hook_call call; // first: a hook sees nothing else
    adamd_state_dict_t *own;     // what call.dict points to if a hook replaced it
};

/** Runs the hooks of `call->call.event`, process-wide ones included, until one fails. */
struct adamd_error *hooks_run(struct hook_call *call);

#endif
