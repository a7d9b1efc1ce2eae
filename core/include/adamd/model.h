/**
 * One model: parameters and Adam state on a backend, the policy that turns pushes into steps, and
 * the versions that pulls are given. The optimizer without any I/O.
 *
 * Everything here is called on the loop's thread and returns at once. What takes time ends in a
 * callback, which comes from adamd_queue_poll(), adamd_model_tick() or another call on the model,
 * and may call the model again. Each callback comes exactly once, unless its call was given up
 * first. Times are monotonic milliseconds.
 *
 * A version becomes visible (to pulls, answers and records) when its step has completed on the
 * backend. One step is in flight at a time; pushes that arrive meanwhile wait in their slots.
 */
#ifndef ADAMD_MODEL_H
#define ADAMD_MODEL_H

#include "adamd/groups.h"
#include "adamd/hooks.h"
#include "adamd/layout.h"
#include "adamd/options.h"
#include "adamd/queue.h"
#include "adamd/workers.h"

struct adamd_model;

// ---------------------------------------------------------------------------------- making a model

enum adamd_trigger { ADAMD_EACH_PUSH, ADAMD_BARRIER, ADAMD_MANUAL };
enum adamd_nonfinite { ADAMD_NONFINITE_REJECT, ADAMD_NONFINITE_SKIP, ADAMD_NONFINITE_ALLOW };

struct adamd_policy {
    enum adamd_trigger trigger;
    enum adamd_nonfinite nonfinite;
    uint32_t quorum;        // BARRIER: 0 means all live workers: then no deadline closes a round
    uint64_t deadline_ms;   // BARRIER: from a round's first contribution; 0 means none
    uint32_t min_workers;   // BARRIER: no round closes with fewer contributions; 0 means 1
    uint64_t max_staleness; // EACH_PUSH: UINT64_MAX means any
    uint64_t lease_ms;      // 0 means 30,000
};

/*
 * What a round (BARRIER) is made of: at most one push of each worker. It closes when every live
 * worker has one in it, or by the deadline with its quorum. Of a worker whose lease has ended, what
 * it staged counts. A parameter's gradient is the weighted sum over those that have one, in
 * ascending rank, divided by the weights of all: a missing one counts as zeros, as in DDP; one that
 * nobody has is None. With SKIP, a push that is not finite counts as present, is no part of the
 * mean and is decided as skipped with its round. Where finite parts could add up to more than a
 * float holds, the whole round is treated as not finite.
 */

ADAMD_MUST_USE enum adamd_status adamd_policy_check(const struct adamd_policy *policy,
                                                    struct adamd_fault *fault);

struct adamd_group_spec {
    struct adamd_options options;
    const uint32_t *tensors; // indices, in order
    uint32_t tensor_count;
    struct adamd_group_keys_spec keys; // zeroed: no unknown keys, named by the tensors' keys
};

struct adamd_model_spec {
    const struct adamd_tensor_spec *tensors;
    uint32_t tensor_count;
    const struct adamd_group_spec *groups; // together: each tensor exactly once
    uint32_t group_count;
    struct adamd_policy policy;
    uint32_t slots_max;          // gradients held at once: receiving, staged and accumulated
    uint32_t published_max;      // versions held for readers, at least 2
    uint64_t resident_bytes_max; // of this model; 0 means any
    struct adamd_hook_registry *hook_registry; // shared hooks; borrowed. NULL: none
};

enum adamd_model_state {
    ADAMD_MODEL_INITIALIZING,
    ADAMD_MODEL_ACTIVE,
    ADAMD_MODEL_PAUSED,
    ADAMD_MODEL_RESTORING,
    ADAMD_MODEL_FAILED,
};

/**
 * Checks all of `spec` before anything is allocated. `queue` is borrowed and outlives the model.
 * The model is INITIALIZING until a restore or adamd_model_initialize() made it ACTIVE.
 */
ADAMD_MUST_USE enum adamd_status adamd_model_create(struct adamd_queue *queue,
                                                    const struct adamd_model_spec *spec,
                                                    struct adamd_model **ret_model,
                                                    struct adamd_fault *fault);

/** As adamd_model_create(), but only checks and tells what it would take. */
ADAMD_MUST_USE enum adamd_status adamd_model_validate(const struct adamd_model_spec *spec,
                                                      uint64_t *ret_resident_bytes,
                                                      struct adamd_fault *fault);

