// The kinds of built-in hooks: their parameters, written once, with defaults and ranges; and the
// closed forms of the schedules.
#include "adamd/actions.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

const char *adamd_action_name(enum adamd_action_kind kind) {
    static const char *const names[ADAMD_ACTION_KIND_COUNT] = {
        [ADAMD_UNSCALE] = "unscale",
        [ADAMD_CLIP_GRAD_NORM] = "clip_grad_norm",
        [ADAMD_CLIP_GRAD_VALUE] = "clip_grad_value",
        [ADAMD_NONFINITE_GUARD] = "nonfinite_guard",
        [ADAMD_LR_SCHEDULE] = "lr_schedule",
        [ADAMD_EMA_ACTION] = "ema",
        [ADAMD_PLUGIN] = "plugin",
    };
    ADAMD_ASSERT((unsigned)kind < ADAMD_ACTION_KIND_COUNT);
    return names[kind];
}

static const char *const schedule_names[ADAMD_SCHEDULE_KIND_COUNT] = {
    [ADAMD_SCHEDULE_CONSTANT] = "constant",       [ADAMD_SCHEDULE_LINEAR] = "linear",
    [ADAMD_SCHEDULE_COSINE] = "cosine",           [ADAMD_SCHEDULE_STEP] = "step",
    [ADAMD_SCHEDULE_EXPONENTIAL] = "exponential",
};

const char *adamd_schedule_name(enum adamd_schedule_kind kind) {
    ADAMD_ASSERT((unsigned)kind < ADAMD_SCHEDULE_KIND_COUNT);
    return schedule_names[kind];
}

bool adamd_schedule_of(const char *name, enum adamd_schedule_kind *ret_kind) {
    for (int kind = 0; kind < ADAMD_SCHEDULE_KIND_COUNT; kind++) {
        if (strcmp(name, schedule_names[kind]) == 0) {
            *ret_kind = (enum adamd_schedule_kind)kind;
            return true;
        }
    }
    return false;
}

enum adamd_hook_event adamd_action_event(enum adamd_action_kind kind) {
    switch (kind) {
    case ADAMD_LR_SCHEDULE:
    case ADAMD_EMA_ACTION:
        return ADAMD_STEP_POST;
    case ADAMD_PLUGIN:
        return ADAMD_HOOK_EVENT_COUNT;
    default:
        return ADAMD_STEP_PRE;
    }
}

// -------------------------------------------------------------------------------------- parameters

