/**
 * What the files of the model share. Nobody else includes this.
 *
 * The life of a gradient: RECEIVING bytes into a slot; COMMITTED, waiting for its turn; STAGED in
 * an open round; STEPPING, read by an operation in flight; then decided or refused, and gone. The
 * caller's handle on it is a struct adamd_push; repeats that attach get handles of their own.
 *
 * Whatever changes the model ends with model_advance(), which does all that can be done now and
 * then calls back. Inside a callback it only notes that there is more to do, so lists that are
 * walked do not change under the walker.
 */
#ifndef ADAMD_MODEL_IMPL_H
#define ADAMD_MODEL_IMPL_H

#include "adamd/backend.h"
#include "adamd/differentiate.h"
#include "adamd/model.h"
#include "hooks_impl.h"

#include <string.h>

enum {
    MODEL_PULLS_MAX = 1024, // waiting at once
    MODEL_MANUAL_MAX = 64,  // steps and zero_grads that wait for a step in flight
    MODEL_LEASE_MS = 30000, // where the policy says 0
    MODEL_TICK_MS = 1000,   // at most this long between ticks while somebody holds a lease
    FIRST_GENERATION = 1,
};

// --------------------------------------------------------------------------------- gradient, push

/** Staging memory for one gradient, laid out as the arena, with zeros between the tensors. */
struct slot {
    struct slot *next; // in the free list
    struct adamd_buffer *buffer;
    unsigned char *host;
    uint64_t layout_count; // of the layout that it was made for
    uint32_t holds;        // gradient, accumulation, operations in flight
};

enum gradient_state { RECEIVING, COMMITTED, STAGED, STEPPING };

struct gradient {
    struct gradient *previous, *next;
    struct gradient_list *list;
    enum gradient_state state;
    struct adamd_worker *worker;
    uint64_t epoch, sequence;
    bool has_base_version, replace, wants_parameters;
    uint64_t base_version;
    uint64_t staleness;
    uint64_t ticket; // order of commit, among gradients and manual commands
    double weight;
    struct slot *slot;
    struct adamd_push *watchers;
    // What it holds. `tensors` NULL means all that there were when it was admitted; `has` NULL,
    // all.
    uint32_t *tensors;
    uint32_t tensor_count;
    unsigned char *has; // a bit for each tensor of the model
    struct adamd_metric *metrics;
    uint32_t metric_count;
    // Receiving.
    uint64_t byte_size, received;
    uint32_t cursor;       // append: index among the pushed tensors
    uint64_t cursor_bytes; // append: bytes of that tensor
    uint64_t *written;     // write: bytes by tensor
    uint32_t crc32c, crc_running;
    uint16_t max_top[ADAMD_REAL_COUNT]; // by dtype, of the upper 16 bits without the sign
};

struct gradient_list {
    struct gradient *first, *last;
};

struct adamd_push {
    struct adamd_push *next, **link; // among its gradient's watchers, or the model's endings
    struct adamd_model *model;
    struct gradient *gradient; // NULL: it ended
    adamd_decided_fn *on_decided;
    void *arg;
    bool duplicate;
    enum adamd_status status; // once it ended
    struct adamd_outcome outcome;
    struct adamd_fault fault;
};

// -------------------------------------------------------------------------------------------- jobs

struct job;
typedef void job_done_fn(struct adamd_model *model, struct job *job, enum adamd_status status);

/** Operations that are submitted in order and end together. Waits where the backend is full. */
struct job {
    struct job *next;
    struct adamd_model *model;
    job_done_fn *on_done;
    void *arg;
    struct slot *reads, *writes;     // held until the end; may be NULL
    void (*on_end)(struct job *job); // frees `arg`, in any case; may be NULL
    uint32_t count, submitted, completed;
    enum adamd_status status;
    struct adamd_op ops[];
};

// ---------------------------------------------------------------------------------------- versions

struct published {
    struct adamd_published view; // what a reader holds
    struct adamd_buffer *buffer;
    uint64_t layout_count; // of the layout that it was made for
    uint32_t refs;
    bool busy; // an operation in flight writes it
};

