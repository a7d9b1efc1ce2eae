// What all backends share: the checks of arguments, the count of operations, the list of buffers.
// Asserts, since only a bug of ours can call it wrongly: what users send was checked before.
#include "adamd/backend_impl.h"
#include "adamd/differentiate.h"
#include "adamd/layout.h"

void adamd_backend_init(struct adamd_backend *backend, const struct adamd_backend_ops *ops,
                        adamd_notify_fn *notify, void *notify_arg) {
    ADAMD_ASSERT(ops->name != NULL && ops->alloc != NULL && ops->free != NULL);
    ADAMD_ASSERT(ops->submit != NULL && ops->completed != NULL);
    ADAMD_ASSERT(ops->threads != NULL && ops->destroy != NULL);
    *backend = (struct adamd_backend){.ops = ops, .notify = notify, .notify_arg = notify_arg};
}

void adamd_backend_destroy(struct adamd_backend *backend) {
    if (backend != NULL) {
        backend->ops->destroy(backend);
    }
}

const char *adamd_backend_name(const struct adamd_backend *backend) {
    return backend->ops->name;
}

unsigned adamd_backend_threads(const struct adamd_backend *backend) {
    return backend->ops->threads(backend);
}

enum adamd_status adamd_backend_alloc(struct adamd_backend *backend, enum adamd_memory memory,
                                      size_t bytes, struct adamd_buffer **ret_buffer) {
    struct adamd_buffer *buffer = NULL;

    ADAMD_ASSERT(bytes > 0);
    const enum adamd_status status = backend->ops->alloc(backend, memory, bytes, &buffer);
    if (status != ADAMD_OK) {
        return status;
    }
    ADAMD_ASSERT(buffer->bytes >= bytes);
    ADAMD_ASSERT(memory == ADAMD_DEVICE || buffer->host != NULL);
    buffer->backend = backend;
    buffer->memory = memory;
    buffer->previous = NULL;
    buffer->next = backend->buffers;
    if (buffer->next != NULL) {
        buffer->next->previous = buffer;
    }
    backend->buffers = buffer;
    backend->resident_bytes += buffer->bytes;
    *ret_buffer = buffer;
    return ADAMD_OK;
}

void adamd_backend_free(struct adamd_backend *backend, struct adamd_buffer *buffer) {
    if (buffer == NULL) {
        return;
    }
    ADAMD_ASSERT(buffer->backend == backend);
    if (buffer->previous != NULL) {
        buffer->previous->next = buffer->next;
    } else {
        backend->buffers = buffer->next;
    }
    if (buffer->next != NULL) {
        buffer->next->previous = buffer->previous;
    }
    backend->resident_bytes -= buffer->bytes;
    backend->ops->free(backend, buffer);
}

void adamd_backend_free_all(struct adamd_backend *backend) {
    while (backend->buffers != NULL) {
        adamd_backend_free(backend, backend->buffers);
    }
}

void *adamd_buffer_host(struct adamd_buffer *buffer) {
    ADAMD_ASSERT(buffer->memory == ADAMD_STAGING && buffer->host != NULL);
    return buffer->host;
}

size_t adamd_buffer_bytes(const struct adamd_buffer *buffer) {
    return buffer->bytes;
}

size_t adamd_backend_resident(const struct adamd_backend *backend) {
    return backend->resident_bytes;
}

struct adamd_mean adamd_step_mean(const struct adamd_step *step) {
    return (struct adamd_mean){
        .sources = step->sources,
        .source_count = step->source_count,
        .source_indices = step->source_indices,
        .source_index_count = step->source_index_count,
        .weight_sum = step->weight_sum,
        .runs = step->runs,
        .run_count = step->run_count,
    };
}

// True if the bytes [offset, offset + bytes) lie inside a buffer of this backend.
static bool holds(const struct adamd_backend *backend, const struct adamd_buffer *buffer,
                  uint64_t offset, uint64_t bytes) {
    return buffer != NULL && buffer->backend == backend && offset <= buffer->bytes &&
           bytes <= buffer->bytes - offset;
}

