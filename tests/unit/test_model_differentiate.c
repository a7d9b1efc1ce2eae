// Goal: a model with a differentiable group keeps what its last step read and differentiates it;
// others pay nothing; whatever comes between (steps, restores, options, deletion) ends it cleanly.
#include "modelkit.h"

#include "adamd/differentiate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct kit kit;
static struct kit_end end;
static struct adamd_fault fault;
static uint64_t epoch, sequence;

static struct kit_plan plan_of(enum adamd_trigger trigger) {
    struct kit_plan plan = kit_plan(trigger);

    plan.options.lr = 0.1;
    plan.options.weight_decay = 0.01;
    plan.options.differentiable = true;
    return plan;
}

static void open_kit(const struct kit_plan *plan) {
    kit_create(&kit, plan);
    epoch = kit_register(&kit, "a", 0);
    sequence = 0;
    end = (struct kit_end){0};
    fault = (struct adamd_fault){0};
}

static void push(float value) {
    const struct adamd_push_head head = kit_head("a", epoch, ++sequence);
    static struct kit_end pushed;

    ck_assert_int_eq(kit_push(&kit, &head, value, &pushed), ADAMD_OK);
    kit_run(&kit);
}

static struct adamd_differentiation *begin(uint64_t version) {
    struct adamd_differentiation *differentiation = NULL;

    ck_assert_msg(adamd_differentiate_begin(kit.model, version, &differentiation, &fault) ==
                      ADAMD_OK,
                  "%s", fault.message);
    return differentiation;
}

static void write_all(struct adamd_differentiation *differentiation, enum adamd_array array,
                      uint32_t tensor, float value) {
    const uint64_t count = adamd_model_layout(kit.model)->tensors[tensor].count;

    for (uint64_t i = 0; i < count; i++) {
        ck_assert_int_eq(
            adamd_differentiate_write(differentiation, array, tensor, &value, sizeof value, &fault),
            ADAMD_OK);
    }
}

static const struct adamd_cotangents *commit(struct adamd_differentiation *differentiation,
                                             struct adamd_wait *wait) {
    end = (struct kit_end){0};
    ck_assert_msg(adamd_differentiate_commit(differentiation, wait, kit_on_ready, &end, &fault) ==
                      ADAMD_OK,
                  "%s", fault.message);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_OK);
    return end.what;
}

static float at(const struct adamd_cotangents *cotangents, int array, uint32_t tensor, uint64_t i) {
    float value;

    memcpy(&value,
           cotangents->arrays[array] + adamd_model_layout(kit.model)->tensors[tensor].offset +
               i * sizeof value,
           sizeof value);
    return value;
}

// What one element must come to.
static struct adamd_vjp_element expect(const struct adamd_options *options, uint64_t t,
                                       struct adamd_vjp_element read,
                                       struct adamd_vjp_element bar) {
    const struct adamd_vjp_rule rule = adamd_vjp_rule_of(options, t);
    struct adamd_vjp_sums terms;

    adamd_vjp(adamd_vjp_kind_of(&rule), &rule, &read, &bar, &terms);
    return bar;
}

// ------------------------------------------------------------------------------------- the product

