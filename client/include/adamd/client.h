/**
 * libadamd-client: what a worker written in C says to adamd.
 *
 *     adamd_conf_t *conf = adamd_conf_new();
 *     adamd_conf_set(conf, "endpoint", "http://127.0.0.1:7440", errstr, sizeof errstr);
 *     adamd_conf_set(conf, "model", "digits", errstr, sizeof errstr);
 *     adamd_conf_set(conf, "worker", "w0", errstr, sizeof errstr);
 *     adamd_client_t *client = adamd_client_new(conf, errstr, sizeof errstr);
 *     adamd_session_t *session = NULL;
 *     adamd_error_t *error = adamd_register(client, NULL, &session, NULL);
 *     ... adamd_pull(), compute, adamd_push(), or both in one round trip: adamd_push_pull() ...
 *
 * Errors. A call that can fail returns an error object: NULL is success, anything else is the
 * caller's, to be freed with adamd_error_destroy(). Out-parameters are untouched on failure, unless
 * it is said otherwise.
 *
 * Deadlines. Each call has one, counted from its beginning and over all its attempts: `timeout_ms`
 * of its options, or else of the configuration. What can be tried again is tried again until then:
 * a lost or refused connection, HTTP 408, 429, 502, 503, 504, and a round that was aborted; with
 * exponential back-off and full jitter, but never before the time that the daemon asked for.
 *
 * Exactly once. A push is named by (worker, epoch, sequence); every attempt of one adamd_push()
 * carries the same sequence number and the same bytes, and the daemon counts it once. See "Push".
 *
 * Memory. Buffers that are passed in are borrowed until the call returns and never copied:
 * gradients are written to the socket from where they lie, parameters are read to where they shall
 * be.
 *
 * Threads. The library has no threads and raises no signals; its only global state are the
 * process-wide hooks. A client is one connection: one thread at a time may use it and its sessions.
 * Workers of one process that shall push at the same time have a client each.
 *
 * Hooks and closures. adamd_step_closure(), adamd_state_dict() and adamd_load_state_dict() are
 * step(closure), state_dict() and load_state_dict() of torch.optim.Optimizer, with its hooks. See
 * "Hooks". The other calls are what these are made of, and run none.
 *
 * Structs that start with `size` may grow at their end; start them with their _INIT macro. Tensors
 * are little-endian and row-major, of the type that each has.
 */
#ifndef ADAMD_CLIENT_H
#define ADAMD_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define ADAMD_EXPORT __attribute__((visibility("default")))
#define ADAMD_CHECKED __attribute__((warn_unused_result))
#else
#define ADAMD_EXPORT
#define ADAMD_CHECKED
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ADAMD_CLIENT_VERSION 0x000100u /* 0.1.0 */

/** The version of the library that runs, as ADAMD_CLIENT_VERSION, and as "0.1.0". */
ADAMD_EXPORT uint32_t adamd_version(void);
ADAMD_EXPORT const char *adamd_version_string(void);

typedef struct adamd_conf adamd_conf_t;
typedef struct adamd_client adamd_client_t;
typedef struct adamd_session adamd_session_t;
typedef struct adamd_model adamd_model_t;
typedef struct adamd_error adamd_error_t;

/* ---------------------------------------------------------------------------------- errors */

/**
 * Why, in a word that is API: the daemon's reason ("STALE", "NONFINITE", "NOT_FOUND", "EXISTS",
 * ...), or one of the library's own: "CONNECTION" (none, or it broke), "TIMED_OUT" (the deadline
 * passed without an answer), "BAD_FIELD" (an argument; see adamd_error_field()), "BAD_ANSWER" (this
 * is not adamd, or not this version), "IN_DOUBT" (see "Push"), "NO_MEMORY".
 */
ADAMD_EXPORT const char *adamd_error_reason(const adamd_error_t *error);
/** For people. May change. */
ADAMD_EXPORT const char *adamd_error_message(const adamd_error_t *error);
/** The field or argument that is to blame, or "". */
ADAMD_EXPORT const char *adamd_error_field(const adamd_error_t *error);
/** A value that belongs to the reason ("current_version" of STALE), or NULL. */
ADAMD_EXPORT const char *adamd_error_metadata(const adamd_error_t *error, const char *key);
/** 0 if there was no answer. */
ADAMD_EXPORT int adamd_error_http_status(const adamd_error_t *error);
/** The same call may succeed later: the library tried until the deadline. */
ADAMD_EXPORT int adamd_error_is_retriable(const adamd_error_t *error);
/** The session is of no use any more: another instance owns the worker's name (FENCED), or either
 *  side has a defect. */
