/**
 * A step to be run on a backend, with what must come of it: written down from the formulas of
 * PyTorch's for-loop, foreach and fused, not from adamd/update.h, so that a slip there shows.
 */
#ifndef SCENE_H
#define SCENE_H

#include "adamd/options.h"
#include "subject.h"

enum { SCENE_RUNS_MAX = 128, SCENE_SOURCES_MAX = 5, SCENE_RULES_MAX = 32, SCENE_LINE = 64 };

/** Host copies of one arena's arrays. */
struct arrays {
    unsigned char *param, *exp_avg, *exp_avg_sq, *max_exp_avg_sq, *publish;
    double square_sum;
};

struct scene {
    uint64_t arena_bytes;
    enum adamd_dtype dtype;                        // of the runs that are added next
    struct adamd_options options[SCENE_RULES_MAX]; // one a rule
    uint64_t t[SCENE_RULES_MAX];
    uint32_t rule_count;
    struct adamd_run runs[SCENE_RUNS_MAX];
    uint32_t run_count;
    uint32_t source_indices[SCENE_RUNS_MAX * SCENE_SOURCES_MAX];
    uint32_t source_index_count;
    uint32_t source_count;
    double weights[SCENE_SOURCES_MAX];
    double weight_sum;
    bool publishes;
    unsigned char *grads[SCENE_SOURCES_MAX];
    struct arrays before;
};

enum values {
    ORDINARY,  // over nine decades, both signs, with zeros among them
    TINY,      // subnormals and zeros
    NONFINITE, // NaN and infinities among ordinary ones
};

/** An empty scene of float32; arena_bytes grows with the runs. */
void scene_init(struct scene *scene);

/** Adds a run of `count` reals after `gap` lines of 64 bytes more, with `sources` sources. */
void scene_add_run(struct scene *scene, uint64_t gap, uint64_t count, uint32_t rule,
                   uint32_t sources);

/** The arena goes on past the last run, for so many lines. */
void scene_add_tail(struct scene *scene, uint64_t lines);

/** Allocates the arrays and fills them; `seed` decides the values. */
void scene_fill(struct scene *scene, enum values values, uint32_t seed);
void scene_finish(struct scene *scene);

/** Runs the scene on the backend and compares every bit with the formulas. */
void scene_check(struct scene *scene, struct bench *bench);

/** The same on every backend in turn; the formulas are evaluated once. */
void scene_check_everywhere(struct scene *scene);

/** The same gradients as a MEAN, and what NORM says of them. */
void scene_check_mean_and_norm(struct scene *scene, struct bench *bench);

/** Runs the scene on the backend; free with arrays_finish. */
struct arrays scene_run(const struct scene *scene, struct bench *bench);
void arrays_finish(struct arrays *arrays);

// ------------------------------------------------------------------------------ values in memory

/** Real `i` of `dtype` at `array`; exact in a double. */
double value_get(const unsigned char *array, enum adamd_dtype dtype, uint64_t i);
/** Writes `value` rounded to `dtype`, ties to even. */
void value_set(unsigned char *array, enum adamd_dtype dtype, uint64_t i, double value);
/** `value` rounded to `dtype`. */
double value_round(enum adamd_dtype dtype, double value);
/** The same without a float on the way to float16 or bfloat16. */
double value_round_once(enum adamd_dtype dtype, double value);

#endif