START_TEST(the_last_step_is_differentiated)
{
    struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_wait wait = {0};

    plan.options.amsgrad = _i == 1;
    open_kit(&plan);
    push(0.5F); // from zeros
    float before[20];
    kit_params(&kit, 1, before);
    push(-2.0F);

    struct adamd_differentiation *differentiation = begin(2);
    for (uint32_t tensor = 0; tensor < 2; tensor++) {
        write_all(differentiation, ADAMD_PARAM, tensor, 1.0F);
    }
    write_all(differentiation, ADAMD_EXP_AVG_SQ, 1, 0.25F);
    const struct adamd_cotangents *got = commit(differentiation, &wait);
    const double m = (double)(0.1F * 0.5F);
    const double v = (double)(0.001F * 0.25F);
    const struct adamd_vjp_element wanted =
        expect(&plan.options, 2,
               (struct adamd_vjp_element){(double)before[0], -2.0, m, v, _i == 1 ? v : 0.0},
               (struct adamd_vjp_element){.param = 1.0, .exp_avg_sq = 0.25});
    ck_assert_uint_eq(got->version, 2);
    ck_assert_uint_eq(got->generation, 1);
    for (uint64_t i = 0; i < 20; i++) {
        ck_assert_float_eq_tol(at(got, ADAMD_PARAM, 1, i), (float)wanted.param, 1e-6F);
        ck_assert_float_eq_tol(at(got, ADAMD_GRAD, 1, i), (float)wanted.grad, 1e-6F);
        ck_assert_float_eq_tol(at(got, ADAMD_EXP_AVG, 1, i), (float)wanted.exp_avg, 1e-4F);
        ck_assert_float_eq_tol(at(got, ADAMD_EXP_AVG_SQ, 1, i) / (float)wanted.exp_avg_sq, 1.0F,
                               1e-4F);
    }
    ck_assert_int_eq(got->arrays[ADAMD_MAX_EXP_AVG_SQ] != NULL, _i == 1);
    ck_assert(adamd_cotangents_have(got, ADAMD_GRAD, 0, 0));
    ck_assert_int_eq(adamd_cotangents_have(got, ADAMD_MAX_EXP_AVG_SQ, 0, 0), _i == 1);
    ck_assert(got->groups[0].has_weight_decay);
    ck_assert(got->groups[0].lr < 0.0 || got->groups[0].lr > 0.0);
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

START_TEST(what_was_not_given_is_zeros)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_wait wait = {0};

    open_kit(&plan);
    push(1.0F);
    // Something in the memory that is used again.
    struct adamd_differentiation *differentiation = begin(UINT64_MAX);
    write_all(differentiation, ADAMD_EXP_AVG, 0, 7.0F);
    write_all(differentiation, ADAMD_EXP_AVG_SQ, 1, 7.0F);
    const struct adamd_cotangents *got = commit(differentiation, &wait);
    ck_assert_float_eq_tol(at(got, ADAMD_EXP_AVG, 0, 0), 6.3F, 1e-6F);
    ck_assert_float_eq(at(got, ADAMD_EXP_AVG, 1, 5), 0.0F);
    ck_assert_float_eq(at(got, ADAMD_EXP_AVG_SQ, 0, 2), 0.0F);
    ck_assert_float_eq(at(got, ADAMD_GRAD, 0, 1), 0.1F * 7.0F);
    adamd_differentiate_end(differentiation);

    differentiation = begin(1);
    got = commit(differentiation, &wait);
    for (int array = 0; array < ADAMD_COTANGENT_COUNT; array++) {
        for (uint64_t i = 0; got->arrays[array] != NULL && i < 20; i++) {
            ck_assert_float_eq(at(got, array, 1, i), 0.0F);
        }
    }
    ck_assert_double_eq(got->groups[0].lr, 0.0);
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

START_TEST(the_gradient_is_the_one_that_was_applied)
{
    struct kit_plan plan = plan_of(ADAMD_BARRIER);
    struct adamd_wait wait = {0};
    static struct kit_end ends[2];

    open_kit(&plan);
    const uint64_t other = kit_register(&kit, "b", 1);
    struct adamd_push_head heads[] = {kit_head("a", epoch, 1), kit_head("b", other, 1)};
    heads[1].weight = 3;
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(kit_push(&kit, &heads[i], i == 0 ? 1.0F : 5.0F, &ends[i]), ADAMD_OK);
    }
    kit_run(&kit);
    ck_assert_int_eq(ends[1].outcome.kind, ADAMD_APPLIED);
    struct adamd_differentiation *differentiation = begin(1);
    write_all(differentiation, ADAMD_EXP_AVG_SQ, 0, 1.0F);
    const struct adamd_cotangents *got = commit(differentiation, &wait);
    // d(0.001 g^2)/dg at the mean, (1 + 3 * 5) / 4.
    ck_assert_float_eq_tol(at(got, ADAMD_GRAD, 0, 0), 0.008F, 1e-7F);
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_tensor_without_a_gradient_passes_its_cotangents_on)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    static const uint32_t only[] = {1};
    struct adamd_wait wait = {0};
    static struct kit_end pushed;

    open_kit(&plan);
    struct adamd_push_head head = kit_head("a", epoch, 1);
    head.tensors = only;
    head.tensor_count = 1;
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &pushed), ADAMD_OK);
    kit_run(&kit);
    struct adamd_differentiation *differentiation = begin(1);
    write_all(differentiation, ADAMD_PARAM, 0, 3.0F);
    write_all(differentiation, ADAMD_EXP_AVG_SQ, 0, 4.0F);
    const struct adamd_cotangents *got = commit(differentiation, &wait);
    ck_assert(!adamd_cotangents_have(got, ADAMD_GRAD, 0, 0));
    ck_assert(adamd_cotangents_have(got, ADAMD_GRAD, 0, 1));
    ck_assert_float_eq(at(got, ADAMD_PARAM, 0, 2), 3.0F);
    ck_assert_float_eq(at(got, ADAMD_EXP_AVG_SQ, 0, 0), 4.0F);
    ck_assert_double_eq(got->groups[0].eps, 0.0);
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

