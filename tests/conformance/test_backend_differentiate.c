// Goal: a step is differentiated with the same bits on every backend: of every dtype, for each kind
// of step, for runs around a vector's, a chunk's, a block's and a unit's length, and with their
// sums in the promised order. What an element comes to is the formulas' own test's business.
#include "scene.h"

#include "adamd/differentiate.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ARRAYS = 5, RUNS_MAX = 640, RULES = 12 };

// Arrays in the order of struct adamd_vjp_element: what a step read, then cotangents.
struct trial {
    uint64_t arena_bytes;
    struct adamd_run runs[RUNS_MAX];
    uint32_t run_count;
    struct adamd_vjp_rule rules[RULES];
    unsigned char *at[ARRAYS], *bars[ARRAYS];
};

static uint32_t next_random(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void set_rules(struct trial *trial) {
    for (uint32_t i = 0; i < RULES; i++) {
        const struct adamd_options options = {
            .lr = 0.01 * (i + 1),
            .betas = {0.9, 0.99},
            .eps = i % 5 == 4 ? 0.0 : 1e-3,
            .weight_decay = i % 3 == 0 ? 0.0 : 0.1,
            .decoupled_weight_decay = i % 3 == 1,
            .amsgrad = i / 3 % 2 == 1,
            .maximize = i / 6 % 2 == 1,
        };
        trial->rules[i] = adamd_vjp_rule_of(&options, (uint64_t)i * 3 + 1);
    }
}

static void add_run(struct trial *trial, enum adamd_dtype dtype, uint64_t count, uint32_t rule) {
    ck_assert_uint_lt(trial->run_count, RUNS_MAX);
    trial->runs[trial->run_count++] = (struct adamd_run){
        .offset = trial->arena_bytes, .count = count, .dtype = dtype, .rule = rule % RULES};
    trial->arena_bytes += (count * adamd_dtype_size(dtype) + 63) / 64 * 64;
}

static double draw(uint32_t *state, int array, bool edges) {
    const uint32_t random = next_random(state);
    const double unit = (double)next_random(state) / 4294967296.0;
    const double value = pow(10.0, unit * 4.0 - 3.0);
    const bool positive = array >= 3; // squares and their maximum

    if (edges && random % 8 == 3) {
        return random & 64 ? 0.0 : random & 128 ? INFINITY : NAN;
    }
    return random & 1 && !positive ? -value : value;
}

static void fill_array(const struct trial *trial, unsigned char *array, int which, bool edges,
                       uint32_t *state) {
    memset(array, 0xa5, trial->arena_bytes + 64); // padding, which nobody may touch
    for (uint32_t r = 0; r < trial->run_count; r++) {
        const struct adamd_run *run = &trial->runs[r];
        for (uint64_t i = 0; i < run->count; i++) {
            value_set(array + run->offset, run->dtype, i, draw(state, which, edges));
        }
    }
}

static void trial_fill(struct trial *trial, bool edges, uint32_t seed) {
    uint32_t state = seed * 2654435761U + 1U;

    set_rules(trial);
    for (int a = 0; a < ARRAYS; a++) {
        trial->at[a] = malloc(trial->arena_bytes + 64);
        trial->bars[a] = malloc(trial->arena_bytes + 64);
        ck_assert(trial->at[a] != NULL && trial->bars[a] != NULL);
        fill_array(trial, trial->at[a], a, edges, &state);
        fill_array(trial, trial->bars[a], 0, edges, &state);
    }
}

static void trial_finish(struct trial *trial) {
    for (int a = 0; a < ARRAYS; a++) {
        free(trial->at[a]);
        free(trial->bars[a]);
    }
}

// ------------------------------------------------------------------------------------------ oracle

static struct adamd_vjp_element get_element(unsigned char *const arrays[ARRAYS],
                                            const struct adamd_run *run, uint64_t i) {
    double values[ARRAYS];

    for (int a = 0; a < ARRAYS; a++) {
        values[a] = value_get(arrays[a] + run->offset, run->dtype, i);
    }
    return (struct adamd_vjp_element){values[0], values[1], values[2], values[3], values[4]};
}

static void set_element(unsigned char *const arrays[ARRAYS], const struct adamd_run *run,
                        uint64_t i, int count, struct adamd_vjp_element element) {
    const double values[ARRAYS] = {element.param, element.grad, element.exp_avg, element.exp_avg_sq,
                                   element.max_exp_avg_sq};

    for (int a = 0; a < count; a++) {
        value_set(arrays[a] + run->offset, run->dtype, i, value_round_once(run->dtype, values[a]));
    }
}

// Blocks of 4096 from the run's start, element i in lane i mod 16, lanes folded in halves.
static void expect_run(const struct trial *trial, const struct adamd_run *run,
                       struct adamd_vjp_sums *to) {
    const struct adamd_vjp_rule *rule = &trial->rules[run->rule];
    struct adamd_vjp_sums sums = {{0}};

    for (uint64_t begin = 0; begin < run->count; begin += 4096) {
        double lane[ADAMD_VJP_SUM_COUNT][16] = {{0}};
        for (uint64_t i = begin; i < run->count && i < begin + 4096; i++) {
            const struct adamd_vjp_element read = get_element(trial->at, run, i);
            struct adamd_vjp_element bar = get_element(trial->bars, run, i);
            struct adamd_vjp_sums terms;
            adamd_vjp(adamd_vjp_kind_of(rule), rule, &read, &bar, &terms);
            set_element(trial->bars, run, i, rule->amsgrad ? 5 : 4, bar);
            for (int s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
                lane[s][i % 16] += terms.sums[s];
            }
        }
        for (int s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
            double *l = lane[s];
            for (int k = 0; k < 8; k++) {
                l[k] += l[k + 8];
            }
            for (int k = 0; k < 4; k++) {
                l[k] += l[k + 4];
            }
            sums.sums[s] += (l[0] + l[2]) + (l[1] + l[3]);
        }
    }
    for (int s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
        to->sums[s] += sums.sums[s];
    }
}

// ----------------------------------------------------------------------------------------- running

static struct adamd_buffer *load(struct bench *bench, const struct trial *trial,
                                 const unsigned char *array) {
    struct adamd_buffer *buffer = bench_alloc(bench, ADAMD_DEVICE, trial->arena_bytes + 64);

    bench_write(bench, buffer, array, trial->arena_bytes + 64);
    return buffer;
}

static struct adamd_vjp_arrays load_all(struct bench *bench, const struct trial *trial,
                                        unsigned char *const arrays[ARRAYS]) {
    return (struct adamd_vjp_arrays){
        .param = load(bench, trial, arrays[0]),
        .grad = load(bench, trial, arrays[1]),
        .exp_avg = load(bench, trial, arrays[2]),
        .exp_avg_sq = load(bench, trial, arrays[3]),
        .max_exp_avg_sq = load(bench, trial, arrays[4]),
    };
}

static bool same(double a, double b) {
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

// Each value's bits (any NaN is NaN), and every byte beside the runs.
static void compare(const struct trial *trial, const unsigned char *expected, unsigned char *got,
                    int array) {
    for (uint32_t r = 0; r < trial->run_count; r++) {
        const struct adamd_run *run = &trial->runs[r];
        const size_t size = adamd_dtype_size(run->dtype);
        for (uint64_t i = 0; i < run->count; i++) {
            const double a = value_get(expected + run->offset, run->dtype, i);
            const double b = value_get(got + run->offset, run->dtype, i);
            if (!same(a, b)) { // an assertion is a system call
                ck_abort_msg("array %d, run %u of %llu %s, element %llu: %a, wanted %a", array, r,
                             (unsigned long long)run->count, adamd_dtype_name(run->dtype),
                             (unsigned long long)i, b, a);
            }
        }
        memcpy(got + run->offset, expected + run->offset, (size_t)run->count * size);
    }
    ck_assert_int_eq(memcmp(got, expected, trial->arena_bytes + 64), 0);
}

static void unload_and_compare(struct bench *bench, const struct trial *trial,
                               const struct adamd_vjp_arrays *arrays,
                               unsigned char *const expected[ARRAYS]) {
    struct adamd_buffer *const buffers[ARRAYS] = {arrays->param, arrays->grad, arrays->exp_avg,
                                                  arrays->exp_avg_sq, arrays->max_exp_avg_sq};
    unsigned char *got = malloc(trial->arena_bytes + 64);

    ck_assert_ptr_nonnull(got);
    for (int a = 0; a < ARRAYS; a++) {
        bench_read(bench, buffers[a], got, trial->arena_bytes + 64);
        compare(trial, expected[a], got, a);
        adamd_backend_free(bench->backend, buffers[a]);
    }
    free(got);
}

static void trial_check(struct trial *trial, struct bench *bench) {
    struct adamd_vjp_sums got[RULES];
    struct adamd_vjp_sums wanted[RULES] = {{{0}}};
    const struct adamd_op op = {
        .kind = ADAMD_OP_DIFFERENTIATE,
        .differentiate = {.at = load_all(bench, trial, trial->at),
                          .bars = load_all(bench, trial, trial->bars),
                          .rules = trial->rules,
                          .rule_count = RULES,
                          .runs = trial->runs,
                          .run_count = trial->run_count,
                          .ret_sums = got},
    };

    memset(got, 0xff, sizeof got);
    bench_submit(bench, &op);
    bench_wait(bench);
    for (uint32_t r = 0; r < trial->run_count; r++) {
        expect_run(trial, &trial->runs[r], &wanted[trial->runs[r].rule]);
    }
    unload_and_compare(bench, trial, &op.differentiate.at, trial->at);
    unload_and_compare(bench, trial, &op.differentiate.bars, trial->bars);
    for (int i = 0; i < RULES; i++) {
        for (int s = 0; s < ADAMD_VJP_SUM_COUNT; s++) {
            ck_assert_msg(same(got[i].sums[s], wanted[i].sums[s]), "rule %d, sum %d: %a, wanted %a",
                          i, s, got[i].sums[s], wanted[i].sums[s]);
        }
    }
}

static void check_and_close(struct trial *trial, bool edges, int subject) {
    struct bench bench;

    trial_fill(trial, edges, trial->run_count);
    bench_open(&bench, subject);
    trial_check(trial, &bench);
    trial_finish(trial);
    bench_close(&bench);
}

START_TEST(every_kind_dtype_and_length_gives_the_same_bits)
{
    static const uint64_t lengths[] = {0,   1,   15,   16,   17,   33,   255,
                                       256, 257, 4095, 4096, 4097, 33000};
    enum { LENGTHS = sizeof lengths / sizeof lengths[0] };

    static struct trial trial;

    for (uint32_t kind = 0; kind < RULES; kind++) {
        for (uint32_t k = 0; k < LENGTHS; k++) {
            for (int dtype = 0; dtype < ADAMD_REAL_COUNT; dtype++) {
                // All of the long ones for all kinds and dtypes is slow.
                if (lengths[k] < 1000 || (kind * 5 + k + (uint32_t)dtype) % 13 == 0) {
                    add_run(&trial, (enum adamd_dtype)dtype, lengths[k], kind);
                }
            }
        }
    }
    check_and_close(&trial, false, _i);
}
END_TEST

START_TEST(rules_that_alternate_have_sums_of_their_own)
{
    static struct trial trial;
    uint32_t state = 77;

    for (uint32_t r = 0; r < 100; r++) {
        const uint32_t random = next_random(&state);
        add_run(&trial, (enum adamd_dtype)(random % ADAMD_REAL_COUNT), (random >> 8) % 700,
                random >> 20);
    }
    check_and_close(&trial, false, _i);
}
END_TEST

START_TEST(zeros_infinities_and_nan_go_the_same_ways)
{
    static struct trial trial;

    for (uint32_t r = 0; r < 4 * RULES; r++) {
        add_run(&trial, (enum adamd_dtype)(r % ADAMD_REAL_COUNT), 300, r / ADAMD_REAL_COUNT);
    }
    check_and_close(&trial, true, _i);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("backend differentiate");
    TCase *tests = tcase_create("every backend");
    const int subjects = subject_count();

    subject_print_all();
    tcase_set_timeout(tests, 200);
    tcase_add_loop_test(tests, every_kind_dtype_and_length_gives_the_same_bits, 0, subjects);
    tcase_add_loop_test(tests, rules_that_alternate_have_sums_of_their_own, 0, subjects);
    tcase_add_loop_test(tests, zeros_infinities_and_nan_go_the_same_ways, 0, subjects);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
