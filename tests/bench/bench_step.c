// The CPU's step beside a bare loop over the same arrays with the same arithmetic and the same
// number of threads, and many small tensors beside one large one. Rounds are interleaved, so that
// what the machine does meanwhile meets all; medians are compared.
//
//     bench_step [ELEMENTS [ROUNDS]]
#define _GNU_SOURCE
#include "adamd/backend.h"

#include "bare_loop.h"
#include "bench_support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS_MAX = 101, THREADS_MAX = 64, SMALL_COUNT = 1000, SMALL_RUNS = 10000 };
enum { LARGE_COUNT = SMALL_COUNT * SMALL_RUNS, RATE_BAR_COUNT = 100000000 };

static const double rate_bar = 0.95; // at RATE_BAR_COUNT elements and above
static const double small_bar = 1.15;

// One for each kernel that was built.
#if defined(__x86_64__)
extern const struct bare_loop bare_loop_avx512, bare_loop_avx2;
#elif defined(__aarch64__)
extern const struct bare_loop bare_loop_neon;
#endif
extern const struct bare_loop bare_loop_base;

static const struct bare_loop *const bare_loops[] = {
#if defined(__x86_64__)
    &bare_loop_avx512,
    &bare_loop_avx2,
#elif defined(__aarch64__)
    &bare_loop_neon,
#endif
    &bare_loop_base,
};

struct bench {
    struct adamd_backend *backend;
    const struct bare_loop *loop;
    unsigned threads;
    uint64_t count; // of the arrays
    struct adamd_buffer *param, *exp_avg, *exp_avg_sq, *grad;
    struct adamd_rule rule;
    uint64_t submitted;
    pthread_mutex_t lock;
    pthread_cond_t completed;
};

static void on_notify(void *arg) {
    struct bench *bench = arg;

    (void)pthread_mutex_lock(&bench->lock);
    (void)pthread_cond_signal(&bench->completed);
    (void)pthread_mutex_unlock(&bench->lock);
}

static void run(struct bench *bench, const struct adamd_op *op) {
    uint64_t done = 0;

    if (adamd_backend_submit(bench->backend, op) != ADAMD_OK) {
        bench_fail("submit");
    }
    bench->submitted++;
    (void)pthread_mutex_lock(&bench->lock);
    while (adamd_backend_completed(bench->backend, &done) == ADAMD_OK && done < bench->submitted) {
        (void)pthread_cond_wait(&bench->completed, &bench->lock);
    }
    (void)pthread_mutex_unlock(&bench->lock);
}

static struct adamd_buffer *alloc_filled(struct bench *bench, float scale) {
    struct adamd_buffer *buffer = NULL;

    // Staging, so that the bare loop works on the very same pages.
    if (adamd_backend_alloc(bench->backend, ADAMD_STAGING, bench->count * sizeof(float), &buffer) !=
        ADAMD_OK) {
        bench_fail("not enough memory");
    }
    float *values = adamd_buffer_host(buffer);
    for (uint64_t i = 0; i < bench->count; i++) {
        values[i] = scale * (float)(i % 1000 + 1);
    }
    return buffer;
}

static void open_bench(struct bench *bench, unsigned threads, uint64_t count) {
    *bench = (struct bench){.count = count,
                            .rule = adamd_rule_of(&adamd_options_default, 10),
                            .lock = PTHREAD_MUTEX_INITIALIZER,
                            .completed = PTHREAD_COND_INITIALIZER};
    bench->backend = adamd_cpu_backend_create(NULL, threads, on_notify, bench);
    if (bench->backend == NULL) {
        bench_fail("no backend");
    }
    bench->threads = adamd_backend_threads(bench->backend);
    for (size_t i = 0; i < sizeof bare_loops / sizeof bare_loops[0]; i++) {
        if (strcmp(bare_loops[i]->variant, adamd_cpu_variants()[0]) == 0) {
            bench->loop = bare_loops[i];
        }
    }
    bench->param = alloc_filled(bench, 1e-3F);
    bench->exp_avg = alloc_filled(bench, 1e-5F);
    bench->exp_avg_sq = alloc_filled(bench, 1e-7F);
    bench->grad = alloc_filled(bench, 1e-4F);
}