/**
 * Ends everything that waits with CANCELLED, then frees the model as soon as its operations in
 * flight have completed, published copies and captures were released, an open restore was
 * abandoned and an open differentiation ended. Nothing else may be done with it any more; pushes
 * that still receive and an open restore answer CANCELLED and are abandoned as usual. Not from
 * inside a callback. NULL is harmless.
 */
void adamd_model_destroy(struct adamd_model *model);

/** Zeros in all parameters and state. OK at once where it is ACTIVE soon; else why not. */
ADAMD_MUST_USE enum adamd_status adamd_model_initialize(struct adamd_model *model,
                                                        struct adamd_fault *fault);

// ----------------------------------------------------------------------------------- looking at it

struct adamd_model_info {
    enum adamd_model_state state;
    uint64_t generation, version;
    uint64_t config_count; // goes up with every change of options or policy
    uint64_t layout_count; // goes up with every group of parameters that is added
    uint64_t resident_bytes;
    uint32_t group_count, live_workers, slots_in_use;
    struct adamd_policy policy;
    struct adamd_push_counts counts;
};

struct adamd_model_info adamd_model_info(const struct adamd_model *model, uint64_t now_ms);
const struct adamd_layout *adamd_model_layout(const struct adamd_model *model);
const struct adamd_workers *adamd_model_workers(const struct adamd_model *model);
const struct adamd_options *adamd_model_options(const struct adamd_model *model, uint32_t group);
/** Unknown keys and names of a group; never NULL. As of now: hold it to keep it. */
struct adamd_group_keys *adamd_model_group_keys(const struct adamd_model *model, uint32_t group);
/** The version that the group's options made first, or will. */
uint64_t adamd_model_group_since(const struct adamd_model *model, uint32_t group);
/** The tensors of a group, in order. */
const uint32_t *adamd_model_group(const struct adamd_model *model, uint32_t group,
                                  uint32_t *ret_count);
uint32_t adamd_model_group_of(const struct adamd_model *model, uint32_t tensor);
/** Adam's t of one tensor, as of the visible version. */
uint64_t adamd_model_step_of(const struct adamd_model *model, uint32_t tensor);

struct adamd_contribution {
    char worker[ADAMD_WORKER_ID_MAX + 1];
    uint64_t epoch, sequence, staleness;
    double weight;
};

enum { ADAMD_METRICS_MAX = 64, ADAMD_METRIC_KEY_MAX = 64, ADAMD_STEPS_KEPT = 4096 };

struct adamd_metric {
    char key[ADAMD_METRIC_KEY_MAX + 1];
    double value;
};

/** One version: how it came about. Owned by the model; stays until ADAMD_STEPS_KEPT newer ones
 * came. */
struct adamd_step_record {
    uint64_t generation, version, time_unix_ns;
    struct adamd_contribution *contributions; // ascending rank
    uint32_t contribution_count;
    struct adamd_metric *metrics; // weighted means
    uint32_t metric_count;
    double weight, grad_norm, lr;
    struct adamd_push_counts counts; // of the model, when the version became visible
    uint64_t barrier_ns, update_ns;
    bool skipped; // no version came of it; `version` is the one before
    enum adamd_skip skip;
    double total_norm, clip_coef, unscaled_by; // as adamd_step_args; clip_coef 0: no hooks
    char hook_error[128]; // of a step_post hook: the version stands all the same
    uint64_t ordinal;     // 1, 2, 3, ... over all records, skipped ones too
};

/** The record with the lowest ordinal above `after`, or NULL. */
const struct adamd_step_record *adamd_model_next_record(const struct adamd_model *model,
                                                        uint64_t after_ordinal);
/** The record that made `version` in the current generation, or NULL. */
const struct adamd_step_record *adamd_model_record_of(const struct adamd_model *model,
                                                      uint64_t version);

/** Called after each new record, and when the state or generation changes. One listener. */
typedef void adamd_changed_fn(void *arg);
void adamd_model_listen(struct adamd_model *model, adamd_changed_fn *on_changed, void *arg);

// ----------------------------------------------------------------------------------------- workers