ADAMD_EXPORT int adamd_error_is_fatal(const adamd_error_t *error);
/** The daemon was started anew (UNKNOWN_WORKER) or its model restored (RUN_RESTORED): drop the
 *  gradient, call adamd_reregister(), pull, and go on. */
ADAMD_EXPORT int adamd_error_wants_register(const adamd_error_t *error);
/** NULL is harmless. */
ADAMD_EXPORT void adamd_error_destroy(adamd_error_t *error);
/** How a closure or a hook of the caller's says that it failed. Copies its arguments; never NULL.
 */
ADAMD_EXPORT adamd_error_t *adamd_error_new(const char *reason, const char *message);

/* --------------------------------------------------------------------------- configuration */

ADAMD_EXPORT adamd_conf_t *adamd_conf_new(void); /* NULL: out of memory */

/**
 * Keys (and defaults):
 *   endpoint              "http://HOST:PORT" or "unix:/PATH" (http://127.0.0.1:7440)
 *   model, worker         what calls mean that name none (none)
 *   timeout_ms            deadline of a call that names none, 1 to 600000 (60000)
 *   connect_timeout_ms    of one attempt to connect (5000)
 *   retry_backoff_ms      the first pause is at most this (100)
 *   retry_backoff_max_ms  no pause is longer, unless the daemon asks for it (30000)
 *   crc                   "on": a CRC32C of the bytes goes with each push (off)
 * Returns 0; or -1 for an unknown key or a bad value, and `errstr` (may be NULL) says which.
 */
ADAMD_EXPORT int adamd_conf_set(adamd_conf_t *conf, const char *key, const char *value,
                                char *errstr, size_t errstr_size);
/** For a configuration that no client consumed. NULL is harmless. */
ADAMD_EXPORT void adamd_conf_destroy(adamd_conf_t *conf);

/**
 * Consumes `conf` on success. NULL: out of memory, or no random numbers from the system; `errstr`
 * tells, and the caller still owns `conf`. Does not connect yet: calls do.
 */
ADAMD_EXPORT adamd_client_t *adamd_client_new(adamd_conf_t *conf, char *errstr, size_t errstr_size);
/** After its sessions. Closes the connection. NULL is harmless. */
ADAMD_EXPORT void adamd_client_destroy(adamd_client_t *client);

/* ---------------------------------------------------------------------------------- models */

/** PyTorch's None, True, False. */
typedef enum adamd_tristate {
    ADAMD_TRISTATE_NONE = 0,
    ADAMD_TRISTATE_TRUE = 1,
    ADAMD_TRISTATE_FALSE = -1
} adamd_tristate_t;

/** The options of torch.optim.Adam, with its defaults. */
typedef struct adamd_adam_options {
    size_t size;
    double lr, beta1, beta2, eps, weight_decay;
    int amsgrad, maximize, decoupled_weight_decay;
    /* Which of PyTorch's three roundings float16 and bfloat16 get. */
    adamd_tristate_t foreach, fused;
    int capturable, differentiable;
    int tensor_lr, tensor_betas; /* they were tensors: their float32 value is what counts */
} adamd_adam_options_t;
#define ADAMD_ADAM_OPTIONS_INIT                                                                  \
    {                                                                                            \
        sizeof(adamd_adam_options_t), 1e-3, 0.9, 0.999, 1e-8, 0.0, 0, 0, 0, ADAMD_TRISTATE_NONE, \
            ADAMD_TRISTATE_NONE, 0, 0, 0, 0                                                      \
    }
/** ... of torch.optim.AdamW */
#define ADAMD_ADAMW_OPTIONS_INIT                                                                  \
    {                                                                                             \
        sizeof(adamd_adam_options_t), 1e-3, 0.9, 0.999, 1e-8, 0.01, 0, 0, 1, ADAMD_TRISTATE_NONE, \
            ADAMD_TRISTATE_NONE, 0, 0, 0, 0                                                       \
    }

typedef enum adamd_trigger {
    ADAMD_TRIGGER_BARRIER = 1,   /* a step per round: the mean over workers, by ascending rank */
    ADAMD_TRIGGER_EACH_PUSH = 2, /* a push is a step */
    ADAMD_TRIGGER_MANUAL = 3     /* pushes accumulate, adamd_optim_step() steps */
} adamd_trigger_t;

typedef enum adamd_nonfinite {
    ADAMD_NONFINITE_REJECT = 1, /* a push with NaN or infinity is an error */
    ADAMD_NONFINITE_SKIP = 2,   /* ... is decided, as skipped */
    ADAMD_NONFINITE_ALLOW = 3   /* ... flows into the state, as in PyTorch */
} adamd_nonfinite_t;