/** Contributions and metrics on their way into a record. */
struct tally {
    struct adamd_contribution *contributions;
    uint32_t *ranks;
    uint32_t count, capacity;
    struct {
        char key[ADAMD_METRIC_KEY_MAX + 1];
        double sum, weight;
    } metrics[ADAMD_METRICS_MAX];
    uint32_t metric_count;
    double weight;
};

struct stepper {
    struct stepper *next;
    adamd_stepped_fn *on_stepped;
    void *arg;
    bool duplicate;
    enum adamd_status status;
    const struct adamd_step_record *record;
};

enum command_kind { COMMAND_STEP, COMMAND_ZERO_GRAD };

/** MANUAL: what was asked for while a step was in flight. */
struct command {
    struct command *next;
    enum command_kind kind;
    uint64_t ticket, expected_version;
    bool set_to_none;
    struct adamd_options *options; // by group, or NULL
    struct stepper *steppers;
};

/** The step in flight and the memory from which steps are built. */
struct step {
    bool active;
    struct gradient_list gradients; // ascending rank
    struct gradient_list skipped;   // of the same round, not finite
    struct adamd_step_record *record;
    struct published *publish;
    struct stepper *steppers;
    uint64_t submit_ns;
    double square_sum;
    unsigned char *stepped; // a bit for each tensor
    struct adamd_run *runs;
    struct adamd_rule *rules;
    struct {
        uint64_t t;
        uint32_t group;
    } * rule_keys; // what each rule is of
    struct adamd_source *sources;
    uint32_t *indices;
    uint32_t run_count, rule_count, source_count, index_count;
    uint32_t source_capacity, index_capacity;
    double weight_sum;
};

enum hook_phase { HOOKS_NONE, HOOKS_BEFORE, HOOKS_STEP, HOOKS_BEHIND };

/** The hooks around the step that runs. */
struct hooking {
    enum hook_phase phase;
    enum adamd_hook_event event; // of the list that runs
    enum adamd_hook_answer answer;
    bool is_due; // goes on at the next turn of model_advance()
    bool is_aborted;
    struct hook_run run;
    uint32_t turns, jobs; // of this list; in flight
    struct adamd_step_args args;
    uint32_t options_capacity;
    struct slot *accumulated;      // held
    struct adamd_buffer *gradient; // where it lies, once somebody looked
    struct adamd_buffer *mean;     // for rounds of several, kept
    bool is_mean;
    struct adamd_gradient_norm norm;
    struct adamd_fault fault;
};

struct group {
    struct adamd_options options;
    struct adamd_group_keys *keys; // held
    uint32_t *tensors;
    uint32_t tensor_count;
    uint64_t since; // the version that the options made first, or will
};

enum capture_state { CAPTURE_NONE, CAPTURE_ASKED, CAPTURE_COPYING, CAPTURE_READY, CAPTURE_HELD };

struct capture {
    enum capture_state state;
    struct adamd_capture view;
    struct adamd_buffer *buffers[ADAMD_ARRAY_COUNT];
    uint64_t *steps;
    struct adamd_options *options;
    struct adamd_group_keys **keys; // by group, held
    uint32_t group_count;
    bool detached;
    char *hooks;
    struct hook_run run;              // its hooks live until the release
    const struct adamd_capture *told; // the view, or what a hook put in its place
    struct adamd_wait *waits;         // at most one
};

struct adamd_restore {
    struct adamd_model *model;
    struct adamd_buffer *buffers[ADAMD_ARRAY_COUNT];
    uint64_t *written[ADAMD_ARRAY_COUNT]; // bytes by tensor; NULL: nothing was written
    uint64_t *steps;
    struct adamd_options *options;  // by group
    struct adamd_group_keys **keys; // by group, held; those of the model until others are given
    char *hooks_text;               // NULL: the model's hooks stay
    struct hook_lists hooks;        // what it says
    uint64_t version;
    bool has_options, committed, submitted;
    bool keeps_parameters, keeps_state; // as they are in the model
};

/** A group on its way into the model. */
struct adamd_addition {
    struct adamd_model *model;
    struct adamd_layout layout;  // of all tensors, old and new; zeroed if there are no new ones
    struct group group;          //
    struct adamd_buffer *values; // as the arena's new part; NULL: zeros
    uint64_t *written;           // bytes by new tensor
    struct adamd_added added, *ret_added;
    bool committed;
};

