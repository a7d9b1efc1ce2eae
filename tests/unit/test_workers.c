// The worker table against the decision table: every row, every edge of a lease, a rank, an epoch.
#include "adamd/workers.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static struct adamd_workers workers;
static struct adamd_fault fault;

static void set_up(void) {
    workers = (struct adamd_workers){.lease_ms = 1000};
    fault = (struct adamd_fault){0};
}

static void tear_down(void) {
    adamd_workers_finish(&workers);
}

static enum adamd_status add(const char *id, const char *nonce, uint32_t rank, uint64_t now_ms,
                             struct adamd_worker **ret_worker, bool *ret_fresh) {
    return adamd_workers_register(&workers, id, nonce, rank, now_ms, ret_worker, ret_fresh, &fault);
}

static struct adamd_worker *must_add(const char *id, uint32_t rank, uint64_t now_ms) {
    struct adamd_worker *worker = NULL;
    bool fresh = false;

    ck_assert_int_eq(add(id, "", rank, now_ms, &worker, &fresh), ADAMD_OK);
    ck_assert(fresh);
    return worker;
}

static enum adamd_verdict admit(const char *id, uint64_t epoch, uint64_t sequence, uint32_t crc32c,
                                uint64_t now_ms) {
    struct adamd_worker *worker = NULL;
    struct adamd_outcome outcome = {0};

    fault = (struct adamd_fault){0};
    return adamd_workers_admit(&workers, id, epoch, sequence, crc32c, now_ms, &worker, &outcome,
                               &fault);
}

static void decide(struct adamd_worker *worker, uint64_t sequence, uint32_t crc32c) {
    const struct adamd_outcome outcome = {
        .kind = ADAMD_APPLIED, .sequence = sequence, .version = 100 + sequence, .crc32c = crc32c};

    adamd_workers_decide(worker, &outcome);
}

// A worker with epoch 2, of which 1 to 20 are decided (crc 77 each) and 21, 22 are in flight.
static const struct row {
    const char *id;
    uint64_t epoch, sequence;
    uint32_t crc32c;
    enum adamd_verdict verdict;
    enum adamd_status status;
} rows[] = {
    {"b", 2, 23, 0, ADAMD_REFUSED, ADAMD_UNKNOWN_WORKER},
    {"", 2, 23, 0, ADAMD_REFUSED, ADAMD_UNKNOWN_WORKER},
    {"a", 1, 23, 0, ADAMD_REFUSED, ADAMD_FENCED},
    {"a", 0, 23, 0, ADAMD_REFUSED, ADAMD_FENCED},
    {"a", 3, 23, 0, ADAMD_REFUSED, ADAMD_BAD_EPOCH},
    {"a", UINT64_MAX, 23, 0, ADAMD_REFUSED, ADAMD_BAD_EPOCH},
    {"a", 2, 0, 0, ADAMD_REFUSED, ADAMD_BAD_FIELD},
    {"a", 2, 20, 77, ADAMD_REPEAT, ADAMD_OK},
    {"a", 2, 20, 0, ADAMD_REPEAT, ADAMD_OK},
    {"a", 2, 5, 77, ADAMD_REPEAT, ADAMD_OK},
    {"a", 2, 20, 78, ADAMD_REFUSED, ADAMD_SEQ_REUSED},
    {"a", 2, 4, 77, ADAMD_REFUSED, ADAMD_ALREADY_DECIDED},
    {"a", 2, 1, 0, ADAMD_REFUSED, ADAMD_ALREADY_DECIDED},
    {"a", 2, 21, 0, ADAMD_ATTACH, ADAMD_OK},
    {"a", 2, 22, 5, ADAMD_ATTACH, ADAMD_OK},
    {"a", 2, 23, 0, ADAMD_ADMIT, ADAMD_OK},
    {"a", 2, 24, 0, ADAMD_REFUSED, ADAMD_OUT_OF_ORDER},
    {"a", 2, UINT64_MAX, 0, ADAMD_REFUSED, ADAMD_OUT_OF_ORDER},
};