#define ADAMD_ANY UINT64_MAX

/** How pushes become steps. */
typedef struct adamd_policy {
    size_t size;
    adamd_trigger_t trigger;
    adamd_nonfinite_t nonfinite;
    uint32_t quorum;        /* BARRIER: enough at the deadline; 0: all live workers */
    uint32_t deadline_ms;   /* BARRIER: of a round, from its first push; 0: none */
    uint32_t min_workers;   /* BARRIER: no round with fewer live workers; 0: 1 */
    uint32_t lease_ms;      /* how long a worker lives after its last call; 0: 30 s */
    uint64_t max_staleness; /* EACH_PUSH: versions behind; more is STALE; ADAMD_ANY: no bound */
} adamd_policy_t;
#define ADAMD_POLICY_INIT                                                                    \
    {                                                                                        \
        sizeof(adamd_policy_t), ADAMD_TRIGGER_EACH_PUSH, ADAMD_NONFINITE_REJECT, 0, 0, 0, 0, \
            UINT64_MAX                                                                       \
    }

/** What a tensor's elements are; 0 is float32. A complex number is its real part, then its
 * imaginary one. */
typedef enum adamd_dtype {
    ADAMD_DTYPE_DEFAULT = 0,
    ADAMD_DTYPE_FLOAT32 = 1,
    ADAMD_DTYPE_FLOAT16 = 2,
    ADAMD_DTYPE_BFLOAT16 = 3,
    ADAMD_DTYPE_FLOAT64 = 4,
    ADAMD_DTYPE_COMPLEX64 = 5,
    ADAMD_DTYPE_COMPLEX128 = 6
} adamd_dtype_t;

/** Bytes of an element; 0 for what is no type. */
ADAMD_EXPORT size_t adamd_dtype_size(adamd_dtype_t dtype);

/** One parameter. */
typedef struct adamd_tensor {
    /* The framework's name, for example "fc1.weight". NULL, in all of a group: it has none, and is
     * called by its index in the table, "0", "1", ... */
    const char *key;
    const uint64_t *shape; /* row-major */
    size_t rank;           /* 0: a scalar */
    adamd_dtype_t dtype;
} adamd_tensor_t;

/** A key of a param group that PyTorch does not know, as LR schedulers add "initial_lr": its value
 * as JSON. Kept, and returned with the state. */
typedef struct adamd_extra {
    const char *key;
    const char *json;
} adamd_extra_t;

/** One of optimizer.param_groups. */
typedef struct adamd_param_group {
    const char *const *params; /* keys */
    size_t param_count;
    const adamd_adam_options_t *options; /* NULL: the model's */
    const adamd_extra_t *extras;
    size_t extra_count;
} adamd_param_group_t;

typedef struct adamd_model_options {
    size_t size;
    const char *model; /* id: [a-z]([a-z0-9-]{0,61}[a-z0-9])?; NULL: the configuration's */
    const adamd_tensor_t *tensors;
    size_t tensor_count;
    const adamd_param_group_t *groups; /* NULL: one group of all tensors */
    size_t group_count;
    const adamd_adam_options_t *options; /* of groups that have none; NULL: Adam's defaults */
    const adamd_policy_t *policy;        /* NULL: EACH_PUSH */
    uint32_t timeout_ms;
} adamd_model_options_t;
#define ADAMD_MODEL_OPTIONS_INIT \
    { sizeof(adamd_model_options_t), NULL, NULL, 0, NULL, 0, NULL, NULL, 0 }

/**
 * Makes a model. It takes pushes and pulls once adamd_put_parameters() has given it parameters. Of
 * several callers one succeeds, the others get EXISTS; so does a repeat after a lost answer.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_model_create(adamd_client_t *client,
                                                             const adamd_model_options_t *options);

/** What the daemon says of a model, with its tensors. `model` NULL: the configuration's. NOT_FOUND.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_model_get(adamd_client_t *client, const char *model,
                                                          adamd_model_t **ret_model);
/** NULL is harmless. */
ADAMD_EXPORT void adamd_model_destroy(adamd_model_t *model);

/* What follows lives as long as `model`. */

