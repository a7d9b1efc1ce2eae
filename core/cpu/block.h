/** What is done to one block of one run. */
#ifndef ADAMD_CPU_BLOCK_H
#define ADAMD_CPU_BLOCK_H

#include "adamd/backend.h"
#include "kernel.h"

/** A part of a run, at most ADAMD_BLOCK_ELEMENTS long. */
struct block {
    const struct adamd_run *run;
    uint64_t offset; // bytes, of the arena
    size_t count;    // reals
};

/** Steps it; returns its gradient's sum of squares. */
double block_step(const struct kernel *kernel, const struct adamd_step *step, struct block block);

void block_mean(const struct kernel *kernel, const struct adamd_mean *mean, struct block block);

struct adamd_norm_part block_norm(const struct kernel *kernel, const struct adamd_norm *norm,
                                  struct block block);

/** Adds nothing: these are the block's own sums. */
struct adamd_vjp_sums block_differentiate(const struct kernel *kernel,
                                          const struct adamd_differentiate *op, struct block block);

#endif
