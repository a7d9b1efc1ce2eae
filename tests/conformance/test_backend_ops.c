// Goal: memory and the simple operations keep the contract of backend.h on every backend: order,
// counting, the limit of what may be in flight, and who frees what.
#include "scene.h"

#include "backend_deferred.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct bench bench;

static struct adamd_op copy_op(struct adamd_buffer *to, uint64_t to_offset,
                               struct adamd_buffer *from, uint64_t from_offset, uint64_t bytes) {
    return (struct adamd_op){.kind = ADAMD_OP_COPY,
                             .copy = {.to = to,
                                      .from = from,
                                      .to_offset = to_offset,
                                      .from_offset = from_offset,
                                      .bytes = bytes}};
}

static struct adamd_op fill_op(struct adamd_buffer *to, uint64_t offset, uint64_t bytes) {
    return (struct adamd_op){.kind = ADAMD_OP_FILL,
                             .fill = {.to = to, .offset = offset, .bytes = bytes}};
}

static struct adamd_op accumulate_op(struct adamd_buffer *to, struct adamd_buffer *from,
                                     uint64_t offset, uint64_t count, enum adamd_dtype dtype) {
    return (struct adamd_op){.kind = ADAMD_OP_ACCUMULATE,
                             .accumulate = {to, from, offset, count, dtype}};
}

START_TEST(copies_move_the_range_and_nothing_else)
{
    static const struct {
        uint64_t to, from, bytes;
    } rows[] = {{0, 0, 0},        {0, 0, 1},       {3, 7, 100},     {0, 0, 262144}, {1, 0, 262145},
                {17, 23, 700001}, {1048576, 5, 0}, {5, 1048576, 0}, {1048575, 0, 1}};
    enum { BYTES = 1048576 };
    unsigned char *source = malloc(BYTES);
    unsigned char *expected = malloc(BYTES);
    unsigned char *got = malloc(BYTES);

    bench_open(&bench, _i);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        struct adamd_buffer *from = bench_alloc(&bench, ADAMD_DEVICE, BYTES);
        struct adamd_buffer *to = bench_alloc(&bench, ADAMD_DEVICE, BYTES);
        for (size_t i = 0; i < BYTES; i++) {
            source[i] = (unsigned char)(i * 31 + i / 251);
            expected[i] = (unsigned char)(i * 7);
        }
        bench_write(&bench, from, source, BYTES);
        bench_write(&bench, to, expected, BYTES);
        const struct adamd_op op = copy_op(to, rows[r].to, from, rows[r].from, rows[r].bytes);
        bench_submit(&bench, &op);
        bench_wait(&bench);
        memcpy(expected + rows[r].to, source + rows[r].from, rows[r].bytes);
        bench_read(&bench, to, got, BYTES);
        ck_assert_int_eq(memcmp(got, expected, BYTES), 0);
        adamd_backend_free(bench.backend, from);
        adamd_backend_free(bench.backend, to);
    }
    bench_close(&bench);
    free(source);
    free(expected);
    free(got);
}
END_TEST

START_TEST(fills_zero_the_range_and_nothing_else)
{
    static const uint64_t rows[][2] = {{0, 0}, {0, 1}, {5, 600001}, {262144, 262144}, {699999, 1}};
    enum { BYTES = 700000 };
    unsigned char *expected = malloc(BYTES);
    unsigned char *got = malloc(BYTES);

    bench_open(&bench, _i);
    struct adamd_buffer *to = bench_alloc(&bench, ADAMD_DEVICE, BYTES);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        memset(expected, 0xA5, BYTES);
        bench_write(&bench, to, expected, BYTES);
        const struct adamd_op op = fill_op(to, rows[r][0], rows[r][1]);
        bench_submit(&bench, &op);
        bench_wait(&bench);
        memset(expected + rows[r][0], 0, rows[r][1]);
        bench_read(&bench, to, got, BYTES);
        ck_assert_int_eq(memcmp(got, expected, BYTES), 0);
    }
    bench_close(&bench);
    free(expected);
    free(got);
}
END_TEST