ADAMD_EXPORT const char *adamd_model_id(const adamd_model_t *model);
/** "INITIALIZING" (no parameters yet), "ACTIVE", "PAUSED", "RESTORING", "FAILED", "DELETING". */
ADAMD_EXPORT const char *adamd_model_state(const adamd_model_t *model);
ADAMD_EXPORT uint64_t adamd_model_version(const adamd_model_t *model);
ADAMD_EXPORT uint64_t adamd_model_generation(const adamd_model_t *model);
/** Of one push or pull of all tensors. */
ADAMD_EXPORT uint64_t adamd_model_byte_size(const adamd_model_t *model);
/** Of keys, types and shapes: equal means that the same buffers fit. */
ADAMD_EXPORT const char *adamd_model_layout_digest(const adamd_model_t *model);
ADAMD_EXPORT size_t adamd_model_tensor_count(const adamd_model_t *model);
/** The tensor of an index, or NULL past the end. Its type is never ADAMD_DTYPE_DEFAULT. */
ADAMD_EXPORT const adamd_tensor_t *adamd_model_tensor(const adamd_model_t *model, size_t index);
/** The group that a tensor is in, and how many there are. */
ADAMD_EXPORT size_t adamd_model_tensor_group(const adamd_model_t *model, size_t index);
ADAMD_EXPORT size_t adamd_model_group_count(const adamd_model_t *model);

/** What changes of a group. */
typedef struct adamd_group_update {
    const adamd_adam_options_t *options; /* NULL: nothing */
    const adamd_extra_t *extras;         /* those that are named are set, the others stay */
    size_t extra_count;
} adamd_group_update_t;

typedef struct adamd_set_options {
    size_t size;
    const char *model;                  /* NULL: the configuration's */
    const adamd_group_update_t *groups; /* in order; those past the end stay as they are */
    size_t group_count;
    const adamd_adam_options_t *all; /* instead of `groups`: of every group */
    uint32_t timeout_ms;
} adamd_set_options_t;
#define ADAMD_SET_OPTIONS_INIT \
    { sizeof(adamd_set_options_t), NULL, NULL, 0, NULL, 0 }

/**
 * Changes options while the model trains, as an edit of optimizer.param_groups: all of them or, if
 * one is refused, none. `ret_version` (may be NULL) is the version from which they hold. `foreach`
 * and `fused` become False where they are None: the daemon chooses the same arithmetic for both.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_set_options(adamd_client_t *client,
                                                            const adamd_set_options_t *options,
                                                            uint64_t *ret_version);

/** A piece of memory to write from. */
typedef struct adamd_data {
    const void *data;
    size_t byte_size;
} adamd_data_t;

/** A piece of memory to read into. */
typedef struct adamd_buffer {
    void *data;
    size_t byte_size;
} adamd_buffer_t;

/**
 * Gives the model its parameters: moments and steps are then zero, options stay. `pieces` together
 * are adamd_model_byte_size() long, in the order of the table, for example one for each tensor.
 * Without `force` only a model that is INITIALIZING takes them (PRECONDITION_REQUIRED); with it all
 * state is replaced, the generation goes up and workers must register again.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *
adamd_put_parameters(adamd_client_t *client, const adamd_model_t *model, const adamd_data_t *pieces,
                     size_t piece_count, int force, uint32_t timeout_ms);

/* -------------------------------------------------------------------------------- sessions */

typedef enum adamd_outcome {
    ADAMD_OUTCOME_NONE = 0,
    ADAMD_OUTCOME_APPLIED = 1,
    ADAMD_OUTCOME_STAGED = 2, /* MANUAL: accumulated, waits for adamd_optim_step() */
    ADAMD_OUTCOME_SKIPPED_NONFINITE = 3,
    ADAMD_OUTCOME_STALE = 4 /* comes with an error, STALE */
} adamd_outcome_t;

typedef struct adamd_register_options {
    size_t size;
    const char *model;  /* NULL: the configuration's */
    const char *worker; /* [A-Za-z0-9._-]{1,64}; NULL: the configuration's */
    const char *nonce;  /* the same nonce gets the same epoch; NULL: random, so a new epoch */
    int64_t rank;       /* the place in the mean; -1: the one it had, or the next free one */
    /* What this worker saw last: a daemon that is behind it says STATE_BEHIND. 0: nothing. */
    uint64_t acknowledged_generation, acknowledged_version;
    uint32_t timeout_ms;
} adamd_register_options_t;
#define ADAMD_REGISTER_OPTIONS_INIT \
    { sizeof(adamd_register_options_t), NULL, NULL, NULL, -1, 0, 0, 0 }

typedef struct adamd_register_result {
    size_t size;
    uint64_t generation, version, epoch;
    uint32_t rank, lease_ms;
    uint64_t byte_size; /* of one push or pull of all tensors */
    /* What the epoch before this one did last: after a crash this tells whether the last push
     * counted. 0 and NONE: there was none. */
    uint64_t last_sequence, last_version;
    adamd_outcome_t last_outcome;
    char layout_digest[72];
} adamd_register_result_t;
#define ADAMD_REGISTER_RESULT_INIT                                                     \
    {                                                                                  \
        sizeof(adamd_register_result_t), 0, 0, 0, 0, 0, 0, 0, 0, ADAMD_OUTCOME_NONE, { \
            0                                                                          \
        }                                                                              \
    }