static double time_step(struct bench *bench, const struct adamd_run *runs, uint32_t run_count) {
    const uint32_t indices[] = {0};
    const struct adamd_source source = {.gradient = bench->grad};
    double square_sum = 0.0;
    const struct adamd_op op = {.kind = ADAMD_OP_STEP,
                                .step = {.param = bench->param,
                                         .exp_avg = bench->exp_avg,
                                         .exp_avg_sq = bench->exp_avg_sq,
                                         .arena_bytes = bench->count * sizeof(float),
                                         .rules = &bench->rule,
                                         .rule_count = 1,
                                         .sources = &source,
                                         .source_count = 1,
                                         .source_indices = indices,
                                         .source_index_count = 1,
                                         .runs = runs,
                                         .run_count = run_count,
                                         .ret_square_sum = &square_sum}};
    const uint64_t begin_ns = bench_now_ns();
    run(bench, &op);
    return (double)(bench_now_ns() - begin_ns);
}

// -------------------------------------------------------------------------------------- bare loops

struct part {
    pthread_t thread;
    void (*loop)(struct adamd_rule_f32 rule, struct bare_arrays arrays, size_t begin, size_t end);
    struct adamd_rule_f32 rule;
    struct bare_arrays arrays;
    size_t begin, end;
    pthread_barrier_t *start;
    uint64_t begin_ns, end_ns;
};

static void *run_part(void *arg) {
    struct part *part = arg;

    (void)pthread_barrier_wait(part->start);
    part->begin_ns = bench_now_ns();
    part->loop(part->rule, part->arrays, part->begin, part->end);
    part->end_ns = bench_now_ns();
    return NULL;
}

// From the first thread's first element to the last thread's last: making threads is not counted.
static double time_loop(const struct bench *bench,
                        void (*loop)(struct adamd_rule_f32, struct bare_arrays, size_t, size_t)) {
    struct part parts[THREADS_MAX];
    pthread_barrier_t start;
    const unsigned threads = bench->threads < THREADS_MAX ? bench->threads : THREADS_MAX;
    uint64_t begin_ns = UINT64_MAX;
    uint64_t end_ns = 0;

    (void)pthread_barrier_init(&start, NULL, threads);
    for (unsigned i = 0; i < threads; i++) {
        parts[i] = (struct part){
            .loop = loop,
            .rule = adamd_rule_to_f32(&bench->rule, ADAMD_FLOAT32),
            .arrays = {adamd_buffer_host(bench->grad), adamd_buffer_host(bench->param),
                       adamd_buffer_host(bench->exp_avg), adamd_buffer_host(bench->exp_avg_sq)},
            .begin = bench->count / threads * i / 16 * 16,
            .end = i + 1 == threads ? bench->count : bench->count / threads * (i + 1) / 16 * 16,
            .start = &start,
        };
        if (pthread_create(&parts[i].thread, NULL, run_part, &parts[i]) != 0) {
            bench_fail("pthread_create");
        }
    }
    for (unsigned i = 0; i < threads; i++) {
        (void)pthread_join(parts[i].thread, NULL);
        begin_ns = parts[i].begin_ns < begin_ns ? parts[i].begin_ns : begin_ns;
        end_ns = parts[i].end_ns > end_ns ? parts[i].end_ns : end_ns;
    }
    (void)pthread_barrier_destroy(&start);
    return (double)(end_ns - begin_ns);
}

// ----------------------------------------------------------------------------------------- reports

static const char *verdict(bool holds) {
    return holds ? "holds" : "MISSED";
}