/** Arrays that were outgrown, until they were copied. */
struct outgrown {
    struct outgrown *next;
    struct adamd_buffer *arrays[ADAMD_ARRAY_COUNT];
    struct adamd_buffer *values;
};

/** What was kept of one step but for its arrays, which are the model's. Shared by its readers. */
struct kept_step {
    uint32_t refs;
    struct adamd_run *runs; // of differentiable groups, a tensor each
    struct adamd_vjp_rule *rules;
    struct {
        uint64_t t;
        uint32_t group;
    } * rule_keys;                 // what each rule is of
    unsigned char *stepped;        // a bit for each tensor
    struct adamd_options *options; // by group
    uint32_t run_count, rule_count, group_count;
};

/** What the last step read. All of it is NULL in a model without a differentiable group. */
struct kept {
    struct adamd_buffer *buffers[ADAMD_COTANGENT_COUNT];
    struct kept_step *last; // of the visible version; NULL: it cannot be differentiated
    struct kept_step *next; // of the step in flight
};

enum differentiation_state { TAKING_COTANGENTS, TURNING, TURNED };

struct adamd_differentiation {
    struct adamd_model *model;
    enum differentiation_state state;
    bool held, detached;    // by the caller
    struct kept_step *step; // the one that is differentiated
    struct adamd_buffer *buffers[ADAMD_COTANGENT_COUNT];
    uint64_t *written[ADAMD_COTANGENT_COUNT]; // bytes by tensor
    struct adamd_vjp_sums *sums;              // by rule
    struct adamd_option_cotangents *groups;
    struct adamd_cotangents view;
    struct adamd_wait *waits; // at most one
};

struct adamd_model {
    struct adamd_queue *queue;
    struct adamd_backend *backend;
    struct adamd_layout layout;
    size_t arena_bytes;
    struct group *groups;
    uint32_t group_count;
    uint32_t *group_of;
    uint64_t *steps; // Adam's t, by tensor
    struct adamd_buffer *arrays[ADAMD_ARRAY_COUNT];

    enum adamd_model_state state;
    bool was_initializing, was_paused; // before the restore that runs
    bool draining, destroyed;
    uint64_t generation, version, config_count, layout_count;
    struct adamd_policy policy;
    struct adamd_workers workers;
    struct adamd_push_counts counts;
    uint64_t now_ms; // as last told
    uint64_t resident_bytes, resident_bytes_max;

    struct slot *slots_free;
    uint32_t slot_count, slots_free_count, slots_max;

    struct gradient_list receiving, committed, accumulating;
    struct adamd_push *endings, **endings_end; // to be told, oldest first
    uint64_t ticket;
    uint64_t round_open_ms, round_open_ns; // of the first contribution; ns 0: no round is open
    struct step step;

    struct slot *accumulated; // MANUAL
    unsigned char *has_gradient;
    double accumulated_bounds[ADAMD_REAL_COUNT]; // by dtype
    struct tally tally;
    struct command *commands, **commands_end;
    uint32_t command_count;
    struct stepper *steppers_ended, **steppers_end;

    struct adamd_hook_registry *hook_registry, own_registry; // NULL: its own
    struct hook_lists hooks;
    struct hooking hooking;
    struct adamd_fault hook_fault;

    struct published **published;
    uint32_t published_count, published_max;
    struct published *current; // of the visible version, whole
    bool current_wanted;       // the visible version was pulled
    bool copying;              // the visible version, for readers
    bool ema_copying;
    struct published *ema_current; // of the visible version's average
    struct adamd_wait *ema_pulls;
    struct adamd_wait *pulls, *pulls_ready, *ended;

    struct capture capture;
    struct adamd_restore *restore;
    struct adamd_wait *restore_waits;
    struct adamd_addition *addition;
    struct adamd_wait *addition_waits;
    struct outgrown *outgrown;

    struct kept kept;
    struct adamd_differentiation *differentiation;

    struct adamd_step_record **records; // by ordinal % ADAMD_STEPS_KEPT
    uint64_t last_ordinal;
    adamd_changed_fn *on_changed;
    void *changed_arg;
    bool changed;