START_TEST(tensors_without_elements_are_no_trouble)
{
    static const uint64_t counts[] = {0, 0};
    struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_wait wait = {0};

    plan.counts = counts;
    open_kit(&plan);
    push(1.0F);
    struct adamd_differentiation *differentiation = begin(1);
    const struct adamd_cotangents *got = commit(differentiation, &wait);
    ck_assert(adamd_cotangents_have(got, ADAMD_GRAD, 0, 1));
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

// ----------------------------------------------------------------------------------------- refused

static void refused(uint64_t version, enum adamd_status status, const char *field) {
    struct adamd_differentiation *differentiation = NULL;

    fault = (struct adamd_fault){0};
    ck_assert_int_eq(adamd_differentiate_begin(kit.model, version, &differentiation, &fault),
                     status);
    ck_assert_int_eq(fault.status, status);
    ck_assert_str_eq(fault.field, field);
    ck_assert_ptr_null(differentiation);
}

START_TEST(a_model_without_a_differentiable_group_refuses_and_pays_nothing)
{
    struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);

    open_kit(&plan);
    const uint64_t with = adamd_model_info(kit.model, 0).resident_bytes;
    kit_destroy(&kit);
    plan.options.differentiable = false;
    open_kit(&plan);
    const uint64_t without = adamd_model_info(kit.model, 0).resident_bytes;
    ck_assert_uint_gt(with, without);
    push(1.0F);
    refused(UINT64_MAX, ADAMD_BAD_FIELD, "differentiable");
    ck_assert_uint_eq(adamd_model_info(kit.model, 0).resident_bytes, without);
    kit_destroy(&kit);
}
END_TEST

START_TEST(only_the_last_step_can_be_differentiated)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);

    open_kit(&plan);
    refused(UINT64_MAX, ADAMD_NOT_FOUND, "version");
    refused(0, ADAMD_NOT_FOUND, "version");
    push(1.0F);
    push(1.0F);
    refused(1, ADAMD_ETAG_MISMATCH, "version");
    refused(3, ADAMD_ETAG_MISMATCH, "version");
    struct adamd_differentiation *differentiation = begin(2);
    refused(2, ADAMD_OPERATION_RUNNING, "");
    adamd_differentiate_end(differentiation);
    adamd_differentiate_end(begin(2));
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_step_that_comes_between_is_noticed)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    const struct adamd_push_head head = kit_head("a", 1, 2);
    static struct kit_end pushed;
    struct adamd_wait wait = {0};

    open_kit(&plan);
    push(1.0F);
    struct adamd_differentiation *differentiation = begin(UINT64_MAX);
    ck_assert_int_eq(kit_push(&kit, &head, 1.0F, &pushed), ADAMD_OK); // in flight
    ck_assert_int_eq(adamd_differentiate_commit(differentiation, &wait, kit_on_ready, &end, &fault),
                     ADAMD_ETAG_MISMATCH);
    ck_assert_str_eq(fault.field, "version");
    kit_run(&kit); // done
    ck_assert_int_eq(adamd_differentiate_commit(differentiation, &wait, kit_on_ready, &end, &fault),
                     ADAMD_ETAG_MISMATCH);
    adamd_differentiate_end(differentiation);
    ck_assert_int_eq(end.count, 0);
    adamd_differentiate_end(begin(2));
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_step_that_comes_behind_changes_nothing)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_wait wait = {0};
    static struct kit_end pushed;

    open_kit(&plan);
    push(1.0F);
    struct adamd_differentiation *differentiation = begin(1);
    write_all(differentiation, ADAMD_EXP_AVG_SQ, 0, 1.0F);
    ck_assert_int_eq(adamd_differentiate_commit(differentiation, &wait, kit_on_ready, &end, &fault),
                     ADAMD_OK);
    const struct adamd_push_head head = kit_head("a", epoch, 2);
    ck_assert_int_eq(kit_push(&kit, &head, 100.0F, &pushed), ADAMD_OK);
    kit_run(&kit);
    ck_assert_uint_eq(pushed.outcome.version, 2);
    ck_assert_int_eq(end.count, 1);
    const struct adamd_cotangents *got = end.what;
    ck_assert_uint_eq(got->version, 1);
    ck_assert_float_eq_tol(at(got, ADAMD_GRAD, 0, 0), 0.002F, 1e-8F);
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

