// The example's network: its gradient is the derivative of its loss, it learns, and its batches
// cover an epoch without overlap whoever computes them.
#include "digits.h"
#include "network.h"
#include "random.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct network small = {.layers = 3, .widths = {DIGITS_PIXELS, 12, 8, DIGITS_CLASSES}};

enum { ROWS = 6, SMALL_PARAMETERS = (64 + 1) * 12 + (12 + 1) * 8 + (8 + 1) * 10 };

static void make_rows(struct digits_row *rows, size_t count) {
    struct random random = {.state = 7};

    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < DIGITS_PIXELS; k++) {
            rows[i].pixels[k] = random_float(&random);
        }
        rows[i].class = random_below(&random, DIGITS_CLASSES);
    }
}

START_TEST(parameters_are_counted_as_they_lie)
{
    ck_assert_uint_eq(network_parameter_count(&small), SMALL_PARAMETERS);
    ck_assert_uint_eq(network_offset(&small, 0), 0);
    ck_assert_uint_eq(network_offset(&small, 1), (64u + 1u) * 12u);
}
END_TEST

// Central differences. With a step of 2^-10 float32's rounding of the loss (about 2^-23) is below
// 2^-12 in the quotient, and no ReLU has its kink within the step of these rows.
START_TEST(gradient_is_the_derivative_of_the_loss)
{
    static float params[SMALL_PARAMETERS], gradient[SMALL_PARAMETERS], unused[SMALL_PARAMETERS];
    const uint32_t indices[ROWS] = {5, 0, 3, 2, 1, 4};
    const float step = 0x1p-10f;
    struct digits_row rows[ROWS];
    size_t off = 0;

    make_rows(rows, ROWS);
    network_init(&small, 3, params);
    (void)network_gradient(&small, params, rows, indices, ROWS, gradient);
    for (size_t i = 0; i < SMALL_PARAMETERS; i++) {
        const float kept = params[i];
        params[i] = kept + step;
        const float above = network_gradient(&small, params, rows, indices, ROWS, unused);
        params[i] = kept - step;
        const float below = network_gradient(&small, params, rows, indices, ROWS, unused);
        params[i] = kept;
        const float slope = (above - below) / (2.0f * step);
        off += fabsf(slope - gradient[i]) > 1e-3f + 1e-2f * fabsf(gradient[i]) ? 1 : 0;
    }
    ck_assert_uint_eq(off, 0);
}
END_TEST

START_TEST(gradient_has_the_same_bits_each_time)
{
    static float params[SMALL_PARAMETERS], once[SMALL_PARAMETERS], again[SMALL_PARAMETERS];
    const uint32_t indices[ROWS] = {0, 1, 2, 3, 4, 5};
    struct digits_row rows[ROWS];

    make_rows(rows, ROWS);
    network_init(&small, 11, params);
    (void)network_gradient(&small, params, rows, indices, ROWS, once);
    memset(again, 0xff, sizeof again);
    (void)network_gradient(&small, params, rows, indices, ROWS, again);
    ck_assert_mem_eq(once, again, sizeof once);
}
END_TEST

START_TEST(initial_parameters_follow_from_the_seed)
{
    static float one[SMALL_PARAMETERS], same[SMALL_PARAMETERS], other[SMALL_PARAMETERS];

    network_init(&small, 1, one);
    network_init(&small, 1, same);
    network_init(&small, 2, other);
    ck_assert_mem_eq(one, same, sizeof one);
    ck_assert_mem_ne(one, other, sizeof one);
}
END_TEST

START_TEST(descending_the_gradient_learns_the_digits)
{
    static float params[SMALL_PARAMETERS], gradient[SMALL_PARAMETERS];
    struct digits digits;
    struct schedule schedule;

    ck_assert(digits_load(&digits, EXAMPLE_DATA));
    ck_assert_uint_eq(digits.train_count, 1438);
    ck_assert_uint_eq(digits.held_out_count, 359);
    ck_assert(schedule_init(&schedule, digits.train_count, 1, 32, 5));
    network_init(&small, 5, params);
    for (uint64_t version = 0; version < 600; version++) {
        (void)network_gradient(&small, params, digits.train, schedule_rows(&schedule, version, 0),
                               32, gradient);
        for (size_t i = 0; i < SMALL_PARAMETERS; i++) {
            params[i] -= 0.2f * gradient[i];
        }
    }
    const struct network_score score =
        network_evaluate(&small, params, digits.held_out, digits.held_out_count);
    ck_assert_double_gt(score.accuracy, 0.85);
    schedule_finish(&schedule);
    digits_finish(&digits);
}
END_TEST

