/**
 * Between messages and core's types, the only place that knows both. Requests are read into checked
 * values, whole or not at all; a fault names the field by its path in the message, in snake_case:
 * "defaults.lr", "param_groups[1].options.eps". Answers are built in the request's arena; a
 * function that returns a message returns NULL for want of memory and for no other reason.
 */
#ifndef ADAMD_CODEC_CONVERT_H
#define ADAMD_CODEC_CONVERT_H

#include "adamd/actions.h"
#include "adamd/model.h"
#include "adamd/safetensors.h"
#include "codec/arena.h"
#include "codec/label.h"

#include <adamd/v1/adamd.pb-c.h>

/** Unspecified is float32. False if there is none of that number. */
bool codec_dtype_read(Adamd__V1__DataType message, enum adamd_dtype *ret_dtype);
Adamd__V1__DataType codec_dtype_message(enum adamd_dtype dtype);

// --------------------------------------------------------------------------------------- options

/**
 * Lays the options that are set in `message` (may be NULL) over `options`, then checks the whole.
 * `path` is what stands before ".lr" in a fault; empty for nothing. `options` is untouched on
 * failure.
 */
ADAMD_MUST_USE enum adamd_status codec_options_lay(const Adamd__V1__AdamOptions *message,
                                                   const char *path, struct adamd_options *options,
                                                   struct adamd_fault *fault);
Adamd__V1__AdamOptions *codec_options_message(struct codec_arena *arena,
                                              const struct adamd_options *given);

/** A message (may be NULL) to a whole, checked policy: what is unset has its default. */
ADAMD_MUST_USE enum adamd_status codec_policy_read(const Adamd__V1__StepPolicy *message,
                                                   struct adamd_policy *ret_policy,
                                                   struct adamd_fault *fault);
Adamd__V1__StepPolicy *codec_policy_message(struct codec_arena *arena,
                                            const struct adamd_policy *policy);

/** Checked: lengths, no empty and no repeated key. At most CODEC_LABELS_MAX are written. */
ADAMD_MUST_USE enum adamd_status codec_labels_read(Adamd__V1__Label *const *messages, size_t count,
                                                   struct codec_label *ret_labels,
                                                   size_t *ret_count, struct adamd_fault *fault);

// --------------------------------------------------------------------------------------- create

/** A request to make a model, checked as far as it can be without one. */
struct codec_creation {
    struct adamd_model_spec spec;  // slots_max, published_max, resident_bytes_max: the caller's
    struct adamd_options defaults; // for what a group leaves unset
    char display_name[CODEC_DISPLAY_NAME_MAX + 1];
    struct codec_label labels[CODEC_LABELS_MAX];
    size_t label_count;
};

/**
 * Reads the Model of a CreateModelRequest (NULL is an empty one); arrays live in `arena`, keys in
 * the message. Groups are made of keys: one of all tensors where none is given. Output-only fields
 * are ignored. BAD_FIELD, UNSUPPORTED (durability), TOO_LARGE, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status codec_creation_read(const Adamd__V1__Model *message,
                                                     struct codec_arena *arena,
                                                     struct codec_creation *ret_creation,
                                                     struct adamd_fault *fault);

// --------------------------------------------------------------------------------------- add

/** A group to be added, with its parameters; in the arena. */
struct codec_addition {
    struct adamd_tensor_spec *tensors;
    uint32_t tensor_count;
    struct adamd_group_spec group; // its list of tensors is left out: all of them, in order
    uint32_t *targets;             // of a file, by entry: which of the tensors
};

/**
 * Reads an AddParamGroupRequest; what the group leaves unset has `defaults`. Without keys the
 * parameters have none of names, and are called by the indices that they will have in `model`.
 */
ADAMD_MUST_USE enum adamd_status
codec_addition_read(const Adamd__V1__AddParamGroupRequest *message, const struct adamd_model *model,
                    const struct adamd_options *defaults, struct codec_arena *arena,
                    struct codec_addition *ret_addition, struct adamd_fault *fault);

/**
 * A safetensors file of new parameters. `adamd.param_groups` of its metadata, if there is any,
 * holds one group, whose `params` are the file's tensors in the order in which they are added.
 */
ADAMD_MUST_USE enum adamd_status
codec_addition_of_file(const struct adamd_safetensors *header, const struct adamd_model *model,
                       const struct adamd_options *defaults, struct codec_arena *arena,
                       struct codec_addition *ret_addition, struct adamd_fault *fault);

Adamd__V1__AddParamGroupResponse *codec_added_message(struct codec_arena *arena,
                                                      const struct adamd_model *model,
                                                      const char *model_id,
                                                      const struct adamd_added *added);

// --------------------------------------------------------------------------------------- update

enum codec_change {
    CODEC_CHANGE_OPTIONS = 1, // and extra keys
    CODEC_CHANGE_POLICY = 2,
    CODEC_CHANGE_LABELS = 4,
    CODEC_CHANGE_DISPLAY_NAME = 8,
};

/** What may be changed of a model: filled with what holds, then updated as a request says. */
struct codec_settings {
    struct adamd_options *options;              // by group; the caller's array
    const struct adamd_group_keys *const *keys; // by group: what holds
    struct adamd_group_change *groups;          // by group: what the request spoke of
    uint32_t group_count;
    struct codec_arena *arena; // of new lists
    struct adamd_policy policy;
    char display_name[CODEC_DISPLAY_NAME_MAX + 1];
    struct codec_label labels[CODEC_LABELS_MAX];
    size_t label_count;
    unsigned changes; // enum codec_change: what the request spoke of
};

/** Groups (in `arena`) and policy as they hold; labels and name are left to the caller. */
ADAMD_MUST_USE enum adamd_status codec_settings_of(const struct adamd_model *model, uint64_t now_ms,
                                                   struct codec_arena *arena,
                                                   struct codec_settings *ret_settings);

