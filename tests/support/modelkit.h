/**
 * A model on a backend that completes operations when the test says so, and what its callbacks
 * brought. For the unit tests of the model.
 */
#ifndef MODELKIT_H
#define MODELKIT_H

#include "adamd/model.h"
#include "backend_faulty.h"

#include <check.h>

enum { KIT_ENDS_MAX = 256 };

/** How one push, step or wait ended. */
struct kit_end {
    int count; // callbacks so far
    enum adamd_status status;
    bool duplicate;
    struct adamd_outcome outcome;
    struct adamd_fault fault;
    const struct adamd_step_record *record;
    const void *what;
};

struct kit {
    struct adamd_backend *backend;  // deferred, or the plan's faulty one around it
    struct adamd_backend *deferred; // NULL with a CPU backend
    struct adamd_queue *queue;
    struct adamd_model *model;
    uint64_t now_ms;
};

/** What a kit's model is made of; changed before kit_create(). */
struct kit_plan {
    const uint64_t *counts; // elements by tensor
    uint32_t tensor_count;
    struct adamd_options options;
    struct adamd_policy policy;
    uint32_t slots_max, published_max;
    struct adamd_hook_registry *hook_registry; // may be NULL; borrowed
    struct backend_faulty *faulty;             // may be NULL; armed by the test
    const char *variant; // a CPU backend instead of the deferred one; may be NULL
    unsigned threads;
};

/** Two tensors of 3 and 20 elements, one group, EACH_PUSH, zeros. */
struct kit_plan kit_plan(enum adamd_trigger trigger);

/** The model is initialized. */
void kit_create(struct kit *kit, const struct kit_plan *plan);
/** The same, where it may fail: then there is a queue, but no model. */
enum adamd_status kit_try_create(struct kit *kit, const struct kit_plan *plan);
void kit_destroy(struct kit *kit);

/** Runs everything in flight, and what follows from it, and calls back. */
void kit_run(struct kit *kit);
/** Runs one operation. */
void kit_run_one(struct kit *kit);
/** Time passes in steps of 10 ms, with ticks. */
void kit_wait(struct kit *kit, uint64_t ms);

/** Registers; the epoch. */
uint64_t kit_register(struct kit *kit, const char *worker, uint32_t rank);

struct adamd_push_head kit_head(const char *worker, uint64_t epoch, uint64_t sequence);

void kit_on_decided(void *arg, enum adamd_status status, const struct adamd_outcome *outcome,
                    bool duplicate, const struct adamd_fault *fault);
void kit_on_stepped(void *arg, enum adamd_status status, const struct adamd_step_record *record,
                    bool duplicate);
void kit_on_ready(void *arg, enum adamd_status status, const void *what);

/** begin only; what it answered is in `ret_status`. */
struct adamd_push *kit_begin(struct kit *kit, const struct adamd_push_head *head,
                             struct kit_end *end, enum adamd_status *ret_status);

/** begin, append of all elements with `value`, commit: the status of the first that fails. */
enum adamd_status kit_push(struct kit *kit, const struct adamd_push_head *head, float value,
                           struct kit_end *end);

/** The visible parameters of a tensor, by a pull. */
void kit_params(struct kit *kit, uint32_t tensor, float *ret_values);

/** Digest of the whole state, by a capture. */
void kit_digest(struct kit *kit, uint64_t ret_digest[2]);

#endif
