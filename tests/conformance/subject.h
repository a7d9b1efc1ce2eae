/**
 * The backends that the conformance suite is run for, and a bench to run one on: every variant of
 * the CPU backend that this machine can run, with one, two and three threads, and the plain loops
 * of the deferred backend.
 */
#ifndef SUBJECT_H
#define SUBJECT_H

#include "adamd/backend.h"

#include <stdatomic.h>

/** How many there are here. */
int subject_count(void);

/** Says on stdout which they are, so that a log shows what was executed. */
void subject_print_all(void);

struct bench {
    struct adamd_backend *backend;
    bool deferred;
    uint64_t submitted;
    atomic_uint notified;
};

/** The i-th backend. Fails the test where it cannot be made. */
void bench_open(struct bench *bench, int i);
void bench_close(struct bench *bench);

/** Submits; fails the test unless it is OK. */
void bench_submit(struct bench *bench, const struct adamd_op *op);

/** Waits until everything submitted has completed. */
void bench_wait(struct bench *bench);

struct adamd_buffer *bench_alloc(struct bench *bench, enum adamd_memory memory, size_t bytes);

/** Copies to and from a buffer of either kind, as the host must: through staging and COPY. */
void bench_write(struct bench *bench, struct adamd_buffer *to, const void *data, size_t bytes);
void bench_read(struct bench *bench, struct adamd_buffer *from, void *data, size_t bytes);

#endif
