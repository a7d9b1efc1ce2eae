/** A step, cut into blocks and units that threads take: which, depends on the runs alone. */
#ifndef ADAMD_CPU_STEP_H
#define ADAMD_CPU_STEP_H

#include "adamd/backend.h"
#include "kernel.h"

/** Where a unit begins. */
struct step_unit {
    uint64_t block; // in the piece
    uint64_t piece; // even: the gap before run piece / 2; odd: run piece / 2
};

/** Makes the plan of `step`, which is borrowed until the plan is freed. NULL if out of memory. */
struct step_plan *step_plan_create(const struct adamd_step *step, const struct kernel *kernel);
void step_plan_destroy(struct step_plan *plan);

/** At least 1. */
size_t step_plan_units(const struct step_plan *plan);

void step_plan_run(struct step_plan *plan, size_t unit);

/** After all units: writes the sum of squares. */
void step_plan_finish(const struct step_plan *plan);

#endif
