// The arena of a step is a sequence of pieces: a gap, a run, a gap, a run, ..., a gap. Gaps hold
// padding and tensors that are not stepped; they matter only where everything is published. Pieces
// are cut into blocks; a unit is a few blocks in a row, over as many pieces as it takes, so that
// many small tensors cost what one large tensor costs.
#include "step.h"

#include "adamd/backend_impl.h"
#include "adamd/square_sum.h"

#include <stdlib.h>
#include <string.h>

enum { UNIT_BLOCKS = 8 };

struct step_plan {
    const struct adamd_step *step;
    const struct kernel *kernel;
    struct adamd_rule_f32 *rules;
    double *sums; // of each block, gaps' are 0
    struct step_unit *units;
    uint64_t block_count;
    size_t unit_count;
};

struct piece {
    uint64_t begin, end;
    const struct adamd_run *run; // NULL: a gap
};

static struct piece piece_at(const struct adamd_step *step, uint64_t i) {
    const uint64_t r = i / 2;
    struct piece piece = {.end = step->element_count};

    if (i % 2 == 1) {
        const struct adamd_run *run = &step->runs[r];
        return (struct piece){run->offset, run->offset + run->count, run};
    }
    if (r > 0) {
        piece.begin = step->runs[r - 1].offset + step->runs[r - 1].count;
    }
    if (r < step->run_count) {
        piece.end = step->runs[r].offset;
    }
    if (step->publish == NULL) {
        piece.end = piece.begin; // nothing to do
    }
    return piece;
}

static uint64_t blocks_in(struct piece piece) {
    return (piece.end - piece.begin + ADAMD_BLOCK_ELEMENTS - 1) / ADAMD_BLOCK_ELEMENTS;
}

static uint64_t piece_count(const struct adamd_step *step) {
    return 2 * (uint64_t)step->run_count + 1;
}

// Notes where each unit begins.
static void cut_units(struct step_plan *plan) {
    uint64_t blocks_before = 0;
    size_t unit = 0;

    for (uint64_t i = 0; i < piece_count(plan->step); i++) {
        const uint64_t blocks = blocks_in(piece_at(plan->step, i));
        while (unit * UNIT_BLOCKS < blocks_before + blocks) {
            plan->units[unit] = (struct step_unit){unit * UNIT_BLOCKS - blocks_before, i};
            unit++;
        }
        blocks_before += blocks;
    }
    ADAMD_ASSERT(unit == plan->unit_count);
}

struct step_plan *step_plan_create(const struct adamd_step *step, const struct kernel *kernel) {
    struct step_plan *plan = calloc(1, sizeof *plan);

    if (plan == NULL) {
        return NULL;
    }
    plan->step = step;
    plan->kernel = kernel;
    for (uint64_t i = 0; i < piece_count(step); i++) {
        plan->block_count += blocks_in(piece_at(step, i));
    }
    plan->unit_count = (size_t)((plan->block_count + UNIT_BLOCKS - 1) / UNIT_BLOCKS);
    // One more of each: an empty step needs no memory, and calloc(0) may say NULL.
    plan->rules = calloc((size_t)step->rule_count + 1, sizeof *plan->rules);
    plan->sums = calloc((size_t)plan->block_count + 1, sizeof *plan->sums);
    plan->units = calloc(plan->unit_count + 1, sizeof *plan->units);
    if (plan->rules == NULL || plan->sums == NULL || plan->units == NULL) {
        step_plan_destroy(plan);
        return NULL;
    }
    for (uint32_t i = 0; i < step->rule_count; i++) {
        plan->rules[i] = adamd_rule_to_f32(&step->rules[i]);
    }
    cut_units(plan);
    return plan;
}

void step_plan_destroy(struct step_plan *plan) {
    if (plan != NULL) {
        free(plan->rules);
        free(plan->sums);
        free(plan->units);
        free(plan);
    }
}

size_t step_plan_units(const struct step_plan *plan) {
    return plan->unit_count > 0 ? plan->unit_count : 1;
}

static float *at(const struct adamd_buffer *buffer, uint64_t offset) {
    return buffer == NULL ? NULL : (float *)buffer->host + offset;
}

// The mean of the sources over a block, into the thread's own L1.
static void reduce(const struct step_plan *plan, const struct adamd_run *run, uint64_t begin,
                   size_t count, float *restrict mean) {
    const struct adamd_step *step = plan->step;
    const uint32_t *indices = &step->source_indices[run->sources_first];

    for (uint32_t k = 0; k < run->sources_count; k++) {
        const struct adamd_source *source = &step->sources[indices[k]];
        const float *grad = at(source->gradient, begin);
        if (k == 0) {
            plan->kernel->scale(mean, grad, source->weight, count);
        } else {
            plan->kernel->scale_add(mean, grad, source->weight, count);
        }
    }
    plan->kernel->divide(mean, step->weight_sum, count);
}

static double update(const struct step_plan *plan, const struct adamd_run *run, uint64_t begin,
                     uint64_t end) {
    const struct adamd_step *step = plan->step;
    _Alignas(64) float mean[ADAMD_BLOCK_ELEMENTS];
    const struct adamd_buffer *only =
        step->sources[step->source_indices[run->sources_first]].gradient;
    struct kernel_block block = {
        .count = (size_t)(end - begin),
        .grad = at(only, begin),
        .param = at(step->param, begin),
        .exp_avg = at(step->exp_avg, begin),
        .exp_avg_sq = at(step->exp_avg_sq, begin),
        .max_exp_avg_sq = at(step->max_exp_avg_sq, begin),
        .publish = at(step->publish, begin),
    };

    if (run->sources_count > 1) {
        reduce(plan, run, begin, block.count, mean);
        block.grad = mean;
    }
    return plan->kernel->update(&plan->rules[run->rule], adamd_kind_of(&step->rules[run->rule]),
                                &block);
}

static double run_block(const struct step_plan *plan, struct piece piece, uint64_t block) {
    const struct adamd_step *step = plan->step;
    const uint64_t begin = piece.begin + block * ADAMD_BLOCK_ELEMENTS;
    const uint64_t end =
        piece.end - begin < ADAMD_BLOCK_ELEMENTS ? piece.end : begin + ADAMD_BLOCK_ELEMENTS;

    if (piece.run != NULL) {
        return update(plan, piece.run, begin, end);
    }
    memcpy(at(step->publish, begin), at(step->param, begin), (size_t)(end - begin) * sizeof(float));
    return 0.0;
}

void step_plan_run(struct step_plan *plan, size_t unit) {
    const uint64_t first = (uint64_t)unit * UNIT_BLOCKS;
    const uint64_t end =
        plan->block_count - first < UNIT_BLOCKS ? plan->block_count : first + UNIT_BLOCKS;
    uint64_t i = plan->units[unit].piece;
    uint64_t block = plan->units[unit].block;
    struct piece piece = piece_at(plan->step, i);

    for (uint64_t b = first; b < end; b++) {
        while (block == blocks_in(piece)) {
            piece = piece_at(plan->step, ++i);
            block = 0;
        }
        plan->sums[b] = run_block(plan, piece, block++);
    }
}

void step_plan_finish(const struct step_plan *plan) {
    double sum = 0.0;

    for (uint64_t b = 0; b < plan->block_count; b++) {
        sum += plan->sums[b];
    }
    *plan->step->ret_square_sum = sum;
}
