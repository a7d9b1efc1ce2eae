// The step alone, through the backend and nothing else, in a process of its own: for each line on
// stdin it steps once and prints the nanoseconds. core and libadamd-client are not linked together.
//
//     bare_step COUNT SOURCES
#define _GNU_SOURCE
#include "adamd/backend.h"

#include "bench_support.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { SOURCES_MAX = 16 };

struct bench {
    struct adamd_backend *backend;
    int wake;
    uint64_t submitted;
    struct adamd_buffer *arrays[3];
    struct adamd_source sources[SOURCES_MAX];
    uint32_t indices[SOURCES_MAX];
    struct adamd_rule rule;
    struct adamd_run run;
    struct adamd_op op;
    double square_sum;
};

static void on_notify(void *arg) {
    const struct bench *bench = arg;
    const uint64_t one = 1;

    if (write(bench->wake, &one, sizeof one) < 0) {
        bench_fail("eventfd");
    }
}

static void finish_all(const struct bench *bench) {
    for (;;) {
        struct pollfd wait = {.fd = bench->wake, .events = POLLIN};
        uint64_t done = 0;

        if (adamd_backend_completed(bench->backend, &done) != ADAMD_OK) {
            bench_fail("the backend is lost");
        }
        if (done == bench->submitted) {
            return;
        }
        poll(&wait, 1, 1000);
        if (wait.revents != 0 && read(bench->wake, &done, sizeof done) < 0) {
            bench_fail("eventfd");
        }
    }
}

static void submit(struct bench *bench, const struct adamd_op *op) {
    if (adamd_backend_submit(bench->backend, op) != ADAMD_OK) {
        bench_fail("submit");
    }
    bench->submitted++;
}

static struct adamd_buffer *make_zeros(struct bench *bench, enum adamd_memory memory,
                                       size_t bytes) {
    struct adamd_op op = {.kind = ADAMD_OP_FILL};

    if (adamd_backend_alloc(bench->backend, memory, bytes, &op.fill.to) != ADAMD_OK) {
        bench_fail("memory");
    }
    op.fill.bytes = bytes;
    submit(bench, &op);
    return op.fill.to;
}

static void prepare(struct bench *bench, uint64_t count, uint32_t sources) {
    const struct adamd_options options = adamd_options_default;

    for (size_t i = 0; i < 3; i++) {
        bench->arrays[i] = make_zeros(bench, ADAMD_DEVICE, count * sizeof(float));
    }
    for (uint32_t i = 0; i < sources; i++) {
        bench->sources[i].gradient = make_zeros(bench, ADAMD_STAGING, count * sizeof(float));
        bench->sources[i].weight = 1.0;
        bench->indices[i] = i;
    }
    finish_all(bench);
    for (uint32_t i = 0; i < sources; i++) {
        float *gradient = adamd_buffer_host(bench->sources[i].gradient);

        for (uint64_t k = 0; k < count; k++) {
            gradient[k] = 0.001F * (float)(k % 1000) - 0.5F;
        }
    }
    bench->rule = adamd_rule_of(&options, 1);
    bench->run = (struct adamd_run){.count = count, .sources_count = sources};
    bench->op.kind = ADAMD_OP_STEP;
    bench->op.step = (struct adamd_step){
        .param = bench->arrays[0],
        .exp_avg = bench->arrays[1],
        .exp_avg_sq = bench->arrays[2],
        .arena_bytes = count * sizeof(float),
        .rules = &bench->rule,
        .rule_count = 1,
        .sources = bench->sources,
        .source_count = sources,
        .source_indices = bench->indices,
        .source_index_count = sources,
        .weight_sum = (double)sources,
        .runs = &bench->run,
        .run_count = 1,
        .ret_square_sum = &bench->square_sum,
    };
}

int main(int argc, char **argv) {
    struct bench bench = {.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    char line[16];

    if (argc != 3 || bench.wake < 0) {
        bench_fail("usage: bare_step COUNT SOURCES");
    }
    const uint64_t count = (strtoull(argv[1], NULL, 10) + 15) / 16 * 16;
    const unsigned long sources = strtoul(argv[2], NULL, 10);

    if (count == 0 || sources == 0 || sources > SOURCES_MAX) {
        bench_fail("COUNT is at least 1, SOURCES 1 to 16");
    }
    bench.backend = adamd_cpu_backend_create(NULL, 0, on_notify, &bench);
    if (bench.backend == NULL) {
        bench_fail("no backend");
    }
    prepare(&bench, count, (uint32_t)sources);
    while (fgets(line, sizeof line, stdin) != NULL) {
        const uint64_t begin = bench_now_ns();

        submit(&bench, &bench.op);
        finish_all(&bench);
        printf("%llu\n", (unsigned long long)(bench_now_ns() - begin));
        fflush(stdout);
    }
    adamd_backend_destroy(bench.backend);
    close(bench.wake);
    return 0;
}