START_TEST(each_row_of_the_decision_table_gives_its_verdict)
{
    const struct row *row = &rows[_i];
    struct adamd_worker *worker;

    must_add("a", 0, 0);
    worker = must_add("a", 0, 10);
    ck_assert_uint_eq(worker->epoch, 2);
    for (uint64_t sequence = 1; sequence <= 20; sequence++) {
        ck_assert_int_eq(admit("a", 2, sequence, 77, 10), ADAMD_ADMIT);
        decide(worker, sequence, 77);
    }
    ck_assert_int_eq(admit("a", 2, 21, 0, 10), ADAMD_ADMIT);
    ck_assert_int_eq(admit("a", 2, 22, 0, 10), ADAMD_ADMIT);
    ck_assert_int_eq(admit(row->id, row->epoch, row->sequence, row->crc32c, 20), row->verdict);
    if (row->verdict == ADAMD_REFUSED) {
        ck_assert_int_eq(fault.status, row->status);
        ck_assert_str_ne(fault.message, "");
        ck_assert_str_ne(fault.field, "");
    }
}
END_TEST

START_TEST(a_repeat_gets_the_first_outcome)
{
    struct adamd_worker *worker = must_add("a", 0, 0);
    struct adamd_outcome outcome = {0};

    ck_assert_int_eq(admit("a", 1, 1, 9, 0), ADAMD_ADMIT);
    decide(worker, 1, 9);
    ck_assert_int_eq(adamd_workers_admit(&workers, "a", 1, 1, 9, 1, &worker, &outcome, &fault),
                     ADAMD_REPEAT);
    ck_assert_uint_eq(outcome.version, 101);
    ck_assert_int_eq(outcome.kind, ADAMD_APPLIED);
}
END_TEST

START_TEST(at_most_four_are_in_flight)
{
    struct adamd_worker *worker = must_add("a", 0, 0);

    for (uint64_t sequence = 1; sequence <= ADAMD_IN_FLIGHT_MAX; sequence++) {
        ck_assert_int_eq(admit("a", 1, sequence, 0, 0), ADAMD_ADMIT);
    }
    ck_assert_int_eq(admit("a", 1, 5, 0, 0), ADAMD_REFUSED);
    ck_assert_int_eq(fault.status, ADAMD_WORKER_BUSY);
    decide(worker, 1, 0);
    ck_assert_int_eq(admit("a", 1, 5, 0, 0), ADAMD_ADMIT);
}
END_TEST

START_TEST(a_withdrawn_number_is_wanted_again)
{
    struct adamd_worker *worker = must_add("a", 0, 0);

    ck_assert_int_eq(admit("a", 1, 1, 0, 0), ADAMD_ADMIT);
    ck_assert_int_eq(admit("a", 1, 2, 0, 0), ADAMD_ADMIT);
    adamd_workers_withdraw(worker, 1);
    ck_assert_int_eq(admit("a", 1, 2, 0, 0), ADAMD_REFUSED);
    ck_assert_int_eq(fault.status, ADAMD_OUT_OF_ORDER);
    ck_assert_int_eq(admit("a", 1, 1, 0, 0), ADAMD_ADMIT);
}
END_TEST

START_TEST(the_same_nonce_keeps_the_epoch)
{
    struct adamd_worker *worker = NULL;
    bool fresh = false;

    ck_assert_int_eq(add("a", "n1", 0, 0, &worker, &fresh), ADAMD_OK);
    ck_assert(fresh);
    ck_assert_int_eq(admit("a", 1, 1, 0, 0), ADAMD_ADMIT);
    ck_assert_int_eq(add("a", "n1", 0, 500, &worker, &fresh), ADAMD_OK);
    ck_assert(!fresh);
    ck_assert_uint_eq(worker->epoch, 1);
    ck_assert_uint_eq(worker->lease_end_ms, 1500);
    ck_assert_int_eq(admit("a", 1, 1, 0, 0), ADAMD_ATTACH);
    ck_assert_int_eq(add("a", "n2", 0, 500, &worker, &fresh), ADAMD_OK);
    ck_assert(fresh);
    ck_assert_uint_eq(worker->epoch, 2);
}
END_TEST

START_TEST(a_new_epoch_is_told_the_last_outcome_of_the_one_before)
{
    struct adamd_worker *worker = must_add("a", 0, 0);

    ck_assert_int_eq(admit("a", 1, 1, 0, 0), ADAMD_ADMIT);
    decide(worker, 1, 0);
    must_add("a", 0, 0);
    ck_assert_uint_eq(worker->previous.version, 101);
    ck_assert_uint_eq(worker->last_sequence, 0);
    must_add("a", 0, 0);
    ck_assert_int_eq(worker->previous.kind, ADAMD_UNDECIDED);
}
END_TEST