/**
 * Registers a worker. Its name belongs to whoever registered last: an older session of it is FENCED
 * from here on, and what it had staged is dropped. `options` and `result` may be NULL. A session
 * borrows its client.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_register(adamd_client_t *client,
                                                         const adamd_register_options_t *options,
                                                         adamd_session_t **ret_session,
                                                         adamd_register_result_t *result);
/** A new epoch for the same session and worker: sequences start again, a push in doubt is dropped
 *  (`result` tells how the last one ended). Model, worker and nonce of `options` are not looked at.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_reregister(adamd_session_t *session,
                                                           const adamd_register_options_t *options,
                                                           adamd_register_result_t *result);
/** Keeps the worker alive without a push: to be called once in half a lease by a worker that
 *  computes for longer than that. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_renew(adamd_session_t *session,
                                                      uint32_t timeout_ms);
/** The worker leaves: rounds no longer wait for it. The session remains to be destroyed. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_deregister(adamd_session_t *session,
                                                           uint32_t timeout_ms);
/** Tells the daemon nothing. NULL is harmless. */
ADAMD_EXPORT void adamd_session_destroy(adamd_session_t *session);

ADAMD_EXPORT uint64_t adamd_session_epoch(const adamd_session_t *session);
ADAMD_EXPORT uint64_t adamd_session_generation(const adamd_session_t *session);
/** The version that was pulled last; ADAMD_ANY: none yet. */
ADAMD_EXPORT uint64_t adamd_session_version(const adamd_session_t *session);
/** The number of the next push. */
ADAMD_EXPORT uint64_t adamd_session_sequence(const adamd_session_t *session);

/** A param group for a model that trains. */
typedef struct adamd_add_group_options {
    size_t size;
    /* With keys that the model has not; in a model without names they are its next indices. */
    const adamd_tensor_t *tensors;
    size_t tensor_count;
    const adamd_adam_options_t *options; /* NULL: the model's */
    const adamd_extra_t *extras;
    size_t extra_count;
    const adamd_data_t *pieces; /* the values, in the order of the tensors */
    size_t piece_count;
    uint32_t timeout_ms;
} adamd_add_group_options_t;
#define ADAMD_ADD_GROUP_OPTIONS_INIT \
    { sizeof(adamd_add_group_options_t), NULL, 0, NULL, NULL, 0, NULL, 0, 0 }

typedef struct adamd_add_group_result {
    size_t size;
    uint64_t generation, version; /* from which on it is there */
    uint64_t byte_size;           /* of one push or pull of all tensors, from now on */
    uint32_t group, first_tensor; /* indices */
} adamd_add_group_result_t;
#define ADAMD_ADD_GROUP_RESULT_INIT \
    { sizeof(adamd_add_group_result_t), 0, 0, 0, 0, 0 }

/**
 * optimizer.add_param_group(): the new tensors stand behind those that there are, and begin with
 * step 0. The session pushes and pulls them from here on; other sessions get LAYOUT_MISMATCH until
 * they register again. Not repeated once it may have been received: a repeat is refused, since its
 * keys are taken, and adamd_model_get() tells. Not while a push is in doubt, and not for
 * complex128. `result` may be NULL.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *
adamd_add_param_group(adamd_session_t *session, const adamd_add_group_options_t *options,
                      adamd_add_group_result_t *result);

/* ------------------------------------------------------------------------------------ push */

/*
 * In doubt. When a push fails with a retriable error, the daemon may have counted it or not. The
 * session then keeps the sequence number and a fingerprint of the bytes: push the same gradient
 * again, and it counts once (the result says `duplicate` if it had counted before); another
 * gradient is refused with IN_DOUBT. To drop it instead, call adamd_reregister(). A push that the
 * daemon refused (NONFINITE, LAYOUT_MISMATCH, ...) left no trace and leaves no doubt: the next one
 * may be another.
 */

/** The gradient of one tensor: all of it. */
typedef struct adamd_gradient {
    uint32_t tensor; /* index in the model's table */
    const void *data;
    size_t byte_size;
} adamd_gradient_t;

/** A number that goes with a push, for example its loss: averaged over a step's contributions. */
typedef struct adamd_metric {
    const char *key;
    double value;
} adamd_metric_t;

