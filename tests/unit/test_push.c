// A push from its first byte to its decision, under EACH_PUSH: what is let in, what is counted, and
// in what order it is decided.
#include "adamd/crc32c.h"
#include "backend_deferred.h"
#include "modelkit.h"

#include <math.h>
#include <string.h>

static struct kit kit;

static void set_up(void) {
    const struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);
    kit_create(&kit, &plan);
}

static void tear_down(void) {
    kit_destroy(&kit);
}

START_TEST(a_push_is_a_step)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end end;
    float values[20];

    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
    ck_assert_int_eq(end.count, 0); // not before the backend is done
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 0);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_OK);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    ck_assert_uint_eq(end.outcome.version, 1);
    ck_assert_double_eq_tol(end.outcome.grad_norm, sqrt(23), 1e-6);
    kit_params(&kit, 1, values);
    for (int i = 0; i < 20; i++) {
        ck_assert_float_eq_tol(values[i], -1e-3F, 1e-8F); // Adam's first step is lr wide
    }
}
END_TEST

static struct adamd_push_counts counts(void) {
    return adamd_model_info(kit.model, kit.now_ms).counts;
}

static enum adamd_status begin_status(const struct adamd_push_head *head) {
    struct kit_end end;
    enum adamd_status status;
    struct adamd_push *push = kit_begin(&kit, head, &end, &status);

    if (push != NULL) {
        adamd_push_abandon(push);
    }
    return status;
}

START_TEST(pushes_of_one_worker_are_decided_in_sequence_whatever_order_they_are_committed_in)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head first = kit_head("a", epoch, 1);
    const struct adamd_push_head second = kit_head("a", epoch, 2);
    const float zeros[23] = {0};
    struct kit_end one;
    struct kit_end two;
    enum adamd_status status;
    struct adamd_push *push = kit_begin(&kit, &first, &one, &status);

    ck_assert_int_eq(kit_push(&kit, &second, 1.0F, &two), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(two.count, 0);
    ck_assert_int_eq(adamd_push_append(push, zeros, sizeof zeros, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_push_commit(push, kit.now_ms, NULL), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(one.outcome.version, 1);
    ck_assert_uint_eq(two.outcome.version, 2);
}
END_TEST

START_TEST(what_follows_a_push_that_was_cut_off_is_out_of_order)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head heads[] = {kit_head("a", epoch, 1), kit_head("a", epoch, 2),
                                            kit_head("a", epoch, 3)};
    struct kit_end ends[3];
    enum adamd_status status;
    struct adamd_push *cut = kit_begin(&kit, &heads[0], &ends[0], &status);
    struct adamd_push *receiving;
    const float number = 1;

    ck_assert_int_eq(kit_push(&kit, &heads[1], 1.0F, &ends[1]), ADAMD_OK);
    receiving = kit_begin(&kit, &heads[2], &ends[2], &status);
    adamd_push_abandon(cut);
    ck_assert_int_eq(ends[0].count, 0);
    ck_assert_int_eq(ends[1].count, 1);
    ck_assert_int_eq(ends[1].status, ADAMD_OUT_OF_ORDER);
    ck_assert_int_eq(adamd_push_append(receiving, &number, sizeof number, &ends[2].fault),
                     ADAMD_OUT_OF_ORDER);
    adamd_push_abandon(receiving);
    ck_assert_uint_eq(counts().aborted, 1);
    ck_assert_uint_eq(counts().rejected, 2);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).slots_in_use, 0);
    ck_assert_int_eq(kit_push(&kit, &heads[0], 1.0F, &ends[0]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(ends[0].outcome.version, 1);
}
END_TEST

START_TEST(a_repeat_in_flight_attaches_and_a_later_one_gets_the_first_answer)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end ends[4];
    enum adamd_status status;
    struct adamd_push *attached;

    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[0]), ADAMD_OK);
    ck_assert_ptr_nonnull(kit_begin(&kit, &head, &ends[1], &status));
    attached = kit_begin(&kit, &head, &ends[2], &status);
    adamd_push_abandon(attached);
    kit_run(&kit);
    ck_assert_int_eq(ends[0].count, 1);
    ck_assert(!ends[0].duplicate);
    ck_assert_int_eq(ends[1].count, 1);
    ck_assert(ends[1].duplicate);
    ck_assert_uint_eq(ends[1].outcome.version, 1);
    ck_assert_int_eq(ends[2].count, 0);
    ck_assert_ptr_null(kit_begin(&kit, &head, &ends[3], &status));
    ck_assert_int_eq(status, ADAMD_OK);
    ck_assert_int_eq(ends[3].outcome.kind, ADAMD_APPLIED);
    ck_assert_uint_eq(ends[3].outcome.version, 1);
    ck_assert_uint_eq(counts().applied, 1);
    ck_assert_uint_eq(counts().duplicate, 3);
}
END_TEST