START_TEST(a_deregistered_worker_never_gets_its_epoch_back)
{
    struct adamd_worker *worker = must_add("a", 0, 0);

    adamd_workers_deregister(worker);
    ck_assert(!adamd_worker_live(worker, 0));
    ck_assert_int_eq(admit("a", 1, 1, 0, 0), ADAMD_REFUSED);
    ck_assert_int_eq(fault.status, ADAMD_UNKNOWN_WORKER);
    must_add("a", 0, 0);
    ck_assert_int_eq(admit("a", 1, 1, 0, 0), ADAMD_REFUSED);
    ck_assert_int_eq(fault.status, ADAMD_FENCED);
    adamd_workers_clear_epochs(&workers);
    must_add("a", 0, 0);
    ck_assert_uint_eq(worker->epoch, 3);
}
END_TEST

START_TEST(a_flapping_pair_is_refused)
{
    struct adamd_worker *worker = NULL;
    bool fresh = false;

    for (int i = 0; i < ADAMD_EPOCHS_PER_MINUTE_MAX; i++) {
        must_add("a", 0, 1000);
    }
    ck_assert_int_eq(add("a", "", 0, 60999, &worker, &fresh), ADAMD_WORKER_BUSY);
    ck_assert_int_eq(add("a", "", 0, 61000, &worker, &fresh), ADAMD_OK);
}
END_TEST

START_TEST(who_takes_an_epoch_from_nobody_does_not_flap)
{
    for (int i = 0; i < 3 * ADAMD_EPOCHS_PER_MINUTE_MAX; i++) {
        must_add("a", 0, 1000);
        adamd_workers_clear_epochs(&workers); // as a restore does
    }
}
END_TEST

START_TEST(ranks_are_the_lowest_free_and_ascend_in_the_list)
{
    struct adamd_worker *a = must_add("a", UINT32_MAX, 0);
    struct adamd_worker *b = must_add("b", 5, 0);
    struct adamd_worker *c = must_add("c", UINT32_MAX, 0);
    struct adamd_worker *d = must_add("d", 3, 0);

    ck_assert_uint_eq(a->rank, 0);
    ck_assert_uint_eq(c->rank, 1);
    for (uint32_t i = 1; i < workers.count; i++) {
        ck_assert_uint_lt(workers.list[i - 1]->rank, workers.list[i]->rank);
    }
    ck_assert_ptr_eq(must_add("a", UINT32_MAX, 0), a);
    ck_assert_uint_eq(a->rank, 0);
    ck_assert_ptr_eq(must_add("b", 0xfffffffe, 0), b);
    ck_assert_ptr_eq(workers.list[3], b);
    ck_assert_ptr_eq(workers.list[2], d);
}
END_TEST

START_TEST(a_rank_is_taken_only_from_the_unregistered)
{
    struct adamd_worker *a = must_add("a", 0, 0);
    struct adamd_worker *other = NULL;
    bool fresh = false;

    ck_assert_int_eq(add("b", "", 0, 0, &other, &fresh), ADAMD_EXISTS);
    ck_assert_str_eq(fault.field, "rank");
    ck_assert_uint_eq(workers.count, 1);
    adamd_workers_deregister(a);
    other = must_add("b", 0, 0);
    ck_assert_uint_eq(other->rank, 0);
    ck_assert_uint_eq(a->rank, 1);
    ck_assert_ptr_eq(workers.list[0], other);
    ck_assert_ptr_eq(workers.list[1], a);
}
END_TEST

START_TEST(bad_names_are_told)
{
    static const char *const ids[] = {
        "", "a b", "a/b", "\xc3\xa4",
        "0123456789012345678901234567890123456789012345678901234567890"
        "1234"};
    struct adamd_worker *worker = NULL;
    bool fresh = false;

    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        ck_assert_int_eq(add(ids[i], "", 0, 0, &worker, &fresh), ADAMD_BAD_FIELD);
        ck_assert_str_eq(fault.field, "worker_id");
    }
    ck_assert_int_eq(add("a", "with space", 0, 0, &worker, &fresh), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "nonce");
    ck_assert_int_eq(add("a", "01234567890123456789012345678901234567890123456789012345678901234",
                         0, 0, &worker, &fresh),
                     ADAMD_BAD_FIELD);
    ck_assert_uint_eq(workers.count, 0);
}
END_TEST

