/**
 * The built-in hooks of a model: what can be asked for over the wire, where no code may come. Each
 * is a kind with parameters, by the names that the wire uses, and with a state that belongs to the
 * model's: it is captured, restored and part of the digest.
 *
 * UNSCALE, NONFINITE_GUARD and the two clippings are hooks of step_pre, LR_SCHEDULE and EMA of
 * step_post, in the order in which they were added. A plugin stands where it was asked to.
 */
#ifndef ADAMD_ACTIONS_H
#define ADAMD_ACTIONS_H

#include "adamd/hooks.h"

enum { ADAMD_PLUGIN_NAME_MAX = 31, ADAMD_PLUGIN_TEXT_MAX = 1023 };

enum adamd_action_kind {
    ADAMD_UNSCALE,
    ADAMD_CLIP_GRAD_NORM,
    ADAMD_CLIP_GRAD_VALUE,
    ADAMD_NONFINITE_GUARD,
    ADAMD_LR_SCHEDULE,
    ADAMD_EMA_ACTION,
    ADAMD_PLUGIN,
    ADAMD_ACTION_KIND_COUNT
};

enum adamd_schedule_kind {
    ADAMD_SCHEDULE_CONSTANT,    // ConstantLR: factor until total_iters, then 1
    ADAMD_SCHEDULE_LINEAR,      // LinearLR: from start_factor to end_factor over total_iters
    ADAMD_SCHEDULE_COSINE,      // CosineAnnealingLR: to eta_min over t_max, and back
    ADAMD_SCHEDULE_EXPONENTIAL, // ExponentialLR: gamma each version
    ADAMD_SCHEDULE_STEP,        // StepLR: gamma each step_size versions
    ADAMD_SCHEDULE_KIND_COUNT
};

/** torch.amp.GradScaler's half that the daemon has: divides, skips, and chooses the scale. */
struct adamd_unscale {
    double scale; // state too: what gradients have to be multiplied by now
    double growth_factor, backoff_factor;
    uint64_t growth_interval; // 0: the scale stays as it is
    uint64_t growth_tracker;  // state: steps without an overflow since the scale changed
};

struct adamd_clip_grad_norm {
    double max_norm, norm_type; // 2 or infinity
    bool error_if_nonfinite;
};

struct adamd_clip_grad_value {
    double clip_value;
};

/** The names are those of PyTorch's schedulers; a warm-up is a LinearLR of its own before it. */
struct adamd_lr_schedule {
    uint64_t kind; // enum adamd_schedule_kind
    double factor, start_factor, end_factor, eta_min, gamma;
    uint64_t total_iters, t_max, step_size;
    uint64_t warmup_steps;
    double warmup_start_factor;
    uint64_t position; // state: versions since it was added
};

struct adamd_ema {
    double decay;
    uint64_t n_averaged; // state: 0 means that the next one is a copy
};

struct adamd_plugin_use {
    char plugin[ADAMD_PLUGIN_NAME_MAX + 1];
    char text[ADAMD_PLUGIN_TEXT_MAX + 1]; // for the plugin to read
};

/** One action with its parameters and its state. */
struct adamd_action {
    enum adamd_action_kind kind;
    union {
        struct adamd_unscale unscale;
        struct adamd_clip_grad_norm clip_grad_norm;
        struct adamd_clip_grad_value clip_grad_value;
        struct adamd_lr_schedule lr_schedule;
        struct adamd_ema ema;
        struct adamd_plugin_use plugin;
    };
};

// ------------------------------------------------------------- the parameters of a kind, by name

enum adamd_parameter_type {
    ADAMD_PARAMETER_DOUBLE,
    ADAMD_PARAMETER_COUNT_TYPE, // uint64_t
    ADAMD_PARAMETER_BOOL,
    ADAMD_PARAMETER_SCHEDULE, // uint64_t: enum adamd_schedule_kind, by name
    ADAMD_PARAMETER_TEXT      // char array
};

/** `is_state`: not for those who add the action, but kept with it and shown. */
struct adamd_parameter {
    const char *name;
    size_t offset; // in struct adamd_action
    enum adamd_parameter_type type;
    bool is_required, is_state;
};

/** "clip_grad_norm". Static storage. */
const char *adamd_action_name(enum adamd_action_kind kind);
/** "cosine". Static storage. */
const char *adamd_schedule_name(enum adamd_schedule_kind kind);
bool adamd_schedule_of(const char *name, enum adamd_schedule_kind *ret_kind);

/** The table of a kind's parameters and state, in the order in which they are printed. */
const struct adamd_parameter *adamd_action_parameters(enum adamd_action_kind kind,
                                                      size_t *ret_count);

/** The kind with PyTorch's defaults. `name` is "clip_grad_norm", or "plugin:NAME". BAD_FIELD names
 *  `action`. */
ADAMD_MUST_USE enum adamd_status
adamd_action_default(const char *name, struct adamd_action *ret_action, struct adamd_fault *fault);
/** The ranges of its parameters: BAD_FIELD names the parameter. */
ADAMD_MUST_USE enum adamd_status adamd_action_check(const struct adamd_action *action,
                                                    struct adamd_fault *fault);

/** What a group's lr is at a position, where it was `base` at the beginning. */
double adamd_lr_schedule_at(const struct adamd_lr_schedule *schedule, double base,
                            uint64_t position);

// ------------------------------------------------------------------------------------ of a model

/** The event that a kind is for; ADAMD_HOOK_EVENT_COUNT for a plugin, which is for any. */
enum adamd_hook_event adamd_action_event(enum adamd_action_kind kind);

/**
 * Adds a hook. EMA: one a model (EXISTS); its copy begins with the parameters of the next version.
 * LR_SCHEDULE: sets each group's lr at once, as PyTorch's constructors do, and after each version.
 * BAD_FIELD (action, event, prepend, parameters.<name>), NOT_FOUND (no such plugin), TOO_LARGE,
 * NO_MEMORY; a plugin's own refusal is HOOK_FAILED.
 */
ADAMD_MUST_USE enum adamd_status adamd_model_add_action(struct adamd_model *model,
                                                        enum adamd_hook_event event,
                                                        const struct adamd_action *action,
                                                        bool prepend, uint64_t *ret_id,
                                                        struct adamd_fault *fault);

/** A built-in hook, to look at. */
struct adamd_action_view {
    uint64_t id;
    enum adamd_hook_event event;
    const struct adamd_action *action;
};

/** The `index`-th built-in hook, by event and then as they run; false past the last. */
bool adamd_model_action_at(const struct adamd_model *model, uint32_t index,
                           struct adamd_action_view *ret_view);
bool adamd_model_action_of(const struct adamd_model *model, uint64_t id,
                           struct adamd_action_view *ret_view);

#endif