START_TEST(a_repeat_takes_the_place_of_one_that_is_still_receiving)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    const struct adamd_push_head next = kit_head("a", epoch, 2);
    struct kit_end ends[3];
    enum adamd_status status;
    struct adamd_push *dead = kit_begin(&kit, &head, &ends[0], &status);

    ck_assert_int_eq(kit_push(&kit, &next, 1.0F, &ends[2]), ADAMD_OK);
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(adamd_push_commit(dead, kit.now_ms, NULL), ADAMD_CANCELLED);
    kit_run(&kit);
    ck_assert_uint_eq(ends[1].outcome.version, 1);
    ck_assert_uint_eq(ends[2].outcome.version, 2);
    ck_assert_uint_eq(counts().aborted, 1);
    ck_assert_uint_eq(counts().applied, 2);
}
END_TEST

START_TEST(an_abandoned_push_that_is_whole_is_still_applied)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    const float ones[23] = {1};
    struct kit_end end;
    enum adamd_status status;
    struct adamd_push *push = kit_begin(&kit, &head, &end, &status);

    ck_assert_int_eq(adamd_push_append(push, ones, sizeof ones, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_push_commit(push, kit.now_ms, NULL), ADAMD_OK);
    adamd_push_abandon(push);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 0);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 1);
}
END_TEST

START_TEST(a_body_may_be_split_anywhere)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    const size_t piece = (size_t)_i + 1;
    struct kit_end end;
    enum adamd_status status;
    struct adamd_push *push = kit_begin(&kit, &head, &end, &status);
    const struct adamd_op *op;
    const float *slot;
    float body[23];

    for (int i = 0; i < 23; i++) {
        body[i] = (float)(i + 1);
    }
    for (size_t at = 0; at < sizeof body; at += piece) {
        const size_t size = sizeof body - at < piece ? sizeof body - at : piece;
        ck_assert_int_eq(adamd_push_append(push, (const char *)body + at, size, NULL), ADAMD_OK);
    }
    ck_assert_int_eq(adamd_push_append(push, body, 1, &end.fault), ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(adamd_push_commit(push, kit.now_ms, NULL), ADAMD_OK);
    op = backend_deferred_peek(kit.deferred, 0);
    slot = adamd_buffer_host(op->step.sources[0].gradient);
    for (int i = 0; i < 23; i++) {
        ck_assert_float_eq(slot[i < 3 ? i : 16 + i - 3], (float)(i + 1));
    }
    for (int i = 3; i < 16; i++) {
        ck_assert_float_eq(slot[i], 0);
    }
    kit_run(&kit);
}
END_TEST

