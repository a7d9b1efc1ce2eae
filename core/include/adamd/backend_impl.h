/** For those who write a backend. Everyone else includes adamd/backend.h. */
#ifndef ADAMD_BACKEND_IMPL_H
#define ADAMD_BACKEND_IMPL_H

#include "adamd/backend.h"

/**
 * All entries are required. Arguments were checked by backend.c: buffers are this backend's, ranges
 * lie inside them, what has runs has at least one.
 */
struct adamd_backend_ops {
    const char *name;
    enum adamd_status (*alloc)(struct adamd_backend *, enum adamd_memory, size_t bytes,
                               struct adamd_buffer **ret_buffer);
    void (*free)(struct adamd_backend *, struct adamd_buffer *);
    enum adamd_status (*submit)(struct adamd_backend *, const struct adamd_op *);
    enum adamd_status (*completed)(struct adamd_backend *, uint64_t *ret_count);
    unsigned (*threads)(const struct adamd_backend *);
    void (*destroy)(struct adamd_backend *); // waits for what is in flight
};

/** The first member of each backend's own struct. */
struct adamd_backend {
    const struct adamd_backend_ops *ops;
    adamd_notify_fn *notify; // after completed operations
    void *notify_arg;
    // Kept by backend.c:
    uint64_t submitted;
    size_t resident_bytes;
    struct adamd_buffer *buffers; // all that are alive
};

/** The first member of each backend's own buffer. `alloc` fills bytes and host. */
struct adamd_buffer {
    size_t bytes;
    void *host; // NULL where the host cannot see it
    // Filled by backend.c:
    struct adamd_backend *backend;
    enum adamd_memory memory;
    struct adamd_buffer *next, *previous;
};

/** Asserts that the table is whole. */
void adamd_backend_init(struct adamd_backend *backend, const struct adamd_backend_ops *ops,
                        adamd_notify_fn *notify, void *notify_arg);

/** How a step forms its gradients; its `to` is NULL. */
struct adamd_mean adamd_step_mean(const struct adamd_step *step);

/** For `destroy`, when nothing is in flight any more: frees what its owner did not. */
void adamd_backend_free_all(struct adamd_backend *backend);

#endif