struct adamd_registration {
    const struct adamd_worker *worker;
    uint64_t generation, version, epoch, lease_ms;
};

/**
 * Registers as adamd_workers_register(); a fresh epoch drops what the old one had staged. A worker
 * that saw (`generation`, `acknowledged_version`) which this model does not have is STATE_BEHIND;
 * `generation` 0 says nothing.
 */
ADAMD_MUST_USE enum adamd_status
adamd_model_register(struct adamd_model *model, const char *id, const char *nonce, uint32_t rank,
                     uint64_t generation, uint64_t acknowledged_version, uint64_t now_ms,
                     struct adamd_registration *ret_registration, struct adamd_fault *fault);
ADAMD_MUST_USE enum adamd_status adamd_model_renew(struct adamd_model *model, const char *id,
                                                   uint64_t epoch, uint64_t now_ms,
                                                   struct adamd_fault *fault);
/** `epoch` 0 means whatever it is. */
ADAMD_MUST_USE enum adamd_status adamd_model_deregister(struct adamd_model *model, const char *id,
                                                        uint64_t epoch, uint64_t now_ms,
                                                        struct adamd_fault *fault);

// -------------------------------------------------------------------------------------------- push

struct adamd_push; // from adamd_push_begin() to its decision, or to adamd_push_abandon()

struct adamd_push_head {
    const char *worker;  // borrowed for the call, as are the arrays
    uint64_t generation; // 0: whatever it is
    uint64_t epoch, sequence;
    bool has_base_version;
    uint64_t base_version;
    double weight;           // more than 0, finite
    const uint32_t *tensors; // that have a gradient, ascending; NULL: all
    uint32_t tensor_count;
    uint64_t byte_size; // announced; must be what the tensors take. UINT64_MAX: not announced
    uint32_t crc32c;    // 0: not checked
    bool replace;       // MANUAL: replaces the pushed tensors' gradients, instead of adding
    const struct adamd_metric *metrics;
    uint32_t metric_count;
    bool wants_parameters; // a pull of the version follows: the step itself publishes it
};

/**
 * The end of a push. With status OK the outcome is decided; else the push was refused (rejected,
 * aborted, generation gone) and left no trace but a counter. `push` is gone after this call.
 */
typedef void adamd_decided_fn(void *arg, enum adamd_status status,
                              const struct adamd_outcome *outcome, bool duplicate,
                              const struct adamd_fault *fault);

/**
 * Admission, before a byte of the body: state, generation, worker, epoch, sequence, base version,
 * tensors, length, a free slot. Fails with the fault that the decision table gives; then there is
 * no push, and it counts as rejected (STALE: as stale, and its number is used up). A repeat of one
 * whose body is still on the way takes its place: the older one's next call answers CANCELLED. On
 * OK:
 * - `*ret_push` set, and `*ret_wants_body` true: send the bytes, then commit;
 * - `*ret_push` set, and `*ret_wants_body` false: the same push is staged already, wait with it;
 * - `*ret_push` NULL: the push was decided before, and `ret_outcome` is the first answer.
 */
ADAMD_MUST_USE enum adamd_status
adamd_push_begin(struct adamd_model *model, const struct adamd_push_head *head, uint64_t now_ms,
                 adamd_decided_fn *on_decided, void *arg, struct adamd_push **ret_push,
                 bool *ret_wants_body, struct adamd_outcome *ret_outcome,
                 struct adamd_fault *fault);

/**
 * The next `size` bytes of the body in wire order: little-endian, the pushed tensors in table
 * order, without padding. Goes straight into the slot; watches for non-finite values and the
 * checksum on the way. LAYOUT_MISMATCH past the end. A failure refuses the push; abandon it.
 */
ADAMD_MUST_USE enum adamd_status adamd_push_append(struct adamd_push *push, const void *data,
                                                   size_t size, struct adamd_fault *fault);

/** As append, to one tensor: for bodies in another order. Each tensor from its start, without gaps.
 */
ADAMD_MUST_USE enum adamd_status adamd_push_write(struct adamd_push *push, uint32_t tensor,
                                                  const void *data, size_t size,
                                                  struct adamd_fault *fault);