// The same for `count` reals at a boundary where tensors may begin.
static bool holds_reals(const struct adamd_backend *backend, const struct adamd_buffer *buffer,
                        uint64_t offset, uint64_t count, enum adamd_dtype dtype) {
    return (unsigned)dtype < ADAMD_REAL_COUNT && offset % ADAMD_ALIGN_BYTES == 0 &&
           count <= UINT64_MAX / adamd_dtype_size(dtype) &&
           holds(backend, buffer, offset, count * adamd_dtype_size(dtype));
}

static void check_runs(const struct adamd_backend *backend, const struct adamd_run *runs,
                       uint32_t count, const struct adamd_buffer *over) {
    uint64_t end = 0;

    ADAMD_ASSERT(count >= 1);
    for (uint32_t i = 0; i < count; i++) {
        const struct adamd_run *run = &runs[i];
        ADAMD_ASSERT(run->offset >= end);
        ADAMD_ASSERT(holds_reals(backend, over, run->offset, run->count, run->dtype));
        end = run->offset + run->count * adamd_dtype_size(run->dtype);
    }
}

// Each run's sources reach as far as it does.
static void check_sources(const struct adamd_backend *backend, const struct adamd_mean *mean) {
    for (uint32_t i = 0; i < mean->run_count; i++) {
        const struct adamd_run *run = &mean->runs[i];
        ADAMD_ASSERT(run->sources_count >= 1);
        ADAMD_ASSERT(run->sources_first <= mean->source_index_count);
        ADAMD_ASSERT(run->sources_count <= mean->source_index_count - run->sources_first);
        for (uint32_t k = 0; k < run->sources_count; k++) {
            const uint32_t index = mean->source_indices[run->sources_first + k];
            ADAMD_ASSERT(index < mean->source_count);
            ADAMD_ASSERT(holds_reals(backend, mean->sources[index].gradient, run->offset,
                                     run->count, run->dtype));
            ADAMD_ASSERT(mean->sources[index].gradient != mean->to);
        }
    }
}

static void check_step(const struct adamd_backend *backend, const struct adamd_step *step) {
    const struct adamd_mean mean = adamd_step_mean(step);

    ADAMD_ASSERT(step->ret_square_sum != NULL);
    ADAMD_ASSERT(holds(backend, step->param, 0, step->arena_bytes));
    ADAMD_ASSERT(holds(backend, step->exp_avg, 0, step->arena_bytes));
    ADAMD_ASSERT(holds(backend, step->exp_avg_sq, 0, step->arena_bytes));
    ADAMD_ASSERT(step->max_exp_avg_sq == NULL ||
                 holds(backend, step->max_exp_avg_sq, 0, step->arena_bytes));
    ADAMD_ASSERT(step->publish == NULL || (holds(backend, step->publish, 0, step->arena_bytes) &&
                                           step->publish->memory == ADAMD_STAGING));
    check_runs(backend, step->runs, step->run_count, step->param);
    check_sources(backend, &mean);
    for (uint32_t i = 0; i < step->run_count; i++) {
        const struct adamd_run *run = &step->runs[i];
        ADAMD_ASSERT(run->offset + run->count * adamd_dtype_size(run->dtype) <= step->arena_bytes);
        ADAMD_ASSERT(run->rule < step->rule_count);
        ADAMD_ASSERT(!step->rules[run->rule].amsgrad || step->max_exp_avg_sq != NULL);
    }
}

static void check_mean(const struct adamd_backend *backend, const struct adamd_mean *mean) {
    check_runs(backend, mean->runs, mean->run_count, mean->to);
    check_sources(backend, mean);
}

static void check_copy(const struct adamd_backend *backend, const struct adamd_copy *copy) {
    ADAMD_ASSERT(holds(backend, copy->to, copy->to_offset, copy->bytes));
    ADAMD_ASSERT(holds(backend, copy->from, copy->from_offset, copy->bytes));
    ADAMD_ASSERT(copy->to != copy->from);
}

static void check_accumulate(const struct adamd_backend *backend,
                             const struct adamd_accumulate *accumulate) {
    ADAMD_ASSERT(accumulate->to != accumulate->from);
    ADAMD_ASSERT(holds_reals(backend, accumulate->to, accumulate->offset, accumulate->count,
                             accumulate->dtype));
    ADAMD_ASSERT(holds_reals(backend, accumulate->from, accumulate->offset, accumulate->count,
                             accumulate->dtype));
}