// Ordinary numbers, with what is special among them.
static double value_at(uint64_t i) {
    switch (i % 97) {
    case 3:
        return NAN;
    case 5:
        return INFINITY;
    case 7:
        return -0.0;
    case 11:
        return 3e-6; // subnormal in float16
    case 13:
        return -60000.0;
    default:
        return (double)(i % 1013) * 1.7e-3 - 0.8;
    }
}

enum range_kind { ACCUMULATE, SCALE, DIVIDE, CLAMP, BLEND_FIRST, BLEND_SECOND, RANGE_KINDS };

static struct adamd_op range_op(enum range_kind kind, struct adamd_buffer *to,
                                struct adamd_buffer *from, uint64_t offset, uint64_t count,
                                enum adamd_dtype dtype) {
    switch (kind) {
    case SCALE:
        return (struct adamd_op){.kind = ADAMD_OP_SCALE,
                                 .scale = {to, offset, count, dtype, 1.0 / 3.0, false}};
    case DIVIDE:
        return (struct adamd_op){.kind = ADAMD_OP_SCALE,
                                 .scale = {to, offset, count, dtype, 7.3, true}};
    case CLAMP:
        return (struct adamd_op){.kind = ADAMD_OP_CLAMP, .clamp = {to, offset, count, dtype, 0.3}};
    case BLEND_FIRST: // torch.lerp has two branches
    case BLEND_SECOND:
        return (struct adamd_op){
            .kind = ADAMD_OP_BLEND,
            .blend = {to, from, offset, count, dtype, kind == BLEND_FIRST ? 0.001 : 0.7}};
    default:
        return accumulate_op(to, from, offset, count, dtype);
    }
}

static double narrow(enum adamd_dtype dtype, double x) {
    return dtype == ADAMD_FLOAT64 ? x : (double)(float)x;
}

static double expect_fma(enum adamd_dtype dtype, double a, double b, double c) {
    return dtype == ADAMD_FLOAT64 ? fma(a, b, c) : (double)fmaf((float)a, (float)b, (float)c);
}

static double expect_range(enum range_kind kind, enum adamd_dtype dtype, double to, double from) {
    const double limit = value_round(dtype, 0.3);

    switch (kind) {
    case SCALE:
        return narrow(dtype, to * narrow(dtype, 1.0 / 3.0));
    case DIVIDE:
        return narrow(dtype, to / narrow(dtype, 7.3));
    case BLEND_FIRST:
        return expect_fma(dtype, narrow(dtype, 0.001), narrow(dtype, from - to), to);
    case BLEND_SECOND:
        return expect_fma(dtype, -narrow(dtype, from - to), narrow(dtype, 1.0 - narrow(dtype, 0.7)),
                          from);
    case CLAMP:
        return isnan(to) ? to : fmax(fmin(to, limit), -limit);
    default:
        return narrow(dtype, to + from);
    }
}