#define ADAMD_LAST_PULLED UINT64_MAX
#define ADAMD_NO_VERSION (UINT64_MAX - 1)

typedef struct adamd_push_options {
    size_t size;
    /* Ascending by tensor. A tensor that is left out has no gradient (grad is None). */
    const adamd_gradient_t *gradients;
    size_t gradient_count;
    /* Instead of `gradients`: all tensors in the order of the table, without padding. */
    const void *flat;
    size_t flat_bytes;
    /* The version that the gradient was computed on. ADAMD_LAST_PULLED: by this session;
     * ADAMD_NO_VERSION: not told. */
    uint64_t base_version;
    double weight; /* in the mean */
    int replace;   /* MANUAL: replaces what is accumulated, instead of adding to it */
    const adamd_metric_t *metrics;
    size_t metric_count; /* at most 64 */
    uint32_t timeout_ms;
    adamd_dtype_t dtype; /* of every gradient; ADAMD_DTYPE_DEFAULT: each has its tensor's */
} adamd_push_options_t;
#define ADAMD_PUSH_OPTIONS_INIT                                                                \
    {                                                                                          \
        sizeof(adamd_push_options_t), NULL, 0, NULL, 0, ADAMD_LAST_PULLED, 1.0, 0, NULL, 0, 0, \
            ADAMD_DTYPE_DEFAULT                                                                \
    }

typedef struct adamd_push_result {
    size_t size;
    adamd_outcome_t outcome;
    int duplicate; /* an earlier attempt had counted: this is its outcome */
    uint64_t sequence, generation;
    uint64_t version;   /* the one that contains the push */
    uint64_t staleness; /* versions between the gradient's base and the step that used it */
    uint32_t contributors;
    double grad_norm; /* of the gradient that was applied: under BARRIER, of the mean */
} adamd_push_result_t;
#define ADAMD_PUSH_RESULT_INIT \
    { sizeof(adamd_push_result_t), ADAMD_OUTCOME_NONE, 0, 0, 0, 0, 0, 0, 0.0 }

/**
 * Pushes a gradient and waits for its outcome; under BARRIER that is the end of the round. STALE is
 * an error that used its number up: pull, compute again, push. `result` may be NULL.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_push(adamd_session_t *session,
                                                     const adamd_push_options_t *options,
                                                     adamd_push_result_t *result);

/* ------------------------------------------------------------------------------------ pull */

typedef struct adamd_pull_options {
    size_t size;
    /* Where parameters go: together as long as a pull, in the order of the table; for example one
     * for each tensor, or one for all. Undefined if the call fails. */
    const adamd_buffer_t *buffers;
    size_t buffer_count;
    uint64_t min_version; /* waits for it */
    uint32_t wait_ms;     /* ... this long; 0: until the deadline */
    int if_changed;       /* nothing is sent if the version is the one that was pulled last */
    uint32_t timeout_ms;
} adamd_pull_options_t;
#define ADAMD_PULL_OPTIONS_INIT \
    { sizeof(adamd_pull_options_t), NULL, 0, 0, 0, 0, 0 }

typedef struct adamd_pull_result {
    size_t size;
    uint64_t generation, version;
    int not_modified; /* if_changed: the buffers were not touched */
} adamd_pull_result_t;
#define ADAMD_PULL_RESULT_INIT \
    { sizeof(adamd_pull_result_t), 0, 0, 0 }

/** Reads the parameters of exactly one version. TIMED_OUT if `min_version` did not come in time;
 *  LAYOUT_MISMATCH if the buffers are not of the right length. `result` may be NULL. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_pull(adamd_session_t *session,
                                                     const adamd_pull_options_t *options,
                                                     adamd_pull_result_t *result);

/** As adamd_pull(), for those who only read: no registration is needed. `model` NULL: the
 *  configuration's. `if_changed` is not looked at. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_pull_model(adamd_client_t *client,
                                                           const char *model,
                                                           const adamd_pull_options_t *options,
                                                           adamd_pull_result_t *result);

/**
 * Push and pull in one round trip: the parameters are of the version that contains the push, or of
 * a later one. Deadline and everything but the buffers are taken from `push`. On an error that
 * leaves the push in doubt, call it again with the same gradient.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_push_pull(adamd_session_t *session,
                                                          const adamd_push_options_t *push,
                                                          const adamd_pull_options_t *pull,
                                                          adamd_push_result_t *push_result,
                                                          adamd_pull_result_t *pull_result);

/* --------------------------------------------------------------------------- MANUAL stepping */

