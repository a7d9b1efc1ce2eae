/**
 * What the CPU's step is measured against: one loop over four arrays without blocks, sums, dispatch
 * or threads, compiled with the flags of the kernels.
 */
#ifndef BARE_LOOP_H
#define BARE_LOOP_H

#include "adamd/update.h"

struct bare_arrays {
    const float *grad;
    float *param, *exp_avg, *exp_avg_sq;
};

struct bare_loop {
    const char *variant;
    /** Elements [begin, end) of an Adam step without decay: reads g, p, m, v; writes p, m, v. */
    void (*step)(struct adamd_rule_f32 rule, struct bare_arrays arrays, size_t begin, size_t end);
    /** The same reads and writes with one addition each: what the memory alone takes. */
    void (*stream)(struct adamd_rule_f32 rule, struct bare_arrays arrays, size_t begin, size_t end);
};

#endif