START_TEST(a_split_number_is_seen_to_be_infinite)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end end;
    enum adamd_status status;
    struct adamd_push *push = kit_begin(&kit, &head, &end, &status);
    float body[23] = {0};

    body[_i] = _i % 2 == 0 ? -INFINITY : NAN;
    for (size_t at = 0; at < sizeof body; at += 3) {
        const size_t size = sizeof body - at < 3 ? sizeof body - at : 3;
        ck_assert_int_eq(adamd_push_append(push, (const char *)body + at, size, NULL), ADAMD_OK);
    }
    ck_assert_int_eq(adamd_push_commit(push, kit.now_ms, &end.fault), ADAMD_NONFINITE);
    ck_assert_int_eq(end.count, 0);
    ck_assert_uint_eq(counts().rejected, 1);
    // Its number was not used.
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(end.outcome.version, 1);
}
END_TEST

START_TEST(tensors_may_be_written_in_any_order)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end end;
    enum adamd_status status;
    struct adamd_push *push = kit_begin(&kit, &head, &end, &status);
    const float body[20] = {1, 2, 3};

    ck_assert_int_eq(adamd_push_write(push, 1, body, 13, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_push_write(push, 0, body, 12, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_push_write(push, 1, (const char *)body + 13, 67, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_push_write(push, 0, body, 1, NULL), ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(adamd_push_write(push, 2, body, 1, NULL), ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(adamd_push_commit(push, kit.now_ms, NULL), ADAMD_OK);
    kit_run(&kit);
    ck_assert_double_eq_tol(end.outcome.grad_norm, sqrt(28), 1e-6);
}
END_TEST

START_TEST(a_short_body_is_refused_and_leaves_nothing)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    const float body[23] = {0};
    struct kit_end end;
    enum adamd_status status;
    struct adamd_push *push = kit_begin(&kit, &head, &end, &status);

    ck_assert_int_eq(adamd_push_append(push, body, sizeof body - 1, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_push_commit(push, kit.now_ms, &end.fault), ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(end.fault.field, "byte_size");
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).slots_in_use, 0);
}
END_TEST

START_TEST(the_checksum_of_the_bytes_is_checked_and_remembered)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    float body[23];
    struct kit_end end;

    for (int i = 0; i < 23; i++) {
        body[i] = 1;
    }
    head.crc32c = adamd_crc32c(0, body, sizeof body) + 1;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_CRC_MISMATCH);
    head.crc32c--;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
    head.crc32c++;
    ck_assert_int_eq(begin_status(&head), ADAMD_SEQ_REUSED); // in flight
    kit_run(&kit);
    ck_assert_int_eq(begin_status(&head), ADAMD_SEQ_REUSED); // decided
    head.crc32c--;
    ck_assert_int_eq(begin_status(&head), ADAMD_OK);
}
END_TEST

START_TEST(a_bad_head_names_its_field)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_metric bad_metric = {.key = ""};
    const uint32_t descending[] = {1, 0};
    const uint32_t unknown[] = {2};
    const struct {
        const char *field;
        enum adamd_status status;
        struct adamd_push_head head;
    } cases[] = {
        {"weight", ADAMD_BAD_FIELD, {.weight = 0, .byte_size = UINT64_MAX}},
        {"weight", ADAMD_BAD_FIELD, {.weight = -1, .byte_size = UINT64_MAX}},
        {"weight", ADAMD_BAD_FIELD, {.weight = NAN, .byte_size = UINT64_MAX}},
        {"weight", ADAMD_BAD_FIELD, {.weight = 1e300, .byte_size = UINT64_MAX}},
        {"weight", ADAMD_BAD_FIELD, {.weight = 1e-300, .byte_size = UINT64_MAX}},
        {"tensors", ADAMD_BAD_FIELD, {.weight = 1, .tensors = descending, .tensor_count = 2}},
        {"tensors", ADAMD_BAD_FIELD, {.weight = 1, .tensors = descending, .tensor_count = 0}},
        {"tensors", ADAMD_LAYOUT_MISMATCH, {.weight = 1, .tensors = unknown, .tensor_count = 1}},
        {"byte_size", ADAMD_LAYOUT_MISMATCH, {.weight = 1, .byte_size = 91}},
        {"replace", ADAMD_BAD_FIELD, {.weight = 1, .byte_size = UINT64_MAX, .replace = true}},
        {"metrics", ADAMD_BAD_FIELD, {.weight = 1, .byte_size = UINT64_MAX, .metric_count = 65}},
        {"metrics.key",
         ADAMD_BAD_FIELD,
         {.weight = 1, .byte_size = UINT64_MAX, .metric_count = 1, .metrics = &bad_metric}},
        {"generation", ADAMD_RUN_RESTORED, {.weight = 1, .generation = 7}},
        {"base_version",
         ADAMD_FUTURE_VERSION,
         {.weight = 1, .byte_size = UINT64_MAX, .has_base_version = true, .base_version = 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct adamd_push_head head = cases[i].head;
        struct kit_end end;
        enum adamd_status status;
        head.worker = "a";
        head.epoch = epoch;
        head.sequence = 1;
        ck_assert_ptr_null(kit_begin(&kit, &head, &end, &status));
        ck_assert_msg(status == cases[i].status, "case %zu: %s", i, end.fault.message);
        ck_assert_str_eq(end.fault.field, cases[i].field);
    }
    ck_assert_uint_eq(counts().rejected, sizeof cases / sizeof cases[0]);
}
END_TEST

START_TEST(without_a_free_slot_a_push_is_told_to_come_again)
{
    uint64_t epochs[3];
    struct kit_end ends[10];
    enum adamd_status status;
    struct adamd_push *pushes[8];
    struct adamd_push_head head;

    epochs[0] = kit_register(&kit, "a", 0);
    epochs[1] = kit_register(&kit, "b", 1);
    epochs[2] = kit_register(&kit, "c", 2);
    for (uint64_t i = 0; i < 8; i++) {
        head = kit_head(i < 4 ? "a" : "b", epochs[i / 4], i % 4 + 1);
        pushes[i] = kit_begin(&kit, &head, &ends[i], &status);
        ck_assert_int_eq(status, ADAMD_OK);
    }
    head = kit_head("c", epochs[2], 1);
    ck_assert_int_eq(begin_status(&head), ADAMD_BUSY);
    adamd_push_abandon(pushes[7]);
    ck_assert_int_eq(begin_status(&head), ADAMD_OK);
    for (int i = 0; i < 7; i++) {
        adamd_push_abandon(pushes[i]);
    }
}
END_TEST

static void set_policy(uint64_t max_staleness, enum adamd_nonfinite nonfinite) {
    const struct adamd_policy policy = {.trigger = ADAMD_EACH_PUSH,
                                        .nonfinite = nonfinite,
                                        .max_staleness = max_staleness,
                                        .lease_ms = 1000};
    ck_assert_int_eq(adamd_model_set_policy(kit.model, &policy, kit.now_ms, NULL), ADAMD_OK);
}

START_TEST(a_stale_push_uses_its_number)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end end;
    enum adamd_status status;

    set_policy(1, ADAMD_NONFINITE_REJECT);
    for (uint64_t sequence = 1; sequence <= 2; sequence++) {
        head.sequence = sequence;
        ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
        kit_run(&kit);
    }
    head.sequence = 3;
    head.has_base_version = true;
    head.base_version = 0;
    ck_assert_ptr_null(kit_begin(&kit, &head, &end, &status));
    ck_assert_int_eq(status, ADAMD_STALE);
    ck_assert_ptr_null(kit_begin(&kit, &head, &end, &status));
    ck_assert_int_eq(status, ADAMD_OK);
    ck_assert_int_eq(end.outcome.kind, ADAMD_OUTCOME_STALE);
    ck_assert_uint_eq(end.outcome.staleness, 2);
    head.sequence = 4;
    head.base_version = 1;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    ck_assert_uint_eq(end.outcome.staleness, 1);
    ck_assert_uint_eq(counts().stale, 1);
}
END_TEST

START_TEST(staleness_is_looked_at_again_when_the_turn_comes)
{
    const uint64_t a = kit_register(&kit, "a", 0);
    const uint64_t b = kit_register(&kit, "b", 1);
    struct adamd_push_head heads[] = {kit_head("a", a, 1), kit_head("b", b, 1)};
    struct kit_end ends[2];

    set_policy(0, ADAMD_NONFINITE_REJECT);
    for (int i = 0; i < 2; i++) {
        heads[i].has_base_version = true;
        ck_assert_int_eq(kit_push(&kit, &heads[i], 1.0F, &ends[i]), ADAMD_OK);
    }
    kit_run(&kit);
    ck_assert_int_eq(ends[0].outcome.kind, ADAMD_APPLIED);
    ck_assert_int_eq(ends[1].outcome.kind, ADAMD_OUTCOME_STALE);
    ck_assert_uint_eq(ends[1].outcome.version, 1);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 1);
}
END_TEST