START_TEST(a_full_table_forgets_the_longest_dead_and_voids_its_epochs)
{
    struct adamd_worker *worker = NULL;
    bool fresh = false;
    char id[16];

    for (int i = 0; i < ADAMD_WORKERS_MAX; i++) {
        (void)snprintf(id, sizeof id, "w%d", i);
        must_add(id, (uint32_t)i, 0);
    }
    must_add("w7", 7, 0); // epoch 2
    ck_assert_int_eq(add("more", "", UINT32_MAX, 0, &worker, &fresh), ADAMD_TOO_LARGE);
    ck_assert_int_eq(admit("w8", 1, 1, 0, 0), ADAMD_ADMIT);
    adamd_workers_deregister(adamd_workers_find(&workers, "w7"));
    ck_assert_int_eq(add("more", "", UINT32_MAX, 0, &worker, &fresh), ADAMD_OK);
    ck_assert_ptr_null(adamd_workers_find(&workers, "w7"));
    ck_assert_uint_eq(worker->rank, 7);
    ck_assert_uint_eq(worker->epoch, 3);
    ck_assert_uint_eq(workers.count, ADAMD_WORKERS_MAX);
}
END_TEST

START_TEST(a_lease_ends_at_its_end)
{
    struct adamd_worker *worker = must_add("a", 0, 5000);

    must_add("b", 1, 5500);
    ck_assert(adamd_worker_live(worker, 5999));
    ck_assert(!adamd_worker_live(worker, 6000));
    ck_assert_uint_eq(adamd_workers_live(&workers, 5999), 2);
    ck_assert_uint_eq(adamd_workers_next_expiry(&workers, 5600), 6000);
    ck_assert_uint_eq(adamd_workers_next_expiry(&workers, 6000), 6500);
    ck_assert_uint_eq(adamd_workers_next_expiry(&workers, 6500), UINT64_MAX);
    ck_assert_int_eq(admit("a", 1, 1, 0, 7000), ADAMD_ADMIT); // the epoch is still its own
    ck_assert(adamd_worker_live(worker, 7999));
}
END_TEST

START_TEST(a_refused_push_renews_the_lease_if_its_epoch_is_current)
{
    struct adamd_worker *worker = must_add("a", 0, 0);

    ck_assert_int_eq(admit("a", 1, 9, 0, 900), ADAMD_REFUSED);
    ck_assert_uint_eq(worker->lease_end_ms, 1900);
    ck_assert_int_eq(admit("a", 2, 1, 0, 1800), ADAMD_REFUSED);
    ck_assert_uint_eq(worker->lease_end_ms, 1900);
}
END_TEST

START_TEST(a_pause_extends_only_leases_that_ran_when_it_began)
{
    struct adamd_worker *a = must_add("a", 0, 0);
    struct adamd_worker *b = must_add("b", 1, 2000);

    adamd_workers_extend(&workers, 60000, 62500); // from 2,500 on
    ck_assert(!adamd_worker_live(a, 62500));
    ck_assert(adamd_worker_live(b, 62500));
    ck_assert_uint_eq(b->lease_end_ms, 63000);
}
END_TEST

static Suite *workers_suite(void) {
    Suite *suite = suite_create("workers");
    TCase *tcase = tcase_create("table");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_loop_test(tcase, each_row_of_the_decision_table_gives_its_verdict, 0,
                        (int)(sizeof rows / sizeof rows[0]));
    tcase_add_test(tcase, a_repeat_gets_the_first_outcome);
    tcase_add_test(tcase, at_most_four_are_in_flight);
    tcase_add_test(tcase, a_withdrawn_number_is_wanted_again);
    tcase_add_test(tcase, the_same_nonce_keeps_the_epoch);
    tcase_add_test(tcase, a_new_epoch_is_told_the_last_outcome_of_the_one_before);
    tcase_add_test(tcase, a_deregistered_worker_never_gets_its_epoch_back);
    tcase_add_test(tcase, a_flapping_pair_is_refused);
    tcase_add_test(tcase, who_takes_an_epoch_from_nobody_does_not_flap);
    tcase_add_test(tcase, ranks_are_the_lowest_free_and_ascend_in_the_list);
    tcase_add_test(tcase, a_rank_is_taken_only_from_the_unregistered);
    tcase_add_test(tcase, bad_names_are_told);
    tcase_add_test(tcase, a_full_table_forgets_the_longest_dead_and_voids_its_epochs);
    tcase_add_test(tcase, a_lease_ends_at_its_end);
    tcase_add_test(tcase, a_refused_push_renews_the_lease_if_its_epoch_is_current);
    tcase_add_test(tcase, a_pause_extends_only_leases_that_ran_when_it_began);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(workers_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
