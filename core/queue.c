// A ring of who waits for which operation. The backend counts; this file remembers.
#include "adamd/queue.h"

#include "adamd/backend_impl.h"

#include <stdlib.h>

struct waiter {
    adamd_done_fn *on_done;
    void *arg;
};

struct adamd_queue {
    struct adamd_backend *backend;
    uint64_t submitted, reported; // operations since the backend's creation
    struct waiter ring[ADAMD_OPS_IN_FLIGHT_MAX];
};

struct adamd_queue *adamd_queue_create(struct adamd_backend *backend) {
    struct adamd_queue *queue = calloc(1, sizeof *queue);

    if (queue != NULL) {
        queue->backend = backend;
        queue->submitted = backend->submitted;
        queue->reported = backend->submitted;
    }
    return queue;
}

void adamd_queue_destroy(struct adamd_queue *queue) {
    ADAMD_ASSERT(queue == NULL || !adamd_queue_busy(queue));
    free(queue);
}

struct adamd_backend *adamd_queue_backend(struct adamd_queue *queue) {
    return queue->backend;
}

enum adamd_status adamd_queue_submit(struct adamd_queue *queue, const struct adamd_op *op,
                                     adamd_done_fn *on_done, void *arg) {
    // What completed but was not polled holds its place in the ring.
    if (queue->submitted - queue->reported >= ADAMD_OPS_IN_FLIGHT_MAX) {
        return ADAMD_BUSY;
    }
    const enum adamd_status status = adamd_backend_submit(queue->backend, op);
    if (status != ADAMD_OK) {
        return status;
    }
    queue->ring[queue->submitted % ADAMD_OPS_IN_FLIGHT_MAX] = (struct waiter){on_done, arg};
    queue->submitted++;
    return ADAMD_OK;
}

void adamd_queue_poll(struct adamd_queue *queue) {
    uint64_t end = 0;
    const enum adamd_status status = adamd_backend_completed(queue->backend, &end);

    if (status != ADAMD_OK) {
        end = queue->submitted;
    }
    // A callback may submit, and may poll: the place in the ring is given up before the call.
    while (queue->reported < end) {
        const struct waiter waiter = queue->ring[queue->reported % ADAMD_OPS_IN_FLIGHT_MAX];
        queue->reported++;
        if (waiter.on_done != NULL) {
            waiter.on_done(waiter.arg, status);
        }
    }
}

bool adamd_queue_busy(const struct adamd_queue *queue) {
    return queue->reported < queue->submitted;
}
