/** Lists of hooks, and a run over them: for the files of the model. */
#ifndef ADAMD_HOOKS_IMPL_H
#define ADAMD_HOOKS_IMPL_H

#include "adamd/hooks.h"

/** One registration; lives until it was removed and no run has it any more. */
struct hook_entry {
    struct hook_entry *next;
    struct adamd_hook hook;
    char name[ADAMD_HOOK_NAME_MAX + 1];
    uint64_t id;
    uint32_t uses; // the list it is in, and runs
};

/** The hooks of a model, or the two lists of a registry. Zeroed means empty. */
struct hook_lists {
    struct hook_entry *first[ADAMD_HOOK_EVENT_COUNT];
    uint32_t count;
};

struct registered_plugin {
    char name[ADAMD_HOOK_NAME_MAX + 1];
    const struct adamd_plugin *plugin;
};

struct adamd_hook_registry {
    struct hook_lists lists;
    uint64_t last_id;
    struct registered_plugin *plugins;
    uint32_t plugin_count;
};

/** The plugin of that name, or NULL. */
const struct adamd_plugin *hook_registry_plugin(const struct adamd_hook_registry *registry,
                                                const char *name);

/** A list as it was when the run began. Zeroed means: none runs. */
struct hook_run {
    // Shared ones, and those of a model: callbacks, and as many built-in ones from a restore.
    struct hook_entry *entries[3 * ADAMD_HOOKS_MAX];
    uint32_t count, at;
    unsigned turn;
};

enum adamd_status hook_add(struct hook_lists *lists, uint64_t *last_id, enum adamd_hook_event event,
                           const struct adamd_hook *hook, bool prepend, uint64_t *ret_id,
                           struct adamd_fault *fault);
bool hook_remove(struct hook_lists *lists, uint64_t id);
void hooks_finish(struct hook_lists *lists);

void hook_hold(struct hook_entry *entry);
void hook_drop(struct hook_entry *entry);

/** Takes the snapshot. `shared` may be NULL; its hooks of a step stand outside of the own ones. */
void hook_run_begin(struct hook_run *run, enum adamd_hook_event event,
                    const struct hook_lists *shared, const struct hook_lists *own);
/** Calls one after another until one does not answer DONE, or none is left (DONE). To be called
 *  again after WAIT. A fault without a status of its own becomes HOOK_FAILED; its message begins
 *  with the hook's name. */
enum adamd_hook_answer hook_run_continue(struct hook_run *run, struct adamd_hook_call *call);
void hook_run_end(struct hook_run *run);

#endif