    struct job *jobs, **jobs_end; // with operations that are not yet submitted
    uint32_t jobs_alive;
    bool advancing, advance_again, blocked;
};

// -------------------------------------------------------------------------------- bits, list, time

static inline bool bit_get(const unsigned char *bits, uint32_t i) {
    return ((unsigned)bits[i / 8] >> (i % 8) & 1U) != 0;
}

static inline void bit_set(unsigned char *bits, uint32_t i) {
    bits[i / 8] = (unsigned char)(bits[i / 8] | 1U << (i % 8));
}

static inline size_t bits_bytes(uint32_t count) {
    return (size_t)count / 8 + 1;
}

static inline bool gradient_has(const struct gradient *gradient, uint32_t tensor) {
    return gradient->has == NULL || bit_get(gradient->has, tensor);
}

/** Monotonic, for durations in records. */
uint64_t model_clock_ns(void);
/** Since 1970, for people. */
uint64_t model_unix_ns(void);

// -------------------------------------------------------------------------------- model_advance.c

/** Does all that can be done now, then calls back. */
void model_advance(struct adamd_model *model);

/** Notes the time; the daemon's own absence is added to the leases. */
void model_observe(struct adamd_model *model, uint64_t now_ms);

/** The device is lost: all that waits ends with `status`. */
void model_fail(struct adamd_model *model, enum adamd_status status);

void model_note_change(struct adamd_model *model);

/** For destroy: ends whatever waits, and tells it. Nothing is begun any more. */
void model_end_all(struct adamd_model *model, enum adamd_status status);
void model_call_back_all(struct adamd_model *model);

/** A job for `count` operations, to be filled in; NULL if out of memory. */
struct job *job_create(struct adamd_model *model, uint32_t count, job_done_fn *on_done, void *arg);
void job_submit(struct adamd_model *model, struct job *job);

/** Adds at the end of `list`. */
void wait_add(struct adamd_wait **list, struct adamd_wait *wait);
void wait_remove(struct adamd_wait *wait);
/** Moves all of `list` to those that are told `status`. */
void waits_end(struct adamd_model *model, struct adamd_wait **list, enum adamd_status status);

/** Frees a destroyed model once nothing refers to it. */
void model_free_if_done(struct adamd_model *model);

// ------------------------------------------------------------------------------------ model_slot.c

/** Allocates from the backend within the model's limit. */
enum adamd_status model_alloc(struct adamd_model *model, enum adamd_memory memory, bool limited,
                              struct adamd_buffer **ret_buffer);
/** The same, of another size than the arena's. */
enum adamd_status model_alloc_bytes(struct adamd_model *model, enum adamd_memory memory,
                                    bool limited, size_t bytes, struct adamd_buffer **ret_buffer);
/** More than 0. */
size_t model_arena_bytes(const struct adamd_layout *layout);
void model_release(struct adamd_model *model, struct adamd_buffer *buffer);

/** BUSY if all are in use. Held once. */
enum adamd_status slot_take(struct adamd_model *model, struct slot **ret_slot);
void slot_hold(struct slot *slot);
void slot_drop(struct adamd_model *model, struct slot *slot);
void slots_finish(struct adamd_model *model);
/** One more, whatever slots_max is, held once. */
enum adamd_status slot_create(struct adamd_model *model, const struct adamd_layout *layout,
                              uint64_t layout_count, struct slot **ret_slot);
void slot_destroy(struct adamd_model *model, struct slot *slot);
/** The layout is another one: those that are free go, the others with their last hold. */
void slots_outgrow(struct adamd_model *model);

/** Zeros in the gaps between the tensors of an arena. */
void arena_clear_gaps(const struct adamd_layout *layout, unsigned char *host);

/** Max of `max_top` and the upper 16 bits of the reals, signs left out. */
uint16_t scan_reals(enum adamd_dtype dtype, const unsigned char *reals, size_t count,
                    uint16_t max_top);
/** Whether what was scanned to `max_top` is finite. */
bool scan_is_finite(enum adamd_dtype dtype, uint16_t max_top);
/** The largest finite value. */
double scan_max(enum adamd_dtype dtype);
/** No absolute value that was scanned to `max_top`, which is finite, is larger. */
double scan_bound(enum adamd_dtype dtype, uint16_t max_top);

