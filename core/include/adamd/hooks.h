/**
 * Hooks by the rules of torch.optim.Optimizer: the six registrations of a model and the two that
 * are process-wide, here: of all models that share a registry.
 *
 * A list runs in the order of registration; `prepend`, where PyTorch has it, moves a new hook to
 * the very front. Around a step: shared step_pre, own step_pre, the step, own step_post, shared
 * step_post. What one hook changed of the step's arguments, or put in the place of a state dict,
 * the later ones see, and so does the step or the caller. A hook that fails ends its list: no later
 * one runs, and the step, the capture or the load is refused with nothing half applied. step_post
 * hooks do not run after a step that was refused or skipped. A list that changes while it runs is
 * run as it was when it began, where PyTorch raises: who was added waits for the next time, who was
 * removed is called this once more.
 *
 * What takes time is an operation of a backend, so a hook is a small state machine: it submits, it
 * answers WAIT, and is called again when what it submitted has completed. All of it on the loop's
 * thread.
 */
#ifndef ADAMD_HOOKS_H
#define ADAMD_HOOKS_H

#include "adamd/options.h"

struct adamd_capture;
struct adamd_model;

enum { ADAMD_HOOKS_MAX = 64, ADAMD_HOOK_NAME_MAX = 63 }; // of one model, or of one registry

enum adamd_hook_event {
    ADAMD_STEP_PRE,
    ADAMD_STEP_POST,
    ADAMD_STATE_DICT_PRE,
    ADAMD_STATE_DICT_POST,
    ADAMD_LOAD_STATE_DICT_PRE,
    ADAMD_LOAD_STATE_DICT_POST,
    ADAMD_HOOK_EVENT_COUNT
};

/** "step_pre". Static storage. */
const char *adamd_hook_event_name(enum adamd_hook_event event);

enum adamd_hook_answer {
    ADAMD_HOOK_DONE, // the next one's turn
    ADAMD_HOOK_WAIT, // step events: operations were submitted, call again when they have completed
    ADAMD_HOOK_SKIP, // step_pre: no step is made of this gradient, without being a failure
    ADAMD_HOOK_FAIL, // the fault says why
};

/** Why a step was skipped. */
enum adamd_skip { ADAMD_SKIP_NONE, ADAMD_SKIP_NONFINITE, ADAMD_SKIP_BY_HOOK };

/**
 * The arguments of one step: a copy that belongs to it alone. A step_pre hook may change `options`
 * (checked after each hook), `grad_scale` and `found_inf`; the gradient itself is changed by the
 * operations below. The rest is to read.
 */
struct adamd_step_args {
    struct adamd_options *options; // by group
    uint32_t group_count;
    double grad_scale;    // what the gradient is still multiplied by: the step divides by it
    bool found_inf;       // skips the step
    enum adamd_skip skip; // with SKIP: why; NONE stands for BY_HOOK
    uint64_t version;     // that the step makes
    double unscaled_by;   // 1 / what an `unscale` multiplied by; 0: none did
    double clip_coef;     // the product of all clipping by norm; 1: nothing was clipped
    double total_norm;    // as the last clipping by norm found it; 0: none did
};

/** Of the gradient as it lies on the backend: elements of parameters that have one. */
struct adamd_gradient_norm {
    double square_sum;  // in double, by the order of square_sum.h
    double max_abs;     // of the finite ones
    uint64_t nonfinite; // how many elements are NaN or infinite
};

struct adamd_hook_call {
    enum adamd_hook_event event;
    struct adamd_model *model;
    struct adamd_step_args *args; // step events
    // state_dict post and load_state_dict pre: set to another one to replace it. What it points to
    // stays as it is until the hook is called again or released. Its layout is the model's.
    const struct adamd_capture *dict;
    unsigned turn;                   // 0, then 1, 2, ... behind each WAIT
    struct adamd_gradient_norm norm; // what the last adamd_hook_norm() found
    struct adamd_fault *fault;       // for FAIL: never NULL
};

typedef enum adamd_hook_answer adamd_hook_fn(void *arg, struct adamd_hook_call *call);

/** What is registered. */
struct adamd_hook {
    const char *name; // for messages; copied, cut to ADAMD_HOOK_NAME_MAX
    adamd_hook_fn *run;
    void (*release)(void *arg); // when it was removed and runs no more; may be NULL
    void *arg;
};

// ---------------------------------------------------------------------------------------- registry

/** The process-wide hooks and the counter of ids. Models borrow it and are gone before it is. */
struct adamd_hook_registry;

struct adamd_hook_registry *adamd_hook_registry_create(void); // NULL if out of memory
/** Releases its hooks. NULL is harmless. */
void adamd_hook_registry_destroy(struct adamd_hook_registry *registry);

/** What the action `plugin:NAME` runs. `plugin` is borrowed and outlives the registry. BAD_FIELD: a
 *  version or a table that this build does not know. NO_MEMORY. */
struct adamd_plugin;
ADAMD_MUST_USE enum adamd_status
adamd_hook_registry_add_plugin(struct adamd_hook_registry *registry, const char *name,
                               const struct adamd_plugin *plugin, struct adamd_fault *fault);

/** register_optimizer_step_pre_hook and _post_hook: `event` is one of these two. The id is the
 *  handle: from one counter for all models of the registry, never used twice. TOO_LARGE, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status adamd_register_optimizer_hook(struct adamd_hook_registry *registry,
                                                               enum adamd_hook_event event,
                                                               const struct adamd_hook *hook,
                                                               uint64_t *ret_id,
                                                               struct adamd_fault *fault);
/** False: it was gone already, which is no error. */
bool adamd_remove_optimizer_hook(struct adamd_hook_registry *registry, uint64_t id);

// ------------------------------------------------------------------------------------ of one model

/** register_step_pre_hook and its five siblings. BAD_FIELD: `prepend` of a step event, which
 *  PyTorch has not. TOO_LARGE, NO_MEMORY. On failure the hook is the caller's. */
ADAMD_MUST_USE enum adamd_status adamd_model_register_hook(struct adamd_model *model,
                                                           enum adamd_hook_event event,
                                                           const struct adamd_hook *hook,
                                                           bool prepend, uint64_t *ret_id,
                                                           struct adamd_fault *fault);
/** The handle's remove(). False: it was gone already, which is no error. */
bool adamd_model_remove_hook(struct adamd_model *model, uint64_t id);

/** Why the last step, capture or load was refused with HOOK_FAILED. */
const struct adamd_fault *adamd_model_hook_fault(const struct adamd_model *model);

// ------------------------------------------------------- operations on the gradient, from step_pre

// Each is submitted behind those before it; answer WAIT before the gradient or a result is needed.
// NO_MEMORY, or OK without an operation where no parameter has a gradient.

/** gradient = gradient * factor, in the gradient's computing type, rounded to storage. */
ADAMD_MUST_USE enum adamd_status adamd_hook_scale(struct adamd_hook_call *call, double factor);
/** Into [-limit, limit]; NaN stays. */
ADAMD_MUST_USE enum adamd_status adamd_hook_clamp(struct adamd_hook_call *call, double limit);
/** `call->norm` holds it at the next turn. */
ADAMD_MUST_USE enum adamd_status adamd_hook_norm(struct adamd_hook_call *call);

#endif
