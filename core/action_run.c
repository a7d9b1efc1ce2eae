// What each built-in hook does when its turn comes, and how a plugin sees the same.
#include "actions_impl.h"
#include "model_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static enum adamd_hook_answer fail_plain(struct adamd_hook_call *call, enum adamd_status status) {
    (void)adamd_fail_plain(call->fault, status);
    return ADAMD_HOOK_FAIL;
}

static enum adamd_hook_answer ask_norm(struct adamd_hook_call *call) {
    const enum adamd_status status = adamd_hook_norm(call);

    return status == ADAMD_OK ? ADAMD_HOOK_WAIT : fail_plain(call, status);
}

static enum adamd_hook_answer skip_nonfinite(struct adamd_hook_call *call) {
    call->args->skip = ADAMD_SKIP_NONFINITE;
    return ADAMD_HOOK_SKIP;
}

// As GradScaler: the values as they came decide, then each is multiplied by fl32(1 / scale).
static enum adamd_hook_answer run_unscale(struct action_hook *hook, struct adamd_hook_call *call) {
    const double factor = (double)(float)(1.0 / hook->action.unscale.scale);
    enum adamd_status status = ADAMD_OK;

    if (call->turn == 0) {
        hook->found = false;
        return ask_norm(call);
    }
    hook->found = call->norm.nonfinite > 0;
    if (hook->found) {
        return skip_nonfinite(call);
    }
    call->args->unscaled_by = factor;
    if (factor != 1.0) {
        status = adamd_hook_scale(call, factor);
    }
    return status == ADAMD_OK ? ADAMD_HOOK_DONE : fail_plain(call, status);
}

static enum adamd_hook_answer run_guard(struct adamd_hook_call *call) {
    if (call->turn == 0) {
        return ask_norm(call);
    }
    return call->norm.nonfinite > 0 ? skip_nonfinite(call) : ADAMD_HOOK_DONE;
}

// The largest absolute value leaves NaN out; the sum of squares does not.
static double total_norm(const struct adamd_gradient_norm *norm, double type) {
    if (type == 2.0 || isnan(norm->square_sum)) {
        return sqrt(norm->square_sum);
    }
    return norm->max_abs;
}

static enum adamd_hook_answer run_clip_norm(const struct adamd_clip_grad_norm *clip,
                                            struct adamd_hook_call *call) {
    enum adamd_status status = ADAMD_OK;

    if (call->turn == 0) {
        return ask_norm(call);
    }
    const double norm = total_norm(&call->norm, clip->norm_type);
    const double coef = clip->max_norm / (norm + 1e-6);
    if (clip->error_if_nonfinite && !isfinite(norm)) {
        (void)adamd_fail(call->fault, ADAMD_HOOK_FAILED, NULL,
                         "the total norm of the gradients is %s, and error_if_nonfinite is set",
                         isnan(norm) ? "nan" : "inf");
        return ADAMD_HOOK_FAIL;
    }
    call->args->total_norm = norm;
    if (!(coef >= 1.0)) { // NaN clips too: it then is in every gradient
        call->args->clip_coef *= coef;
        status = adamd_hook_scale(call, coef);
    }
    return status == ADAMD_OK ? ADAMD_HOOK_DONE : fail_plain(call, status);
}

static enum adamd_hook_answer run_clip_value(const struct adamd_clip_grad_value *clip,
                                             struct adamd_hook_call *call) {
    const enum adamd_status status = adamd_hook_clamp(call, clip->clip_value);

    return status == ADAMD_OK ? ADAMD_HOOK_DONE : fail_plain(call, status);
}

static enum adamd_hook_answer run_ema(struct action_hook *hook, struct adamd_hook_call *call) {
    const enum adamd_status status = call->turn == 0 ? ema_submit(call->model, hook) : ADAMD_OK;

    if (status != ADAMD_OK) {
        return fail_plain(call, status);
    }
    return call->turn == 0 ? ADAMD_HOOK_WAIT : ADAMD_HOOK_DONE;
}

// ----------------------------------------------------------------------------------------- plugins

static struct adamd_hook_call *call_of(void *context) {
    return context;
}

static const char *host_event(void *context) {
    return adamd_hook_event_name(call_of(context)->event);
}

static uint32_t host_turn(void *context) {
    return call_of(context)->turn;
}

static uint64_t host_version_made(void *context) {
    const struct adamd_step_args *args = call_of(context)->args;
    return args != NULL ? args->version : 0;
}

static uint32_t host_group_count(void *context) {
    const struct adamd_step_args *args = call_of(context)->args;
    return args != NULL ? args->group_count : 0;
}

static double host_lr(void *context, uint32_t group) {
    return group < host_group_count(context) ? call_of(context)->args->options[group].lr
                                             : (double)NAN;
}

static void host_set_lr(void *context, uint32_t group, double lr) {
    if (group < host_group_count(context)) {
        call_of(context)->args->options[group].lr = lr;
    }
}

static bool has_gradient(const struct adamd_hook_call *call) {
    return call->event == ADAMD_STEP_PRE;
}

static int host_scale(void *context, double factor) {
    struct adamd_hook_call *call = context;
    return has_gradient(call) && adamd_hook_scale(call, factor) == ADAMD_OK ? 0 : -1;
}

static int host_clamp(void *context, double limit) {
    struct adamd_hook_call *call = context;
    return has_gradient(call) && limit >= 0 && adamd_hook_clamp(call, limit) == ADAMD_OK ? 0 : -1;
}

static int host_norm(void *context) {
    struct adamd_hook_call *call = context;
    return has_gradient(call) && adamd_hook_norm(call) == ADAMD_OK ? 0 : -1;
}

