/**
 * Who submitted which operation: turns a backend's count of completions into callbacks, in order.
 * One queue stands before one backend and serves all models. Loop thread only.
 */
#ifndef ADAMD_QUEUE_H
#define ADAMD_QUEUE_H

#include "adamd/backend.h"

struct adamd_queue;

/** `status` is OK, or DEVICE_LOST for everything that was in flight when the device went. */
typedef void adamd_done_fn(void *arg, enum adamd_status status);

/** `backend` is borrowed and outlives the queue. NULL if out of memory. */
struct adamd_queue *adamd_queue_create(struct adamd_backend *backend);

/** Asserts that nothing is in flight. NULL is harmless. */
void adamd_queue_destroy(struct adamd_queue *queue);

struct adamd_backend *adamd_queue_backend(struct adamd_queue *queue);

/** As adamd_backend_submit(); `on_done` (may be NULL) is called from adamd_queue_poll(), never from
 *  here. */
ADAMD_MUST_USE enum adamd_status adamd_queue_submit(struct adamd_queue *queue,
                                                    const struct adamd_op *op,
                                                    adamd_done_fn *on_done, void *arg);

/** Calls back for what completed since the last call. A callback may submit. */
void adamd_queue_poll(struct adamd_queue *queue);

/** True while operations are in flight. */
bool adamd_queue_busy(const struct adamd_queue *queue);

#endif
