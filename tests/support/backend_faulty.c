// Passes everything on to the inner backend's table, but for the call that is to fail.
#include "backend_faulty.h"

static struct backend_faulty *from_base(struct adamd_backend *backend) {
    return (struct backend_faulty *)backend;
}

// True if this call is the one that fails.
static bool fails(struct backend_faulty *faulty) {
    faulty->calls++;
    if (faulty->calls_left == UINT64_MAX) {
        return false;
    }
    if (faulty->calls_left > 0) {
        faulty->calls_left--;
        return false;
    }
    if (faulty->answer != ADAMD_DEVICE_LOST) {
        faulty->calls_left = UINT64_MAX;
    }
    return true;
}

static bool lost(const struct backend_faulty *faulty) {
    return faulty->calls_left == 0 && faulty->answer == ADAMD_DEVICE_LOST;
}

static enum adamd_status faulty_alloc(struct adamd_backend *backend, enum adamd_memory memory,
                                      size_t bytes, struct adamd_buffer **ret_buffer) {
    struct backend_faulty *faulty = from_base(backend);

    if (fails(faulty)) {
        return faulty->answer;
    }
    const enum adamd_status status =
        faulty->inner->ops->alloc(faulty->inner, memory, bytes, ret_buffer);
    faulty->live += status == ADAMD_OK;
    return status;
}

static void faulty_free(struct adamd_backend *backend, struct adamd_buffer *buffer) {
    struct backend_faulty *faulty = from_base(backend);

    faulty->live--;
    faulty->inner->ops->free(faulty->inner, buffer);
}

static enum adamd_status faulty_submit(struct adamd_backend *backend, const struct adamd_op *op) {
    struct backend_faulty *faulty = from_base(backend);

    if (fails(faulty)) {
        return faulty->answer;
    }
    return faulty->inner->ops->submit(faulty->inner, op);
}

static enum adamd_status faulty_completed(struct adamd_backend *backend, uint64_t *ret_count) {
    struct backend_faulty *faulty = from_base(backend);

    if (lost(faulty)) {
        return ADAMD_DEVICE_LOST;
    }
    return faulty->inner->ops->completed(faulty->inner, ret_count);
}

static unsigned faulty_threads(const struct adamd_backend *backend) {
    const struct adamd_backend *inner = ((const struct backend_faulty *)backend)->inner;
    return inner->ops->threads(inner);
}

static void faulty_destroy(struct adamd_backend *backend) {
    struct backend_faulty *faulty = from_base(backend);

    adamd_backend_free_all(backend);
    adamd_backend_destroy(faulty->inner);
    faulty->inner = NULL;
}

static const struct adamd_backend_ops faulty_ops = {
    .name = "faulty",
    .alloc = faulty_alloc,
    .free = faulty_free,
    .submit = faulty_submit,
    .completed = faulty_completed,
    .threads = faulty_threads,
    .destroy = faulty_destroy,
};

void backend_faulty_init(struct backend_faulty *faulty, struct adamd_backend *inner) {
    *faulty = (struct backend_faulty){.inner = inner, .calls_left = UINT64_MAX};
    adamd_backend_init(&faulty->base, &faulty_ops, inner->notify, inner->notify_arg);
}

void backend_faulty_arm(struct backend_faulty *faulty, uint64_t calls, enum adamd_status answer) {
    faulty->calls_left = calls;
    faulty->answer = answer;
}