static bool same(double a, double b) {
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static void check_range(enum range_kind kind, enum adamd_dtype dtype, uint64_t line,
                        uint64_t count) {
    const size_t size = adamd_dtype_size(dtype);
    const uint64_t offset = line * SCENE_LINE;
    const uint64_t first = offset / size;
    const uint64_t total = first + count + 5;
    unsigned char *to_host = calloc(total, size);
    unsigned char *from_host = calloc(total, size);
    unsigned char *got = calloc(total, size);
    struct adamd_buffer *to = bench_alloc(&bench, ADAMD_DEVICE, total * size);
    struct adamd_buffer *from = bench_alloc(&bench, ADAMD_STAGING, total * size);

    for (uint64_t i = 0; i < total; i++) {
        value_set(to_host, dtype, i, value_at(i * 5 + 1));
        value_set(from_host, dtype, i, value_at(i));
    }
    bench_write(&bench, to, to_host, total * size);
    bench_write(&bench, from, from_host, total * size);
    const struct adamd_op op = range_op(kind, to, from, offset, count, dtype);
    bench_submit(&bench, &op);
    bench_wait(&bench);
    bench_read(&bench, to, got, total * size);
    for (uint64_t i = 0; i < total; i++) {
        const bool inside = i >= first && i < first + count;
        const double before = value_get(to_host, dtype, i);
        const double expected =
            inside ? value_round(dtype,
                                 expect_range(kind, dtype, before, value_get(from_host, dtype, i)))
                   : before;
        if (!same(value_get(got, dtype, i), expected)) {
            ck_abort_msg("operation %d on %s: [%llu] is %a, expected %a", kind,
                         adamd_dtype_name(dtype), (unsigned long long)i, value_get(got, dtype, i),
                         expected);
        }
    }
    adamd_backend_free(bench.backend, to);
    adamd_backend_free(bench.backend, from);
    free(to_host);
    free(from_host);
    free(got);
}

static void check_ranges(enum range_kind kind, enum adamd_dtype dtype) {
    static const uint64_t rows[][2] = {{0, 0}, {0, 1}, {1, 67}, {3, 4099}, {0, 131075}};

    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        check_range(kind, dtype, rows[r][0], rows[r][1]);
    }
}

START_TEST(operations_on_a_range_give_the_formulas_bits_and_touch_nothing_else)
{
    bench_open(&bench, _i);
    for (int kind = 0; kind < RANGE_KINDS; kind++) {
        for (unsigned dtype = 0; dtype < ADAMD_REAL_COUNT; dtype++) {
            check_ranges((enum range_kind)kind, dtype);
        }
    }
    bench_close(&bench);
}
END_TEST

// Each operation needs what the one before it left: any other order gives another number.
START_TEST(operations_run_in_the_order_of_submission)
{
    enum { COUNT = 300000, ROUNDS = 60 };
    const float one = 1.0F;
    float *got = calloc(COUNT, sizeof(float));

    bench_open(&bench, _i);
    struct adamd_buffer *a = bench_alloc(&bench, ADAMD_STAGING, COUNT * sizeof(float));
    struct adamd_buffer *b = bench_alloc(&bench, ADAMD_DEVICE, COUNT * sizeof(float));
    for (size_t i = 0; i < COUNT; i++) {
        memcpy((float *)adamd_buffer_host(a) + i, &one, sizeof one);
    }
    const struct adamd_op zero = fill_op(b, 0, COUNT * sizeof(float));
    const struct adamd_op add = accumulate_op(b, a, 0, COUNT, ADAMD_FLOAT32);
    const struct adamd_op back = copy_op(a, 0, b, 0, COUNT * sizeof(float));
    bench_submit(&bench, &zero);
    bench_submit(&bench, &add); // b = 1
    for (int i = 0; i < ROUNDS; i++) {
        bench_submit(&bench, &add); // b = b + a
        if (i % 4 == 3) {
            bench_submit(&bench, &back); // a = b
            bench_submit(&bench, &zero);
            bench_submit(&bench, &add); // b = a
        }
    }
    bench_wait(&bench);
    bench_read(&bench, b, got, COUNT * sizeof(float));
    float expected_a = 1.0F;
    float expected_b = 1.0F;
    for (int i = 0; i < ROUNDS; i++) {
        expected_b += expected_a;
        expected_a = i % 4 == 3 ? expected_b : expected_a;
    }
    for (size_t i = 0; i < COUNT; i++) {
        if (got[i] != expected_b) {
            ck_abort_msg("[%zu] is %a, expected %a", i, (double)got[i], (double)expected_b);
        }
    }
    ck_assert_uint_ge(atomic_load(&bench.notified), 1);
    bench_close(&bench);
    free(got);
}
END_TEST