/**
 * The body is complete. LAYOUT_MISMATCH (bytes are missing), CRC_MISMATCH, NONFINITE, or what ended
 * the push meanwhile (FENCED, RUN_RESTORED, OUT_OF_ORDER, ...): refused, and the push is gone,
 * without a callback. OK: `on_decided` will tell, at the earliest from inside
 * this call.
 */
ADAMD_MUST_USE enum adamd_status adamd_push_commit(struct adamd_push *push, uint64_t now_ms,
                                                   struct adamd_fault *fault);

/**
 * Nobody waits for this push any more: no callback will come. One that still wanted bytes is
 * dropped and counted as aborted; one that is complete stays, will be decided, and answers a
 * repeat.
 */
void adamd_push_abandon(struct adamd_push *push);

// ------------------------------------------------------------------------------ MANUAL: step, zero

typedef void adamd_stepped_fn(void *arg, enum adamd_status status,
                              const struct adamd_step_record *record, bool duplicate);

/**
 * Steps with what is accumulated; parameters without a gradient are skipped; with none at all no
 * version is made and the record is NULL. `expected_version` UINT64_MAX is not checked; else a
 * repeat of the step that left `expected_version` gets its record again. `options` (may be NULL)
 * replaces each group's for this step: an array of group_count. BAD_FIELD unless the trigger is
 * MANUAL. Gradients stay, as in PyTorch, until zero_grad.
 */
ADAMD_MUST_USE enum adamd_status adamd_model_step(struct adamd_model *model,
                                                  uint64_t expected_version,
                                                  const struct adamd_options *options,
                                                  adamd_stepped_fn *on_stepped, void *arg,
                                                  struct adamd_fault *fault);

ADAMD_MUST_USE enum adamd_status adamd_model_zero_grad(struct adamd_model *model, bool set_to_none,
                                                       struct adamd_fault *fault);

// -------------------------------------------------------------------------------------------- pull

/** A published copy of one version. Reference-counted; host memory that nobody writes any more. */
struct adamd_published {
    const unsigned char *host; // the arena: tensor i at layout.tensors[i].offset
    uint64_t generation, version;
};

void adamd_published_release(struct adamd_model *model, const struct adamd_published *published);

/** A wait of any kind, in the caller's memory. Zeroed means: not waiting. */
struct adamd_wait {
    struct adamd_wait *next, **link;
    void (*on_ready)(void *arg, enum adamd_status status, const void *what);
    void *arg;
    uint64_t min_version;
    enum adamd_status status;
};

/** Gives the wait up; its callback will not come. Harmless if it is not waiting. */
void adamd_wait_cancel(struct adamd_wait *wait);

/**
 * Waits for a published copy of the first version >= `min_version`; `what` is then a
 * struct adamd_published that the callee must release. While all copies are held by readers it
 * waits for one of them; BUSY past 1,024 waits. RUN_RESTORED if a restore took the version away,
 * DRAINING if no version will come any more. May call back from inside this call. Deadlines are
 * the caller's: cancel.
 */
void adamd_model_pull(struct adamd_model *model, uint64_t min_version, struct adamd_wait *wait,
                      void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                      void *arg);

/**
 * The average that the hook `ema` keeps, of the visible version: as adamd_model_pull(). NOT_FOUND
 * where there is no such hook, or no version since it was added.
 */
void adamd_model_pull_ema(struct adamd_model *model, struct adamd_wait *wait,
                          void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                          void *arg);

// ------------------------------------------------------------------------------------- whole state

enum adamd_array {
    ADAMD_PARAM,
    ADAMD_EXP_AVG,
    ADAMD_EXP_AVG_SQ,
    ADAMD_MAX_EXP_AVG_SQ,
    ADAMD_EMA, // of the parameters, where the model has such a hook
    ADAMD_ARRAY_COUNT
};

/** All state of one version, in host memory. */
struct adamd_capture {
    const unsigned char *arrays[ADAMD_ARRAY_COUNT]; // arenas; NULL: all zeros, or not there at all
                                                    // because no group has had amsgrad
    const uint64_t *steps;                          // Adam's t, by tensor
    const struct adamd_options *options;            // by group
    struct adamd_group_keys *const *keys;           // by group; NULL: none has any
    const char *hooks; // the built-in hooks with their state, as JSON; NULL: there are none
    uint64_t generation, version;
};