typedef struct adamd_step_options {
    size_t size;
    /* Steps only from this version, and then exactly once, whatever is lost on the way. ADAMD_ANY:
     * from whatever it is; such a call is not repeated once it may have been received. */
    uint64_t expected_version;
    const adamd_adam_options_t *options; /* for this step alone; NULL: the groups' own */
    uint32_t timeout_ms;
} adamd_step_options_t;
#define ADAMD_STEP_OPTIONS_INIT \
    { sizeof(adamd_step_options_t), ADAMD_ANY, NULL, 0 }

typedef struct adamd_step_result {
    size_t size;
    uint64_t generation;
    uint64_t version; /* that the step made; 0: no parameter had a gradient, so there was none */
    double grad_norm, lr;
    int duplicate;
} adamd_step_result_t;
#define ADAMD_STEP_RESULT_INIT \
    { sizeof(adamd_step_result_t), 0, 0, 0.0, 0.0, 0 }

/** Steps with what is accumulated, as optimizer.step() does. Gradients stay until
 *  adamd_zero_grad(). `options` and `result` may be NULL. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_optim_step(adamd_session_t *session,
                                                           const adamd_step_options_t *options,
                                                           adamd_step_result_t *result);

/** Drops what is accumulated: to no gradient at all, as PyTorch does by default, or to zeros. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_zero_grad(adamd_session_t *session, int set_to_none,
                                                          uint32_t timeout_ms);

/* ------------------------------------------------------------------------------------- state */

/**
 * All of a model's state as the bytes of a file: parameters, moments, steps and options. Immutable
 * once made.
 */
typedef struct adamd_state_dict adamd_state_dict_t;

/** Of bytes that the caller has, for example a file's; copies them. NULL: out of memory. */
ADAMD_EXPORT adamd_state_dict_t *adamd_state_dict_new(const void *data, size_t byte_size);
/** NULL is harmless. */
ADAMD_EXPORT void adamd_state_dict_destroy(adamd_state_dict_t *dict);
ADAMD_EXPORT const void *adamd_state_dict_data(const adamd_state_dict_t *dict);
ADAMD_EXPORT size_t adamd_state_dict_byte_size(const adamd_state_dict_t *dict);
/** 0 if the bytes are the caller's. */
ADAMD_EXPORT uint64_t adamd_state_dict_version(const adamd_state_dict_t *dict);

typedef struct adamd_state_options {
    size_t size;
    const char *model;  /* NULL: the configuration's, or the session's */
    const char *format; /* "safetensors", "pt"; NULL: safetensors. Not looked at when writing. */
    uint32_t timeout_ms;
    /* Reading "pt": "optimizer", "model" (its parameters) or "all"; NULL: optimizer. */
    const char *content;
    /* Writing: "weights", "moments" or "reset" take only that part, or none; NULL: what the file
     * is. */
    const char *load;
} adamd_state_options_t;
#define ADAMD_STATE_OPTIONS_INIT \
    { sizeof(adamd_state_options_t), NULL, NULL, 0, NULL, NULL }

/** Reads the state of one version into memory. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_read_state(adamd_client_t *client,
                                                           const adamd_state_options_t *options,
                                                           adamd_state_dict_t **ret_dict);
/** ... into a regular file that is open for writing, from its offset on, which is left where it
 * was. What is there is undefined if the call fails. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_save_state(adamd_client_t *client,
                                                           const adamd_state_options_t *options,
                                                           int fd, adamd_pull_result_t *result);

/**
 * Replaces a model's state, whatever it was: the pieces together are a file as the daemon reads it,
 * its own or one of torch.save. The generation goes up and workers must register again.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_write_state(adamd_client_t *client,
                                                            const adamd_state_options_t *options,
                                                            const adamd_data_t *pieces,
                                                            size_t piece_count);
/** ... from a regular file that is open for reading, from its offset to its end. It may not change
 *  meanwhile. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *
adamd_restore_state(adamd_client_t *client, const adamd_state_options_t *options, int fd);

/** optimizer.state_dict(): pre-hooks, adamd_read_state() of the session's model, post-hooks. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_state_dict(adamd_session_t *session,
                                                           const adamd_state_options_t *options,
                                                           adamd_state_dict_t **ret_dict);
/** optimizer.load_state_dict(): pre-hooks, adamd_write_state(), adamd_reregister(), post-hooks.
 *  `dict` stays the caller's. Pull before the next gradient is computed. `result` may be NULL. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *
adamd_load_state_dict(adamd_session_t *session, const adamd_state_options_t *options,
                      const adamd_state_dict_t *dict, adamd_register_result_t *result);

/* ------------------------------------------------------------------------------------- hooks */