// ------------------------------------------------------------------------- model_push.c, _bytes.c

void gradient_append(struct gradient_list *list, struct gradient *gradient);
void gradient_remove(struct gradient *gradient);

/** True if no earlier push of its worker is undecided. */
bool gradient_is_next(const struct gradient *gradient);
bool gradient_is_finite(const struct gradient *gradient);
/** No absolute value of `dtype` in it, which is finite, is larger. */
double gradient_bound(const struct gradient *gradient, enum adamd_dtype dtype);

/** The gradient is decided: the table, the counts and the watchers are told, and it is gone. */
void gradient_decide(struct adamd_model *model, struct gradient *gradient,
                     const struct adamd_outcome *outcome);
/** It is refused, its number free again; later ones of that worker are OUT_OF_ORDER. */
void gradient_refuse(struct adamd_model *model, struct gradient *gradient,
                     const struct adamd_fault *fault);
/** The same push comes again: this one, still RECEIVING, leaves its number to it. */
void gradient_supersede(struct adamd_model *model, struct gradient *gradient);
/** What came after a number that is free again is OUT_OF_ORDER. */
void gradients_refuse_later(struct adamd_model *model, const struct adamd_worker *worker,
                            uint64_t epoch, uint64_t sequence);
/** Ends all that are not STEPPING: of `worker`, or of everybody if NULL. */
void gradients_end(struct adamd_model *model, const struct adamd_worker *worker,
                   enum adamd_status status);
/** Ends all of `list`, which are STEPPING, refused. */
void gradients_abort(struct adamd_model *model, struct gradient_list *list,
                     enum adamd_status status);

/** What the table will say of it, but for the norm. */
struct adamd_outcome gradient_outcome(const struct adamd_model *model,
                                      const struct gradient *gradient,
                                      enum adamd_outcome_kind kind);

/** The base version against the policy: OK, STALE or FUTURE_VERSION. */
enum adamd_status model_check_base(const struct adamd_model *model, bool has_base, uint64_t base,
                                   struct adamd_fault *fault);

// ---------------------------------------------------------- model_round.c, _manual.c, _step.c

/** Decides and steps as far as the policy lets it. */
void policy_advance(struct adamd_model *model);
/** Decides `gradient`, whose turn it is, if its base version or its numbers are wrong. */
bool policy_turns_away(struct adamd_model *model, struct gradient *gradient);

void manual_advance(struct adamd_model *model);
/** Ends steps that wait, forgets what is accumulated. */
void manual_clear(struct adamd_model *model, enum adamd_status status);
void stepper_end(struct adamd_model *model, struct stepper *stepper, enum adamd_status status,
                 const struct adamd_step_record *record);
void steppers_end_all(struct adamd_model *model, struct stepper **list, enum adamd_status status,
                      const struct adamd_step_record *record);

// model_step.c for model_hooks.c: a step in pieces. step_begin() makes it the one that runs and
// takes `record` over, step_submit() sends what step_build() made, then one of the other three ends
// it.
void step_begin(struct adamd_model *model, struct adamd_step_record *record);
enum adamd_status step_submit(struct adamd_model *model, struct slot *accumulated,
                              const struct adamd_options *options);
/** With `gradient` alone in place of all sources. */
void step_use_source(struct step *step, struct adamd_buffer *gradient);
void step_end(struct adamd_model *model, enum adamd_status status);
/** No version; its pushes are decided as skipped. */
void step_skip(struct adamd_model *model, enum adamd_skip skip);
/** Its pushes are refused with `fault`. */
void step_refuse(struct adamd_model *model, const struct adamd_fault *fault);

enum adamd_status step_init(struct step *step, uint32_t tensor_count);
void step_finish(struct step *step);
/** Steps with model->step.gradients, or with what is accumulated. `options` replaces the groups'.
 *  Takes `record` over. On failure nothing has changed. */
enum adamd_status step_start(struct adamd_model *model, struct slot *accumulated,
                             const struct adamd_options *options, struct adamd_step_record *record);
/** The runs, rules and sources of a step; run_count 0 if it touches no element. */
enum adamd_status step_build(struct adamd_model *model, struct slot *accumulated,
                             const struct adamd_options *options);