START_TEST(a_skipped_push_uses_its_number_and_is_recorded)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    const struct adamd_step_record *record;
    uint64_t before[2];
    uint64_t after[2];
    struct kit_end end;

    set_policy(UINT64_MAX, ADAMD_NONFINITE_SKIP);
    kit_digest(&kit, before);
    ck_assert_int_eq(kit_push(&kit, &head, NAN, &end), ADAMD_OK);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.outcome.kind, ADAMD_SKIPPED_NONFINITE);
    kit_digest(&kit, after);
    ck_assert_mem_eq(before, after, sizeof before);
    record = adamd_model_next_record(kit.model, 0);
    ck_assert(record->skipped);
    ck_assert_str_eq(record->contributions[0].worker, "a");
    ck_assert_uint_eq(record->counts.skipped, 1);
    ck_assert_ptr_null(adamd_model_next_record(kit.model, record->ordinal));
    head.sequence = 2;
    ck_assert_int_eq(kit_push(&kit, &head, 1, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(end.outcome.version, 1);
    ck_assert_ptr_eq(adamd_model_record_of(kit.model, 1), adamd_model_next_record(kit.model, 1));
}
END_TEST

START_TEST(an_allowed_push_lets_nan_into_the_state)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end end;
    float values[3];

    set_policy(UINT64_MAX, ADAMD_NONFINITE_ALLOW);
    ck_assert_int_eq(kit_push(&kit, &head, NAN, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
    kit_params(&kit, 0, values);
    ck_assert(isnan(values[0]));
}
END_TEST

START_TEST(a_partial_push_leaves_the_other_parameters_alone)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    const uint32_t second = 1;
    struct kit_end end;
    float values[20];

    head.tensors = &second;
    head.tensor_count = 1;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 0);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 1);
    kit_params(&kit, 0, values);
    ck_assert_float_eq(values[0], 0);
    kit_params(&kit, 1, values);
    ck_assert_float_lt(values[0], 0);
}
END_TEST

