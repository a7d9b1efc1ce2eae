// From the description of an operation to the kernel's loops over one block.
#include "block.h"

#include "adamd/backend_impl.h"
#include "adamd/square_sum.h"

#include <string.h>

static void *at(const struct adamd_buffer *buffer, uint64_t offset) {
    return buffer == NULL ? NULL : (unsigned char *)buffer->host + offset;
}

static const struct kernel_loops *loops_of(const struct kernel *kernel, struct block block) {
    return kernel->loops[block.run->dtype];
}

static const struct adamd_buffer *first_source(const struct adamd_mean *mean,
                                               const struct adamd_run *run) {
    return mean->sources[mean->source_indices[run->sources_first]].gradient;
}

// The mean of several sources over a block to `to`, which is not read: formed there, or beside it
// where it is computed wider than it is stored.
static void reduce(const struct kernel_loops *loops, const struct adamd_mean *mean,
                   struct block block, void *to) {
    _Alignas(64) float wide[ADAMD_BLOCK_ELEMENTS]; // in the thread's own cache
    const uint32_t *indices = &mean->source_indices[block.run->sources_first];
    const bool widens = adamd_dtype_size(block.run->dtype) < sizeof wide[0];
    void *sum = widens ? wide : to;

    for (uint32_t k = 0; k < block.run->sources_count; k++) {
        const struct adamd_source *source = &mean->sources[indices[k]];
        const void *grad = at(source->gradient, block.offset);
        if (k == 0) {
            loops->weigh(sum, grad, source->weight, block.count);
        } else {
            loops->weigh_add(sum, grad, source->weight, block.count);
        }
    }
    if (widens) {
        loops->divide_wide(to, sum, mean->weight_sum, block.count);
    } else {
        loops->divide(to, mean->weight_sum, block.count);
    }
}

double block_step(const struct kernel *kernel, const struct adamd_step *step, struct block block) {
    _Alignas(64) double reduced[ADAMD_BLOCK_ELEMENTS];
    const struct adamd_mean mean = adamd_step_mean(step);
    struct kernel_block arrays = {
        .count = block.count,
        .grad = at(first_source(&mean, block.run), block.offset),
        .param = at(step->param, block.offset),
        .exp_avg = at(step->exp_avg, block.offset),
        .exp_avg_sq = at(step->exp_avg_sq, block.offset),
        .max_exp_avg_sq = at(step->max_exp_avg_sq, block.offset),
        .publish = at(step->publish, block.offset),
    };

    if (block.run->sources_count > 1) {
        reduce(loops_of(kernel, block), &mean, block, reduced);
        arrays.grad = reduced;
    }
    return loops_of(kernel, block)->update(&step->rules[block.run->rule], &arrays);
}

void block_mean(const struct kernel *kernel, const struct adamd_mean *mean, struct block block) {
    void *to = at(mean->to, block.offset);

    if (block.run->sources_count > 1) {
        reduce(loops_of(kernel, block), mean, block, to);
    } else {
        memcpy(to, at(first_source(mean, block.run), block.offset),
               block.count * adamd_dtype_size(block.run->dtype));
    }
}

struct adamd_norm_part block_norm(const struct kernel *kernel, const struct adamd_norm *norm,
                                  struct block block) {
    return loops_of(kernel, block)->norm(at(norm->from, block.offset), block.count);
}

static void load(const struct kernel_loops *loops, const struct adamd_vjp_arrays *arrays,
                 uint64_t offset, size_t count, struct kernel_chunk *chunk) {
    loops->widen(chunk->param, at(arrays->param, offset), count);
    loops->widen(chunk->grad, at(arrays->grad, offset), count);
    loops->widen(chunk->exp_avg, at(arrays->exp_avg, offset), count);
    loops->widen(chunk->exp_avg_sq, at(arrays->exp_avg_sq, offset), count);
    if (arrays->max_exp_avg_sq != NULL) {
        loops->widen(chunk->max_exp_avg_sq, at(arrays->max_exp_avg_sq, offset), count);
    }
}

static void store(const struct kernel_loops *loops, const struct adamd_vjp_arrays *arrays,
                  uint64_t offset, size_t count, const struct kernel_chunk *chunk) {
    loops->narrow(at(arrays->param, offset), chunk->param, count);
    loops->narrow(at(arrays->grad, offset), chunk->grad, count);
    loops->narrow(at(arrays->exp_avg, offset), chunk->exp_avg, count);
    loops->narrow(at(arrays->exp_avg_sq, offset), chunk->exp_avg_sq, count);
    if (arrays->max_exp_avg_sq != NULL) {
        loops->narrow(at(arrays->max_exp_avg_sq, offset), chunk->max_exp_avg_sq, count);
    }
}

struct adamd_vjp_sums block_differentiate(const struct kernel *kernel,
                                          const struct adamd_differentiate *op,
                                          struct block block) {
    _Alignas(64) struct kernel_chunk read;
    _Alignas(64) struct kernel_chunk bars;
    _Alignas(64) struct kernel_vjp_lanes lanes = {{{0}}};
    const struct kernel_loops *loops = loops_of(kernel, block);
    const struct adamd_vjp_rule *rule = &op->rules[block.run->rule];
    struct adamd_vjp_arrays from = op->at;
    struct adamd_vjp_arrays to = op->bars;
    struct adamd_vjp_sums sums;

    if (!rule->amsgrad) {
        from.max_exp_avg_sq = NULL;
        to.max_exp_avg_sq = NULL;
        memset(read.max_exp_avg_sq, 0, sizeof read.max_exp_avg_sq);
        memset(bars.max_exp_avg_sq, 0, sizeof bars.max_exp_avg_sq);
    }
    for (size_t i = 0; i < block.count; i += KERNEL_CHUNK) {
        const size_t count = block.count - i < KERNEL_CHUNK ? block.count - i : KERNEL_CHUNK;
        const uint64_t offset = block.offset + i * adamd_dtype_size(block.run->dtype);
        load(loops, &from, offset, count, &read);
        load(loops, &to, offset, count, &bars);
        kernel->differentiate(rule, &read, &bars, count, &lanes);
        store(loops, &to, offset, count, &bars);
    }
    for (size_t s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
        sums.sums[s] = adamd_fold_lanes(lanes.lanes[s]);
    }
    return sums;
}
