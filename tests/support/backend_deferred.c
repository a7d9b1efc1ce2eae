// A ring of operations that wait for the test.
#include "backend_deferred.h"

#include "adamd/backend_impl.h"
#include "plain_ops.h"

#include <stdlib.h>
#include <string.h>

struct deferred {
    struct adamd_backend base;
    struct adamd_op ring[ADAMD_OPS_IN_FLIGHT_MAX];
    uint64_t taken, completed;
    size_t live;
    bool immediate, lost;
};

static struct deferred *from_base(struct adamd_backend *backend) {
    return (struct deferred *)backend;
}

static const struct deferred *look_at(const struct adamd_backend *backend) {
    return (const struct deferred *)backend;
}

static enum adamd_status deferred_alloc(struct adamd_backend *backend, enum adamd_memory memory,
                                        size_t bytes, struct adamd_buffer **ret_buffer) {
    struct deferred *deferred = from_base(backend);
    struct adamd_buffer *buffer = calloc(1, sizeof *buffer);
    const size_t rounded = (bytes + 255) / 256 * 256;

    (void)memory;
    if (deferred->lost || buffer == NULL) {
        free(buffer);
        return deferred->lost ? ADAMD_DEVICE_LOST : ADAMD_NO_MEMORY;
    }
    buffer->bytes = bytes;
    buffer->host = aligned_alloc(256, rounded);
    if (buffer->host == NULL) {
        free(buffer);
        return ADAMD_NO_MEMORY;
    }
    memset(buffer->host, 0xFF, rounded); // NaN: nobody may rely on zeros
    deferred->live++;
    *ret_buffer = buffer;
    return ADAMD_OK;
}

static void deferred_free(struct adamd_backend *backend, struct adamd_buffer *buffer) {
    from_base(backend)->live--;
    free(buffer->host);
    free(buffer);
}

static enum adamd_status deferred_submit(struct adamd_backend *backend, const struct adamd_op *op) {
    struct deferred *deferred = from_base(backend);

    if (deferred->lost) {
        return ADAMD_DEVICE_LOST;
    }
    deferred->ring[deferred->taken++ % ADAMD_OPS_IN_FLIGHT_MAX] = *op;
    if (deferred->immediate) {
        (void)backend_deferred_run(backend, SIZE_MAX);
    }
    return ADAMD_OK;
}

static enum adamd_status deferred_completed(struct adamd_backend *backend, uint64_t *ret_count) {
    const struct deferred *deferred = from_base(backend);

    if (deferred->lost) {
        return ADAMD_DEVICE_LOST;
    }
    *ret_count = deferred->completed;
    return ADAMD_OK;
}

static unsigned deferred_threads(const struct adamd_backend *backend) {
    (void)backend;
    return 1;
}

static void deferred_destroy(struct adamd_backend *backend) {
    struct deferred *deferred = from_base(backend);

    deferred->base.notify = NULL;
    (void)backend_deferred_run(backend, SIZE_MAX);
    adamd_backend_free_all(backend);
    free(deferred);
}

static const struct adamd_backend_ops deferred_ops = {
    .name = "deferred",
    .alloc = deferred_alloc,
    .free = deferred_free,
    .submit = deferred_submit,
    .completed = deferred_completed,
    .threads = deferred_threads,
    .destroy = deferred_destroy,
};

struct adamd_backend *backend_deferred_create(adamd_notify_fn *notify, void *notify_arg) {
    struct deferred *deferred = calloc(1, sizeof *deferred);

    if (deferred == NULL) {
        return NULL;
    }
    adamd_backend_init(&deferred->base, &deferred_ops, notify, notify_arg);
    return &deferred->base;
}

size_t backend_deferred_pending(const struct adamd_backend *backend) {
    const struct deferred *deferred = look_at(backend);
    return deferred->lost ? 0 : (size_t)(deferred->taken - deferred->completed);
}

const struct adamd_op *backend_deferred_peek(const struct adamd_backend *backend, size_t i) {
    const struct deferred *deferred = look_at(backend);
    return i < backend_deferred_pending(backend)
               ? &deferred->ring[(deferred->completed + i) % ADAMD_OPS_IN_FLIGHT_MAX]
               : NULL;
}

static void notify(struct deferred *deferred) {
    if (deferred->base.notify != NULL) {
        deferred->base.notify(deferred->base.notify_arg);
    }
}

size_t backend_deferred_run(struct adamd_backend *backend, size_t count) {
    struct deferred *deferred = from_base(backend);
    size_t done = 0;

    for (; done < count && backend_deferred_pending(backend) > 0; done++) {
        plain_run(&deferred->ring[deferred->completed % ADAMD_OPS_IN_FLIGHT_MAX]);
        deferred->completed++;
    }
    if (done > 0) {
        notify(deferred);
    }
    return done;
}

void backend_deferred_set_immediate(struct adamd_backend *backend, bool immediate) {
    from_base(backend)->immediate = immediate;
}

void backend_deferred_lose(struct adamd_backend *backend) {
    from_base(backend)->lost = true;
    notify(from_base(backend));
}

size_t backend_deferred_live(const struct adamd_backend *backend) {
    return look_at(backend)->live;
}

void *backend_deferred_host(struct adamd_buffer *buffer) {
    return buffer->host;
}