// ---------------------------------------------------------------------------------- model_groups.c

/** Puts "param_groups[2]." before the field that a fault names; returns its status. */
enum adamd_status group_fail_at(struct adamd_fault *fault, enum adamd_status status,
                                uint32_t group);
/** BAD_FIELD, TOO_LARGE; a fault names "lr", "extra[1].key", "param_names". */
enum adamd_status group_check(const struct adamd_options *options,
                              const struct adamd_group_keys_spec *keys, uint32_t tensor_count,
                              struct adamd_fault *fault);

/** Names in all groups, or in none. */
enum adamd_status groups_check_names(bool unnamed, bool others_unnamed, struct adamd_fault *fault);
uint64_t extras_bytes(const struct adamd_group_keys_spec *keys);
/** TOO_LARGE past what the extra keys of all groups may take. */
enum adamd_status extras_check_bytes(uint64_t bytes, struct adamd_fault *fault);
/** The version that the next step to be built will make. */
uint64_t model_next_version(const struct adamd_model *model);
/** Drops each of a list, and the list. NULL is harmless. */
void group_keys_free(struct adamd_group_keys **keys, uint32_t count);

// ---------------------------------------------------------------------------------- model_record.c

void tally_clear(struct tally *tally);
enum adamd_status tally_add(struct tally *tally, const struct gradient *gradient);
/** A record of what was tallied; neither version nor time are in it. */
struct adamd_step_record *record_create(const struct adamd_model *model, const struct tally *tally);
void record_commit(struct adamd_model *model, struct adamd_step_record *record);
/** Of something that made no version. `record` may be NULL: without memory the push is still
 *  decided, and stands in the next record's counts. */
void record_commit_skipped(struct adamd_model *model, struct adamd_step_record *record);
/** A record of one gradient, beside a tally that goes on; NULL if out of memory. */
struct adamd_step_record *record_of_one(const struct adamd_model *model,
                                        const struct gradient *gradient);
void records_finish(struct adamd_model *model);

// ------------------------------------------------------------------- model_published.c, _state.c

/** A buffer for the next version, or NULL: nobody wants it, or all are read. */
struct published *published_for_step(struct adamd_model *model, bool wanted);
/** The step that wrote it (or none, NULL) made a version visible. */
void published_turn(struct adamd_model *model, struct published *made);
void published_advance(struct adamd_model *model);
void published_finish(struct adamd_model *model);
/** The layout is another one: copies that nobody reads go, the others with their last reader. */
void published_outgrow(struct adamd_model *model);

void capture_advance(struct adamd_model *model);
void capture_finish(struct adamd_model *model);
void restore_advance(struct adamd_model *model);
/** Drops one that is committed. One that is not is its caller's, and keeps the model's memory. */
void restore_forget(struct adamd_model *model);

// ---------------------------------------------------------------------------------- model_growth.c

/** Adds the group that is asked for, at a boundary. True: there is soon one, begin nothing. */
bool growth_advance(struct adamd_model *model);
/** Drops one that is committed. One that is not is its caller's, and keeps the model's memory. */
void addition_forget(struct adamd_model *model);
void outgrown_release(struct adamd_model *model, struct outgrown *outgrown);

/** A buffer that no reader holds, or NULL; and whether one more may wait in `list`. */
struct published *published_find(struct adamd_model *model);
/** Copies `array` to a buffer for readers, as of the visible version; `on_done` gets the copy as
 * its job's argument. False if no buffer or no memory is free: to be tried again. */
bool published_copy(struct adamd_model *model, enum adamd_array array, job_done_fn *on_done);
/** A copy is made: whether it is of the version that is visible still. */
bool published_copied(const struct adamd_model *model, struct published *published,
                      enum adamd_status status);
enum adamd_status published_check_pull(const struct adamd_model *model,
                                       const struct adamd_wait *list);

// ------------------------------------------------- model_hooks.c, hook_gradient.c, model_actions.c

struct action_hook;

struct adamd_hook_registry *model_registry(struct adamd_model *model);
/** Whether the next step has any hooks: then it begins with hooks_step_start(), as step_start(). */
bool hooks_wanted(const struct adamd_model *model);
enum adamd_status hooks_step_start(struct adamd_model *model, struct slot *accumulated,
                                   const struct adamd_options *options,
                                   struct adamd_step_record *record);
