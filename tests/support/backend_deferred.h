/**
 * A backend that completes operations only when the test says so, one after another, so that every
 * state "in flight" can be held and looked at. One thread, plain loops, device memory that the test
 * may read through adamd_buffer's host.
 */
#ifndef BACKEND_DEFERRED_H
#define BACKEND_DEFERRED_H

#include "adamd/backend.h"

/** NULL if out of memory. Destroyed as any backend; what is in flight then is run. */
struct adamd_backend *backend_deferred_create(adamd_notify_fn *notify, void *notify_arg);

/** How many operations are in flight. */
size_t backend_deferred_pending(const struct adamd_backend *backend);

/** The `i`-th operation in flight, oldest first; NULL past the last. */
const struct adamd_op *backend_deferred_peek(const struct adamd_backend *backend, size_t i);

/** Runs up to `count` operations, oldest first, then notifies once. SIZE_MAX: all. */
size_t backend_deferred_run(struct adamd_backend *backend, size_t count);

/** From now on each submit runs its operation at once (and notifies), or no longer. */
void backend_deferred_set_immediate(struct adamd_backend *backend, bool immediate);

/** The device is lost: what is in flight never completes, every call fails. Notifies. */
void backend_deferred_lose(struct adamd_backend *backend);

/** Buffers alive. */
size_t backend_deferred_live(const struct adamd_backend *backend);

/** A buffer's memory, of either kind: only this backend's device memory can be seen so. */
void *backend_deferred_host(struct adamd_buffer *buffer);

#endif
