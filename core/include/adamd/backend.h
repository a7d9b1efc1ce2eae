/**
 * The contract between the optimizer and a device, for those who use a backend.
 *
 * A backend owns memory and runs operations on it, one after another, in the order in which they
 * were submitted. submit() never blocks on device work; completions are counted, and the owner's
 * loop is woken. It never logs: it answers with a status. All calls come from one thread, the
 * loop's.
 *
 * Host code reaches device memory through COPY operations only; staging memory (pinned on a GPU)
 * has a host address and may be an operand of every operation, so gradients are received into it
 * and read by the step where they lie.
 */
#ifndef ADAMD_BACKEND_H
#define ADAMD_BACKEND_H

#include "adamd/dtype.h"
#include "adamd/options.h"
#include "adamd/status.h"

struct adamd_backend;
struct adamd_buffer; // each backend defines its own

enum adamd_memory { ADAMD_DEVICE, ADAMD_STAGING };

/** Wakes the owner's loop: may be called from any thread, and must do no more. */
typedef void adamd_notify_fn(void *arg);

/**
 * The fastest CPU backend that this machine can run, or the one called `variant` ("base", "avx2",
 * "avx512", "neon"; NULL for the fastest). `threads` 0 means one for each CPU that the process may
 * use. NULL if the variant is not built or the machine lacks it, or out of memory or threads.
 */
struct adamd_backend *adamd_cpu_backend_create(const char *variant, unsigned threads,
                                               adamd_notify_fn *notify, void *notify_arg);

/** The variants that this machine can run, fastest first, ended by NULL. */
const char *const *adamd_cpu_variants(void);

/** Waits for what is in flight, frees what was not freed. NULL is harmless. */
void adamd_backend_destroy(struct adamd_backend *backend);

/** "cpu-avx2". Lives as long as the backend. */
const char *adamd_backend_name(const struct adamd_backend *backend);
unsigned adamd_backend_threads(const struct adamd_backend *backend);

/**
 * At least `bytes` bytes (more than 0), aligned to 256, with undefined content, and already backed
 * by physical memory where the backend can arrange it cheaply. NO_MEMORY or DEVICE_LOST.
 */
ADAMD_MUST_USE enum adamd_status adamd_backend_alloc(struct adamd_backend *backend,
                                                     enum adamd_memory memory, size_t bytes,
                                                     struct adamd_buffer **ret_buffer);

/** The buffer must not be in use by an operation in flight. NULL is harmless. */
void adamd_backend_free(struct adamd_backend *backend, struct adamd_buffer *buffer);

/** Where the host sees a staging buffer. Asserts that it is one. */
void *adamd_buffer_host(struct adamd_buffer *buffer);
size_t adamd_buffer_bytes(const struct adamd_buffer *buffer);

/** Bytes allocated now, of both kinds. */
size_t adamd_backend_resident(const struct adamd_backend *backend);

/**
 * One worker's gradient, laid out as the arena. It reaches at least as far as the runs that use it:
 * an arena may have grown since it was received.
 */
struct adamd_source {
    struct adamd_buffer *gradient;
    double weight; // ignored when it is the only source of a run
};

/**
 * A range of reals of one dtype that one rule updates from one set of sources. The gradient of an
 * element is, with one source, its value; with more, the weighted mean
 *     (fma(w_k, g_k, ... fma(w_1, g_1, w_0 * g_0))) / weight_sum
 * in the order given, in the computing type (double for float64, else float), to which weights and
 * their sum are rounded; the result is rounded once to the dtype. Runs ascend and do not overlap.
 * A run may reach over the padding between tensors where that holds zeros in all of its sources.
 */
struct adamd_run {
    uint64_t offset;        // bytes, a multiple of ADAMD_ALIGN_BYTES
    uint64_t count;         // reals
    enum adamd_dtype dtype; // a real one
    uint32_t rule;          // index into rules; of a step only
    uint32_t sources_first; // index into source_indices; of a step and of a mean
    uint32_t sources_count; // at least 1
};

struct adamd_step {
    struct adamd_buffer *param, *exp_avg, *exp_avg_sq;
    struct adamd_buffer *max_exp_avg_sq; // NULL if no rule says amsgrad
    struct adamd_buffer *publish;        // staging; the new parameters of ALL of the arena
                                         // [0, arena_bytes) are written here too; NULL: not
    uint64_t arena_bytes;
    const struct adamd_rule *rules;
    uint32_t rule_count;
    const struct adamd_source *sources;
    uint32_t source_count;
    const uint32_t *source_indices;
    uint32_t source_index_count;
    double weight_sum;
    const struct adamd_run *runs;
    uint32_t run_count;
    // The sum of the squares of the (mean) gradient in double, folded in an order that depends on
    // the runs alone, never on the number of threads. Written before the step is counted as
    // completed.
    double *ret_square_sum;
};

struct adamd_copy {
    struct adamd_buffer *to, *from; // of either kind
    uint64_t to_offset, from_offset, bytes;
};

struct adamd_fill {
    struct adamd_buffer *to;
    uint64_t offset, bytes; // zeros
};