/**
 * Freezes one version and copies it out. OPERATION_RUNNING while another capture is held. `what` is
 * a struct adamd_capture that the callee must release. HOOK_FAILED: adamd_model_hook_fault() tells.
 */
void adamd_model_capture(struct adamd_model *model, struct adamd_wait *wait,
                         void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                         void *arg);
void adamd_capture_release(struct adamd_model *model, const struct adamd_capture *capture);
/**
 * From here on the holder reads the capture's arrays alone, and nothing of the model: no layout, no
 * group. Before this (or release) no group is added.
 */
void adamd_capture_detach(struct adamd_model *model, const struct adamd_capture *capture);

struct adamd_restore;

/** For adamd_restore_commit(): the version that the model has by then. */
#define ADAMD_SAME_VERSION UINT64_MAX

/**
 * Takes in a whole state beside the running one, at most one at a time, and not while a group is
 * added (OPERATION_RUNNING). Nothing changes before commit. Arrays that are not written are zeros,
 * unless they are kept; every parameter must be written whole, or all are kept.
 */
ADAMD_MUST_USE enum adamd_status adamd_restore_begin(struct adamd_model *model,
                                                     struct adamd_restore **ret_restore,
                                                     struct adamd_fault *fault);
/** The next bytes of one array of one tensor, from its start. LAYOUT_MISMATCH past its end. */
ADAMD_MUST_USE enum adamd_status adamd_restore_write(struct adamd_restore *restore,
                                                     enum adamd_array array, uint32_t tensor,
                                                     const void *data, size_t size,
                                                     struct adamd_fault *fault);
/**
 * Where all bytes of one array of one tensor belong, which count as written from now on: for those
 * who bring them on another thread, and commit when it is done. NO_MEMORY, CANCELLED.
 */
ADAMD_MUST_USE enum adamd_status adamd_restore_place(struct adamd_restore *restore,
                                                     enum adamd_array array, uint32_t tensor,
                                                     unsigned char **ret_bytes,
                                                     struct adamd_fault *fault);
void adamd_restore_step(struct adamd_restore *restore, uint32_t tensor, uint64_t t);
/**
 * What the model has when the restore is committed stays, in place of zeros: all parameters, or all
 * of the state (moments and steps), of which nothing may be written then. A model that is
 * INITIALIZING has no parameters to keep: the commit says so. Not seen by adamd_restore_view().
 */
void adamd_restore_keep(struct adamd_restore *restore, bool parameters, bool state);
/** By group; checked. Not called: the model's options stay. */
ADAMD_MUST_USE enum adamd_status adamd_restore_options(struct adamd_restore *restore,
                                                       const struct adamd_options *options,
                                                       uint32_t count, struct adamd_fault *fault);
/**
 * By group, checked: how many there are, how many parameters each has, options, unknown keys and
 * names, as PyTorch's load_state_dict has it: all of the saved group's, but names that only the
 * model's group has stay. Not called: the model's options and keys stay.
 */
ADAMD_MUST_USE enum adamd_status adamd_restore_groups(struct adamd_restore *restore,
                                                      const struct adamd_group_spec *groups,
                                                      uint32_t count, struct adamd_fault *fault);
/**
 * The built-in hooks, from the text of a capture; "" or "[]" for none. Not called: the model's stay
 * as its options do, and an average begins anew. BAD_FIELD, NOT_FOUND (a plugin that this daemon
 * has not), NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status adamd_restore_hooks(struct adamd_restore *restore,
                                                     const char *text, struct adamd_fault *fault);
/** What capture shows after commit would digest to this; see adamd_state_digest(). */
void adamd_restore_view(const struct adamd_restore *restore, struct adamd_capture *ret_view);
/**
 * Replaces the state at the next version boundary: `version` is the model's new version, the
 * generation goes up and epochs end (not from INITIALIZING: there was nothing to fence), all pushes
 * in flight are answered RUN_RESTORED but for those of a step that runs, gradients are None.
 * LAYOUT_MISMATCH names the first array that is incomplete, and then nothing has changed. The
 * restore is gone after this call.
 */
ADAMD_MUST_USE enum adamd_status
adamd_restore_commit(struct adamd_restore *restore, uint64_t version, struct adamd_wait *wait,
                     void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                     void *arg, struct adamd_fault *fault);