#define AT(...) offsetof(struct adamd_action, __VA_ARGS__)
// NOLINTBEGIN(bugprone-macro-parentheses): names of members cannot stand in them
#define ROW(kind, member, type, required, state) \
    { #member, AT(kind.member), ADAMD_PARAMETER_##type, (required), (state) }
// NOLINTEND(bugprone-macro-parentheses)

static const struct adamd_parameter unscale_parameters[] = {
    ROW(unscale, scale, DOUBLE, false, false),
    ROW(unscale, growth_factor, DOUBLE, false, false),
    ROW(unscale, backoff_factor, DOUBLE, false, false),
    ROW(unscale, growth_interval, COUNT_TYPE, false, false),
    ROW(unscale, growth_tracker, COUNT_TYPE, false, true),
};
static const struct adamd_parameter clip_grad_norm_parameters[] = {
    ROW(clip_grad_norm, max_norm, DOUBLE, true, false),
    ROW(clip_grad_norm, norm_type, DOUBLE, false, false),
    ROW(clip_grad_norm, error_if_nonfinite, BOOL, false, false),
};
static const struct adamd_parameter clip_grad_value_parameters[] = {
    ROW(clip_grad_value, clip_value, DOUBLE, true, false),
};
static const struct adamd_parameter lr_schedule_parameters[] = {
    {"schedule", AT(lr_schedule.kind), ADAMD_PARAMETER_SCHEDULE, true, false},
    ROW(lr_schedule, factor, DOUBLE, false, false),
    ROW(lr_schedule, start_factor, DOUBLE, false, false),
    ROW(lr_schedule, end_factor, DOUBLE, false, false),
    ROW(lr_schedule, total_iters, COUNT_TYPE, false, false),
    ROW(lr_schedule, t_max, COUNT_TYPE, false, false),
    ROW(lr_schedule, eta_min, DOUBLE, false, false),
    ROW(lr_schedule, gamma, DOUBLE, false, false),
    ROW(lr_schedule, step_size, COUNT_TYPE, false, false),
    ROW(lr_schedule, warmup_steps, COUNT_TYPE, false, false),
    ROW(lr_schedule, warmup_start_factor, DOUBLE, false, false),
    ROW(lr_schedule, position, COUNT_TYPE, false, true),
};
static const struct adamd_parameter ema_parameters[] = {
    ROW(ema, decay, DOUBLE, false, false),
    ROW(ema, n_averaged, COUNT_TYPE, false, true),
};
static const struct adamd_parameter plugin_parameters[] = {
    ROW(plugin, text, TEXT, false, false),
};
#undef ROW
#undef AT

#define TABLE(rows) \
    { (rows), sizeof(rows) / sizeof(rows)[0] }
static const struct {
    const struct adamd_parameter *rows;
    size_t count;
} tables[ADAMD_ACTION_KIND_COUNT] = {
    [ADAMD_UNSCALE] = TABLE(unscale_parameters),
    [ADAMD_CLIP_GRAD_NORM] = TABLE(clip_grad_norm_parameters),
    [ADAMD_CLIP_GRAD_VALUE] = TABLE(clip_grad_value_parameters),
    [ADAMD_NONFINITE_GUARD] = {NULL, 0},
    [ADAMD_LR_SCHEDULE] = TABLE(lr_schedule_parameters),
    [ADAMD_EMA_ACTION] = TABLE(ema_parameters),
    [ADAMD_PLUGIN] = TABLE(plugin_parameters),
};
#undef TABLE

const struct adamd_parameter *adamd_action_parameters(enum adamd_action_kind kind,
                                                      size_t *ret_count) {
    ADAMD_ASSERT((unsigned)kind < ADAMD_ACTION_KIND_COUNT);
    *ret_count = tables[kind].count;
    return tables[kind].rows;
}

// PyTorch's defaults; what has none (max_norm, gamma, ...) is NaN or 0, which the check refuses. A
// constant schedule is constant unless a factor is given.
static struct adamd_action defaults_of(enum adamd_action_kind kind) {
    struct adamd_action action = {.kind = kind};

    switch (kind) {
    case ADAMD_UNSCALE:
        action.unscale = (struct adamd_unscale){
            .scale = 65536.0, .growth_factor = 2.0, .backoff_factor = 0.5, .growth_interval = 2000};
        break;
    case ADAMD_CLIP_GRAD_NORM:
        action.clip_grad_norm =
            (struct adamd_clip_grad_norm){.max_norm = (double)NAN, .norm_type = 2.0};
        break;
    case ADAMD_CLIP_GRAD_VALUE:
        action.clip_grad_value.clip_value = (double)NAN;
        break;
    case ADAMD_LR_SCHEDULE:
        action.lr_schedule = (struct adamd_lr_schedule){.factor = 1.0,
                                                        .start_factor = 1.0 / 3.0,
                                                        .end_factor = 1.0,
                                                        .total_iters = 5,
                                                        .warmup_start_factor = 1.0 / 3.0};
        break;
    case ADAMD_EMA_ACTION:
        action.ema.decay = 0.999;
        break;
    default:
        break;
    }
    return action;
}

static enum adamd_status take_plugin(const char *name, struct adamd_action *ret_action,
                                     struct adamd_fault *fault) {
    const size_t size = strlen(name);

    if (size == 0 || size > ADAMD_PLUGIN_NAME_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "action",
                          "plugin:NAME has a name of 1 to %d bytes", ADAMD_PLUGIN_NAME_MAX);
    }
    *ret_action = defaults_of(ADAMD_PLUGIN);
    memcpy(ret_action->plugin.plugin, name, size + 1);
    return ADAMD_OK;
}

enum adamd_status adamd_action_default(const char *name, struct adamd_action *ret_action,
                                       struct adamd_fault *fault) {
    static const char prefix[] = "plugin:";

    if (strncmp(name, prefix, sizeof prefix - 1) == 0) {
        return take_plugin(name + sizeof prefix - 1, ret_action, fault);
    }
    for (int kind = 0; kind < ADAMD_PLUGIN; kind++) {
        if (strcmp(name, adamd_action_name((enum adamd_action_kind)kind)) == 0) {
            *ret_action = defaults_of((enum adamd_action_kind)kind);
            return ADAMD_OK;
        }
    }
    return adamd_fail(fault, ADAMD_BAD_FIELD, "action",
                      "there is no action \"%.40s\": unscale, clip_grad_norm, clip_grad_value, "
                      "nonfinite_guard, lr_schedule, ema and plugin:NAME are known",
                      name);
}

// ------------------------------------------------------------------------------------------- check

struct check {
    struct adamd_fault *fault;
    enum adamd_status status;
};

// Notes the first complaint. `good` is written so that NaN is not.
static void want(struct check *check, bool good, const char *name, const char *text) {
    char field[64];

    if (good || check->status != ADAMD_OK) {
        return;
    }
    (void)snprintf(field, sizeof field, "parameters.%s", name);
    check->status = adamd_fail(check->fault, ADAMD_BAD_FIELD, field, "%s %s", name, text);
}

static void check_unscale(struct check *check, const struct adamd_unscale *unscale) {
    want(check, unscale->scale > 0 && unscale->scale <= (double)FLT_MAX, "scale",
         "must be above 0 and a float32");
    want(check, isfinite(unscale->growth_factor) && unscale->growth_factor > 1.0, "growth_factor",
         "must be above 1: The growth factor must be > 1.0.");
    want(check, unscale->backoff_factor > 0 && unscale->backoff_factor < 1.0, "backoff_factor",
         "must be between 0 and 1: The backoff factor must be < 1.0.");
}