/** to[i] = to[i] + from[i], rounded to the dtype: what PyTorch's backward() does. */
struct adamd_accumulate {
    struct adamd_buffer *to, *from;
    uint64_t offset; // bytes, in both; a multiple of ADAMD_ALIGN_BYTES
    uint64_t count;  // reals
    enum adamd_dtype dtype;
};

/**
 * to[i] = torch.lerp(to[i], from[i], weight), in the computing type, rounded once to the dtype:
 * fma(w, from - to, to) where |w| < 0.5, else fma(to - from, 1 - w, from).
 */
struct adamd_blend {
    struct adamd_buffer *to, *from;
    uint64_t offset, count; // as above
    enum adamd_dtype dtype;
    double weight; // rounded to the computing type
};

/** to[i] = to[i] * factor, or to[i] / factor, in the computing type, rounded once to the dtype. */
struct adamd_scale {
    struct adamd_buffer *to;
    uint64_t offset, count; // as above
    enum adamd_dtype dtype;
    double factor; // rounded to the computing type
    bool divides;
};

/** to[i] = min(max(to[i], -limit), limit), as torch.clamp: NaN stays. */
struct adamd_clamp {
    struct adamd_buffer *to;
    uint64_t offset, count; // as above
    enum adamd_dtype dtype;
    double limit; // at least 0; rounded to the dtype
};

/** Writes the gradients of `runs`, as a step would form them, to their places in `to`, which is
 *  none of the sources. */
struct adamd_mean {
    struct adamd_buffer *to;
    const struct adamd_source *sources;
    uint32_t source_count;
    const uint32_t *source_indices;
    uint32_t source_index_count;
    double weight_sum;
    const struct adamd_run *runs;
    uint32_t run_count; // at least 1
};

/** What a range of reals holds. */
struct adamd_norm_part {
    double square_sum;  // in double, in the order of square_sum.h; NaN or infinite with the values
    double max_abs;     // the largest absolute value; NaN are left out, 0 where there is none
    uint64_t nonfinite; // how many are NaN or infinite
};

/** Of the values in `from`, for each run. Written before the operation is counted as completed. */
struct adamd_norm {
    struct adamd_buffer *from;
    const struct adamd_run *runs;
    uint32_t run_count;                // at least 1
    struct adamd_norm_part *ret_parts; // run_count of them
};

/** The arrays of a step, or their cotangents. */
struct adamd_vjp_arrays {
    struct adamd_buffer *param, *grad, *exp_avg, *exp_avg_sq;
    struct adamd_buffer *max_exp_avg_sq; // NULL if no rule says amsgrad
};

struct adamd_vjp_rule; // adamd/differentiate.h
struct adamd_vjp_sums;

/**
 * Turns cotangents of what a step wrote into those of what it read, as differentiate.h says. A run
 * must not reach over padding. Sums over the elements of a rule: each run's in the order of
 * square_sum.h, runs one after another in ascending order, from 0.
 */
struct adamd_differentiate {
    struct adamd_vjp_arrays at;   // what the step read
    struct adamd_vjp_arrays bars; // read and written; but for `grad`, which is written only
    const struct adamd_vjp_rule *rules;
    uint32_t rule_count;
    const struct adamd_run *runs;
    uint32_t run_count;              // at least 1
    struct adamd_vjp_sums *ret_sums; // by rule; before the operation is counted as completed
};

enum adamd_op_kind {
    ADAMD_OP_STEP,
    ADAMD_OP_COPY,
    ADAMD_OP_FILL,
    ADAMD_OP_ACCUMULATE,
    ADAMD_OP_BLEND,
    ADAMD_OP_SCALE,
    ADAMD_OP_CLAMP,
    ADAMD_OP_MEAN,
    ADAMD_OP_NORM,
    ADAMD_OP_DIFFERENTIATE,
};

struct adamd_op {
    enum adamd_op_kind kind;
    union {
        struct adamd_step step;
        struct adamd_copy copy;
        struct adamd_fill fill;
        struct adamd_accumulate accumulate;
        struct adamd_blend blend;
        struct adamd_scale scale;
        struct adamd_clamp clamp;
        struct adamd_mean mean;
        struct adamd_norm norm;
        struct adamd_differentiate differentiate;
    };
};

/**
 * Queues an operation and returns. `op` itself is copied; buffers and arrays that it points to stay
 * untouched by the caller until adamd_backend_completed() has counted it. At most
 * ADAMD_OPS_IN_FLIGHT_MAX may be in flight: more is BUSY. Fails with DEVICE_LOST, from then on for
 * every call, once the device is lost.
 */
ADAMD_MUST_USE enum adamd_status adamd_backend_submit(struct adamd_backend *backend,
                                                      const struct adamd_op *op);

/** How many operations have completed since creation; DEVICE_LOST once the device is lost. */
ADAMD_MUST_USE enum adamd_status adamd_backend_completed(struct adamd_backend *backend,
                                                         uint64_t *ret_count);

enum { ADAMD_OPS_IN_FLIGHT_MAX = 256 };

#endif