START_TEST(a_fresh_epoch_drops_what_the_old_one_had_and_tells_what_is_in_flight)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end ends[3];
    enum adamd_status status;
    struct adamd_push *receiving;
    const float number = 0;

    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[0]), ADAMD_OK); // its step is in flight
    head.sequence = 2;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[1]), ADAMD_OK);
    head.sequence = 3;
    receiving = kit_begin(&kit, &head, &ends[2], &status);
    kit_register(&kit, "a", 0);
    ck_assert_uint_eq(adamd_model_workers(kit.model)->list[0]->previous.sequence, 1);
    ck_assert_uint_eq(adamd_model_workers(kit.model)->list[0]->previous.version, 1);
    ck_assert_int_eq(ends[1].status, ADAMD_FENCED);
    ck_assert_int_eq(adamd_push_append(receiving, &number, sizeof number, NULL), ADAMD_FENCED);
    ck_assert_int_eq(adamd_push_commit(receiving, kit.now_ms, NULL), ADAMD_FENCED);
    kit_run(&kit);
    ck_assert_int_eq(ends[0].status, ADAMD_OK);
    ck_assert_uint_eq(ends[0].outcome.version, 1);
    ck_assert_double_gt(adamd_model_workers(kit.model)->list[0]->previous.grad_norm, 1);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).version, 1);
    head = kit_head("a", epoch + 1, 1);
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[0]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(ends[0].outcome.version, 2);
}
END_TEST

