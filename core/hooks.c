// Lists of hooks: who is called, in which order, and until when an entry lives.
#include "hooks_impl.h"

#include "adamd/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *adamd_hook_event_name(enum adamd_hook_event event) {
    static const char *const names[ADAMD_HOOK_EVENT_COUNT] = {
        [ADAMD_STEP_PRE] = "step_pre",
        [ADAMD_STEP_POST] = "step_post",
        [ADAMD_STATE_DICT_PRE] = "state_dict_pre",
        [ADAMD_STATE_DICT_POST] = "state_dict_post",
        [ADAMD_LOAD_STATE_DICT_PRE] = "load_state_dict_pre",
        [ADAMD_LOAD_STATE_DICT_POST] = "load_state_dict_post",
    };
    ADAMD_ASSERT((unsigned)event < ADAMD_HOOK_EVENT_COUNT);
    return names[event];
}

// ------------------------------------------------------------------------------------------- lists

static bool is_step_event(enum adamd_hook_event event) {
    return event == ADAMD_STEP_PRE || event == ADAMD_STEP_POST;
}

static struct hook_entry **end_of(struct hook_entry **link) {
    while (*link != NULL) {
        link = &(*link)->next;
    }
    return link;
}

enum adamd_status hook_add(struct hook_lists *lists, uint64_t *last_id, enum adamd_hook_event event,
                           const struct adamd_hook *hook, bool prepend, uint64_t *ret_id,
                           struct adamd_fault *fault) {
    struct hook_entry *entry;
    struct hook_entry **link = &lists->first[event];

    if (prepend && is_step_event(event)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "prepend",
                          "hooks of a step run in the order of their registration: there is no "
                          "prepend for %s, as in PyTorch",
                          adamd_hook_event_name(event));
    }
    if (lists->count >= ADAMD_HOOKS_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "hooks", "there are %d hooks already",
                          ADAMD_HOOKS_MAX);
    }
    entry = calloc(1, sizeof *entry);
    if (entry == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    (void)snprintf(entry->name, sizeof entry->name, "%s", hook->name);
    entry->hook = *hook;
    entry->hook.name = entry->name;
    entry->id = ++*last_id;
    entry->uses = 1;
    link = prepend ? link : end_of(link);
    entry->next = *link;
    *link = entry;
    lists->count++;
    *ret_id = entry->id;
    return ADAMD_OK;
}

void hook_hold(struct hook_entry *entry) {
    entry->uses++;
}

void hook_drop(struct hook_entry *entry) {
    ADAMD_ASSERT(entry->uses > 0);
    entry->uses--;
    if (entry->uses == 0) {
        if (entry->hook.release != NULL) {
            entry->hook.release(entry->hook.arg);
        }
        free(entry);
    }
}

static void unlink_entry(struct hook_lists *lists, struct hook_entry **link) {
    struct hook_entry *entry = *link;

    *link = entry->next;
    entry->next = NULL;
    lists->count--;
    hook_drop(entry);
}

bool hook_remove(struct hook_lists *lists, uint64_t id) {
    for (int event = 0; event < ADAMD_HOOK_EVENT_COUNT; event++) {
        struct hook_entry **link = &lists->first[event];
        while (*link != NULL && (*link)->id != id) {
            link = &(*link)->next;
        }
        if (*link != NULL) {
            unlink_entry(lists, link);
            return true;
        }
    }
    return false;
}

void hooks_finish(struct hook_lists *lists) {
    for (int event = 0; event < ADAMD_HOOK_EVENT_COUNT; event++) {
        while (lists->first[event] != NULL) {
            unlink_entry(lists, &lists->first[event]);
        }
    }
}

// ---------------------------------------------------------------------------------------- registry

struct adamd_hook_registry *adamd_hook_registry_create(void) {
    return calloc(1, sizeof(struct adamd_hook_registry));
}

void adamd_hook_registry_destroy(struct adamd_hook_registry *registry) {
    if (registry != NULL) {
        hooks_finish(&registry->lists);
        free(registry->plugins);
        free(registry);
    }
}