/*
 * By the rules of torch.optim.Optimizer. A list runs in the order of registration; `prepend` moves
 * a new hook to the very front. Around adamd_step_closure(): process-wide pre-hooks, those of the
 * session, the step, the post-hooks of the session, process-wide ones. What one hook changed, the
 * later ones see, and so does the call. A hook that returns an error ends its list, and the call
 * fails with that error: after a pre-hook nothing was sent, after a post-hook it was done.
 * Post-hooks do not run when the call failed. A list that changes while it runs is run as it was
 * when it began: who was added waits for the next time, who was removed is called this once more.
 *
 * Process-wide hooks may be registered and removed by any thread; they run on the thread of the
 * call.
 */

typedef enum adamd_hook_event {
    ADAMD_STEP_PRE = 0,
    ADAMD_STEP_POST = 1,
    ADAMD_STATE_DICT_PRE = 2,
    ADAMD_STATE_DICT_POST = 3,
    ADAMD_LOAD_STATE_DICT_PRE = 4,
    ADAMD_LOAD_STATE_DICT_POST = 5
} adamd_hook_event_t;

/** What a step is made of. A hook may put another struct in the place of each, which must stay
 * until the call returns. */
typedef struct adamd_step_args {
    size_t size;
    const adamd_push_options_t *push;
    const adamd_pull_options_t *pull; /* NULL: parameters are not pulled */
    const adamd_step_options_t *step; /* MANUAL; NULL: the defaults */
} adamd_step_args_t;
#define ADAMD_STEP_ARGS_INIT \
    { sizeof(adamd_step_args_t), NULL, NULL, NULL }

/** What a hook is called with. */
typedef struct adamd_hook_call {
    size_t size;
    adamd_hook_event_t event;
    adamd_session_t *session;
    adamd_step_args_t *args; /* of a step, which owns them: for a pre-hook to change; else NULL */
    /* state_dict post, load_state_dict pre: see adamd_hook_replace(); else NULL */
    const adamd_state_dict_t *dict;
} adamd_hook_call_t;

/** NULL: go on. */
typedef adamd_error_t *(*adamd_hook_fn_t)(void *arg, adamd_hook_call_t *call);

typedef struct adamd_hook {
    adamd_hook_fn_t run;
    void (*release)(void *arg); /* when it was removed and runs no more; may be NULL */
    void *arg;
} adamd_hook_t;

/** Puts `dict` in the place of `call->dict`, and takes it over. BAD_FIELD for another event; then
 *  `dict` stays the caller's. */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_hook_replace(adamd_hook_call_t *call,
                                                             adamd_state_dict_t *dict);

/**
 * Registers a hook of a session. `ret_id` is its handle, from one counter for the whole process.
 * BAD_FIELD: `prepend` of a step event, which PyTorch has not. On failure the hook is the caller's.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *adamd_register_hook(adamd_session_t *session,
                                                              adamd_hook_event_t event,
                                                              const adamd_hook_t *hook, int prepend,
                                                              uint64_t *ret_id);
/** The handle's remove(). 0: it was gone already, which is no error. */
ADAMD_EXPORT int adamd_remove_hook(adamd_session_t *session, uint64_t id);

/** register_optimizer_step_pre_hook and _post_hook: of all sessions. `event` is one of these two.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *
adamd_register_optimizer_hook(adamd_hook_event_t event, const adamd_hook_t *hook, uint64_t *ret_id);
ADAMD_EXPORT int adamd_remove_optimizer_hook(uint64_t id);

/* ----------------------------------------------------------------------------------- closures */

/** Evaluates the model: computes the gradients that `args` point to, and the loss. */
typedef adamd_error_t *(*adamd_closure_t)(void *arg, double *ret_loss);

/**
 * optimizer.step(closure): pre-hooks; `closure`, exactly once; a push of the gradients with the
 * loss as metric "loss"; a step, which under MANUAL is adamd_optim_step(); a pull, if `args` ask
 * for it, in the same round trip where that is possible; post-hooks. `closure` NULL: the gradients
 * are there already, and no loss is reported. The results may be NULL; under MANUAL the version of
 * `push_result` is that of the step.
 *
 * If it fails, what holds for adamd_push_pull() holds here. A push in doubt is repeated by
 * adamd_push_pull() with the same gradients; this call would evaluate the closure again.
 */
ADAMD_EXPORT ADAMD_CHECKED adamd_error_t *
adamd_step_closure(adamd_session_t *session, adamd_closure_t closure, void *closure_arg,
                   const adamd_step_args_t *args, double *ret_loss,
                   adamd_push_result_t *push_result, adamd_pull_result_t *pull_result);

#ifdef __cplusplus
}
#endif

#endif
