// Plain loops: slow, obvious, and the same bits as every backend.
#include "plain_ops.h"

#include "adamd/backend_impl.h"
#include "adamd/square_sum.h"
#include "adamd/update.h"

#include <string.h>

// The mean over the sources as backend.h defines it.
static float mean_at(const struct adamd_step *step, const struct adamd_run *run, uint64_t i) {
    const uint32_t *indices = &step->source_indices[run->sources_first];
    const struct adamd_source *first = &step->sources[indices[0]];
    float sum = ((const float *)first->gradient->host)[i];

    if (run->sources_count == 1) {
        return sum;
    }
    sum = first->weight * sum;
    for (uint32_t k = 1; k < run->sources_count; k++) {
        const struct adamd_source *source = &step->sources[indices[k]];
        sum = fmaf(source->weight, ((const float *)source->gradient->host)[i], sum);
    }
    return sum / step->weight_sum;
}

static double run_block(const struct adamd_step *step, const struct adamd_run *run, uint64_t begin,
                        uint64_t end) {
    const struct adamd_rule *rule = &step->rules[run->rule];
    const struct adamd_kind kind = adamd_kind_of(rule);
    const struct adamd_rule_f32 numbers = adamd_rule_to_f32(rule);
    double lanes[ADAMD_LANES] = {0};

    for (uint64_t i = begin; i < end; i++) {
        const float g = mean_at(step, run, i);
        float unused = 0.0F;
        float *max = kind.amsgrad ? (float *)step->max_exp_avg_sq->host + i : &unused;
        adamd_update_f32(kind, numbers, g, (float *)step->param->host + i,
                         (float *)step->exp_avg->host + i, (float *)step->exp_avg_sq->host + i,
                         max);
        lanes[(i - begin) % ADAMD_LANES] += (double)g * (double)g;
    }
    return adamd_fold_lanes(lanes);
}

static void run_step(const struct adamd_step *step) {
    double sum = 0.0;

    for (uint32_t r = 0; r < step->run_count; r++) {
        const struct adamd_run *run = &step->runs[r];
        const uint64_t run_end = run->offset + run->count;
        for (uint64_t i = run->offset; i < run_end; i += ADAMD_BLOCK_ELEMENTS) {
            const uint64_t end =
                run_end - i < ADAMD_BLOCK_ELEMENTS ? run_end : i + ADAMD_BLOCK_ELEMENTS;
            sum += run_block(step, run, i, end);
        }
    }
    if (step->publish != NULL) {
        memcpy(step->publish->host, step->param->host, step->element_count * sizeof(float));
    }
    *step->ret_square_sum = sum;
}

static void run_accumulate(const struct adamd_accumulate *accumulate) {
    float *to = (float *)accumulate->to->host + accumulate->offset;
    const float *from = (const float *)accumulate->from->host + accumulate->offset;

    for (uint64_t i = 0; i < accumulate->count; i++) {
        to[i] = to[i] + from[i];
    }
}

void plain_run(const struct adamd_op *op) {
    switch (op->kind) {
    case ADAMD_OP_STEP:
        run_step(&op->step);
        return;
    case ADAMD_OP_COPY:
        memcpy((char *)op->copy.to->host + op->copy.to_offset,
               (const char *)op->copy.from->host + op->copy.from_offset, op->copy.bytes);
        return;
    case ADAMD_OP_FILL:
        memset((char *)op->fill.to->host + op->fill.offset, 0, op->fill.bytes);
        return;
    case ADAMD_OP_ACCUMULATE:
        run_accumulate(&op->accumulate);
        return;
    }
}
