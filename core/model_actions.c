// Built-in hooks of a model: added, looked at, and what each keeps at a version's boundary.
#include "actions_impl.h"
#include "model_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

// ------------------------------------------------------------------------------- at the boundary

// As GradScaler.update(), in float32.
static void settle_unscale(struct action_hook *hook, bool made) {
    struct adamd_unscale *unscale = &hook->action.unscale;

    if (unscale->growth_interval == 0) {
        return;
    }
    if (hook->found) {
        unscale->scale = (double)((float)unscale->scale * (float)unscale->backoff_factor);
        unscale->growth_tracker = 0;
    } else if (made && ++unscale->growth_tracker == unscale->growth_interval) {
        const float grown = (float)unscale->scale * (float)unscale->growth_factor;
        unscale->scale = isfinite(grown) ? (double)grown : unscale->scale;
        unscale->growth_tracker = 0;
    }
    hook->found = false;
}

// A group that came later begins with the lr that it came with.
static bool know_groups(struct adamd_model *model, struct action_hook *hook) {
    double *base_lrs;

    if (hook->base_count == model->group_count) {
        return true;
    }
    base_lrs = realloc(hook->base_lrs, model->group_count * sizeof *base_lrs);
    if (base_lrs == NULL) {
        return false;
    }
    hook->base_lrs = base_lrs;
    for (; hook->base_count < model->group_count; hook->base_count++) {
        base_lrs[hook->base_count] = model->groups[hook->base_count].options.lr;
    }
    return true;
}

static void set_lrs(struct adamd_model *model, const struct action_hook *hook) {
    const struct adamd_lr_schedule *schedule = &hook->action.lr_schedule;

    for (uint32_t i = 0; i < hook->base_count && i < model->group_count; i++) {
        struct adamd_options *options = &model->groups[i].options;
        options->lr = adamd_lr_schedule_at(schedule, hook->base_lrs[i], schedule->position);
    }
}

void action_settle(struct adamd_model *model, struct action_hook *hook, bool made) {
    switch (hook->action.kind) {
    case ADAMD_UNSCALE:
        settle_unscale(hook, made);
        return;
    case ADAMD_LR_SCHEDULE:
        if (made) {
            hook->action.lr_schedule.position++;
            (void)know_groups(model, hook); // without memory a new group keeps its lr for now
            set_lrs(model, hook);
        }
        return;
    default:
        return;
    }
}

// ------------------------------------------------------------------------------------------ adding

static enum adamd_status check_add(const struct adamd_model *model, enum adamd_hook_event event,
                                   const struct adamd_action *action, struct adamd_fault *fault) {
    const enum adamd_hook_event wanted = adamd_action_event(action->kind);
    const char *name = adamd_action_name(action->kind);
    const bool single = action->kind == ADAMD_EMA_ACTION || action->kind == ADAMD_LR_SCHEDULE;

    if (wanted != ADAMD_HOOK_EVENT_COUNT && wanted != event) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "event", "%s is a hook of %s, not of %s", name,
                          adamd_hook_event_name(wanted), adamd_hook_event_name(event));
    }
    if (single && action_find(&model->hooks, action->kind) != NULL) {
        return adamd_fail(fault, ADAMD_EXISTS, "action",
                          "the model has a hook %s already: delete it first", name);
    }
    return adamd_action_check(action, fault);
}

// What the model needs for it.
static enum adamd_status equip(struct adamd_model *model, struct action_hook *hook) {
    switch (hook->action.kind) {
    case ADAMD_EMA_ACTION:
        return ema_ensure(model);
    case ADAMD_LR_SCHEDULE:
        return know_groups(model, hook) ? ADAMD_OK : ADAMD_NO_MEMORY;
    default:
        return ADAMD_OK;
    }
}

enum adamd_status adamd_model_add_action(struct adamd_model *model, enum adamd_hook_event event,
                                         const struct adamd_action *action, bool prepend,
                                         uint64_t *ret_id, struct adamd_fault *fault) {
    struct adamd_hook_registry *registry = model_registry(model);
    struct action_hook *hook = NULL;
    enum adamd_status status = ADAMD_OK;

    if (event == ADAMD_HOOK_EVENT_COUNT) {
        event = adamd_action_event(action->kind);
    }
    if (event == ADAMD_HOOK_EVENT_COUNT) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "event",
                          "say which event the plugin is a hook of");
    }
    status = check_add(model, event, action, fault);
    status = status == ADAMD_OK ? action_create(registry, action, &hook, fault) : status;
    if (status != ADAMD_OK) {
        return status;
    }
    status = equip(model, hook);
    status = status == ADAMD_OK ? action_add(&model->hooks, &registry->last_id, event, hook,
                                             prepend, ret_id, fault)
                                : adamd_fail_plain(fault, status);
    if (status != ADAMD_OK) {
        action_destroy(hook);
        return status;
    }
    if (action->kind == ADAMD_LR_SCHEDULE) {
        set_lrs(model, hook);
    }
    model->config_count++;
    model_note_change(model);
    model_advance(model);
    return ADAMD_OK;
}

// -------------------------------------------------------------------------------------- looking at

// The one with that id, or, where it is 0, the `index`-th.
static bool find_view(const struct adamd_model *model, uint64_t id, uint32_t index,
                      struct adamd_action_view *ret_view) {
    struct action_cursor cursor = {.event = 0};
    const struct action_hook *hook = action_next(&model->hooks, &cursor);

    for (uint32_t count = 0; hook != NULL && (id != 0 ? cursor.entry->id != id : count != index);
         count++) {
        hook = action_next(&model->hooks, &cursor);
    }
    if (hook == NULL) {
        return false;
    }
    *ret_view = (struct adamd_action_view){cursor.entry->id, (enum adamd_hook_event)cursor.event,
                                           &hook->action};
    return true;
}

bool adamd_model_action_at(const struct adamd_model *model, uint32_t index,
                           struct adamd_action_view *ret_view) {
    return find_view(model, 0, index, ret_view);
}

bool adamd_model_action_of(const struct adamd_model *model, uint64_t id,
                           struct adamd_action_view *ret_view) {
    return id != 0 && find_view(model, id, 0, ret_view);
}

// ------------------------------------------------------------------------------- in a whole state

// Returns where the list ends then.
static struct hook_entry **remove_actions(struct hook_lists *lists, int event) {
    struct hook_entry **link = &lists->first[event];

    while (*link != NULL) {
        if (action_of(*link) != NULL) {
            (void)hook_remove(lists, (*link)->id);
        } else {
            link = &(*link)->next;
        }
    }
    return link;
}

void actions_replace(struct adamd_model *model, struct hook_lists *lists) {
    for (int event = 0; event < ADAMD_HOOK_EVENT_COUNT; event++) {
        *remove_actions(&model->hooks, event) = lists->first[event];
        lists->first[event] = NULL;
    }
    model->hooks.count += lists->count;
    lists->count = 0;
}

void actions_restart(struct adamd_model *model) {
    struct action_hook *ema = action_find(&model->hooks, ADAMD_EMA_ACTION);

    if (ema != NULL) {
        ema->action.ema.n_averaged = 0;
    }
}