void adamd_restore_abandon(struct adamd_restore *restore);

/**
 * XXH3-128 over layout, options, steps, hooks and all state arrays, padding left out. Pure: may run
 * on any thread while the capture is held. `layout` and group membership belong to the model.
 */
void adamd_state_digest(const struct adamd_layout *layout, const struct adamd_capture *capture,
                        uint32_t group_count, uint64_t ret_digest[2]);

// ---------------------------------------------------------------------------------- differentiable

/** What has cotangents: the arrays of enum adamd_array before this, which a step writes, and the
 *  gradient. */
enum { ADAMD_GRAD = ADAMD_MAX_EXP_AVG_SQ + 1, ADAMD_COTANGENT_COUNT };

struct adamd_option_cotangents; // adamd/differentiate.h

/** What the last step, differentiated, came to; in host memory. */
struct adamd_cotangents {
    // Arenas, by enum adamd_array and ADAMD_GRAD: cotangents of what the step read. NULL: no
    // differentiable group had amsgrad.
    const unsigned char *arrays[ADAMD_COTANGENT_COUNT];
    const struct adamd_option_cotangents *groups; // by group
    const struct adamd_options *options;          // of the step, by group
    const unsigned char *stepped;                 // a bit for each tensor: it had a gradient
    uint32_t group_count;
    uint64_t generation, version; // that the step made
};

/** Whether `arrays[array]` means something for a tensor of `group`. Pure. */
bool adamd_cotangents_have(const struct adamd_cotangents *cotangents, uint32_t array,
                           uint32_t group, uint32_t tensor);

struct adamd_differentiation; // from begin to end

/**
 * Differentiates the last step, whose parameters and state the model keeps while any group has
 * differentiable=True (see differentiate.h). At most one at a time: OPERATION_RUNNING. `version`
 * is that which the step made, or UINT64_MAX: ETAG_MISMATCH for another. BAD_FIELD if no group is
 * differentiable; NOT_FOUND before the first step, after a restore or an added group, and where no
 * differentiable group took part; BUSY over the model's limit of memory.
 */
ADAMD_MUST_USE enum adamd_status
adamd_differentiate_begin(struct adamd_model *model, uint64_t version,
                          struct adamd_differentiation **ret_differentiation,
                          struct adamd_fault *fault);
/** Whether cotangents of this array of this tensor are taken. LAYOUT_MISMATCH. */
ADAMD_MUST_USE enum adamd_status
adamd_differentiate_expect(const struct adamd_differentiation *differentiation,
                           enum adamd_array array, uint32_t tensor, struct adamd_fault *fault);
/** The next bytes of a cotangent of what the step wrote, from its start. What is not written is
 *  zeros. LAYOUT_MISMATCH as above, and past the end. */
ADAMD_MUST_USE enum adamd_status
adamd_differentiate_write(struct adamd_differentiation *differentiation, enum adamd_array array,
                          uint32_t tensor, const void *data, size_t size,
                          struct adamd_fault *fault);
/**
 * All was written. ETAG_MISMATCH if another step was begun meanwhile. `what` is a struct
 * adamd_cotangents, which stays until adamd_differentiate_end(). May call back from inside this
 * call.
 */
ADAMD_MUST_USE enum adamd_status
adamd_differentiate_commit(struct adamd_differentiation *differentiation, struct adamd_wait *wait,
                           void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                           void *arg, struct adamd_fault *fault);
/** From here on the holder reads the cotangents' arrays alone, and nothing of the model: no layout,
 *  no group. Before this (or the end) no group is added. */
void adamd_differentiate_detach(struct adamd_differentiation *differentiation);
/** Always the last call, whatever the others answered; gives up the wait. */
void adamd_differentiate_end(struct adamd_differentiation *differentiation);

// -------------------------------------------------------------------------------- changing it live

/** What becomes of one group: NULL means that it stays. */
struct adamd_group_change {
    const struct adamd_options *options;
    const struct adamd_extra *extras; // all of them: those that are not in it are gone
    uint32_t extra_count;
};

/**
 * Changes groups, all of them or none: `changes` has group_count entries. Checked; they hold from
 * the next step on, which makes `*ret_version`. Turning amsgrad on allocates its array (zeros);
 * differentiable allocates what keeps the last step, and frees it when the last group turns it off.
 * BAD_FIELD or TOO_LARGE names "param_groups[1].lr", "param_groups[1].extra[0].key".
 */