START_TEST(a_paused_model_decides_what_was_committed_and_takes_no_more)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end ends[2];

    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[0]), ADAMD_OK);
    head.sequence = 2;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(adamd_model_pause(kit.model, NULL), ADAMD_OK);
    head.sequence = 3;
    ck_assert_int_eq(begin_status(&head), ADAMD_PAUSED);
    kit_run(&kit);
    ck_assert_uint_eq(ends[1].outcome.version, 2);
    ck_assert_int_eq(adamd_model_resume(kit.model, NULL), ADAMD_OK);
    ck_assert_int_eq(begin_status(&head), ADAMD_OK);
}
END_TEST

START_TEST(a_draining_model_finishes_and_is_idle)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    struct adamd_registration registration;
    struct adamd_wait wait = {0};
    struct kit_end end;
    struct kit_end pull = {0};

    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
    adamd_model_pull(kit.model, 5, &wait, kit_on_ready, &pull);
    adamd_model_drain(kit.model, kit.now_ms);
    ck_assert(!adamd_model_idle(kit.model));
    head.sequence = 2;
    ck_assert_int_eq(begin_status(&head), ADAMD_DRAINING);
    ck_assert_int_eq(
        adamd_model_register(kit.model, "b", "", 1, 0, 0, kit.now_ms, &registration, NULL),
        ADAMD_DRAINING);
    kit_run(&kit);
    ck_assert_int_eq(end.status, ADAMD_OK);
    ck_assert_int_eq(pull.status, ADAMD_DRAINING);
    ck_assert(adamd_model_idle(kit.model));
}
END_TEST

START_TEST(a_lost_device_ends_everything)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end ends[2];
    struct kit_end pull = {0};
    struct adamd_wait wait = {0};

    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[0]), ADAMD_OK);
    head.sequence = 2;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[1]), ADAMD_OK);
    adamd_model_pull(kit.model, 1, &wait, kit_on_ready, &pull);
    backend_deferred_lose(kit.deferred);
    adamd_queue_poll(kit.queue);
    ck_assert_int_eq(ends[0].status, ADAMD_DEVICE_LOST);
    ck_assert_int_eq(ends[1].status, ADAMD_DEVICE_LOST);
    ck_assert_int_eq(pull.status, ADAMD_DEVICE_LOST);
    ck_assert_int_eq(adamd_model_info(kit.model, kit.now_ms).state, ADAMD_MODEL_FAILED);
    ck_assert_int_eq(begin_status(&head), ADAMD_DEVICE_LOST);
}
END_TEST

START_TEST(a_model_that_goes_tells_everybody_and_leaves_its_handles_harmless)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    struct kit_end ends[3];
    enum adamd_status status;
    struct adamd_push *receiving;
    const float number = 0;

    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[0]), ADAMD_OK);
    head.sequence = 2;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &ends[1]), ADAMD_OK);
    head.sequence = 3;
    receiving = kit_begin(&kit, &head, &ends[2], &status);
    adamd_model_destroy(kit.model); // with a step in flight
    kit.model = NULL;
    ck_assert_int_eq(ends[0].status, ADAMD_CANCELLED);
    ck_assert_int_eq(ends[1].status, ADAMD_CANCELLED);
    ck_assert_uint_gt(backend_deferred_live(kit.deferred), 0);
    ck_assert_int_eq(adamd_push_append(receiving, &number, sizeof number, NULL), ADAMD_CANCELLED);
    adamd_push_abandon(receiving);
    kit_run(&kit);
    ck_assert_uint_eq(backend_deferred_live(kit.deferred), 0);
}
END_TEST