START_TEST(cotangents_of_what_is_not_there_are_refused_by_name)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    const float four[4] = {1, 2, 3, 4};
    struct adamd_wait wait = {0};

    open_kit(&plan);
    push(1.0F);
    struct adamd_differentiation *differentiation = begin(1);
    ck_assert_int_eq(adamd_differentiate_expect(differentiation, ADAMD_MAX_EXP_AVG_SQ, 0, &fault),
                     ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, "max_exp_avg_sq");
    ck_assert_int_eq(
        adamd_differentiate_write(differentiation, ADAMD_MAX_EXP_AVG_SQ, 0, four, 4, &fault),
        ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(adamd_differentiate_write(differentiation, ADAMD_EXP_AVG, 0, four, 16, &fault),
                     ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, "exp_avg");
    ck_assert_int_eq(adamd_differentiate_write(differentiation, ADAMD_EXP_AVG, 0, four, 8, &fault),
                     ADAMD_OK);
    ck_assert_int_eq(adamd_differentiate_commit(differentiation, &wait, kit_on_ready, &end, &fault),
                     ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, "exp_avg");
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

// ------------------------------------------------------------------------------------------- ends

START_TEST(options_that_change_allocate_and_free)
{
    struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_options options = plan.options;
    uint64_t version = 0;

    plan.options.differentiable = false;
    open_kit(&plan);
    push(1.0F);
    const uint64_t without = adamd_model_info(kit.model, 0).resident_bytes;
    ck_assert_int_eq(adamd_model_set_options(kit.model, 0, &options, &version, &fault), ADAMD_OK);
    refused(UINT64_MAX, ADAMD_NOT_FOUND, "version"); // not that step
    ck_assert_uint_gt(adamd_model_info(kit.model, 0).resident_bytes, without);
    push(1.0F);
    adamd_differentiate_end(begin(2));
    options.amsgrad = true; // its array and its copy
    ck_assert_int_eq(adamd_model_set_options(kit.model, 0, &options, &version, &fault), ADAMD_OK);
    const uint64_t more = adamd_model_info(kit.model, 0).resident_bytes;
    push(1.0F);
    struct adamd_differentiation *differentiation = begin(3);
    ck_assert_int_eq(adamd_differentiate_expect(differentiation, ADAMD_MAX_EXP_AVG_SQ, 1, &fault),
                     ADAMD_OK);
    options.differentiable = false;
    ck_assert_int_eq(adamd_model_set_options(kit.model, 0, &options, &version, &fault), ADAMD_OK);
    struct adamd_wait wait = {0};
    ck_assert_int_eq(adamd_differentiate_commit(differentiation, &wait, kit_on_ready, &end, &fault),
                     ADAMD_ETAG_MISMATCH);
    adamd_differentiate_end(differentiation);
    push(1.0F);
    ck_assert_uint_lt(adamd_model_info(kit.model, 0).resident_bytes, more);
    refused(UINT64_MAX, ADAMD_BAD_FIELD, "differentiable");
    kit_destroy(&kit);
}
END_TEST

START_TEST(options_that_change_while_it_runs_do_not_take_its_memory)
{
    struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_wait wait = {0};
    uint64_t version = 0;

    open_kit(&plan);
    push(1.0F);
    struct adamd_differentiation *differentiation = begin(1);
    write_all(differentiation, ADAMD_EXP_AVG_SQ, 0, 1.0F);
    ck_assert_int_eq(adamd_differentiate_commit(differentiation, &wait, kit_on_ready, &end, &fault),
                     ADAMD_OK);
    plan.options.differentiable = false;
    ck_assert_int_eq(adamd_model_set_options(kit.model, 0, &plan.options, &version, &fault),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_float_eq_tol(at(end.what, ADAMD_GRAD, 0, 0), 0.002F, 1e-8F);
    adamd_differentiate_end(differentiation);
    refused(UINT64_MAX, ADAMD_BAD_FIELD, "differentiable");
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_restore_ends_what_was_kept)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    const struct adamd_layout *layout;
    static const float zeros[20];
    struct adamd_restore *restore = NULL;
    struct adamd_wait waits[2] = {{0}};
    static struct kit_end restored;

    open_kit(&plan);
    push(1.0F);
    layout = adamd_model_layout(kit.model);
    struct adamd_differentiation *differentiation = begin(1);
    ck_assert_int_eq(adamd_restore_begin(kit.model, &restore, &fault), ADAMD_OK);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        ck_assert_int_eq(adamd_restore_write(restore, ADAMD_PARAM, i, zeros,
                                             (size_t)layout->tensors[i].count * 4, &fault),
                         ADAMD_OK);
    }
    ck_assert_int_eq(adamd_restore_commit(restore, 1, &waits[0], kit_on_ready, &restored, &fault),
                     ADAMD_OK);
    refused(1, ADAMD_BUSY, "");
    kit_run(&kit);
    ck_assert_int_eq(restored.status, ADAMD_OK);
    ck_assert_int_eq(
        adamd_differentiate_commit(differentiation, &waits[1], kit_on_ready, &end, &fault),
        ADAMD_ETAG_MISMATCH);
    adamd_differentiate_end(differentiation);
    refused(1, ADAMD_NOT_FOUND, "version"); // the file's step was made elsewhere
    kit_destroy(&kit);
}
END_TEST

