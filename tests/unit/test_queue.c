// Goal: each callback comes once, in order, from poll alone; BUSY and a lost device are answers.
#include "adamd/queue.h"

#include "backend_deferred.h"
#include "backend_faulty.h"

#include <check.h>
#include <stdlib.h>

static struct adamd_backend *backend;
static struct adamd_queue *queue;
static struct adamd_op op;
static int order[1024];
static enum adamd_status statuses[1024];
static int calls;

static void open_queue(void) {
    struct adamd_buffer *buffer = NULL;

    backend = backend_deferred_create(NULL, NULL);
    queue = adamd_queue_create(backend);
    ck_assert_int_eq(adamd_backend_alloc(backend, ADAMD_DEVICE, 64, &buffer), ADAMD_OK);
    op = (struct adamd_op){.kind = ADAMD_OP_FILL, .fill = {.to = buffer, .bytes = 64}};
}

static void close_queue(void) {
    adamd_queue_destroy(queue);
    adamd_backend_destroy(backend);
}

static void on_done(void *arg, enum adamd_status status) {
    statuses[calls] = status;
    order[calls++] = arg == NULL ? 0 : *(const int *)arg;
}

static void submit(int number) {
    static int numbers[1024]; // each test forks
    numbers[number] = number;
    ck_assert_int_eq(adamd_queue_submit(queue, &op, on_done, &numbers[number]), ADAMD_OK);
}

START_TEST(callbacks_come_in_order_and_only_from_poll)
{
    ck_assert_ptr_eq(adamd_queue_backend(queue), backend);
    ck_assert(!adamd_queue_busy(queue));
    for (int i = 0; i < 5; i++) {
        submit(i);
    }
    adamd_queue_poll(queue);
    ck_assert_int_eq(calls, 0);
    ck_assert_uint_eq(backend_deferred_run(backend, 2), 2);
    ck_assert_int_eq(calls, 0);
    adamd_queue_poll(queue);
    ck_assert_int_eq(calls, 2);
    ck_assert(adamd_queue_busy(queue));
    (void)backend_deferred_run(backend, SIZE_MAX);
    adamd_queue_poll(queue);
    adamd_queue_poll(queue);
    ck_assert_int_eq(calls, 5);
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(order[i], i);
        ck_assert_int_eq(statuses[i], ADAMD_OK);
    }
    ck_assert(!adamd_queue_busy(queue));
}
END_TEST

static void on_done_submit_again(void *arg, enum adamd_status status) {
    on_done(arg, status);
    submit(7);
}

START_TEST(a_callback_may_submit_and_is_not_run_for_that_in_the_same_poll)
{
    backend_deferred_set_immediate(backend, true);
    ck_assert_int_eq(adamd_queue_submit(queue, &op, on_done_submit_again, NULL), ADAMD_OK);
    adamd_queue_poll(queue);
    ck_assert_int_eq(calls, 1);
    adamd_queue_poll(queue);
    ck_assert_int_eq(calls, 2);
    ck_assert_int_eq(order[1], 7);
}
END_TEST

START_TEST(nobody_needs_to_be_called_back)
{
    ck_assert_int_eq(adamd_queue_submit(queue, &op, NULL, NULL), ADAMD_OK);
    (void)backend_deferred_run(backend, 1);
    adamd_queue_poll(queue);
    ck_assert(!adamd_queue_busy(queue));
}
END_TEST

START_TEST(a_full_queue_is_busy_until_it_was_polled)
{
    for (int i = 0; i < ADAMD_OPS_IN_FLIGHT_MAX; i++) {
        submit(i);
    }
    ck_assert_int_eq(adamd_queue_submit(queue, &op, on_done, NULL), ADAMD_BUSY);
    (void)backend_deferred_run(backend, SIZE_MAX);
    ck_assert_int_eq(adamd_queue_submit(queue, &op, on_done, NULL), ADAMD_BUSY);
    adamd_queue_poll(queue);
    ck_assert_int_eq(calls, ADAMD_OPS_IN_FLIGHT_MAX);
    submit(1);
    (void)backend_deferred_run(backend, SIZE_MAX);
    adamd_queue_poll(queue);
    ck_assert_int_eq(calls, ADAMD_OPS_IN_FLIGHT_MAX + 1);
}
END_TEST

START_TEST(a_lost_device_is_told_to_all_that_wait)
{
    for (int i = 0; i < 3; i++) {
        submit(i);
    }
    (void)backend_deferred_run(backend, 1);
    adamd_queue_poll(queue);
    backend_deferred_lose(backend);
    adamd_queue_poll(queue);
    ck_assert_int_eq(calls, 3);
    ck_assert_int_eq(statuses[0], ADAMD_OK);
    ck_assert_int_eq(statuses[1], ADAMD_DEVICE_LOST);
    ck_assert_int_eq(statuses[2], ADAMD_DEVICE_LOST);
    ck_assert(!adamd_queue_busy(queue));
    ck_assert_int_eq(adamd_queue_submit(queue, &op, on_done, NULL), ADAMD_DEVICE_LOST);
}
END_TEST

START_TEST(a_submit_that_fails_leaves_no_waiter)
{
    static const enum adamd_status answers[] = {ADAMD_NO_MEMORY, ADAMD_BUSY};
    struct backend_faulty faulty;
    struct adamd_buffer *buffer = NULL;

    backend_faulty_init(&faulty, backend_deferred_create(NULL, NULL));
    struct adamd_queue *over_faulty = adamd_queue_create(&faulty.base);
    ck_assert_int_eq(adamd_backend_alloc(&faulty.base, ADAMD_DEVICE, 64, &buffer), ADAMD_OK);
    ck_assert_uint_eq(faulty.live, 1);
    const struct adamd_op fill = {.kind = ADAMD_OP_FILL, .fill = {.to = buffer, .bytes = 64}};
    backend_faulty_arm(&faulty, 0, answers[_i]);
    ck_assert_int_eq(adamd_queue_submit(over_faulty, &fill, on_done, NULL), answers[_i]);
    ck_assert(!adamd_queue_busy(over_faulty));
    ck_assert_int_eq(adamd_queue_submit(over_faulty, &fill, on_done, NULL), ADAMD_OK);
    (void)backend_deferred_run(faulty.inner, SIZE_MAX);
    adamd_queue_poll(over_faulty);
    ck_assert_int_eq(calls, 1);
    adamd_queue_destroy(over_faulty);
    adamd_backend_destroy(&faulty.base);
    ck_assert_uint_eq(faulty.live, 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("queue");
    TCase *tests = tcase_create("all");

    tcase_add_checked_fixture(tests, open_queue, close_queue);
    tcase_add_test(tests, callbacks_come_in_order_and_only_from_poll);
    tcase_add_test(tests, a_callback_may_submit_and_is_not_run_for_that_in_the_same_poll);
    tcase_add_test(tests, nobody_needs_to_be_called_back);
    tcase_add_test(tests, a_full_queue_is_busy_until_it_was_polled);
    tcase_add_test(tests, a_lost_device_is_told_to_all_that_wait);
    tcase_add_loop_test(tests, a_submit_that_fails_leaves_no_waiter, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