START_TEST(one_operation_past_the_limit_is_busy_and_harms_nothing)
{
    enum { BYTES = 8 << 20, TRIES = 100000 };
    enum adamd_status status = ADAMD_OK;
    uint64_t taken = 0;

    bench_open(&bench, _i);
    struct adamd_buffer *buffer = bench_alloc(&bench, ADAMD_DEVICE, BYTES);
    const struct adamd_op op = fill_op(buffer, 0, BYTES);
    bench_submit(&bench, &op);
    bench_wait(&bench);
    while (status == ADAMD_OK && taken < TRIES) {
        status = adamd_backend_submit(bench.backend, &op);
        taken += status == ADAMD_OK;
    }
    ck_assert_int_eq(status, ADAMD_BUSY);
    ck_assert_uint_ge(taken, ADAMD_OPS_IN_FLIGHT_MAX);
    if (bench.deferred) {
        ck_assert_uint_eq(taken, ADAMD_OPS_IN_FLIGHT_MAX);
    }
    bench.submitted += taken;
    bench_wait(&bench);
    bench_submit(&bench, &op);
    bench_wait(&bench);
    bench_close(&bench);
}
END_TEST

START_TEST(each_completion_is_followed_by_a_notification)
{
    bench_open(&bench, _i);
    struct adamd_buffer *buffer = bench_alloc(&bench, ADAMD_DEVICE, 64);
    const struct adamd_op op = fill_op(buffer, 0, 64);
    for (unsigned i = 0; i < 200; i++) {
        const unsigned before = atomic_load(&bench.notified);
        bench_submit(&bench, &op);
        bench_wait(&bench);
        while (atomic_load(&bench.notified) == before) { // counted first, then told
        }
    }
    bench_close(&bench);
}
END_TEST

START_TEST(buffers_are_aligned_and_accounted_for)
{
    static const size_t sizes[] = {1, 255, 4096, 4097, (2u << 20) - 1, 2u << 20, (5u << 20) + 3};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    struct adamd_buffer *buffers[COUNT];
    size_t bytes = 0;

    bench_open(&bench, _i);
    ck_assert_uint_eq(adamd_backend_resident(bench.backend), 0);
    for (size_t i = 0; i < COUNT; i++) {
        buffers[i] = bench_alloc(&bench, ADAMD_STAGING, sizes[i]);
        ck_assert_uint_ge(adamd_buffer_bytes(buffers[i]), sizes[i]);
        ck_assert_uint_eq((uintptr_t)adamd_buffer_host(buffers[i]) % 256, 0);
        memset(adamd_buffer_host(buffers[i]), 0x5A, sizes[i]); // while it is being populated
        bytes += adamd_buffer_bytes(buffers[i]);
        ck_assert_uint_eq(adamd_backend_resident(bench.backend), bytes);
    }
    for (size_t i = 0; i < COUNT; i++) {
        const unsigned char *host = adamd_buffer_host(buffers[i]);
        ck_assert_uint_eq(host[0], 0x5A);
        ck_assert_uint_eq(host[sizes[i] - 1], 0x5A);
        adamd_backend_free(bench.backend, buffers[i]);
    }
    ck_assert_uint_eq(adamd_backend_resident(bench.backend), 0);
    adamd_backend_free(bench.backend, NULL);
    bench_close(&bench);
}
END_TEST

START_TEST(what_was_not_freed_is_freed_at_the_end)
{
    bench_open(&bench, _i);
    for (int i = 0; i < 20; i++) {
        (void)bench_alloc(&bench, i % 2 == 0 ? ADAMD_DEVICE : ADAMD_STAGING, 3u << 20);
    }
    bench_close(&bench); // the leak checker of the asan build looks
    adamd_backend_destroy(NULL);
}
END_TEST

