/**
 * Threads that run jobs: one job after another, in the order submitted, each by all threads at
 * once, which take its units as they come. Background jobs have an order of their own and are run
 * where nothing else waits, and one unit of them after each other job, so that they end at last.
 */
#ifndef ADAMD_CPU_POOL_H
#define ADAMD_CPU_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum { POOL_THREADS_MAX = 256 };

/** Embedded in what it does. Belongs to the pool from submit until `finish` is called. */
struct job {
    size_t unit_count; // at least 1
    /** Any thread, units in any order and at the same time. */
    void (*run)(struct job *job, size_t unit);
    /** Once, after the last unit and before the next job begins. May free the job. */
    void (*finish)(struct job *job);
    bool background;
    // The pool's own:
    struct job *next;
    atomic_size_t next_unit;
    size_t workers;
};

struct pool;

/** NULL if memory or threads cannot be had. */
struct pool *pool_create(unsigned threads);

/** Finishes what was submitted, then ends the threads. NULL is harmless. */
void pool_destroy(struct pool *pool);

/** Waits until no job is left but those of the background. */
void pool_drain(struct pool *pool);

unsigned pool_threads(const struct pool *pool);

/** Never waits for work. */
void pool_submit(struct pool *pool, struct job *job);

#endif