static void add_group(struct adamd_added *added, struct adamd_wait *wait, struct kit_end *ended) {
    static const struct adamd_tensor_spec tensor = {
        .key = "new", .dtype = ADAMD_FLOAT32, .rank = 1, .shape = {500}};
    const struct adamd_group_spec group = {.options = plan_of(ADAMD_EACH_PUSH).options};
    struct adamd_addition *addition = NULL;

    ck_assert_int_eq(adamd_addition_begin(kit.model, &tensor, 1, &group, &addition, &fault),
                     ADAMD_OK);
    ck_assert_int_eq(adamd_addition_commit(addition, added, wait, kit_on_ready, ended, &fault),
                     ADAMD_OK);
    kit_run(&kit);
}

// What is kept has the old size: it is of no use, and the next step makes it anew.
START_TEST(a_group_that_is_added_waits_for_readers_of_the_layout)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_wait waits[2] = {{0}};
    struct adamd_added added;
    static struct kit_end ended;

    open_kit(&plan);
    push(1.0F);
    struct adamd_differentiation *differentiation = begin(1);
    write_all(differentiation, ADAMD_EXP_AVG_SQ, 0, 1.0F);
    const struct adamd_cotangents *got = commit(differentiation, &waits[0]);
    add_group(&added, &waits[1], &ended);
    ck_assert_int_eq(ended.count, 0); // the layout is still read
    if (_i == 0) {
        adamd_differentiate_detach(differentiation);
        kit_run(&kit);
        ck_assert_int_eq(ended.count, 1);
        ck_assert_float_eq_tol(at(got, ADAMD_GRAD, 0, 0), 0.002F, 1e-8F);
    }
    adamd_differentiate_end(differentiation);
    kit_run(&kit);
    ck_assert_int_eq(ended.count, 1);
    ck_assert_int_eq(ended.status, ADAMD_OK);
    refused(UINT64_MAX, ADAMD_NOT_FOUND, "version");
    push(1.0F);
    differentiation = begin(2);
    write_all(differentiation, ADAMD_PARAM, 2, 1.0F);
    got = commit(differentiation, &waits[0]);
    ck_assert(adamd_cotangents_have(got, ADAMD_GRAD, 1, 2));
    ck_assert_uint_eq(got->group_count, 2);
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