static double host_square_sum(void *context) {
    return call_of(context)->norm.square_sum;
}

static double host_max_abs(void *context) {
    return call_of(context)->norm.max_abs;
}

static uint64_t host_nonfinite(void *context) {
    return call_of(context)->norm.nonfinite;
}

static void host_complain(void *context, const char *message) {
    (void)adamd_fail(call_of(context)->fault, ADAMD_HOOK_FAILED, NULL, "%.200s", message);
}

static enum adamd_hook_answer run_plugin(struct action_hook *hook, struct adamd_hook_call *call) {
    static const struct adamd_plugin_host host = {
        .version = ADAMD_PLUGIN_VERSION,
        .size = sizeof host,
        .event = host_event,
        .turn = host_turn,
        .version_made = host_version_made,
        .group_count = host_group_count,
        .lr = host_lr,
        .set_lr = host_set_lr,
        .scale = host_scale,
        .clamp = host_clamp,
        .norm = host_norm,
        .square_sum = host_square_sum,
        .max_abs = host_max_abs,
        .nonfinite = host_nonfinite,
        .complain = host_complain,
    };

    switch (hook->plugin->run(hook->plugin_state, &host, call)) {
    case ADAMD_PLUGIN_DONE:
        return ADAMD_HOOK_DONE;
    case ADAMD_PLUGIN_WAIT:
        return ADAMD_HOOK_WAIT;
    case ADAMD_PLUGIN_SKIP:
        return ADAMD_HOOK_SKIP;
    default:
        return ADAMD_HOOK_FAIL;
    }
}

enum adamd_hook_answer action_run(void *arg, struct adamd_hook_call *call) {
    struct action_hook *hook = arg;

    switch (hook->action.kind) {
    case ADAMD_UNSCALE:
        return run_unscale(hook, call);
    case ADAMD_CLIP_GRAD_NORM:
        return run_clip_norm(&hook->action.clip_grad_norm, call);
    case ADAMD_CLIP_GRAD_VALUE:
        return run_clip_value(&hook->action.clip_grad_value, call);
    case ADAMD_NONFINITE_GUARD:
        return run_guard(call);
    case ADAMD_EMA_ACTION:
        return run_ema(hook, call);
    case ADAMD_PLUGIN:
        return run_plugin(hook, call);
    case ADAMD_LR_SCHEDULE: // at the boundary, with the version: see action_settle()
    default:
        return ADAMD_HOOK_DONE;
    }
}

// ---------------------------------------------------------------------------------- its whole life

struct action_hook *action_of(const struct hook_entry *entry) {
    return entry->hook.run == action_run ? entry->hook.arg : NULL;
}

struct action_hook *action_next(const struct hook_lists *lists, struct action_cursor *cursor) {
    const struct hook_entry *entry =
        cursor->entry != NULL ? cursor->entry->next : lists->first[cursor->event];

    while (entry == NULL || action_of(entry) == NULL) {
        if (entry != NULL) {
            entry = entry->next;
        } else if (++cursor->event < ADAMD_HOOK_EVENT_COUNT) {
            entry = lists->first[cursor->event];
        } else {
            return NULL;
        }
    }
    cursor->entry = entry;
    return action_of(entry);
}

struct action_hook *action_find(const struct hook_lists *lists, enum adamd_action_kind kind) {
    struct action_cursor cursor = {.event = 0};
    struct action_hook *hook;

    do {
        hook = action_next(lists, &cursor);
    } while (hook != NULL && hook->action.kind != kind);
    return hook;
}

static enum adamd_status create_plugin(const struct adamd_hook_registry *registry,
                                       struct action_hook *hook, struct adamd_fault *fault) {
    const struct adamd_plugin_use *use = &hook->action.plugin;
    const struct adamd_plugin *plugin = hook_registry_plugin(registry, use->plugin);
    char error[160] = "";

    if (plugin == NULL) {
        return adamd_fail(fault, ADAMD_NOT_FOUND, "action",
                          "the daemon's configuration has no plugin.%s", use->plugin);
    }
    hook->plugin_state = plugin->create(use->text, error, sizeof error);
    if (hook->plugin_state == NULL) {
        return adamd_fail(fault, ADAMD_HOOK_FAILED, "parameters.text", "plugin %s: %.159s",
                          use->plugin, error[0] != '\0' ? error : "it refused the text");
    }
    hook->plugin = plugin;
    return ADAMD_OK;
}

enum adamd_status action_create(const struct adamd_hook_registry *registry,
                                const struct adamd_action *action, struct action_hook **ret_hook,
                                struct adamd_fault *fault) {
    struct action_hook *hook = calloc(1, sizeof *hook);
    enum adamd_status status = ADAMD_OK;

    if (hook == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    hook->action = *action;
    if (action->kind == ADAMD_PLUGIN) {
        status = create_plugin(registry, hook, fault);
    }
    if (status != ADAMD_OK) {
        action_destroy(hook);
        return status;
    }
    *ret_hook = hook;
    return ADAMD_OK;
}

void action_destroy(void *arg) {
    struct action_hook *hook = arg;

    if (hook->plugin != NULL) {
        hook->plugin->destroy(hook->plugin_state);
    }
    free(hook->base_lrs);
    free(hook);
}

enum adamd_status action_add(struct hook_lists *lists, uint64_t *last_id,
                             enum adamd_hook_event event, struct action_hook *hook, bool prepend,
                             uint64_t *ret_id, struct adamd_fault *fault) {
    const struct adamd_hook as_hook = {.name = adamd_action_name(hook->action.kind),
                                       .run = action_run,
                                       .release = action_destroy,
                                       .arg = hook};

    return hook_add(lists, last_id, event, &as_hook, prepend, ret_id, fault);
}