enum adamd_status adamd_hook_registry_add_plugin(struct adamd_hook_registry *registry,
                                                 const char *name,
                                                 const struct adamd_plugin *plugin,
                                                 struct adamd_fault *fault) {
    struct registered_plugin *plugins;

    if (plugin->version != ADAMD_PLUGIN_VERSION || plugin->size < sizeof *plugin ||
        plugin->create == NULL || plugin->run == NULL || plugin->destroy == NULL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, name,
                          "the plugin's table is of version %u and %u bytes: this build wants "
                          "version %d, all of it",
                          (unsigned)plugin->version, (unsigned)plugin->size, ADAMD_PLUGIN_VERSION);
    }
    plugins = realloc(registry->plugins, (registry->plugin_count + 1) * sizeof *plugins);
    if (plugins == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    registry->plugins = plugins;
    plugins += registry->plugin_count++;
    (void)snprintf(plugins->name, sizeof plugins->name, "%s", name);
    plugins->plugin = plugin;
    return ADAMD_OK;
}

const struct adamd_plugin *hook_registry_plugin(const struct adamd_hook_registry *registry,
                                                const char *name) {
    for (uint32_t i = 0; i < registry->plugin_count; i++) {
        if (strcmp(registry->plugins[i].name, name) == 0) {
            return registry->plugins[i].plugin;
        }
    }
    return NULL;
}

enum adamd_status adamd_register_optimizer_hook(struct adamd_hook_registry *registry,
                                                enum adamd_hook_event event,
                                                const struct adamd_hook *hook, uint64_t *ret_id,
                                                struct adamd_fault *fault) {
    ADAMD_ASSERT(is_step_event(event));
    return hook_add(&registry->lists, &registry->last_id, event, hook, false, ret_id, fault);
}

bool adamd_remove_optimizer_hook(struct adamd_hook_registry *registry, uint64_t id) {
    return hook_remove(&registry->lists, id);
}

// --------------------------------------------------------------------------------------------- run

static void take_list(struct hook_run *run, const struct hook_lists *lists,
                      enum adamd_hook_event event) {
    for (struct hook_entry *entry = lists != NULL ? lists->first[event] : NULL; entry != NULL;
         entry = entry->next) {
        ADAMD_ASSERT(run->count < sizeof run->entries / sizeof run->entries[0]);
        hook_hold(entry);
        run->entries[run->count++] = entry;
    }
}

void hook_run_begin(struct hook_run *run, enum adamd_hook_event event,
                    const struct hook_lists *shared, const struct hook_lists *own) {
    const bool own_first = event == ADAMD_STEP_POST;

    *run = (struct hook_run){0};
    take_list(run, own_first ? own : shared, event);
    take_list(run, own_first ? shared : own, event);
}

// "clip_grad_norm: the total norm is not finite"
static void sign_fault(const struct hook_entry *entry, struct adamd_fault *fault) {
    char message[sizeof fault->message];

    if (fault->status == ADAMD_OK) {
        fault->status = ADAMD_HOOK_FAILED;
    }
    (void)snprintf(message, sizeof message, "%s: %.180s", entry->name,
                   fault->message[0] != '\0' ? fault->message : "the hook failed");
    memcpy(fault->message, message, sizeof message);
}

enum adamd_hook_answer hook_run_continue(struct hook_run *run, struct adamd_hook_call *call) {
    enum adamd_hook_answer answer = ADAMD_HOOK_DONE;

    while (run->at < run->count && answer == ADAMD_HOOK_DONE) {
        struct hook_entry *entry = run->entries[run->at];
        call->turn = run->turn;
        answer = entry->hook.run(entry->hook.arg, call);
        if (answer == ADAMD_HOOK_DONE) {
            run->at++;
            run->turn = 0;
        } else if (answer == ADAMD_HOOK_WAIT) {
            run->turn++;
        } else if (answer == ADAMD_HOOK_FAIL) {
            sign_fault(entry, call->fault);
        }
    }
    return answer;
}

void hook_run_end(struct hook_run *run) {
    for (uint32_t i = 0; i < run->count; i++) {
        hook_drop(run->entries[i]);
    }
    *run = (struct hook_run){0};
}