static void check_blend(const struct adamd_backend *backend, const struct adamd_blend *blend) {
    ADAMD_ASSERT(blend->to != blend->from);
    ADAMD_ASSERT(holds_reals(backend, blend->to, blend->offset, blend->count, blend->dtype));
    ADAMD_ASSERT(holds_reals(backend, blend->from, blend->offset, blend->count, blend->dtype));
}

// Buffers differ from each other; each run lies inside all of them.
static void check_differentiate(const struct adamd_backend *backend,
                                const struct adamd_differentiate *op) {
    const struct adamd_buffer *const arrays[] = {op->at.param,          op->at.grad,
                                                 op->at.exp_avg,        op->at.exp_avg_sq,
                                                 op->bars.param,        op->bars.grad,
                                                 op->bars.exp_avg,      op->bars.exp_avg_sq,
                                                 op->at.max_exp_avg_sq, op->bars.max_exp_avg_sq};
    enum { COUNT = sizeof arrays / sizeof arrays[0], WITHOUT_MAX = COUNT - 2 };

    ADAMD_ASSERT(op->ret_sums != NULL);
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t k = 0; k < i; k++) {
            ADAMD_ASSERT(arrays[i] == NULL || arrays[i] != arrays[k]);
        }
    }
    for (size_t i = 0; i < WITHOUT_MAX; i++) {
        check_runs(backend, op->runs, op->run_count, arrays[i]);
    }
    for (uint32_t i = 0; i < op->run_count; i++) {
        const struct adamd_run *run = &op->runs[i];
        ADAMD_ASSERT(run->rule < op->rule_count);
        for (size_t k = WITHOUT_MAX; k < COUNT && op->rules[run->rule].amsgrad; k++) {
            ADAMD_ASSERT(holds_reals(backend, arrays[k], run->offset, run->count, run->dtype));
        }
    }
}

static void check_op(const struct adamd_backend *backend, const struct adamd_op *op) {
    switch (op->kind) {
    case ADAMD_OP_STEP:
        check_step(backend, &op->step);
        return;
    case ADAMD_OP_COPY:
        check_copy(backend, &op->copy);
        return;
    case ADAMD_OP_FILL:
        ADAMD_ASSERT(holds(backend, op->fill.to, op->fill.offset, op->fill.bytes));
        return;
    case ADAMD_OP_ACCUMULATE:
        check_accumulate(backend, &op->accumulate);
        return;
    case ADAMD_OP_BLEND:
        check_blend(backend, &op->blend);
        return;
    case ADAMD_OP_SCALE:
        ADAMD_ASSERT(
            holds_reals(backend, op->scale.to, op->scale.offset, op->scale.count, op->scale.dtype));
        return;
    case ADAMD_OP_CLAMP:
        ADAMD_ASSERT(op->clamp.limit >= 0.0);
        ADAMD_ASSERT(
            holds_reals(backend, op->clamp.to, op->clamp.offset, op->clamp.count, op->clamp.dtype));
        return;
    case ADAMD_OP_MEAN:
        check_mean(backend, &op->mean);
        return;
    case ADAMD_OP_NORM:
        ADAMD_ASSERT(op->norm.ret_parts != NULL);
        check_runs(backend, op->norm.runs, op->norm.run_count, op->norm.from);
        return;
    case ADAMD_OP_DIFFERENTIATE:
        check_differentiate(backend, &op->differentiate);
        return;
    }
    ADAMD_ASSERT(false && "a kind of operation");
}

enum adamd_status adamd_backend_submit(struct adamd_backend *backend, const struct adamd_op *op) {
    uint64_t completed = 0;
    enum adamd_status status = backend->ops->completed(backend, &completed);

    if (status != ADAMD_OK) {
        return status;
    }
    check_op(backend, op);
    if (backend->submitted - completed >= ADAMD_OPS_IN_FLIGHT_MAX) {
        return ADAMD_BUSY;
    }
    status = backend->ops->submit(backend, op);
    if (status == ADAMD_OK) {
        backend->submitted++;
    }
    return status;
}

enum adamd_status adamd_backend_completed(struct adamd_backend *backend, uint64_t *ret_count) {
    return backend->ops->completed(backend, ret_count);
}
