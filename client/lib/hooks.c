// Hooks: who is called, in which order, and until when an entry lives.

#include "internal.h"

#include <stdatomic.h>
#include <stdlib.h>

// The process-wide hooks, and the counter of ids of all.
static struct hook_lists process_wide;
static atomic_uint_fast64_t last_id;

// Guards the lists and the counts of uses: taken while a list is walked, never while a hook runs. A
// spin is enough for what takes some nanoseconds and happens once a step.
static atomic_flag guard = ATOMIC_FLAG_INIT;

static void lock(void) {
    while (atomic_flag_test_and_set_explicit(&guard, memory_order_acquire)) {
    }
}

static void unlock(void) {
    atomic_flag_clear_explicit(&guard, memory_order_release);
}

static bool is_step_event(adamd_hook_event_t event) {
    return event == ADAMD_STEP_PRE || event == ADAMD_STEP_POST;
}

// ------------------------------------------------------------------------------------------- lists

static struct adamd_error *check_hook(adamd_hook_event_t event, const struct adamd_hook *hook,
                                      bool prepend) {
    if ((unsigned)event >= HOOK_EVENT_COUNT) {
        return error_argument("event", "there is no such event");
    }
    if (hook == NULL || hook->run == NULL) {
        return error_argument("hook", "a hook has a function to run");
    }
    if (prepend && is_step_event(event)) {
        return error_argument("prepend", "hooks of a step run in the order of their registration: "
                                         "as in PyTorch they are not prepended");
    }
    return NULL;
}

static struct adamd_error *add(struct hook_lists *lists, adamd_hook_event_t event,
                               const struct adamd_hook *hook, bool prepend, uint64_t *ret_id) {
    struct adamd_error *error = check_hook(event, hook, prepend);
    struct hook_entry *entry = error == NULL ? calloc(1, sizeof *entry) : NULL;
    struct hook_entry **link = NULL;

    if (error != NULL) {
        return error;
    }
    if (entry == NULL) {
        return error_no_memory();
    }
    entry->hook = *hook;
    entry->id = atomic_fetch_add(&last_id, 1) + 1;
    entry->uses = 1;
    *ret_id = entry->id;
    lock();
    link = &lists->first[event];
    while (!prepend && *link != NULL) {
        link = &(*link)->next;
    }
    entry->next = *link;
    *link = entry;
    unlock();
    return NULL;
}

static void drop(struct hook_entry *entry) {
    bool unused = false;

    lock();
    unused = --entry->uses == 0;
    unlock();
    if (unused) {
        if (entry->hook.release != NULL) {
            entry->hook.release(entry->hook.arg);
        }
        free(entry);
    }
}

// Takes the entry of `id` out of its list, or any if `id` is 0. NULL: there is none.
static struct hook_entry *take_out(struct hook_lists *lists, uint64_t id) {
    struct hook_entry *found = NULL;

    lock();
    for (size_t event = 0; event < HOOK_EVENT_COUNT && found == NULL; event++) {
        struct hook_entry **link = &lists->first[event];
        while (*link != NULL && id != 0 && (*link)->id != id) {
            link = &(*link)->next;
        }
        found = *link;
        if (found != NULL) {
            *link = found->next;
        }
    }
    unlock();
    return found;
}

static int remove_hook(struct hook_lists *lists, uint64_t id) {
    struct hook_entry *entry = id != 0 ? take_out(lists, id) : NULL;

    if (entry != NULL) {
        drop(entry);
    }
    return entry != NULL;
}

void hooks_finish(struct hook_lists *lists) {
    for (;;) {
        struct hook_entry *entry = take_out(lists, 0);
        if (entry == NULL) {
            return;
        }
        drop(entry);
    }
}

adamd_error_t *adamd_register_hook(adamd_session_t *session, adamd_hook_event_t event,
                                   const adamd_hook_t *hook, int prepend, uint64_t *ret_id) {
    return add(&session->hooks, event, hook, prepend != 0, ret_id);
}

int adamd_remove_hook(adamd_session_t *session, uint64_t id) {
    return remove_hook(&session->hooks, id);
}

adamd_error_t *adamd_register_optimizer_hook(adamd_hook_event_t event, const adamd_hook_t *hook,
                                             uint64_t *ret_id) {
    if (!is_step_event(event)) {
        return error_argument("event", "process-wide hooks are those of a step");
    }
    return add(&process_wide, event, hook, false, ret_id);
}

int adamd_remove_optimizer_hook(uint64_t id) {
    return remove_hook(&process_wide, id);
}

// --------------------------------------------------------------------------------------------- run

// A list as it was when the run began.
struct run {
    struct hook_entry **entries;
    size_t count;
};

static size_t count_of(const struct hook_lists *lists, adamd_hook_event_t event) {
    size_t count = 0;

    for (const struct hook_entry *entry = lists->first[event]; entry != NULL; entry = entry->next) {
        count++;
    }
    return count;
}

static void hold_all(struct run *run, const struct hook_lists *lists, adamd_hook_event_t event,
                     size_t room) {
    struct hook_entry *entry = lists->first[event];

    for (; entry != NULL && run->count < room; entry = entry->next) {
        entry->uses++;
        run->entries[run->count++] = entry;
    }
}

// Memory is found outside of the guard: another thread may have added some meanwhile, for whom the
// next time is early enough.
static bool begin(struct run *run, const struct hook_lists *own, adamd_hook_event_t event) {
    const struct hook_lists *first = event == ADAMD_STEP_POST ? own : &process_wide;
    const struct hook_lists *second = event == ADAMD_STEP_POST ? &process_wide : own;
    size_t room = 0;

    lock();
    room = count_of(first, event) + count_of(second, event);
    unlock();
    *run = (struct run){.entries = room > 0 ? calloc(room, sizeof(void *)) : NULL};
    if (room > 0 && run->entries == NULL) {
        return false;
    }
    lock();
    hold_all(run, first, event, room);
    hold_all(run, second, event, room);
    unlock();
    return true;
}

struct adamd_error *hooks_run(struct hook_call *call) {
    struct adamd_error *error = NULL;
    struct run run;

    if (!begin(&run, &call->call.session->hooks, call->call.event)) {
        return error_no_memory();
    }
    for (size_t i = 0; i < run.count; i++) {
        const struct adamd_hook *hook = &run.entries[i]->hook;
        if (error == NULL) {
            error = hook->run(hook->arg, &call->call);
        }
    }
    for (size_t i = 0; i < run.count; i++) {
        drop(run.entries[i]);
    }
    free(run.entries);
    return error;
}

adamd_error_t *adamd_hook_replace(adamd_hook_call_t *call, adamd_state_dict_t *dict) {
    struct hook_call *whole = (struct hook_call *)call;

    if (call->event != ADAMD_STATE_DICT_POST && call->event != ADAMD_LOAD_STATE_DICT_PRE) {
        return error_argument("event", "this hook has no state dict to replace");
    }
    if (dict == NULL) {
        return error_argument("dict", "there is no state dict");
    }
    adamd_state_dict_destroy(whole->own);
    whole->own = dict;
    call->dict = dict;
    return NULL;
}