START_TEST(a_group_that_is_added_while_cotangents_come_in_ends_it)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_wait waits[2] = {{0}};
    struct adamd_added added;
    static struct kit_end ended;

    open_kit(&plan);
    push(1.0F);
    struct adamd_differentiation *differentiation = begin(1);
    add_group(&added, &waits[1], &ended);
    ck_assert_int_eq(ended.count, 1);
    write_all(differentiation, ADAMD_PARAM, 0, 1.0F);
    ck_assert_int_eq(adamd_differentiate_expect(differentiation, ADAMD_PARAM, 2, &fault),
                     ADAMD_LAYOUT_MISMATCH);
    ck_assert_int_eq(
        adamd_differentiate_commit(differentiation, &waits[0], kit_on_ready, &end, &fault),
        ADAMD_ETAG_MISMATCH);
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit);
}
END_TEST

// Row 0: before commit; 1: while the backend turns; 2: with the result in hand.
static struct adamd_differentiation *bring_to(int stage, struct adamd_wait *wait) {
    struct adamd_differentiation *differentiation = begin(1);

    write_all(differentiation, ADAMD_PARAM, 0, 1.0F);
    if (stage > 0) {
        ck_assert_int_eq(
            adamd_differentiate_commit(differentiation, wait, kit_on_ready, &end, &fault),
            ADAMD_OK);
    }
    if (stage > 1) {
        kit_run(&kit);
    }
    return differentiation;
}

START_TEST(it_may_be_given_up_at_any_time)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct adamd_wait wait = {0};

    open_kit(&plan);
    push(1.0F);
    const uint64_t before = adamd_model_info(kit.model, 0).resident_bytes;
    adamd_differentiate_end(bring_to(_i, &wait));
    kit_run(&kit);
    ck_assert_int_eq(end.count, _i > 1 ? 1 : 0);
    ck_assert_uint_eq(adamd_model_info(kit.model, 0).resident_bytes, before);
    adamd_differentiate_end(begin(1));
    kit_destroy(&kit);
}
END_TEST

// The model is destroyed at each of those stages, and the caller ends before or after the
// operation.
START_TEST(a_model_that_is_destroyed_cancels_and_waits_for_its_caller)
{
    const struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    const int stage = _i / 2;
    struct adamd_wait wait = {0};

    open_kit(&plan);
    push(1.0F);
    struct adamd_differentiation *differentiation = bring_to(stage, &wait);
    adamd_model_destroy(kit.model);
    kit.model = NULL;
    ck_assert_int_eq(end.count, stage > 0 ? 1 : 0);
    ck_assert_int_eq(end.status, stage == 1 ? ADAMD_CANCELLED : ADAMD_OK);
    if (_i % 2 == 1) {
        kit_run(&kit);
    }
    if (stage == 0) {
        ck_assert_int_eq(
            adamd_differentiate_commit(differentiation, &wait, kit_on_ready, &end, &fault),
            ADAMD_CANCELLED);
    }
    adamd_differentiate_end(differentiation);
    kit_destroy(&kit); // asserts that nothing is left
}
END_TEST

static void settle(void) {
    for (int i = 0; i < 5; i++) {
        kit_run(&kit);
        kit_wait(&kit, 10);
    }
}

static void push_and_differentiate(void) {
    struct adamd_differentiation *differentiation = NULL;
    struct adamd_registration registration = {0};
    struct adamd_wait wait = {0};
    static struct kit_end pushed;

    if (adamd_model_register(kit.model, "a", "", 0, 0, 0, kit.now_ms, &registration, &fault) !=
        ADAMD_OK) {
        return; // the device is lost
    }
    const struct adamd_push_head head = kit_head("a", registration.epoch, 1);
    (void)kit_push(&kit, &head, 1.0F, &pushed);
    settle();
    if (adamd_differentiate_begin(kit.model, UINT64_MAX, &differentiation, &fault) != ADAMD_OK) {
        return;
    }
    if (adamd_differentiate_commit(differentiation, &wait, kit_on_ready, &end, &fault) ==
        ADAMD_OK) {
        settle();
        ck_assert_int_eq(end.count, 1);
        ck_assert(end.status == ADAMD_OK || end.status == ADAMD_DEVICE_LOST);
    }
    adamd_differentiate_end(differentiation);
}