static void compare_with_loop(unsigned threads, uint64_t count, size_t rounds) {
    struct bench bench;
    double step[ROUNDS_MAX];
    double bare[ROUNDS_MAX];
    double stream[ROUNDS_MAX];

    open_bench(&bench, threads, count);
    const struct adamd_run run = {.count = count, .sources_count = 1};
    (void)time_step(&bench, &run, 1);
    (void)time_loop(&bench, bench.loop->step);
    for (size_t r = 0; r < rounds; r++) {
        step[r] = time_step(&bench, &run, 1) / (double)count;
        bare[r] = time_loop(&bench, bench.loop->step) / (double)count;
        stream[r] = time_loop(&bench, bench.loop->stream) / (double)count;
    }
    const double step_ns = bench_median(step, rounds);
    const double bare_ns = bench_median(bare, rounds);
    printf("%s %u threads, %.0f M float32: step %.3f ns an element, bare loop %.3f, memory alone "
           "%.3f; %.3f of the loop's rate",
           adamd_backend_name(bench.backend), bench.threads, (double)count / 1e6, step_ns, bare_ns,
           bench_median(stream, rounds), bare_ns / step_ns);
    if (count >= RATE_BAR_COUNT) {
        printf(" (bar %.2f: %s)", rate_bar, verdict(bare_ns / step_ns >= rate_bar));
    }
    printf("\n");
    (void)fflush(stdout);
    adamd_backend_destroy(bench.backend);
}

static void compare_small_tensors(unsigned threads, size_t rounds) {
    const uint64_t padded = (SMALL_COUNT + UINT64_C(15)) / 16 * 16;
    static struct adamd_run small[SMALL_RUNS];
    const struct adamd_run large = {.count = LARGE_COUNT, .sources_count = 1};
    struct bench bench;
    double many[ROUNDS_MAX];
    double one[ROUNDS_MAX];

    open_bench(&bench, threads, padded * SMALL_RUNS);
    for (uint64_t i = 0; i < SMALL_RUNS; i++) {
        small[i] = (struct adamd_run){
            .offset = i * padded * sizeof(float), .count = SMALL_COUNT, .sources_count = 1};
    }
    (void)time_step(&bench, &large, 1);
    for (size_t r = 0; r < rounds; r++) {
        many[r] = time_step(&bench, small, SMALL_RUNS) / 1e6;
        one[r] = time_step(&bench, &large, 1) / 1e6;
    }
    const double many_ms = bench_median(many, rounds);
    const double one_ms = bench_median(one, rounds);
    printf("%s %u threads: %d tensors of %d %.2f ms, one of %d M %.2f ms, ratio %.3f (bar %.2f: "
           "%s)\n",
           adamd_backend_name(bench.backend), bench.threads, SMALL_RUNS, SMALL_COUNT, many_ms,
           LARGE_COUNT / 1000000, one_ms, many_ms / one_ms, small_bar,
           verdict(many_ms / one_ms <= small_bar));
    adamd_backend_destroy(bench.backend);
}

int main(int argc, char **argv) {
    const uint64_t elements = argc > 1 ? strtoull(argv[1], NULL, 10) / 16 * 16 : 100000000;
    const size_t asked = argc > 2 ? strtoull(argv[2], NULL, 10) : 11;
    const size_t rounds = asked < 1 ? 1 : asked > ROUNDS_MAX ? ROUNDS_MAX : asked;

    if (elements < 160) {
        bench_fail("usage: bench_step [ELEMENTS [ROUNDS]]");
    }
    bench_print_machine();
    printf(
        "# medians of %zu interleaved rounds; the bare loop reads g, p, m, v and writes p, m, v\n",
        rounds);
    compare_with_loop(0, elements, rounds);
    compare_with_loop(1, elements, rounds);
    compare_with_loop(0, elements / 10 / 16 * 16, rounds);
    compare_with_loop(1, elements / 10 / 16 * 16, rounds);
    compare_small_tensors(0, rounds);
    compare_small_tensors(1, rounds);
    return EXIT_SUCCESS;
}
