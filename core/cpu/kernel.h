/**
 * The elementwise loops of the CPU backend. kernel.c is compiled once for each instruction set;
 * each object exports one table and nothing else, or the linker might take its copy of a function
 * for machines that cannot run it.
 */
#ifndef ADAMD_CPU_KERNEL_H
#define ADAMD_CPU_KERNEL_H

#include "adamd/update.h"

/** Up to ADAMD_BLOCK_ELEMENTS elements of one run. Arrays do not overlap. */
struct kernel_block {
    size_t count;
    const float *grad;
    float *param, *exp_avg, *exp_avg_sq;
    float *max_exp_avg_sq; // touched only with amsgrad
    float *publish;        // gets the new parameters; NULL: nobody wants them
};

struct kernel {
    const char *variant;
    /** Steps the block; returns its gradient's sum of squares, in square_sum.h's order. */
    double (*update)(const struct adamd_rule_f32 *rule, struct adamd_kind kind,
                     const struct kernel_block *block);
    /** to = weight * from */
    void (*scale)(float *restrict to, const float *restrict from, float weight, size_t count);
    /** to = fma(weight, from, to) */
    void (*scale_add)(float *restrict to, const float *restrict from, float weight, size_t count);
    /** to = to / divisor */
    void (*divide)(float *to, float divisor, size_t count);
    /** to = to + from */
    void (*add)(float *restrict to, const float *restrict from, size_t count);
};

/** The kernels that this machine can run, fastest first, ended by NULL. */
const struct kernel *const *kernels_here(void);

#endif