/** True while hooks before the step work on its gradient: nobody else may change it. */
bool hooks_hold_gradient(const struct adamd_model *model);
/** Such a step, if an old epoch of `worker` is in it, is aborted: nothing was written yet. */
void hooks_drop_epoch(struct adamd_model *model, const struct adamd_worker *worker);
/** The policy, or ALLOW where a hook is there to judge. */
enum adamd_nonfinite hooks_nonfinite(const struct adamd_model *model);
/** The step's operation completed: true if the hooks behind it come first. */
bool hooks_take_step(struct adamd_model *model, enum adamd_status status);
void hooks_advance(struct adamd_model *model);
/** Nothing of them runs any more; hooks_destroy() also frees. */
void hooks_abandon(struct adamd_model *model);
void hooks_destroy(struct adamd_model *model);

/** For operations of the hooks: the list goes on when all of them have completed. */
void hooks_submit(struct adamd_model *model, struct job *job);
void hooks_job_done(struct adamd_model *model, enum adamd_status status);
enum adamd_status hooks_scale(struct adamd_model *model, double factor, bool divides);

/** Runs the hooks of a state_dict event at once; `*dict` (may be NULL) is replaced as they say.
 *  `run` holds them until hook_run_end(). */
enum adamd_status hooks_run_dict(struct adamd_model *model, enum adamd_hook_event event,
                                 struct hook_run *run, const struct adamd_capture **dict);

/** What an action keeps, when a step ended with a version or without. */
void action_settle(struct adamd_model *model, struct action_hook *hook, bool made);
/** Those of `lists` in place of the model's; `lists` is then empty. Callbacks stay. */
void actions_replace(struct adamd_model *model, struct hook_lists *lists);
/** Other parameters came without hooks. */
void actions_restart(struct adamd_model *model);

// ------------------------------------------------------------------------------------- model_ema.c

enum adamd_status ema_ensure(struct adamd_model *model);
enum adamd_status ema_submit(struct adamd_model *model, struct action_hook *hook);
void ema_advance(struct adamd_model *model);
bool ema_tell(struct adamd_model *model);

// -------------------------------------------------------------- model_kept.c, _differentiate.c

bool model_is_differentiable(const struct adamd_model *model);

/** The arrays that keep a step, if any of `options` asks for it: all of them or NO_MEMORY. */
enum adamd_status kept_ensure(struct adamd_model *model, const struct adamd_options *options,
                              uint32_t count);
/** Notes what the step that was built is, if a differentiable group takes part. On failure nothing
 *  has changed. `options` as for step_start(). */
enum adamd_status kept_prepare(struct adamd_model *model, const struct adamd_options *options);
/** How many operations at most keep what `step` will read, and to add them, before it. */
uint32_t kept_op_count(const struct adamd_model *model);
void kept_add_ops(const struct adamd_model *model, const struct adamd_step *step, struct job *job);
/** The step in flight has made a version, or has not. */
void kept_turn(struct adamd_model *model, bool made);
/** The last step is of a state that is gone. */
void kept_forget(struct adamd_model *model);
/** The layout is another one: the arrays are made anew with the next step. */
void kept_outgrow(struct adamd_model *model);
/** Frees the arrays once no group asks for them. */
void kept_advance(struct adamd_model *model);
void kept_finish(struct adamd_model *model);
struct kept_step *kept_step_hold(struct kept_step *step);
void kept_step_drop(struct kept_step *step);

/** An operation in flight reads what is kept. */
bool differentiation_runs(const struct adamd_model *model);
/** Its holder may be reading the layout, on another thread. */
bool differentiation_reads_layout(const struct adamd_model *model);
/** Frees one that its caller has ended. */
void differentiation_forget(struct adamd_model *model);

/** The arrays that `options` ask for: amsgrad's, with zeros, and those that keep a differentiable
 *  step. NO_MEMORY also over the model's limit. */
enum adamd_status model_ensure_arrays(struct adamd_model *model,
                                      const struct adamd_options *options, uint32_t count);

#endif
