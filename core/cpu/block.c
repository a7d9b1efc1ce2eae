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