START_TEST(destroy_waits_for_what_is_in_flight)
{
    double square_sum = -1.0;
    const struct adamd_rule rule = adamd_rule_of(&adamd_options_default, 1);
    const uint32_t indices[] = {0};
    const struct adamd_run run = {.count = 100000, .sources_count = 1};

    bench_open(&bench, _i);
    struct adamd_buffer *arrays[4];
    for (int i = 0; i < 4; i++) {
        arrays[i] = bench_alloc(&bench, ADAMD_STAGING, 100000 * sizeof(float));
        memset(adamd_buffer_host(arrays[i]), 0, 100000 * sizeof(float));
    }
    const struct adamd_source source = {.gradient = arrays[3]};
    const struct adamd_op op = {.kind = ADAMD_OP_STEP,
                                .step = {.param = arrays[0],
                                         .exp_avg = arrays[1],
                                         .exp_avg_sq = arrays[2],
                                         .arena_bytes = 100000 * sizeof(float),
                                         .rules = &rule,
                                         .rule_count = 1,
                                         .sources = &source,
                                         .source_count = 1,
                                         .source_indices = indices,
                                         .source_index_count = 1,
                                         .weight_sum = 1.0,
                                         .runs = &run,
                                         .run_count = 1,
                                         .ret_square_sum = &square_sum}};
    bench_submit(&bench, &op);
    bench_close(&bench);
    ck_assert_double_eq(square_sum, 0.0);
}
END_TEST

START_TEST(too_much_memory_is_an_answer)
{
    struct adamd_buffer *buffer = NULL;

    if (_i == 0) {
        return; // the deferred backend asks malloc, which a sanitizer stops
    }
    bench_open(&bench, _i);
    ck_assert_int_eq(adamd_backend_alloc(bench.backend, ADAMD_DEVICE, SIZE_MAX, &buffer),
                     ADAMD_NO_MEMORY);
    ck_assert_int_eq(adamd_backend_alloc(bench.backend, ADAMD_DEVICE, (size_t)1 << 60, &buffer),
                     ADAMD_NO_MEMORY);
    ck_assert_ptr_null(buffer);
    ck_assert_uint_eq(adamd_backend_resident(bench.backend), 0);
    bench_close(&bench);
}
END_TEST

START_TEST(an_unknown_variant_is_no_backend)
{
    struct adamd_backend *fastest = adamd_cpu_backend_create(NULL, 0, NULL, NULL);

    ck_assert_ptr_null(adamd_cpu_backend_create("sse9", 1, NULL, NULL));
    ck_assert_ptr_nonnull(fastest);
    ck_assert_str_eq(adamd_backend_name(fastest) + 4, adamd_cpu_variants()[0]);
    ck_assert_uint_ge(adamd_backend_threads(fastest), 1);
    adamd_backend_destroy(fastest);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("backend operations");
    TCase *tests = tcase_create("every backend");
    TCase *once = tcase_create("once");
    const int subjects = subject_count();

    subject_print_all();
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, copies_move_the_range_and_nothing_else, 0, subjects);
    tcase_add_loop_test(tests, fills_zero_the_range_and_nothing_else, 0, subjects);
    tcase_add_loop_test(tests, operations_on_a_range_give_the_formulas_bits_and_touch_nothing_else,
                        0, subjects);
    tcase_add_loop_test(tests, operations_run_in_the_order_of_submission, 0, subjects);
    tcase_add_loop_test(tests, one_operation_past_the_limit_is_busy_and_harms_nothing, 0, subjects);
    tcase_add_loop_test(tests, each_completion_is_followed_by_a_notification, 0, subjects);
    tcase_add_loop_test(tests, buffers_are_aligned_and_accounted_for, 0, subjects);
    tcase_add_loop_test(tests, what_was_not_freed_is_freed_at_the_end, 0, subjects);
    tcase_add_loop_test(tests, destroy_waits_for_what_is_in_flight, 0, subjects);
    tcase_add_loop_test(tests, too_much_memory_is_an_answer, 0, subjects);
    tcase_add_test(once, an_unknown_variant_is_no_backend);
    suite_add_tcase(suite, tests);
    suite_add_tcase(suite, once);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
