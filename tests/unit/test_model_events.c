// Random events against a small, slow model of exactly-once: registrations, pushes in and out of
// order, repeats, cut-offs, deaths, restores. After each run: every number was decided at most once
// and in order, no old epoch wrote, the versions add up, and every push that was begun has ended.
#include "backend_deferred.h"
#include "modelkit.h"

#include <stdio.h>
#include <string.h>

enum { WORKERS = 4, EVENTS = 1500, HANDLES = 64 };

static struct kit kit;
static uint64_t seed;

static uint64_t draw(uint64_t below) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

struct peer {
    char id[8];
    uint64_t epoch, next; // the sequence that is pushed next
};

static struct peer peers[WORKERS];

// What one begun push is known by.
struct ticket {
    bool used, told, whole;
    struct adamd_push *push;
    int peer;
    uint64_t generation, epoch, sequence;
};

static struct ticket tickets[HANDLES];
static uint64_t begun, ended, applied, decided_at[WORKERS], decided_epoch[WORKERS];
static uint64_t version_base;

// The reference: for one worker and epoch, decisions are 1, 2, 3, ...; epochs never go back.
static void check_decision(const struct ticket *ticket, const struct adamd_outcome *outcome) {
    const int peer = ticket->peer;

    ck_assert_uint_eq(outcome->sequence, ticket->sequence);
    if (ticket->epoch > decided_epoch[peer]) {
        decided_epoch[peer] = ticket->epoch;
        decided_at[peer] = 0;
    }
    // An older epoch is told late only of what was in flight when it ended.
    if (ticket->epoch == decided_epoch[peer]) {
        ck_assert_uint_eq(outcome->sequence, decided_at[peer] + 1);
        decided_at[peer] = outcome->sequence;
    }
    applied += outcome->kind == ADAMD_APPLIED ? 1 : 0;
}

static void on_decided(void *arg, enum adamd_status status, const struct adamd_outcome *outcome,
                       bool duplicate, const struct adamd_fault *fault) {
    struct ticket *ticket = arg;

    (void)fault;
    ck_assert(ticket->used && !ticket->told);
    ticket->told = true;
    ticket->used = false;
    ended += duplicate ? 0 : 1;
    if (status == ADAMD_OK && !duplicate) {
        check_decision(ticket, outcome);
    }
}

static struct ticket *free_ticket(void) {
    for (int i = 0; i < HANDLES; i++) {
        if (!tickets[i].used) {
            tickets[i] = (struct ticket){.used = true};
            return &tickets[i];
        }
    }
    return NULL;
}

static struct ticket *receiving_ticket(void) {
    const uint64_t first = draw(HANDLES);

    for (uint64_t i = 0; i < HANDLES; i++) {
        struct ticket *ticket = &tickets[(first + i) % HANDLES];
        if (ticket->used && ticket->push != NULL && !ticket->whole) {
            return ticket;
        }
    }
    return NULL;
}

static void do_register(int peer) {
    struct adamd_registration registration;
    const enum adamd_status status = adamd_model_register(
        kit.model, peers[peer].id, "", (uint32_t)peer, 0, 0, kit.now_ms, &registration, NULL);

    if (status == ADAMD_OK) {
        ck_assert_uint_gt(registration.epoch, peers[peer].epoch);
        peers[peer].epoch = registration.epoch;
        peers[peer].next = 1;
    } else {
        ck_assert_int_eq(status, ADAMD_WORKER_BUSY);
    }
}

static void do_begin(int peer) {
    struct ticket *ticket = free_ticket();
    struct adamd_push_head head = kit_head(peers[peer].id, peers[peer].epoch, peers[peer].next);
    struct adamd_outcome outcome = {0};
    struct adamd_push *push = NULL;
    bool wants_body = false;
    enum adamd_status status;

    if (ticket == NULL) {
        return;
    }
    if (draw(8) == 0 && head.sequence > 1) {
        head.sequence -= 1 + draw(2) % (head.sequence - 1);
    } else if (draw(20) == 0) {
        head.epoch--;
    } else if (draw(20) == 0) {
        head.sequence += 2;
    }
    ticket->peer = peer;
    ticket->epoch = head.epoch;
    ticket->sequence = head.sequence;
    status = adamd_push_begin(kit.model, &head, kit.now_ms, on_decided, ticket, &push, &wants_body,
                              &outcome, NULL);
    if (status != ADAMD_OK || push == NULL) {
        ck_assert(push == NULL);
        if (status == ADAMD_OK) { // the first answer again
            ck_assert_uint_eq(outcome.sequence, head.sequence);
            ck_assert_uint_le(outcome.sequence, decided_at[peer]);
        }
        ticket->used = false;
        return;
    }
    ck_assert(head.epoch == peers[peer].epoch);
    ticket->push = push;
    ticket->whole = !wants_body;
    begun += wants_body ? 1 : 0;
    if (wants_body && head.sequence >= peers[peer].next) {
        peers[peer].next = head.sequence + 1;
    }
}

