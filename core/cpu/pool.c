// A list of jobs under one lock; the units of the first are taken without it.
#include "pool.h"

#include "adamd/status.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct job *first, *last;
    bool finishing; // a job left the list, but its finish() has not returned
    bool stopping;
    unsigned thread_count;
    pthread_t threads[];
};

// The first job, if there are units to take. With the lock.
static struct job *find_work(const struct pool *pool) {
    struct job *job = pool->finishing ? NULL : pool->first;
    return job != NULL && atomic_load(&job->next_unit) < job->unit_count ? job : NULL;
}

// With the lock. One unit needs one thread.
static void wake(struct pool *pool) {
    if (pool->first != NULL && pool->first->unit_count == 1) {
        (void)pthread_cond_signal(&pool->work);
    } else {
        (void)pthread_cond_broadcast(&pool->work);
    }
}

static void run_units(struct job *job) {
    size_t unit = atomic_fetch_add(&job->next_unit, 1);

    while (unit < job->unit_count) {
        job->run(job, unit);
        unit = atomic_fetch_add(&job->next_unit, 1);
    }
}

// The last thread out of a job finishes it, without the lock: submit never waits for that.
static void finish_first(struct pool *pool) {
    struct job *job = pool->first;

    pool->first = job->next;
    if (pool->first == NULL) {
        pool->last = NULL;
    }
    pool->finishing = true;
    (void)pthread_mutex_unlock(&pool->lock);
    job->finish(job);
    (void)pthread_mutex_lock(&pool->lock);
    pool->finishing = false;
    if (pool->first != NULL || pool->stopping) {
        wake(pool);
    }
}

// Threads inherit the floating-point state of whoever made them: a library there may have asked for
// flushed subnormals, which would be other bits.
static void reset_floating_point(void) {
    (void)fesetenv(FE_DFL_ENV);
#if defined(__x86_64__)
    enum { FLUSH_TO_ZERO = 0x8000, SUBNORMALS_ARE_ZERO = 0x0040 };
    __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() &
                           ~(unsigned)(FLUSH_TO_ZERO | SUBNORMALS_ARE_ZERO));
#endif
}

// With the lock, which is given up meanwhile.
static void work_on(struct pool *pool, struct job *job) {
    job->workers++;
    (void)pthread_mutex_unlock(&pool->lock);
    run_units(job);
    (void)pthread_mutex_lock(&pool->lock);
    if (--job->workers == 0) {
        finish_first(pool);
    }
}

static bool all_done(const struct pool *pool) {
    return pool->stopping && pool->first == NULL && !pool->finishing;
}

static void *run_thread(void *arg) {
    struct pool *pool = arg;

    reset_floating_point();
    (void)pthread_mutex_lock(&pool->lock);
    while (!all_done(pool)) {
        struct job *job = find_work(pool);
        if (job != NULL) {
            work_on(pool, job);
        } else {
            (void)pthread_cond_wait(&pool->work, &pool->lock);
        }
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static bool start_threads(struct pool *pool, unsigned count) {
    sigset_t all;
    sigset_t before;

    // Signals are the loop's.
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->thread_count < count &&
           pthread_create(&pool->threads[pool->thread_count], NULL, run_thread, pool) == 0) {
        pool->thread_count++;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool->thread_count == count;
}

struct pool *pool_create(unsigned threads) {
    ADAMD_ASSERT(threads >= 1 && threads <= POOL_THREADS_MAX);
    struct pool *pool = calloc(1, sizeof *pool + threads * sizeof pool->threads[0]);

    if (pool == NULL) {
        return NULL;
    }
    (void)pthread_mutex_init(&pool->lock, NULL);
    (void)pthread_cond_init(&pool->work, NULL);
    if (!start_threads(pool, threads)) {
        pool_destroy(pool);
        return NULL;
    }
    return pool;
}

void pool_destroy(struct pool *pool) {
    if (pool == NULL) {
        return;
    }
    (void)pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    (void)pthread_cond_broadcast(&pool->work);
    (void)pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->thread_count; i++) {
        (void)pthread_join(pool->threads[i], NULL);
    }
    (void)pthread_cond_destroy(&pool->work);
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool);
}

unsigned pool_threads(const struct pool *pool) {
    return pool->thread_count;
}

void pool_submit(struct pool *pool, struct job *job) {
    ADAMD_ASSERT(job->unit_count >= 1);
    job->next = NULL;
    job->workers = 0;
    atomic_init(&job->next_unit, 0);
    (void)pthread_mutex_lock(&pool->lock);
    const bool was_idle = pool->first == NULL && !pool->finishing;
    if (pool->last != NULL) {
        pool->last->next = job;
    } else {
        pool->first = job;
    }
    pool->last = job;
    if (was_idle) {
        wake(pool);
    }
    (void)pthread_mutex_unlock(&pool->lock);
}