static void check_clip(struct check *check, const struct adamd_clip_grad_norm *clip) {
    want(check, clip->max_norm >= 0, "max_norm", "is required, and at least 0");
    want(check, clip->norm_type == 2.0 || (isinf(clip->norm_type) && clip->norm_type > 0),
         "norm_type", "must be 2 or Infinity");
}

static void check_schedule(struct check *check, const struct adamd_lr_schedule *s) {
    want(check, s->kind < ADAMD_SCHEDULE_KIND_COUNT, "schedule", "is not known");
    want(check, s->factor >= 0 && s->factor <= 1.0, "factor",
         "must be between 0 and 1: Constant multiplicative factor expected to be between 0 and 1.");
    want(
        check, s->start_factor > 0 && s->start_factor <= 1.0, "start_factor",
        "must be above 0 and at most 1: Starting multiplicative factor expected to be greater than "
        "0 and less or equal to 1.");
    want(check, s->end_factor >= 0 && s->end_factor <= 1.0, "end_factor",
         "must be between 0 and 1: Ending multiplicative factor expected to be between 0 and 1.");
    want(check, isfinite(s->gamma) && s->gamma >= 0, "gamma", "must be a number of at least 0");
    want(check,
         (s->kind != ADAMD_SCHEDULE_EXPONENTIAL && s->kind != ADAMD_SCHEDULE_STEP) || s->gamma > 0,
         "gamma", "is required of this schedule, and above 0");
    want(check, isfinite(s->eta_min) && s->eta_min >= 0, "eta_min",
         "must be a number of at least 0");
    want(check, s->kind != ADAMD_SCHEDULE_LINEAR || s->total_iters > 0, "total_iters",
         "must be at least 1");
    want(check, s->kind != ADAMD_SCHEDULE_COSINE || s->t_max > 0, "t_max",
         "is required of a cosine schedule, and at least 1");
    want(check, s->kind != ADAMD_SCHEDULE_STEP || s->step_size > 0, "step_size",
         "is required of a step schedule, and at least 1");
    want(check, s->warmup_start_factor > 0 && s->warmup_start_factor <= 1.0, "warmup_start_factor",
         "must be above 0 and at most 1");
}

enum adamd_status adamd_action_check(const struct adamd_action *action, struct adamd_fault *fault) {
    struct check check = {.fault = fault, .status = ADAMD_OK};

    switch (action->kind) {
    case ADAMD_UNSCALE:
        check_unscale(&check, &action->unscale);
        break;
    case ADAMD_CLIP_GRAD_NORM:
        check_clip(&check, &action->clip_grad_norm);
        break;
    case ADAMD_CLIP_GRAD_VALUE:
        want(&check, action->clip_grad_value.clip_value >= 0, "clip_value",
             "is required, and at least 0");
        break;
    case ADAMD_LR_SCHEDULE:
        check_schedule(&check, &action->lr_schedule);
        break;
    case ADAMD_EMA_ACTION:
        want(&check, action->ema.decay >= 0 && action->ema.decay <= 1.0, "decay",
             "must be between 0 and 1: Invalid decay value");
        break;
    default:
        break;
    }
    return check.status;
}

// --------------------------------------------------------------------------------------- schedules

static double linear_at(double start, double end, uint64_t total, uint64_t position) {
    const uint64_t at = position < total ? position : total;

    return start + (end - start) * (double)at / (double)total;
}

static double main_at(const struct adamd_lr_schedule *s, double base, uint64_t position) {
    const uint64_t whole_steps = s->step_size > 0 ? position / s->step_size : 0;

    switch ((enum adamd_schedule_kind)s->kind) {
    case ADAMD_SCHEDULE_LINEAR:
        return base * linear_at(s->start_factor, s->end_factor, s->total_iters, position);
    case ADAMD_SCHEDULE_COSINE:
        return s->eta_min +
               (base - s->eta_min) * (1.0 + cos(PI * (double)position / (double)s->t_max)) / 2.0;
    case ADAMD_SCHEDULE_EXPONENTIAL:
        return base * pow(s->gamma, (double)position);
    case ADAMD_SCHEDULE_STEP:
        return base * pow(s->gamma, (double)whole_steps);
    case ADAMD_SCHEDULE_CONSTANT:
    default:
        return position < s->total_iters ? base * s->factor : base;
    }
}

double adamd_lr_schedule_at(const struct adamd_lr_schedule *schedule, double base,
                            uint64_t position) {
    if (position < schedule->warmup_steps) {
        return base *
               linear_at(schedule->warmup_start_factor, 1.0, schedule->warmup_steps, position);
    }
    return main_at(schedule, base, position - schedule->warmup_steps);
}