static void do_commit(struct ticket *ticket) {
    static const float body[23] = {1};
    const size_t size = draw(10) == 0 ? sizeof body - 4 : sizeof body;
    enum adamd_status status = adamd_push_append(ticket->push, body, size, NULL);
    uint64_t *next = &peers[ticket->peer].next;
    struct adamd_push *push = ticket->push;

    ticket->push = NULL; // the callback may come from inside
    ticket->whole = true;
    status = adamd_push_commit(push, kit.now_ms, NULL);
    if (status != ADAMD_OK) {
        ck_assert(!ticket->told);
        ticket->used = false;
        ended++;
        if (ticket->epoch == peers[ticket->peer].epoch && *next > ticket->sequence &&
            (status == ADAMD_LAYOUT_MISMATCH || status == ADAMD_OUT_OF_ORDER)) {
            *next = ticket->sequence;
        }
    }
}

static void do_abandon(struct ticket *ticket) {
    adamd_push_abandon(ticket->push);
    ticket->used = false;
    ended++;
    if (ticket->epoch == peers[ticket->peer].epoch && peers[ticket->peer].next > ticket->sequence) {
        peers[ticket->peer].next = ticket->sequence;
    }
}

static void do_restore(void) {
    static struct adamd_wait wait;
    static struct kit_end end;
    static const float values[20];
    struct adamd_restore *restore = NULL;

    if (adamd_restore_begin(kit.model, &restore, NULL) != ADAMD_OK) {
        return;
    }
    ck_assert_int_eq(adamd_restore_write(restore, ADAMD_PARAM, 0, values, 12, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_restore_write(restore, ADAMD_PARAM, 1, values, 80, NULL), ADAMD_OK);
    end.count = 0;
    ck_assert_int_eq(adamd_restore_commit(restore, 1000, &wait, kit_on_ready, &end, NULL),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    version_base = 1000;
    applied = 0;
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 1000);
}

static void run_event(void) {
    const int peer = (int)draw(WORKERS);
    const uint64_t kind = draw(1000);
    struct ticket *ticket = receiving_ticket();

    if (kind < 10 || peers[peer].epoch == 0) {
        do_register(peer);
    } else if (kind < 400) {
        do_begin(peer);
    } else if (kind < 650 && ticket != NULL) {
        do_commit(ticket);
    } else if (kind < 690 && ticket != NULL) {
        do_abandon(ticket);
    } else if (kind < 850) {
        if (backend_deferred_run(kit.deferred, 1) > 0) {
            adamd_queue_poll(kit.queue);
        }
    } else if (kind < 995) {
        kit.now_ms += draw(200);
        adamd_model_tick(kit.model, kit.now_ms);
    } else if (kind < 997) {
        do_restore();
    }
}

static void finish(void) {
    struct ticket *ticket;

    while ((ticket = receiving_ticket()) != NULL) {
        do_abandon(ticket);
    }
    adamd_model_drain(kit.model, kit.now_ms);
    kit_run(&kit);
    ck_assert(adamd_model_idle(kit.model));
}

START_TEST(random_events_keep_every_promise)
{
    struct kit_plan plan = kit_plan(_i % 2 == 0 ? ADAMD_EACH_PUSH : ADAMD_BARRIER);
    struct adamd_model_info info;
    struct adamd_push_counts counts;

    seed = 88172645463325252U + (uint64_t)_i * 7919;
    if (_i % 4 == 3) {
        plan.policy.quorum = 2;
        plan.policy.deadline_ms = 100;
    }
    kit_create(&kit, &plan);
    for (int i = 0; i < WORKERS; i++) {
        (void)snprintf(peers[i].id, sizeof peers[i].id, "w%d", i);
    }
    for (int i = 0; i < EVENTS; i++) {
        run_event();
        ck_assert_uint_le(adamd_model_info(kit.model, kit.now_ms).slots_in_use, plan.slots_max);
    }
    finish();
    info = adamd_model_info(kit.model, kit.now_ms);
    counts = info.counts;
    ck_assert_uint_eq(ended, begun);
    ck_assert_uint_eq(info.slots_in_use, 0);
    if (plan.policy.trigger == ADAMD_EACH_PUSH) {
        ck_assert_uint_eq(info.version, version_base + applied);
    } else {
        ck_assert_uint_le(info.version, version_base + applied);
    }
    // Each that was begun ended in one of these; rejected counts those turned away at the door too.
    ck_assert_uint_ge(
        counts.applied + counts.stale + counts.skipped + counts.rejected + counts.aborted, begun);
    ck_assert_uint_le(counts.applied + counts.stale + counts.skipped + counts.aborted, begun);
    ck_assert_uint_gt(counts.applied, 20);
    kit_destroy(&kit);
}
END_TEST

static Suite *events_suite(void) {
    Suite *suite = suite_create("model events");
    TCase *tcase = tcase_create("events");

    tcase_add_loop_test(tcase, random_events_keep_every_promise, 0, 40);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(events_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