// 3 workers with 4 rows: 8 steps of an epoch take 96 of 100 rows, none of them twice.
START_TEST(an_epoch_gives_each_row_to_one_worker_at_most)
{
    struct schedule schedule;
    int seen[100] = {0};
    const uint64_t epoch = (uint64_t)_i;

    ck_assert(schedule_init(&schedule, 100, 3, 4, 9));
    for (uint64_t version = 8 * epoch; version < 8 * (epoch + 1); version++) {
        for (size_t rank = 0; rank < 3; rank++) {
            const uint32_t *rows = schedule_rows(&schedule, version, rank);
            for (size_t i = 0; i < 4; i++) {
                ck_assert_uint_lt(rows[i], 100);
                ck_assert_int_eq(seen[rows[i]]++, 0);
            }
        }
    }
    schedule_finish(&schedule);
}
END_TEST

START_TEST(a_worker_that_starts_in_the_middle_gets_the_same_rows)
{
    struct schedule from_start, late;
    uint32_t expected[4];

    ck_assert(schedule_init(&from_start, 100, 3, 4, 9));
    ck_assert(schedule_init(&late, 100, 3, 4, 9));
    for (uint64_t version = 0; version < 29; version++) {
        (void)schedule_rows(&from_start, version, 1);
    }
    memcpy(expected, schedule_rows(&from_start, 29, 1), sizeof expected);
    ck_assert_mem_eq(schedule_rows(&late, 29, 1), expected, sizeof expected);
    schedule_finish(&from_start);
    schedule_finish(&late);
}
END_TEST

START_TEST(a_schedule_that_does_not_fit_is_refused)
{
    struct schedule schedule;

    ck_assert(!schedule_init(&schedule, 100, 3, 34, 9));
    ck_assert(!schedule_init(&schedule, 100, 0, 4, 9));
    ck_assert(!schedule_init(&schedule, 100, 3, 0, 9));
    ck_assert(!schedule_init(&schedule, 0, 1, 1, 9));
}
END_TEST

static const char *const wrong_lines[] = {
    "",                   // no rows
    "1,2,3\n",            // too short
    "17,0,0,0,0,0,0,0\n", // pixel over 16
    "x\n",                // no number
};

START_TEST(a_damaged_file_is_refused)
{
    char path[] = "/tmp/test_example_XXXXXX";
    struct digits digits;

    const int descriptor = mkstemp(path);
    ck_assert_int_ge(descriptor, 0);
    const size_t size = strlen(wrong_lines[_i]);
    ck_assert_int_eq(write(descriptor, wrong_lines[_i], size), (ssize_t)size);
    (void)close(descriptor);
    ck_assert(!digits_load(&digits, path));
    ck_assert_ptr_null(digits.train);
    (void)unlink(path);
    ck_assert(!digits_load(&digits, path)); // and so is one that is not there
}
END_TEST

int main(void) {
    Suite *suite = suite_create("example_network");
    TCase *tests = tcase_create("example_network");

    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, parameters_are_counted_as_they_lie);
    tcase_add_test(tests, gradient_is_the_derivative_of_the_loss);
    tcase_add_test(tests, gradient_has_the_same_bits_each_time);
    tcase_add_test(tests, initial_parameters_follow_from_the_seed);
    tcase_add_test(tests, descending_the_gradient_learns_the_digits);
    tcase_add_loop_test(tests, an_epoch_gives_each_row_to_one_worker_at_most, 0, 3);
    tcase_add_test(tests, a_worker_that_starts_in_the_middle_gets_the_same_rows);
    tcase_add_test(tests, a_schedule_that_does_not_fit_is_refused);
    tcase_add_loop_test(tests, a_damaged_file_is_refused, 0,
                        (int)(sizeof wrong_lines / sizeof wrong_lines[0]));
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
