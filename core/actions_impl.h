/** Actions as hooks of a model, and their text in a state: for the files of the model. */
#ifndef ADAMD_ACTIONS_IMPL_H
#define ADAMD_ACTIONS_IMPL_H

#include "adamd/actions.h"
#include "adamd/plugin.h"
#include "hooks_impl.h"

enum { HOOKS_TEXT_MAX = 1 << 20 };

/** What a hook's `arg` is where its `run` is action_run(). */
struct action_hook {
    struct adamd_action action;
    bool found;         // UNSCALE: the gradient of the step that runs is not finite
    uint64_t ema_bytes; // EMA: of the arena that is averaged; what lies behind is new
    double *base_lrs;   // LR_SCHEDULE: by group, what PyTorch calls initial_lr
    uint32_t base_count;
    const struct adamd_plugin *plugin;
    void *plugin_state;
};

/** The hook's function; a file of its own knows what each kind does. */
enum adamd_hook_answer action_run(void *arg, struct adamd_hook_call *call);

/** The action behind an entry, or NULL: it is a C callback. */
struct action_hook *action_of(const struct hook_entry *entry);

/** Makes the hook and lets a plugin take its text. `registry` knows the plugins. */
enum adamd_status action_create(const struct adamd_hook_registry *registry,
                                const struct adamd_action *action, struct action_hook **ret_hook,
                                struct adamd_fault *fault);
void action_destroy(void *arg);

/** Puts it into a list: the list has it then, as action_destroy() ends it. */
enum adamd_status action_add(struct hook_lists *lists, uint64_t *last_id,
                             enum adamd_hook_event event, struct action_hook *hook, bool prepend,
                             uint64_t *ret_id, struct adamd_fault *fault);

/** A place among the actions of lists: by event, then as they run. Zeroed means before the first.
 */
struct action_cursor {
    int event;
    const struct hook_entry *entry;
};

/** The next one, which `cursor` then stands on; NULL past the last. */
struct action_hook *action_next(const struct hook_lists *lists, struct action_cursor *cursor);

/** The first action of that kind, or NULL. */
struct action_hook *action_find(const struct hook_lists *lists, enum adamd_action_kind kind);

// ----------------------------------------------------------------------------------- action_text.c

/** All actions with parameters and state as JSON; `*ret_text` is malloc'ed, NULL if there are none.
 *  NO_MEMORY. */
enum adamd_status actions_print(const struct hook_lists *lists, char **ret_text);

/** The same back, into empty lists. BAD_FIELD, NOT_FOUND (a plugin), NO_MEMORY. */
enum adamd_status actions_parse(const struct adamd_hook_registry *registry, uint64_t *last_id,
                                const char *text, struct hook_lists *lists,
                                struct adamd_fault *fault);

#endif
