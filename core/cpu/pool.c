// Two lists of jobs under one lock; the units of the first job are taken without it.
#include "pool.h"

#include "adamd/status.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct lane {
    struct job *first, *last;
    bool finishing; // a job left the list, but its finish() has not returned
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work, drained;
    struct lane foreground, background;
    bool background_due; // a job was finished since a background unit was last taken
    bool stopping;
    unsigned thread_count;
    pthread_t threads[];
};

static struct lane *lane_of(struct pool *pool, const struct job *job) {
    return job->background ? &pool->background : &pool->foreground;
}

static bool exhausted(struct job *job) {
    return atomic_load(&job->next_unit) >= job->unit_count;
}

// The lane's first job, if there are units to take. With the lock, as all up to run_unit().
static struct job *find_in(const struct lane *lane) {
    return lane->finishing || lane->first == NULL || exhausted(lane->first) ? NULL : lane->first;
}

static struct job *find_work(struct pool *pool) {
    struct job *foreground = find_in(&pool->foreground);
    struct job *background = find_in(&pool->background);

    if (background != NULL && (foreground == NULL || pool->background_due)) {
        pool->background_due = false;
        return background;
    }
    return foreground;
}

// One unit needs one thread.
static void wake(struct pool *pool, const struct lane *lane) {
    if (lane->first != NULL && lane->first->unit_count == 1) {
        (void)pthread_cond_signal(&pool->work);
    } else {
        (void)pthread_cond_broadcast(&pool->work);
    }
}

// The last thread out of a job finishes it, without the lock: submit never waits for that.
static void finish_first(struct pool *pool, struct lane *lane) {
    struct job *job = lane->first;

    lane->first = job->next;
    if (lane->first == NULL) {
        lane->last = NULL;
    }
    lane->finishing = true;
    pool->background_due = pool->background_due || !job->background;
    (void)pthread_mutex_unlock(&pool->lock);
    job->finish(job);
    (void)pthread_mutex_lock(&pool->lock);
    lane->finishing = false;
    (void)pthread_cond_signal(&pool->drained);
    if (lane->first != NULL || pool->stopping) {
        wake(pool, lane);
    }
}

static bool run_unit(struct job *job) {
    const size_t unit = atomic_fetch_add(&job->next_unit, 1);

    if (unit < job->unit_count) {
        job->run(job, unit);
    }
    return unit < job->unit_count;
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

// With the lock, which is given up meanwhile. In the background, it is looked up after each unit
// whether something came.
static void work_on(struct pool *pool, struct job *job) {
    struct lane *lane = lane_of(pool, job);

    job->workers++;
    (void)pthread_mutex_unlock(&pool->lock);
    while (run_unit(job) && !job->background) {
    }
    (void)pthread_mutex_lock(&pool->lock);
    if (--job->workers == 0 && exhausted(job)) {
        finish_first(pool, lane);
    }
}

static bool idle(const struct lane *lane) {
    return lane->first == NULL && !lane->finishing;
}

static bool all_done(const struct pool *pool) {
    return pool->stopping && idle(&pool->foreground) && idle(&pool->background);
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
    (void)pthread_cond_init(&pool->drained, NULL);
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
    (void)pthread_cond_destroy(&pool->drained);
    (void)pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void pool_drain(struct pool *pool) {
    (void)pthread_mutex_lock(&pool->lock);
    while (!idle(&pool->foreground)) {
        (void)pthread_cond_wait(&pool->drained, &pool->lock);
    }
    (void)pthread_mutex_unlock(&pool->lock);
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
    struct lane *lane = lane_of(pool, job);
    const bool was_idle = idle(lane);
    if (lane->last != NULL) {
        lane->last->next = job;
    } else {
        lane->first = job;
    }
    lane->last = job;
    if (was_idle) {
        wake(pool, lane);
    }
    (void)pthread_mutex_unlock(&pool->lock);
}
