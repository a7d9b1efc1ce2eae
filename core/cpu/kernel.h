/**
 * The elementwise loops of the CPU backend. kernel.c is compiled once for each instruction set;
 * each object exports one table and nothing else, or the linker might take its copy of a function
 * for machines that cannot run it.
 */
#ifndef ADAMD_CPU_KERNEL_H
#define ADAMD_CPU_KERNEL_H

#include "adamd/backend.h"
#include "adamd/differentiate.h"
#include "adamd/square_sum.h"

/** Up to ADAMD_BLOCK_ELEMENTS reals of one run, of the loops' dtype. Arrays do not overlap. */
struct kernel_block {
    size_t count;
    const void *grad;
    void *param, *exp_avg, *exp_avg_sq;
    void *max_exp_avg_sq; // touched only with amsgrad
    void *publish;        // gets the new parameters; NULL: nobody wants them
};

/**
 * The loops of one dtype. `wide` points to values of the computing type: double for float64, else
 * float. Scalars are rounded to it.
 */
struct kernel_loops {
    /** Steps the block; returns its gradient's sum of squares, in square_sum.h's order. */
    double (*update)(const struct adamd_rule *rule, const struct kernel_block *block);
    /** wide = weight * from */
    void (*weigh)(void *wide, const void *from, double weight, size_t count);
    /** wide = fma(weight, from, wide) */
    void (*weigh_add)(void *wide, const void *from, double weight, size_t count);
    /** to = wide / divisor, where they are of different types */
    void (*divide_wide)(void *to, const void *wide, double divisor, size_t count);
    /** to = to + from */
    void (*add)(void *to, const void *from, size_t count);
    /** to = lerp(to, from, weight), as backend.h has it */
    void (*blend)(void *to, const void *from, double weight, size_t count);
    /** to = to * factor */
    void (*scale)(void *to, double factor, size_t count);
    /** to = to / divisor */
    void (*divide)(void *to, double divisor, size_t count);
    /** to = min(max(to, -limit), limit), NaN kept */
    void (*clamp)(void *to, double limit, size_t count);
    /** Of up to ADAMD_BLOCK_ELEMENTS values. */
    struct adamd_norm_part (*norm)(const void *from, size_t count);
    /** to = from, to and from doubles; rounded once. */
    void (*widen)(double *to, const void *from, size_t count);
    void (*narrow)(void *to, const double *from, size_t count);
};

enum { KERNEL_CHUNK = 256 }; // a multiple of ADAMD_LANES; two of these arrays fit a thread's L1

/** A part of a block, widened. */
struct kernel_chunk {
    double param[KERNEL_CHUNK], grad[KERNEL_CHUNK], exp_avg[KERNEL_CHUNK];
    double exp_avg_sq[KERNEL_CHUNK], max_exp_avg_sq[KERNEL_CHUNK];
};

/** By sum and lane. */
struct kernel_vjp_lanes {
    double lanes[ADAMD_VJP_SUM_COUNT][ADAMD_LANES];
};

struct kernel {
    const char *variant;
    /** Differentiates the first `count` elements of a chunk; adds to the lanes. */
    void (*differentiate)(const struct adamd_vjp_rule *rule, const struct kernel_chunk *at,
                          struct kernel_chunk *bars, size_t count, struct kernel_vjp_lanes *lanes);
    const struct kernel_loops *loops[ADAMD_REAL_COUNT]; // by dtype
};

/** The kernels that this machine can run, fastest first, ended by NULL. */
const struct kernel *const *kernels_here(void);

#endif