static struct adamd_push *second_push;

static void abandon_second(void *arg, enum adamd_status status, const struct adamd_outcome *outcome,
                           bool duplicate, const struct adamd_fault *fault) {
    kit_on_decided(arg, status, outcome, duplicate, fault);
    adamd_push_abandon(second_push);
}

START_TEST(a_callback_may_abandon_a_push_whose_end_is_about_to_be_told)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const struct adamd_push_head head = kit_head("a", epoch, 1);
    const float body[23] = {0};
    struct adamd_push *push = NULL;
    struct adamd_outcome outcome;
    struct kit_end ends[2] = {{0}};
    bool wants_body;
    enum adamd_status status;

    ck_assert_int_eq(adamd_push_begin(kit.model, &head, kit.now_ms, abandon_second, &ends[0], &push,
                                      &wants_body, &outcome, NULL),
                     ADAMD_OK);
    ck_assert_int_eq(adamd_push_append(push, body, sizeof body, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_push_commit(push, kit.now_ms, NULL), ADAMD_OK);
    second_push = kit_begin(&kit, &head, &ends[1], &status);
    kit_run(&kit);
    ck_assert_int_eq(ends[1].count, 0);
    ck_assert_int_eq(ends[0].count, 1);
}
END_TEST

START_TEST(an_uninitialized_model_takes_no_push)
{
    struct adamd_tensor_spec tensor = {.key = "w", .rank = 1, .shape = {4}};
    const uint32_t index = 0;
    const struct adamd_group_spec group = {
        .options = adamd_options_default, .tensors = &index, .tensor_count = 1};
    const struct adamd_model_spec spec = {.tensors = &tensor,
                                          .tensor_count = 1,
                                          .groups = &group,
                                          .group_count = 1,
                                          .slots_max = 1,
                                          .published_max = 2};
    struct adamd_model *model = NULL;
    struct adamd_registration registration;
    struct adamd_push *push = NULL;
    struct adamd_outcome outcome;
    struct adamd_push_head head;
    bool wants_body;

    ck_assert_int_eq(adamd_model_create(kit.queue, &spec, &model, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_model_register(model, "a", "", 0, 0, 0, 1, &registration, NULL),
                     ADAMD_OK);
    head = kit_head("a", registration.epoch, 1);
    ck_assert_int_eq(
        adamd_push_begin(model, &head, 1, kit_on_decided, NULL, &push, &wants_body, &outcome, NULL),
        ADAMD_INITIALIZING);
    adamd_model_destroy(model);
}
END_TEST

START_TEST(a_worker_that_saw_more_is_a_witness)
{
    struct adamd_registration registration;
    struct adamd_fault fault;

    ck_assert_int_eq(
        adamd_model_register(kit.model, "a", "", 0, 1, 1, kit.now_ms, &registration, &fault),
        ADAMD_STATE_BEHIND);
    ck_assert_int_eq(
        adamd_model_register(kit.model, "a", "", 0, 2, 0, kit.now_ms, &registration, &fault),
        ADAMD_STATE_BEHIND);
    ck_assert_int_eq(
        adamd_model_register(kit.model, "a", "", 0, 1, 0, kit.now_ms, &registration, &fault),
        ADAMD_OK);
}
END_TEST

START_TEST(records_carry_weighted_means_of_the_metrics)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    const struct adamd_metric metrics[] = {{"loss", 2.5}, {"accuracy", 0.5}};
    const struct adamd_step_record *record;
    struct kit_end end;

    head.metrics = metrics;
    head.metric_count = 2;
    head.weight = 3;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
    kit_run(&kit);
    record = adamd_model_record_of(kit.model, 1);
    ck_assert_uint_eq(record->metric_count, 2);
    ck_assert_str_eq(record->metrics[0].key, "loss");
    ck_assert_double_eq(record->metrics[0].value, 2.5);
    ck_assert_double_eq(record->weight, 3);
    ck_assert_double_eq(record->lr, 1e-3);
    ck_assert_uint_eq(record->counts.applied, 1);
    ck_assert_uint_gt(record->time_unix_ns, 0);
}
END_TEST

