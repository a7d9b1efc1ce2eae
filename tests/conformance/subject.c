// Finds the backends and waits for them.
#include "subject.h"

#include "backend_deferred.h"

#include <check.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { THREADS_MAX = 3 };

static int variant_count(void) {
    const char *const *variants = adamd_cpu_variants();
    int count = 0;

    while (variants[count] != NULL) {
        count++;
    }
    return count;
}

int subject_count(void) {
    return 1 + variant_count() * THREADS_MAX;
}

void subject_print_all(void) {
    const char *const *variants = adamd_cpu_variants();

    printf("backends:");
    for (int v = 0; variants[v] != NULL; v++) {
        printf(" cpu-%s with 1 to %d threads,", variants[v], THREADS_MAX);
    }
    printf(" deferred\n");
    (void)fflush(stdout);
}

static void on_notify(void *arg) {
    struct bench *bench = arg;
    atomic_fetch_add(&bench->notified, 1);
}

static struct adamd_backend *create_cpu(struct bench *bench, int i) {
    const char *variant = adamd_cpu_variants()[i / THREADS_MAX];
    const unsigned threads = (unsigned)(i % THREADS_MAX) + 1;
    struct adamd_backend *backend = adamd_cpu_backend_create(variant, threads, on_notify, bench);

    ck_assert_ptr_nonnull(backend);
    ck_assert_uint_eq(adamd_backend_threads(backend), threads);
    ck_assert_str_eq(adamd_backend_name(backend) + strlen("cpu-"), variant);
    return backend;
}

void bench_open(struct bench *bench, int i) {
    memset(bench, 0, sizeof *bench);
    atomic_init(&bench->notified, 0);
    bench->deferred = i == 0;
    bench->backend =
        bench->deferred ? backend_deferred_create(on_notify, bench) : create_cpu(bench, i - 1);
    ck_assert_ptr_nonnull(bench->backend);
}

void bench_close(struct bench *bench) {
    adamd_backend_destroy(bench->backend);
}

void bench_submit(struct bench *bench, const struct adamd_op *op) {
    ck_assert_int_eq(adamd_backend_submit(bench->backend, op), ADAMD_OK);
    bench->submitted++;
}

void bench_wait(struct bench *bench) {
    const struct timespec pause = {.tv_nsec = 20000};
    uint64_t completed = 0;

    if (bench->deferred) {
        (void)backend_deferred_run(bench->backend, SIZE_MAX);
    }
    ck_assert_int_eq(adamd_backend_completed(bench->backend, &completed), ADAMD_OK);
    while (completed < bench->submitted) { // the suite's time limit ends it
        (void)nanosleep(&pause, NULL);
        ck_assert_int_eq(adamd_backend_completed(bench->backend, &completed), ADAMD_OK);
    }
    ck_assert_uint_eq(completed, bench->submitted);
}

struct adamd_buffer *bench_alloc(struct bench *bench, enum adamd_memory memory, size_t bytes) {
    struct adamd_buffer *buffer = NULL;
    ck_assert_int_eq(adamd_backend_alloc(bench->backend, memory, bytes, &buffer), ADAMD_OK);
    return buffer;
}

static void copy(struct bench *bench, struct adamd_buffer *to, struct adamd_buffer *from,
                 size_t bytes) {
    const struct adamd_op op = {.kind = ADAMD_OP_COPY,
                                .copy = {.to = to, .from = from, .bytes = bytes}};
    bench_submit(bench, &op);
    bench_wait(bench);
}

void bench_write(struct bench *bench, struct adamd_buffer *to, const void *data, size_t bytes) {
    struct adamd_buffer *staging = bench_alloc(bench, ADAMD_STAGING, bytes);

    memcpy(adamd_buffer_host(staging), data, bytes);
    copy(bench, to, staging, bytes);
    adamd_backend_free(bench->backend, staging);
}

void bench_read(struct bench *bench, struct adamd_buffer *from, void *data, size_t bytes) {
    struct adamd_buffer *staging = bench_alloc(bench, ADAMD_STAGING, bytes);

    copy(bench, staging, from, bytes);
    memcpy(data, adamd_buffer_host(staging), bytes);
    adamd_backend_free(bench->backend, staging);
}
