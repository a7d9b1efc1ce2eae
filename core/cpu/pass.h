/**
 * A pass over the runs of an operation, cut into blocks, which threads take in units of a few. What
 * a block and a unit are depends on the runs alone.
 */
#ifndef ADAMD_CPU_PASS_H
#define ADAMD_CPU_PASS_H

#include "adamd/backend.h"
#include "kernel.h"

struct pass;

/** A pass for a STEP, MEAN, NORM or DIFFERENTIATE, borrowed until the pass is destroyed. NULL if
 * out of memory. */
struct pass *pass_create(const struct adamd_op *op, const struct kernel *kernel);
void pass_destroy(struct pass *pass);

/** At least 1. */
size_t pass_units(const struct pass *pass);

void pass_run(struct pass *pass, size_t unit);

/** After all units: writes the sums. */
void pass_finish(const struct pass *pass);

#endif