/**
 * Applies a ParamGroup to one group, at `path` ("param_groups[1]", or empty), under a mask:
 * options, options.lr and so on, extra; empty means what is populated, and then extra keys are set
 * or added, not replaced. Parameters cannot change. On failure `settings` is half changed: throw it
 * away.
 */
ADAMD_MUST_USE enum adamd_status codec_group_update(struct codec_settings *settings, uint32_t group,
                                                    const Adamd__V1__ParamGroup *message,
                                                    const char *update_mask, const char *path,
                                                    struct adamd_fault *fault);

/**
 * Applies `message` under `update_mask`: comma-separated paths, in snake_case or lowerCamelCase;
 * empty means what is populated. "defaults" goes to every group, "param_groups" to each that is
 * given, in order. A path that names one option or field demands that the message sets it, where it
 * can be unset; foreach and fused are None where it does not. On failure `settings` is half
 * changed: throw it away; nothing else is touched.
 */
ADAMD_MUST_USE enum adamd_status codec_settings_update(struct codec_settings *settings,
                                                       const Adamd__V1__Model *message,
                                                       const char *update_mask,
                                                       struct adamd_fault *fault);

// --------------------------------------------------------------------------------------- push

/**
 * A PushHeader to what core wants to know; arrays live in `arena`, the worker's name in the
 * message. Checks what core cannot: data type, layout digest, lengths and number of metrics.
 * `wants_parameters` is left false.
 */
ADAMD_MUST_USE enum adamd_status codec_push_head_read(const Adamd__V1__PushHeader *message,
                                                      const struct adamd_layout *layout,
                                                      struct codec_arena *arena,
                                                      struct adamd_push_head *ret_head,
                                                      struct adamd_fault *fault);

/** Adds a metric from the query parameter "metric.<key>" to a header in the arena. */
ADAMD_MUST_USE enum adamd_status codec_push_metric_add(Adamd__V1__PushHeader *header,
                                                       const char *key, const char *value,
                                                       struct codec_arena *arena,
                                                       struct adamd_fault *fault);

Adamd__V1__PushGradientsResponse *codec_push_message(struct codec_arena *arena,
                                                     const struct adamd_outcome *outcome,
                                                     uint64_t generation, bool duplicate);

// --------------------------------------------------------------------------------------- hooks

/** A hook that is asked for. */
struct codec_hook {
    enum adamd_hook_event event; // ADAMD_HOOK_EVENT_COUNT: its action's own
    bool prepend;
    struct adamd_action action;
};

/** Checked as adamd_action_check() does; what is unset has its default. BAD_FIELD names "action",
 *  "parameters.max_norm" and so on. */
ADAMD_MUST_USE enum adamd_status codec_hook_read(const Adamd__V1__Hook *message,
                                                 struct codec_hook *ret_hook,
                                                 struct adamd_fault *fault);
Adamd__V1__Hook *codec_hook_message(struct codec_arena *arena, const char *model_id,
                                    const struct adamd_action_view *view);

// --------------------------------------------------------------------------------------- answers

/** 32 hex digits and a NUL, high word first. */
void codec_digest_text(const uint64_t digest[2], char ret_text[33]);
/** False unless `text` is 32 hex digits. */
bool codec_digest_read(const char *text, uint64_t ret_digest[2]);

/** A model and what the daemon knows of it beyond core; all borrowed. */
struct codec_model_view {
    const struct adamd_model *model;
    const char *id, *uid, *display_name, *device, *state_reason;
    const struct codec_label *labels;
    size_t label_count;
    const struct adamd_options *defaults;    // may be NULL
    uint64_t create_time_ns, update_time_ns; // since 1970
    uint64_t now_ms;                         // loop time
    bool with_tensors;                       // lists leave tensors and groups' keys out
};

Adamd__V1__Model *codec_model_message(struct codec_arena *arena,
                                      const struct codec_model_view *view);
/** One param group; its keys only `with_params`. */
Adamd__V1__ParamGroup *codec_group_message(struct codec_arena *arena,
                                           const struct adamd_model *model, const char *model_id,
                                           uint32_t index, bool with_params);
Adamd__V1__Tensor *codec_tensor_message(struct codec_arena *arena, const struct adamd_model *model,
                                        const char *model_id, uint32_t index);
Adamd__V1__PushCounts *codec_counts_message(struct codec_arena *arena,
                                            const struct adamd_push_counts *counts);

/** Loop time and, of the same moment, the clock: leases end in the latter for people. */
struct codec_now {
    uint64_t loop_ms, unix_ns;
};

Adamd__V1__Worker *codec_worker_message(struct codec_arena *arena, const char *model_id,
                                        const struct adamd_worker *worker, struct codec_now now);
Adamd__V1__RegisterWorkerResponse *
codec_registration_message(struct codec_arena *arena, const char *model_id,
                           const struct adamd_model *model,
                           const struct adamd_registration *registration, struct codec_now now);
Adamd__V1__StepRecord *codec_record_message(struct codec_arena *arena,
                                            const struct adamd_step_record *record);

Google__Protobuf__Timestamp *codec_timestamp(struct codec_arena *arena, uint64_t unix_ns);
Google__Protobuf__Duration *codec_duration(struct codec_arena *arena, uint64_t ns);
/** Not negative, at most `max_ms`; rounded up to milliseconds. BAD_FIELD. */
ADAMD_MUST_USE enum adamd_status codec_duration_read(const Google__Protobuf__Duration *message,
                                                     const char *field, uint64_t max_ms,
                                                     uint64_t *ret_ms, struct adamd_fault *fault);

#endif