START_TEST(old_records_go_when_enough_newer_ones_came)
{
    const uint64_t epoch = kit_register(&kit, "a", 0);
    struct kit_end end;

    for (uint64_t sequence = 1; sequence <= ADAMD_STEPS_KEPT + 10; sequence++) {
        const struct adamd_push_head head = kit_head("a", epoch, sequence);
        ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &end), ADAMD_OK);
        kit_run(&kit);
    }
    ck_assert_uint_eq(adamd_model_next_record(kit.model, 0)->ordinal, 11);
    ck_assert_ptr_null(adamd_model_record_of(kit.model, 10));
    ck_assert_uint_eq(adamd_model_record_of(kit.model, 11)->version, 11);
    ck_assert_ptr_null(adamd_model_next_record(kit.model, ADAMD_STEPS_KEPT + 10));
}
END_TEST

static Suite *push_suite(void) {
    Suite *suite = suite_create("push");
    TCase *tcase = tcase_create("each push");

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_add_test(tcase, a_push_is_a_step);
    tcase_add_test(
        tcase, pushes_of_one_worker_are_decided_in_sequence_whatever_order_they_are_committed_in);
    tcase_add_test(tcase, what_follows_a_push_that_was_cut_off_is_out_of_order);
    tcase_add_test(tcase, a_repeat_in_flight_attaches_and_a_later_one_gets_the_first_answer);
    tcase_add_test(tcase, a_repeat_takes_the_place_of_one_that_is_still_receiving);
    tcase_add_test(tcase, an_abandoned_push_that_is_whole_is_still_applied);
    tcase_add_loop_test(tcase, a_body_may_be_split_anywhere, 0, 29);
    tcase_add_loop_test(tcase, a_split_number_is_seen_to_be_infinite, 0, 23);
    tcase_add_test(tcase, tensors_may_be_written_in_any_order);
    tcase_add_test(tcase, a_short_body_is_refused_and_leaves_nothing);
    tcase_add_test(tcase, the_checksum_of_the_bytes_is_checked_and_remembered);
    tcase_add_test(tcase, a_bad_head_names_its_field);
    tcase_add_test(tcase, without_a_free_slot_a_push_is_told_to_come_again);
    tcase_add_test(tcase, a_stale_push_uses_its_number);
    tcase_add_test(tcase, staleness_is_looked_at_again_when_the_turn_comes);
    tcase_add_test(tcase, a_skipped_push_uses_its_number_and_is_recorded);
    tcase_add_test(tcase, an_allowed_push_lets_nan_into_the_state);
    tcase_add_test(tcase, a_partial_push_leaves_the_other_parameters_alone);
    tcase_add_test(tcase, a_fresh_epoch_drops_what_the_old_one_had_and_tells_what_is_in_flight);
    tcase_add_test(tcase, a_paused_model_decides_what_was_committed_and_takes_no_more);
    tcase_add_test(tcase, a_draining_model_finishes_and_is_idle);
    tcase_add_test(tcase, a_lost_device_ends_everything);
    tcase_add_test(tcase, a_model_that_goes_tells_everybody_and_leaves_its_handles_harmless);
    tcase_add_test(tcase, a_callback_may_abandon_a_push_whose_end_is_about_to_be_told);
    tcase_add_test(tcase, an_uninitialized_model_takes_no_push);
    tcase_add_test(tcase, a_worker_that_saw_more_is_a_witness);
    tcase_add_test(tcase, records_carry_weighted_means_of_the_metrics);
    tcase_add_test(tcase, old_records_go_when_enough_newer_ones_came);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(push_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