// The n-th call of the backend fails: without memory for a moment, or for good.
static void run_with_failures(uint64_t calls, enum adamd_status answer) {
    struct kit_plan plan = plan_of(ADAMD_EACH_PUSH);
    struct backend_faulty faulty = {.calls_left = calls, .answer = answer};

    plan.faulty = &faulty;
    end = (struct kit_end){0};
    if (kit_try_create(&kit, &plan) == ADAMD_OK) {
        push_and_differentiate();
    }
    adamd_model_destroy(kit.model);
    kit_run(&kit);
    ck_assert_uint_eq(faulty.live, 0);
    adamd_queue_destroy(kit.queue);
    adamd_backend_destroy(kit.backend);
}

START_TEST(a_backend_that_fails_leaks_nothing)
{
    run_with_failures((uint64_t)_i, ADAMD_NO_MEMORY);
    run_with_failures((uint64_t)_i, ADAMD_BUSY);
    run_with_failures((uint64_t)_i, ADAMD_DEVICE_LOST);
}
END_TEST

START_TEST(the_estimate_counts_what_is_kept)
{
    static const uint32_t index = 0;
    const struct adamd_tensor_spec tensor = {.key = "w", .rank = 1, .shape = {1024}};
    struct adamd_group_spec group = {
        .options = adamd_options_default, .tensors = &index, .tensor_count = 1};
    struct adamd_model_spec spec = {.tensors = &tensor,
                                    .tensor_count = 1,
                                    .groups = &group,
                                    .group_count = 1,
                                    .slots_max = 1,
                                    .published_max = 2};
    uint64_t plain = 0;
    uint64_t differentiable = 0;
    uint64_t amsgrad = 0;

    ck_assert_int_eq(adamd_model_validate(&spec, &plain, &fault), ADAMD_OK);
    group.options.differentiable = true;
    ck_assert_int_eq(adamd_model_validate(&spec, &differentiable, &fault), ADAMD_OK);
    group.options.amsgrad = true;
    ck_assert_int_eq(adamd_model_validate(&spec, &amsgrad, &fault), ADAMD_OK);
    ck_assert_uint_eq(differentiable - plain, 4 * 4096);
    ck_assert_uint_eq(amsgrad - plain, 6 * 4096);
    spec.resident_bytes_max = amsgrad - 1;
    ck_assert_int_eq(adamd_model_validate(&spec, &amsgrad, &fault), ADAMD_TOO_LARGE);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("model differentiate");
    TCase *tests = tcase_create("differentiate");

    tcase_add_loop_test(tests, the_last_step_is_differentiated, 0, 2);
    tcase_add_test(tests, what_was_not_given_is_zeros);
    tcase_add_test(tests, the_gradient_is_the_one_that_was_applied);
    tcase_add_test(tests, a_tensor_without_a_gradient_passes_its_cotangents_on);
    tcase_add_test(tests, tensors_without_elements_are_no_trouble);
    tcase_add_test(tests, a_model_without_a_differentiable_group_refuses_and_pays_nothing);
    tcase_add_test(tests, only_the_last_step_can_be_differentiated);
    tcase_add_test(tests, a_step_that_comes_between_is_noticed);
    tcase_add_test(tests, a_step_that_comes_behind_changes_nothing);
    tcase_add_test(tests, cotangents_of_what_is_not_there_are_refused_by_name);
    tcase_add_test(tests, options_that_change_allocate_and_free);
    tcase_add_test(tests, options_that_change_while_it_runs_do_not_take_its_memory);
    tcase_add_test(tests, a_restore_ends_what_was_kept);
    tcase_add_loop_test(tests, a_group_that_is_added_waits_for_readers_of_the_layout, 0, 2);
    tcase_add_test(tests, a_group_that_is_added_while_cotangents_come_in_ends_it);
    tcase_add_loop_test(tests, it_may_be_given_up_at_any_time, 0, 3);
    tcase_add_loop_test(tests, a_model_that_is_destroyed_cancels_and_waits_for_its_caller, 0, 6);
    tcase_add_loop_test(tests, a_backend_that_fails_leaks_nothing, 0, 40);
    tcase_add_test(tests, the_estimate_counts_what_is_kept);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
