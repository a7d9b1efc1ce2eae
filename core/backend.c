// What all backends share: the checks of arguments, the count of operations, the list of buffers.
// Asserts, since only a bug of ours can call it wrongly: what users send was checked before.
#include "adamd/backend_impl.h"

enum { OFFSET_ELEMENTS = 16 }; // runs begin at a 64-byte boundary

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

// True if [offset, offset + count) units of `unit` bytes lie inside a buffer of this backend.
static bool holds(const struct adamd_backend *backend, const struct adamd_buffer *buffer,
                  uint64_t offset, uint64_t count, size_t unit) {
    if (buffer == NULL || buffer->backend != backend) {
        return false;
    }
    const uint64_t units = buffer->bytes / unit;
    return offset <= units && count <= units - offset;
}

static void check_runs(const struct adamd_step *step) {
    uint64_t end = 0;

    for (uint32_t i = 0; i < step->run_count; i++) {
        const struct adamd_run *run = &step->runs[i];
        ADAMD_ASSERT(run->offset % OFFSET_ELEMENTS == 0 && run->offset >= end);
        ADAMD_ASSERT(run->offset <= step->element_count);
        ADAMD_ASSERT(run->count <= step->element_count - run->offset);
        ADAMD_ASSERT(run->rule < step->rule_count);
        ADAMD_ASSERT(run->sources_count >= 1);
        ADAMD_ASSERT(run->sources_first <= step->source_index_count);
        ADAMD_ASSERT(run->sources_count <= step->source_index_count - run->sources_first);
        end = run->offset + run->count;
    }
}

static void check_step(const struct adamd_backend *backend, const struct adamd_step *step) {
    const uint64_t count = step->element_count;

    ADAMD_ASSERT(step->run_count >= 1 && step->ret_square_sum != NULL);
    ADAMD_ASSERT(holds(backend, step->param, 0, count, sizeof(float)));
    ADAMD_ASSERT(holds(backend, step->exp_avg, 0, count, sizeof(float)));
    ADAMD_ASSERT(holds(backend, step->exp_avg_sq, 0, count, sizeof(float)));
    ADAMD_ASSERT(step->max_exp_avg_sq == NULL ||
                 holds(backend, step->max_exp_avg_sq, 0, count, sizeof(float)));
    ADAMD_ASSERT(step->publish == NULL || (holds(backend, step->publish, 0, count, sizeof(float)) &&
                                           step->publish->memory == ADAMD_STAGING));
    for (uint32_t i = 0; i < step->rule_count; i++) {
        ADAMD_ASSERT(!step->rules[i].amsgrad || step->max_exp_avg_sq != NULL);
    }
    for (uint32_t i = 0; i < step->source_count; i++) {
        ADAMD_ASSERT(holds(backend, step->sources[i].gradient, 0, count, sizeof(float)));
    }
    for (uint32_t i = 0; i < step->source_index_count; i++) {
        ADAMD_ASSERT(step->source_indices[i] < step->source_count);
    }
    check_runs(step);
}

static void check_copy(const struct adamd_backend *backend, const struct adamd_copy *copy) {
    ADAMD_ASSERT(holds(backend, copy->to, copy->to_offset, copy->bytes, 1));
    ADAMD_ASSERT(holds(backend, copy->from, copy->from_offset, copy->bytes, 1));
    ADAMD_ASSERT(copy->to != copy->from);
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
        ADAMD_ASSERT(holds(backend, op->fill.to, op->fill.offset, op->fill.bytes, 1));
        return;
    case ADAMD_OP_ACCUMULATE:
        ADAMD_ASSERT(op->accumulate.to != op->accumulate.from);
        ADAMD_ASSERT(holds(backend, op->accumulate.to, op->accumulate.offset, op->accumulate.count,
                           sizeof(float)));
        ADAMD_ASSERT(holds(backend, op->accumulate.from, op->accumulate.offset,
                           op->accumulate.count, sizeof(float)));
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