ADAMD_MUST_USE enum adamd_status adamd_model_set_groups(struct adamd_model *model,
                                                        const struct adamd_group_change *changes,
                                                        uint64_t *ret_version,
                                                        struct adamd_fault *fault);
/** The same for the options of one group; a fault names "lr". */
ADAMD_MUST_USE enum adamd_status adamd_model_set_options(struct adamd_model *model, uint32_t group,
                                                         const struct adamd_options *options,
                                                         uint64_t *ret_version,
                                                         struct adamd_fault *fault);
struct adamd_addition;

/** Where a group that was added is. */
struct adamd_added {
    uint32_t group, first_tensor, tensor_count;
    uint64_t generation, version; // whose parameters are the first with it
};

/**
 * PyTorch's add_param_group, while the model trains: `tensors` get the next indices and are the
 * group's, in order; of `group` options and keys are meant. The new parameters' values are taken in
 * beside the running model: one group at a time, and not while a state is taken in
 * (OPERATION_RUNNING). Nothing changes before commit. Faults name "lr", "tensors[0].key" and so on.
 */
ADAMD_MUST_USE enum adamd_status
adamd_addition_begin(struct adamd_model *model, const struct adamd_tensor_spec *tensors,
                     uint32_t count, const struct adamd_group_spec *group,
                     struct adamd_addition **ret_addition, struct adamd_fault *fault);
/** The next bytes of the i-th new tensor, from its start. Not called at all: zeros. */
ADAMD_MUST_USE enum adamd_status adamd_addition_write(struct adamd_addition *addition,
                                                      uint32_t tensor, const void *data,
                                                      size_t size, struct adamd_fault *fault);
/**
 * Adds the group at the next version boundary, whole or (NO_MEMORY) not at all; `*ret_added` is
 * filled before `on_ready` comes, which may be from inside this call. No version comes of it: the
 * same version has more parameters then. What was there keeps indices, offsets and state; pushes
 * that were admitted, staged or accumulated stay what they are and have no gradient for the new
 * parameters; pulls are of all parameters from then on. It takes the arrays' memory twice for a
 * moment. LAYOUT_MISMATCH if a tensor's values are incomplete. The addition is gone after this
 * call.
 */
ADAMD_MUST_USE enum adamd_status
adamd_addition_commit(struct adamd_addition *addition, struct adamd_added *ret_added,
                      struct adamd_wait *wait,
                      void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                      void *arg, struct adamd_fault *fault);
void adamd_addition_abandon(struct adamd_addition *addition);

/** Staged pushes are decided under the new policy. BAD_FIELD for another trigger while gradients
 *  are accumulated. */
ADAMD_MUST_USE enum adamd_status adamd_model_set_policy(struct adamd_model *model,
                                                        const struct adamd_policy *policy,
                                                        uint64_t now_ms, struct adamd_fault *fault);
/** Whether adamd_model_set_policy() would take it now. */
ADAMD_MUST_USE enum adamd_status adamd_model_check_policy(const struct adamd_model *model,
                                                          const struct adamd_policy *policy,
                                                          struct adamd_fault *fault);
/** A paused model answers pulls and refuses pushes; what was committed is still decided. */
ADAMD_MUST_USE enum adamd_status adamd_model_pause(struct adamd_model *model,
                                                   struct adamd_fault *fault);
ADAMD_MUST_USE enum adamd_status adamd_model_resume(struct adamd_model *model,
                                                    struct adamd_fault *fault);

// -------------------------------------------------------------------------------------------- time

/** Acts on leases and deadlines. To be called at adamd_model_next_due() and after a long
 * standstill. */
void adamd_model_tick(struct adamd_model *model, uint64_t now_ms);
uint64_t adamd_model_next_due(const struct adamd_model *model, uint64_t now_ms);

/** Shutting down: new pushes are DRAINING; an open round closes if it can, else is STEP_ABORTED. */
void adamd_model_drain(struct adamd_model *model, uint64_t now_ms);
/** True when nothing is in flight any more. */
bool adamd_model_idle(const struct adamd_model *model);

#endif
