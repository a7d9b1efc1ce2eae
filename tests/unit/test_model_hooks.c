// Goal: hooks around the steps of a model: what they see and change, what their failure leaves
// behind, and the numbers of each built-in one, against plain arithmetic. A gradient that hooks
// made is compared by what a model without hooks makes of the same numbers: bit for bit.
#include "adamd/actions.h"
#include "adamd/plugin.h"
#include "backend_deferred.h"
#include "modelkit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ELEMENTS = 23 }; // of the kit's model: 3 and 20

static struct kit kit, plain; // with hooks, and without
static struct adamd_hook_registry *registry;
static char order[64];

// ----------------------------------------------------------------------------------------- setting

static void create(enum adamd_trigger trigger) {
    struct kit_plan plan = kit_plan(trigger);

    registry = adamd_hook_registry_create();
    plan.options.lr = 0.5;
    plan.policy.nonfinite = ADAMD_NONFINITE_ALLOW;
    plan.hook_registry = registry;
    kit_create(&kit, &plan);
    plan.hook_registry = NULL;
    kit_create(&plain, &plan);
    order[0] = '\0';
}

static void finish(void) {
    kit_destroy(&kit);
    kit_destroy(&plain);
    adamd_hook_registry_destroy(registry);
}

static void fill(float gradient[ELEMENTS], float first, float step) {
    for (int i = 0; i < ELEMENTS; i++) {
        gradient[i] = first + step * (float)i;
    }
}

// begin, append, commit; what follows is run.
static enum adamd_status push(struct kit *to, const char *worker, uint64_t epoch, uint64_t sequence,
                              const float gradient[ELEMENTS], struct kit_end *end) {
    const struct adamd_push_head head = kit_head(worker, epoch, sequence);
    enum adamd_status status = ADAMD_OK;
    struct adamd_push *handle = kit_begin(to, &head, end, &status);

    ck_assert_int_eq(status, ADAMD_OK);
    ck_assert_int_eq(adamd_push_append(handle, gradient, ELEMENTS * sizeof(float), &end->fault),
                     ADAMD_OK);
    return adamd_push_commit(handle, to->now_ms, &end->fault);
}

// As worker "a", registered before: applied.
static void push_applied(struct kit *to, uint64_t epoch, uint64_t sequence,
                         const float gradient[ELEMENTS]) {
    struct kit_end end;

    ck_assert_int_eq(push(to, "a", epoch, sequence, gradient, &end), ADAMD_OK);
    kit_run(to);
    ck_assert_int_eq(end.count, 1);
    ck_assert_msg(end.status == ADAMD_OK, "%s", end.fault.message);
    ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
}

static void params(struct kit *of, float values[ELEMENTS]) {
    kit_params(of, 0, values);
    kit_params(of, 1, values + 3);
}

// Both models stand at the same bits.
static void expect_equal(void) {
    float left[ELEMENTS];
    float right[ELEMENTS];

    params(&kit, left);
    params(&plain, right);
    for (int i = 0; i < ELEMENTS; i++) {
        ck_assert_msg(memcmp(&left[i], &right[i], sizeof left[i]) == 0, "%d: %.9g, wanted %.9g", i,
                      (double)left[i], (double)right[i]);
    }
}

static uint64_t version_of(const struct kit *of) {
    return adamd_model_info(of->model, of->now_ms).version;
}

static const struct adamd_step_record *last_record(const struct kit *of) {
    const struct adamd_step_record *record = NULL;
    const struct adamd_step_record *next = adamd_model_next_record(of->model, 0);

    while (next != NULL) {
        record = next;
        next = adamd_model_next_record(of->model, record->ordinal);
    }
    ck_assert_ptr_nonnull(record);
    return record;
}

static void note(char letter) {
    const size_t size = strlen(order);

    ck_assert_uint_lt(size + 1, sizeof order);
    order[size] = letter;
    order[size + 1] = '\0';
}

static uint64_t add_hook(enum adamd_hook_event event, adamd_hook_fn *fn, const void *arg) {
    const struct adamd_hook hook = {.name = "test", .run = fn, .arg = (void *)arg};
    struct adamd_fault fault;
    uint64_t id = 0;

    ck_assert_int_eq(adamd_model_register_hook(kit.model, event, &hook, false, &id, &fault),
                     ADAMD_OK);
    return id;
}

static struct adamd_action make(const char *name) {
    struct adamd_action action;

    ck_assert_int_eq(adamd_action_default(name, &action, NULL), ADAMD_OK);
    return action;
}

static uint64_t add_action(const struct adamd_action *action) {
    struct adamd_fault fault = {0};
    uint64_t id = 0;

    ck_assert_msg(adamd_model_add_action(kit.model, ADAMD_HOOK_EVENT_COUNT, action, false, &id,
                                         &fault) == ADAMD_OK,
                  "%s", fault.message);
    return id;
}

// ----------------------------------------------------------------------------------- around a step

static enum adamd_hook_answer write_letter(void *arg, struct adamd_hook_call *call) {
    ck_assert_ptr_nonnull(call->args);
    note(*(const char *)arg);
    return ADAMD_HOOK_DONE;
}

START_TEST(all_hooks_of_a_step_run_in_pytorchs_order)
{
    const struct adamd_hook outer = {.name = "outer", .run = write_letter, .arg = (void *)"0"};
    const struct adamd_hook last = {.name = "last", .run = write_letter, .arg = (void *)"5"};
    float gradient[ELEMENTS];
    uint64_t ids[4];

    create(ADAMD_EACH_PUSH);
    fill(gradient, -1, 0.25F);
    ids[0] = add_hook(ADAMD_STEP_POST, write_letter, "2");
    ids[1] = add_hook(ADAMD_STEP_PRE, write_letter, "1");
    ck_assert_int_eq(adamd_register_optimizer_hook(registry, ADAMD_STEP_PRE, &outer, &ids[2], NULL),
                     ADAMD_OK);
    ck_assert_int_eq(adamd_register_optimizer_hook(registry, ADAMD_STEP_POST, &last, &ids[3], NULL),
                     ADAMD_OK);
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    push_applied(&kit, epoch, 1, gradient);
    ck_assert_str_eq(order, "0125");

    ck_assert(adamd_model_remove_hook(kit.model, ids[0]));
    ck_assert(!adamd_model_remove_hook(kit.model, ids[0]));
    ck_assert(adamd_model_remove_hook(kit.model, ids[1]));
    ck_assert(adamd_remove_optimizer_hook(registry, ids[2]));
    ck_assert(adamd_remove_optimizer_hook(registry, ids[3]));
    push_applied(&kit, epoch, 2, gradient);
    ck_assert_str_eq(order, "0125");

    const uint64_t plain_epoch = kit_register(&plain, "a", UINT32_MAX);
    push_applied(&plain, plain_epoch, 1, gradient);
    push_applied(&plain, plain_epoch, 2, gradient);
    expect_equal();
    finish();
}
END_TEST

// Without hooks, and with hooks that leave the gradient alone: the one pass and nothing else.
START_TEST(a_step_stays_one_operation)
{
    struct adamd_action schedule = make("lr_schedule");
    float gradient[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 1);
    if (_i == 1) {
        schedule.lr_schedule.kind = ADAMD_SCHEDULE_COSINE;
        schedule.lr_schedule.t_max = 10;
        add_action(&schedule);
        add_hook(ADAMD_STEP_PRE, write_letter, "a");
    }
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &end), ADAMD_OK);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1);
    ck_assert_int_eq(backend_deferred_peek(kit.deferred, 0)->kind, ADAMD_OP_STEP);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    finish();
}
END_TEST

static enum adamd_hook_answer set_lr(void *arg, struct adamd_hook_call *call) {
    call->args->options[0].lr = *(const double *)arg;
    return ADAMD_HOOK_DONE;
}

START_TEST(changed_arguments_are_the_steps_and_only_this_steps)
{
    const double lr = 0.125;
    float gradient[ELEMENTS];
    struct adamd_options options = adamd_options_default;
    uint64_t version = 0;

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 0.5F);
    const uint64_t id = add_hook(ADAMD_STEP_PRE, set_lr, &lr);
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    push_applied(&kit, epoch, 1, gradient);
    ck_assert_double_eq(last_record(&kit)->lr, lr);
    ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, 0.5);
    adamd_model_remove_hook(kit.model, id);
    push_applied(&kit, epoch, 2, gradient);
    ck_assert_double_eq(last_record(&kit)->lr, 0.5);

    const uint64_t plain_epoch = kit_register(&plain, "a", UINT32_MAX);
    options.lr = lr;
    ck_assert_int_eq(adamd_model_set_options(plain.model, 0, &options, &version, NULL), ADAMD_OK);
    push_applied(&plain, plain_epoch, 1, gradient);
    options.lr = 0.5;
    ck_assert_int_eq(adamd_model_set_options(plain.model, 0, &options, &version, NULL), ADAMD_OK);
    push_applied(&plain, plain_epoch, 2, gradient);
    expect_equal();
    finish();
}
END_TEST

// -------------------------------------------------------------------------------- refused, skipped

static enum adamd_hook_answer refuse(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    note('!');
    adamd_fail(call->fault, ADAMD_HOOK_FAILED, NULL, "not today");
    return ADAMD_HOOK_FAIL;
}

static enum adamd_hook_answer scale_and_refuse(void *arg, struct adamd_hook_call *call) {
    ck_assert_int_eq(adamd_hook_scale(call, 0.5), ADAMD_OK);
    return refuse(arg, call);
}

START_TEST(a_refused_step_leaves_nothing_and_may_be_sent_again)
{
    adamd_hook_fn *const fns[] = {refuse, scale_and_refuse};
    float gradient[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 0.5F);
    const uint64_t id = add_hook(ADAMD_STEP_PRE, fns[_i], NULL);
    add_hook(ADAMD_STEP_PRE, write_letter, "x");
    add_hook(ADAMD_STEP_POST, write_letter, "y");
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_HOOK_FAILED);
    ck_assert_str_eq(end.fault.message, "test: not today");
    ck_assert_str_eq(adamd_model_hook_fault(kit.model)->message, "test: not today");
    ck_assert_str_eq(order, "!");
    ck_assert_uint_eq(version_of(&kit), 0);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).counts.rejected, 1);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 0);

    adamd_model_remove_hook(kit.model, id);
    push_applied(&kit, epoch, 1, gradient);
    push_applied(&plain, kit_register(&plain, "a", UINT32_MAX), 1, gradient);
    expect_equal();
    finish();
}
END_TEST

static enum adamd_hook_answer break_lr(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    call->args->options[0].lr = -1.0;
    return ADAMD_HOOK_DONE;
}

static enum adamd_hook_answer break_scale(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    call->args->grad_scale = 0.0;
    return ADAMD_HOOK_DONE;
}

static enum adamd_hook_answer wait_for_nothing(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    (void)call;
    return ADAMD_HOOK_WAIT;
}

START_TEST(bad_arguments_refuse_the_step)
{
    static const struct {
        adamd_hook_fn *fn;
        const char *message;
    } rows[] = {{break_lr, "Invalid learning rate: -1.0"},
                {break_scale, "a hook left a grad_scale that is not above 0 and finite"},
                {wait_for_nothing, "a hook waits, but submitted nothing"}};
    float gradient[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 0.5F);
    add_hook(ADAMD_STEP_PRE, rows[_i].fn, NULL);
    ck_assert_int_eq(push(&kit, "a", kit_register(&kit, "a", UINT32_MAX), 1, gradient, &end),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.status, ADAMD_HOOK_FAILED);
    ck_assert_str_eq(end.fault.message, rows[_i].message);
    ck_assert_uint_eq(version_of(&kit), 0);
    finish();
}
END_TEST

static enum adamd_hook_answer set_found_inf(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    call->args->found_inf = true;
    return ADAMD_HOOK_DONE;
}

static enum adamd_hook_answer skip(void *arg, struct adamd_hook_call *call) {
    (void)arg;
    (void)call;
    return ADAMD_HOOK_SKIP;
}

START_TEST(a_skipped_step_is_decided_and_changes_nothing)
{
    static const struct {
        adamd_hook_fn *fn;
        enum adamd_skip skip;
    } rows[] = {{set_found_inf, ADAMD_SKIP_NONFINITE}, {skip, ADAMD_SKIP_BY_HOOK}};
    float gradient[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 0.5F);
    const uint64_t id = add_hook(ADAMD_STEP_PRE, rows[_i].fn, NULL);
    const uint64_t post = add_hook(ADAMD_STEP_POST, write_letter, "p");
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_OK);
    ck_assert_int_eq(end.outcome.kind, ADAMD_SKIPPED_NONFINITE);
    ck_assert_uint_eq(end.outcome.version, 0);
    ck_assert_str_eq(order, ""); // no post hook
    ck_assert(last_record(&kit)->skipped);
    ck_assert_int_eq(last_record(&kit)->skip, rows[_i].skip);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 0);

    adamd_model_remove_hook(kit.model, id);
    adamd_model_remove_hook(kit.model, post);
    push_applied(&kit, epoch, 2, gradient);
    push_applied(&plain, kit_register(&plain, "a", UINT32_MAX), 1, gradient);
    expect_equal();
    finish();
}
END_TEST

START_TEST(a_failure_behind_the_step_stops_the_rest_but_the_version_stands)
{
    float gradient[ELEMENTS];

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 0.5F);
    add_hook(ADAMD_STEP_POST, write_letter, "a");
    add_hook(ADAMD_STEP_POST, refuse, NULL);
    add_hook(ADAMD_STEP_POST, write_letter, "b");
    push_applied(&kit, kit_register(&kit, "a", UINT32_MAX), 1, gradient);
    ck_assert_str_eq(order, "a!");
    ck_assert_uint_eq(version_of(&kit), 1);
    ck_assert_str_eq(last_record(&kit)->hook_error, "test: not today");
    finish();
}
END_TEST

// -------------------------------------------------------------------------- numbers of the actions

// What a model without hooks makes of `gradient` after `pushes` pushes.
static void push_both(uint64_t pushes, const float to_kit[ELEMENTS],
                      const float to_plain[ELEMENTS]) {
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    const uint64_t plain_epoch = kit_register(&plain, "a", UINT32_MAX);

    for (uint64_t i = 1; i <= pushes; i++) {
        push_applied(&kit, epoch, i, to_kit);
        push_applied(&plain, plain_epoch, i, to_plain);
    }
    expect_equal();
}

static double norm_of(const float gradient[ELEMENTS]) {
    double sum = 0;

    for (int i = 0; i < ELEMENTS; i++) {
        sum += (double)gradient[i] * (double)gradient[i];
    }
    return sqrt(sum);
}

static void scale_by(const float from[ELEMENTS], double factor, float to[ELEMENTS]) {
    for (int i = 0; i < ELEMENTS; i++) {
        to[i] = from[i] * (float)factor;
    }
}

START_TEST(unscale_multiplies_by_the_rounded_reciprocal)
{
    struct adamd_action action = make("unscale");
    float gradient[ELEMENTS];
    float unscaled[ELEMENTS];

    create(ADAMD_EACH_PUSH);
    fill(gradient, -100, 12.7F);
    action.unscale.scale = 3.0;
    add_action(&action);
    scale_by(gradient, 1.0 / 3.0, unscaled);
    push_both(3, gradient, unscaled);
    ck_assert_double_eq(last_record(&kit)->unscaled_by, (double)(float)(1.0 / 3.0));
    finish();
}
END_TEST

static double scale_now(void) {
    struct adamd_action_view view;

    ck_assert(adamd_model_action_at(kit.model, 0, &view));
    ck_assert_int_eq(view.action->kind, ADAMD_UNSCALE);
    return view.action->unscale.scale;
}

// Growth after the interval, backoff at once, the count begins anew: as GradScaler.update().
START_TEST(unscale_chooses_the_scale_as_gradscaler_does)
{
    static const struct {
        bool finite;
        double scale; // afterwards
    } steps[] = {{true, 8},  {true, 16}, {true, 16}, {false, 8}, {true, 8},
                 {true, 16}, {false, 8}, {false, 4}, {true, 4},  {true, 8}};
    struct adamd_action action = make("unscale");
    float gradient[ELEMENTS];
    uint64_t version = 0;

    create(ADAMD_EACH_PUSH);
    action.unscale.scale = 8;
    action.unscale.growth_interval = 2;
    add_action(&action);
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct kit_end end;
        fill(gradient, 1, 1);
        gradient[7] = steps[i].finite ? gradient[7] : i % 2 == 0 ? NAN : INFINITY;
        ck_assert_int_eq(push(&kit, "a", epoch, i + 1, gradient, &end), ADAMD_OK);
        kit_run(&kit);
        ck_assert_int_eq(end.outcome.kind,
                         steps[i].finite ? ADAMD_APPLIED : ADAMD_SKIPPED_NONFINITE);
        version += steps[i].finite ? 1 : 0;
        ck_assert_uint_eq(version_of(&kit), version);
        ck_assert_double_eq(scale_now(), steps[i].scale);
    }
    finish();
}
END_TEST

START_TEST(a_refused_step_does_not_count_for_the_scale)
{
    struct adamd_action action = make("unscale");
    struct kit_end end;
    float gradient[ELEMENTS];

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 1);
    action.unscale.growth_interval = 1;
    add_action(&action);
    add_hook(ADAMD_STEP_PRE, refuse, NULL);
    ck_assert_int_eq(push(&kit, "a", kit_register(&kit, "a", UINT32_MAX), 1, gradient, &end),
                     ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.status, ADAMD_HOOK_FAILED);
    ck_assert_double_eq(scale_now(), 65536);
    finish();
}
END_TEST

START_TEST(clip_grad_norm_is_pytorchs)
{
    static const struct {
        double max_norm, type;
    } rows[] = {{1.0, 2.0}, {0.0, 2.0}, {1e6, 2.0}, {2.5, INFINITY}, {1e6, INFINITY}};
    struct adamd_action action = make("clip_grad_norm");
    float gradient[ELEMENTS];
    float clipped[ELEMENTS];

    create(ADAMD_EACH_PUSH);
    fill(gradient, -3, 0.3F);
    action.clip_grad_norm.max_norm = rows[_i].max_norm;
    action.clip_grad_norm.norm_type = rows[_i].type;
    add_action(&action);
    const double largest = fmax(fabs((double)gradient[0]), fabs((double)gradient[ELEMENTS - 1]));
    const double norm = rows[_i].type == 2.0 ? norm_of(gradient) : largest;
    const double coef = rows[_i].max_norm / (norm + 1e-6);
    scale_by(gradient, coef < 1.0 ? coef : 1.0, clipped);
    push_both(3, gradient, clipped);
    ck_assert_double_eq_tol(last_record(&kit)->total_norm, norm, 1e-12 * norm);
    ck_assert_double_eq_tol(last_record(&kit)->clip_coef, coef < 1.0 ? coef : 1.0, 1e-12);
    finish();
}
END_TEST

START_TEST(a_norm_that_is_not_finite_clips_as_pytorch_or_refuses)
{
    struct adamd_action action = make("clip_grad_norm");
    float gradient[ELEMENTS];
    float values[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 1);
    gradient[4] = NAN;
    action.clip_grad_norm.max_norm = 1.0;
    action.clip_grad_norm.norm_type = _i % 2 == 0 ? 2.0 : INFINITY;
    action.clip_grad_norm.error_if_nonfinite = _i < 2;
    add_action(&action);
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &end), ADAMD_OK);
    kit_run(&kit);
    if (_i < 2) {
        ck_assert_int_eq(end.status, ADAMD_HOOK_FAILED);
        ck_assert_str_eq(end.fault.message, "clip_grad_norm: the total norm of the gradients is "
                                            "nan, and error_if_nonfinite is set");
    } else {
        ck_assert_int_eq(end.outcome.kind, ADAMD_APPLIED);
        params(&kit, values);
        for (int i = 0; i < ELEMENTS; i++) {
            ck_assert(isnan(values[i]));
        }
    }
    finish();
}
END_TEST

START_TEST(infinity_makes_clipping_erase_the_rest)
{
    struct adamd_action action = make("clip_grad_norm");
    float gradient[ELEMENTS];
    float values[ELEMENTS];

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 1);
    gradient[4] = INFINITY;
    action.clip_grad_norm.max_norm = 1.0;
    add_action(&action);
    push_applied(&kit, kit_register(&kit, "a", UINT32_MAX), 1, gradient);
    params(&kit, values);
    for (int i = 0; i < ELEMENTS; i++) { // 0 / (0 + eps), and inf * 0
        ck_assert(i == 4 ? isnan(values[i]) : values[i] == 0.0F);
    }
    finish();
}
END_TEST

START_TEST(clip_grad_value_clamps_each)
{
    struct adamd_action action = make("clip_grad_value");
    float gradient[ELEMENTS];
    float clipped[ELEMENTS];

    create(ADAMD_EACH_PUSH);
    fill(gradient, -3, 0.3F);
    action.clip_grad_value.clip_value = 1.1;
    add_action(&action);
    for (int i = 0; i < ELEMENTS; i++) {
        clipped[i] = fminf(fmaxf(gradient[i], -1.1F), 1.1F);
    }
    push_both(3, gradient, clipped);
    finish();
}
END_TEST

START_TEST(a_guard_skips_what_is_not_finite)
{
    const struct adamd_action action = make("nonfinite_guard");
    float gradient[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 1);
    add_action(&action);
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    push_applied(&kit, epoch, 1, gradient);
    gradient[22] = -INFINITY;
    ck_assert_int_eq(push(&kit, "a", epoch, 2, gradient, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_SKIPPED_NONFINITE);
    ck_assert_uint_eq(version_of(&kit), 1);
    ck_assert_int_eq(last_record(&kit)->skip, ADAMD_SKIP_NONFINITE);
    finish();
}
END_TEST

// A guard is there to judge: the policy, which would turn such a push away, lets it in.
START_TEST(with_a_guard_the_policy_lets_everything_in)
{
    const struct adamd_action action = make("nonfinite_guard");
    struct adamd_policy policy = kit_plan(ADAMD_EACH_PUSH).policy;
    float gradient[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    policy.nonfinite = ADAMD_NONFINITE_REJECT;
    ck_assert_int_eq(adamd_model_set_policy(kit.model, &policy, kit.now_ms, NULL), ADAMD_OK);
    fill(gradient, 1, 1);
    gradient[2] = NAN;
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &end), ADAMD_NONFINITE);
    const uint64_t id = add_action(&action);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.outcome.kind, ADAMD_SKIPPED_NONFINITE);
    adamd_model_remove_hook(kit.model, id);
    ck_assert_int_eq(push(&kit, "a", epoch, 2, gradient, &end), ADAMD_NONFINITE);
    finish();
}
END_TEST

START_TEST(actions_compose_in_the_order_of_registration)
{
    struct adamd_action clip_norm = make("clip_grad_norm");
    struct adamd_action clip_value = make("clip_grad_value");
    struct adamd_action unscale = make("unscale");
    float gradient[ELEMENTS];
    float expected[ELEMENTS];

    create(ADAMD_EACH_PUSH);
    fill(gradient, -30, 3);
    unscale.unscale.scale = 8;
    clip_norm.clip_grad_norm.max_norm = 2;
    clip_value.clip_grad_value.clip_value = 0.5;
    add_action(&unscale);
    add_action(&clip_norm);
    add_action(&clip_value);
    scale_by(gradient, 0.125, expected);
    scale_by(expected, 2.0 / (norm_of(expected) + 1e-6), expected);
    for (int i = 0; i < ELEMENTS; i++) {
        expected[i] = fminf(fmaxf(expected[i], -0.5F), 0.5F);
    }
    push_both(2, gradient, expected);
    finish();
}
END_TEST

static enum adamd_hook_answer set_grad_scale(void *arg, struct adamd_hook_call *call) {
    call->args->grad_scale = *(const double *)arg;
    return ADAMD_HOOK_DONE;
}

START_TEST(a_grad_scale_is_divided_by)
{
    const double scale = 3.0;
    float gradient[ELEMENTS];
    float divided[ELEMENTS];

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 1.7F);
    add_hook(ADAMD_STEP_PRE, set_grad_scale, &scale);
    for (int i = 0; i < ELEMENTS; i++) {
        divided[i] = gradient[i] / 3.0F;
    }
    push_both(2, gradient, divided);
    finish();
}
END_TEST

START_TEST(lr_schedule_moves_with_the_versions)
{
    struct adamd_action action = make("lr_schedule");
    float gradient[ELEMENTS];
    struct adamd_options options = adamd_options_default;
    uint64_t version = 0;

    create(ADAMD_EACH_PUSH);
    fill(gradient, 1, 0.5F);
    action.lr_schedule.kind = ADAMD_SCHEDULE_EXPONENTIAL;
    action.lr_schedule.gamma = 0.5;
    action.lr_schedule.warmup_steps = 2;
    action.lr_schedule.warmup_start_factor = 0.25;
    add_action(&action);
    ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, 0.125); // at once, as PyTorch's
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    const uint64_t plain_epoch = kit_register(&plain, "a", UINT32_MAX);
    for (uint64_t i = 0; i < 5; i++) {
        options.lr = adamd_lr_schedule_at(&action.lr_schedule, 0.5, i);
        ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, options.lr);
        ck_assert_int_eq(adamd_model_set_options(plain.model, 0, &options, &version, NULL),
                         ADAMD_OK);
        push_applied(&kit, epoch, i + 1, gradient);
        push_applied(&plain, plain_epoch, i + 1, gradient);
        ck_assert_double_eq(last_record(&kit)->lr, options.lr);
    }
    expect_equal();
    finish();
}
END_TEST

static void ema(float values[ELEMENTS]) {
    const struct adamd_layout *layout = adamd_model_layout(kit.model);
    struct adamd_wait wait = {0};
    struct kit_end end = {0};

    adamd_model_pull_ema(kit.model, &wait, kit_on_ready, &end);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_OK);
    const struct adamd_published *published = end.what;
    ck_assert_uint_eq(published->version, version_of(&kit));
    memcpy(values, published->host + layout->tensors[0].offset, 3 * sizeof(float));
    memcpy(values + 3, published->host + layout->tensors[1].offset, 20 * sizeof(float));
    adamd_published_release(kit.model, published);
}

static enum adamd_status try_ema(void) {
    struct adamd_wait wait = {0};
    struct kit_end end = {0};

    adamd_model_pull_ema(kit.model, &wait, kit_on_ready, &end);
    kit_run(&kit);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_ne(end.status, ADAMD_OK);
    return end.status;
}

START_TEST(ema_begins_with_a_copy_and_averages_from_then_on)
{
    struct adamd_action action = make("ema");
    float gradient[ELEMENTS];
    float values[ELEMENTS];
    float average[ELEMENTS];
    double expected[ELEMENTS] = {0};

    create(ADAMD_EACH_PUSH);
    action.ema.decay = 0.75;
    ck_assert_int_eq(try_ema(), ADAMD_NOT_FOUND);
    const uint64_t id = add_action(&action);
    ck_assert_int_eq(try_ema(), ADAMD_NOT_FOUND); // no version yet
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    for (uint64_t step = 1; step <= 5; step++) {
        fill(gradient, (float)step, -0.5F);
        push_applied(&kit, epoch, step, gradient);
        params(&kit, values);
        ema(average);
        for (int i = 0; i < ELEMENTS; i++) {
            expected[i] =
                step == 1 ? (double)values[i] : 0.75 * expected[i] + 0.25 * (double)values[i];
            ck_assert_double_eq_tol((double)average[i], expected[i], 1e-6);
            ck_assert(step > 1 || memcmp(&average[i], &values[i], sizeof values[i]) == 0);
        }
    }
    adamd_model_remove_hook(kit.model, id);
    kit_run(&kit);
    ck_assert_int_eq(try_ema(), ADAMD_NOT_FOUND);
    finish();
}
END_TEST

// ------------------------------------------------------------------------------ BARRIER and MANUAL

static void barrier_round(struct kit *of, bool reversed, const float first[ELEMENTS],
                          const float second[ELEMENTS]) {
    static const char *const names[] = {"a", "b"};
    const float *const gradients[] = {first, second};
    uint64_t epochs[2];
    struct kit_end ends[2];

    for (int i = 0; i < 2; i++) {
        epochs[i] = kit_register(of, names[i], (uint32_t)i);
    }
    for (int i = 0; i < 2; i++) {
        const int k = reversed ? 1 - i : i;
        ck_assert_int_eq(push(of, names[k], epochs[k], 1, gradients[k], &ends[k]), ADAMD_OK);
    }
    kit_run(of);
    ck_assert_int_eq(ends[0].outcome.kind, ADAMD_APPLIED);
    ck_assert_int_eq(ends[1].outcome.kind, ADAMD_APPLIED);
    ck_assert_uint_eq(ends[1].outcome.contributors, 2);
}

START_TEST(a_round_is_clipped_as_its_mean)
{
    struct adamd_action action = make("clip_grad_norm");
    float first[ELEMENTS];
    float second[ELEMENTS];
    float mean[ELEMENTS];

    create(ADAMD_BARRIER);
    fill(first, -3, 0.3F);
    fill(second, 5, -0.1F);
    for (int i = 0; i < ELEMENTS; i++) {
        mean[i] = (first[i] + second[i]) / 2.0F;
    }
    action.clip_grad_norm.max_norm = 1;
    add_action(&action);
    barrier_round(&kit, _i == 1, first, second);
    scale_by(mean, 1.0 / (norm_of(mean) + 1e-6), mean);
    barrier_round(&plain, false, mean, mean);
    expect_equal();
    finish();
}
END_TEST

// Whether its push counts cannot be said yet, and nothing was written: so it does not.
START_TEST(a_worker_that_comes_again_between_hooks_aborts_the_step)
{
    struct adamd_action action = make("clip_grad_norm");
    struct adamd_registration registration = {0};
    float gradient[ELEMENTS];
    struct kit_end ends[2];

    create(ADAMD_BARRIER);
    fill(gradient, 1, 1);
    action.clip_grad_norm.max_norm = 1;
    add_action(&action);
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const uint64_t other = kit_register(&kit, "b", 1);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push(&kit, "b", other, 1, gradient, &ends[1]), ADAMD_OK);
    kit_run_one(&kit);
    ck_assert_int_eq(
        adamd_model_register(kit.model, "a", "", 0, 0, 0, kit.now_ms, &registration, NULL),
        ADAMD_OK);
    ck_assert_uint_eq(registration.worker->previous.sequence, 0);
    kit_run(&kit);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(ends[i].count, 1);
        ck_assert_int_eq(ends[i].status, ADAMD_STEP_ABORTED);
    }
    ck_assert_uint_eq(version_of(&kit), 0);
    ck_assert_int_eq(push(&kit, "b", other, 1, gradient, &ends[1]), ADAMD_OK);
    ck_assert_int_eq(push(&kit, "a", registration.epoch, 1, gradient, &ends[0]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(ends[0].outcome.kind, ADAMD_APPLIED);
    ck_assert_int_eq(ends[1].outcome.kind, ADAMD_APPLIED);
    finish();
}
END_TEST

START_TEST(a_round_with_a_nonfinite_push_is_skipped_whole_by_unscale)
{
    const struct adamd_action action = make("unscale");
    float good[ELEMENTS];
    float bad[ELEMENTS];
    struct kit_end ends[2];

    create(ADAMD_BARRIER);
    fill(good, 1, 1);
    fill(bad, 1, 1);
    bad[3] = INFINITY;
    add_action(&action);
    const uint64_t epoch = kit_register(&kit, "a", 0);
    const uint64_t other = kit_register(&kit, "b", 1);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, good, &ends[0]), ADAMD_OK);
    ck_assert_int_eq(push(&kit, "b", other, 1, bad, &ends[1]), ADAMD_OK);
    kit_run(&kit);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(ends[i].count, 1);
        ck_assert_int_eq(ends[i].outcome.kind, ADAMD_SKIPPED_NONFINITE);
    }
    ck_assert_uint_eq(version_of(&kit), 0);
    ck_assert_double_eq(scale_now(), 32768);
    finish();
}
END_TEST

static void manual_step(struct kit *of, struct kit_end *end) {
    *end = (struct kit_end){0};
    ck_assert_int_eq(adamd_model_step(of->model, UINT64_MAX, NULL, kit_on_stepped, end, NULL),
                     ADAMD_OK);
    kit_run(of);
    ck_assert_int_eq(end->count, 1);
}

START_TEST(clipping_in_manual_changes_the_gradient_that_stays)
{
    struct adamd_action action = make("clip_grad_norm");
    float gradient[ELEMENTS];
    float clipped[ELEMENTS];
    struct kit_end end;
    struct kit_end staged;

    create(ADAMD_MANUAL);
    fill(gradient, -3, 0.3F);
    action.clip_grad_norm.max_norm = 1;
    const uint64_t id = add_action(&action);
    ck_assert_int_eq(push(&kit, "a", kit_register(&kit, "a", UINT32_MAX), 1, gradient, &staged),
                     ADAMD_OK);
    kit_run(&kit);
    manual_step(&kit, &end);
    adamd_model_remove_hook(kit.model, id);
    manual_step(&kit, &end); // the same gradient, clipped as it was left

    scale_by(gradient, 1.0 / (norm_of(gradient) + 1e-6), clipped);
    ck_assert_int_eq(push(&plain, "a", kit_register(&plain, "a", UINT32_MAX), 1, clipped, &staged),
                     ADAMD_OK);
    kit_run(&plain);
    manual_step(&plain, &end);
    manual_step(&plain, &end);
    expect_equal();
    finish();
}
END_TEST

START_TEST(while_hooks_work_on_a_gradient_nobody_else_changes_it)
{
    struct adamd_action action = make("clip_grad_norm");
    float gradient[ELEMENTS];
    float clipped[ELEMENTS];
    struct kit_end end = {0};
    struct kit_end staged[2];

    create(ADAMD_MANUAL);
    fill(gradient, -3, 0.3F);
    action.clip_grad_norm.max_norm = 1;
    const uint64_t id = add_action(&action);
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &staged[0]), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(adamd_model_step(kit.model, UINT64_MAX, NULL, kit_on_stepped, &end, NULL),
                     ADAMD_OK);
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1); // the norm
    if (_i == 0) {
        ck_assert_int_eq(push(&kit, "a", epoch, 2, gradient, &staged[1]), ADAMD_OK);
    } else {
        ck_assert_int_eq(adamd_model_zero_grad(kit.model, _i == 1, NULL), ADAMD_OK);
    }
    ck_assert_uint_eq(backend_deferred_pending(kit.deferred), 1);
    kit_run(&kit);
    ck_assert_int_eq(end.status, ADAMD_OK);
    adamd_model_remove_hook(kit.model, id);

    scale_by(gradient, 1.0 / (norm_of(gradient) + 1e-6), clipped);
    ck_assert_int_eq(
        push(&plain, "a", kit_register(&plain, "a", UINT32_MAX), 1, clipped, &staged[1]), ADAMD_OK);
    kit_run(&plain);
    manual_step(&plain, &end);
    expect_equal();
    finish();
}
END_TEST

START_TEST(a_refused_manual_step_tells_who_asked_and_keeps_the_gradient)
{
    float gradient[ELEMENTS];
    struct kit_end end;
    struct kit_end staged;

    create(ADAMD_MANUAL);
    fill(gradient, -3, 0.3F);
    const uint64_t id = add_hook(ADAMD_STEP_PRE, refuse, NULL);
    ck_assert_int_eq(push(&kit, "a", kit_register(&kit, "a", UINT32_MAX), 1, gradient, &staged),
                     ADAMD_OK);
    kit_run(&kit);
    manual_step(&kit, &end);
    ck_assert_int_eq(end.status, ADAMD_HOOK_FAILED);
    ck_assert_uint_eq(version_of(&kit), 0);
    adamd_model_remove_hook(kit.model, id);
    manual_step(&kit, &end);
    ck_assert_int_eq(end.status, ADAMD_OK);
    ck_assert_uint_eq(version_of(&kit), 1);

    const uint64_t again = add_hook(ADAMD_STEP_PRE, skip, NULL);
    manual_step(&kit, &end);
    ck_assert_int_eq(end.status, ADAMD_OK);
    ck_assert(end.record->skipped);
    ck_assert_uint_eq(version_of(&kit), 1);
    adamd_model_remove_hook(kit.model, again);
    finish();
}
END_TEST

// --------------------------------------------------------------------- state_dict, load_state_dict

static enum adamd_hook_answer note_dict(void *arg, struct adamd_hook_call *call) {
    note(*(const char *)arg);
    ck_assert((call->dict != NULL) ==
              (call->event == ADAMD_STATE_DICT_POST || call->event == ADAMD_LOAD_STATE_DICT_PRE));
    return ADAMD_HOOK_DONE;
}

static struct adamd_capture other_dict;

static enum adamd_hook_answer put_other(void *arg, struct adamd_hook_call *call) {
    other_dict = *call->dict;
    if (arg != NULL) {
        other_dict.steps = arg;
    }
    call->dict = &other_dict;
    return ADAMD_HOOK_DONE;
}

static const struct adamd_capture *capture(struct kit *of, enum adamd_status *ret_status) {
    struct adamd_wait wait = {0};
    struct kit_end end = {0};

    adamd_model_capture(of->model, &wait, kit_on_ready, &end);
    kit_run(of);
    ck_assert_int_eq(end.count, 1);
    *ret_status = end.status;
    return end.what;
}

START_TEST(state_dict_hooks_run_around_a_capture)
{
    enum adamd_status status = ADAMD_OK;

    create(ADAMD_EACH_PUSH);
    add_hook(ADAMD_STATE_DICT_POST, note_dict, "b");
    add_hook(ADAMD_STATE_DICT_PRE, note_dict, "a");
    const uint64_t id = add_hook(ADAMD_STATE_DICT_POST, put_other, NULL);
    const struct adamd_capture *seen = capture(&kit, &status);
    ck_assert_int_eq(status, ADAMD_OK);
    ck_assert_ptr_eq(seen, &other_dict);
    ck_assert_str_eq(order, "ab");
    adamd_capture_release(kit.model, seen);

    adamd_model_remove_hook(kit.model, id);
    const uint64_t failing =
        add_hook(_i == 0 ? ADAMD_STATE_DICT_PRE : ADAMD_STATE_DICT_POST, refuse, NULL);
    (void)capture(&kit, &status);
    ck_assert_int_eq(status, ADAMD_HOOK_FAILED);
    ck_assert_str_eq(adamd_model_hook_fault(kit.model)->message, "test: not today");
    adamd_model_remove_hook(kit.model, failing);
    seen = capture(&kit, &status);
    ck_assert_int_eq(status, ADAMD_OK);
    adamd_capture_release(kit.model, seen);
    finish();
}
END_TEST

// What is in `dict`, into the other model.
static enum adamd_status restore(struct kit *to, const struct adamd_capture *dict, bool with_hooks,
                                 struct adamd_fault *fault) {
    const struct adamd_layout *layout = adamd_model_layout(to->model);
    struct adamd_restore *handle = NULL;
    struct adamd_wait wait = {0};
    struct kit_end end = {0};
    enum adamd_status status;

    ck_assert_int_eq(adamd_restore_begin(to->model, &handle, fault), ADAMD_OK);
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        for (uint32_t i = 0; dict->arrays[array] != NULL && i < 2; i++) {
            ck_assert_int_eq(adamd_restore_write(handle, (enum adamd_array)array, i,
                                                 dict->arrays[array] + layout->tensors[i].offset,
                                                 adamd_tensor_bytes(&layout->tensors[i]), fault),
                             ADAMD_OK);
            adamd_restore_step(handle, i, dict->steps[i]);
        }
    }
    ck_assert_int_eq(adamd_restore_options(handle, dict->options, 1, fault), ADAMD_OK);
    if (with_hooks) {
        status = adamd_restore_hooks(handle, dict->hooks != NULL ? dict->hooks : "", fault);
        ck_assert_msg(status == ADAMD_OK, "%s", fault->message);
    }
    status = adamd_restore_commit(handle, dict->version, &wait, kit_on_ready, &end, fault);
    if (status != ADAMD_OK) {
        return status;
    }
    kit_run(to);
    ck_assert_int_eq(end.count, 1);
    return end.status;
}

START_TEST(load_hooks_run_around_a_load_and_may_replace_it)
{
    static const uint64_t steps[] = {7, 9};
    struct adamd_fault fault = {0};
    enum adamd_status status = ADAMD_OK;

    create(ADAMD_EACH_PUSH);
    add_hook(ADAMD_LOAD_STATE_DICT_POST, note_dict, "b");
    add_hook(ADAMD_LOAD_STATE_DICT_PRE, note_dict, "a");
    add_hook(ADAMD_LOAD_STATE_DICT_PRE, put_other, steps);
    const struct adamd_capture *dict = capture(&plain, &status);
    ck_assert_int_eq(restore(&kit, dict, false, &fault), ADAMD_OK);
    ck_assert_str_eq(order, "ab");
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 0), 7);
    ck_assert_uint_eq(adamd_model_step_of(kit.model, 1), 9);

    const uint64_t generation = adamd_model_info(kit.model, 0).generation;
    const uint64_t id = add_hook(ADAMD_LOAD_STATE_DICT_PRE, refuse, NULL);
    ck_assert_int_eq(restore(&kit, dict, false, &fault), ADAMD_HOOK_FAILED);
    ck_assert_str_eq(fault.message, "test: not today");
    ck_assert_uint_eq(adamd_model_info(kit.model, 0).generation, generation);
    adamd_model_remove_hook(kit.model, id);

    add_hook(ADAMD_LOAD_STATE_DICT_POST, refuse, NULL); // it is loaded then
    ck_assert_int_eq(restore(&kit, dict, false, &fault), ADAMD_HOOK_FAILED);
    ck_assert_uint_eq(adamd_model_info(kit.model, 0).generation, generation + 1);
    adamd_capture_release(plain.model, dict);
    finish();
}
END_TEST

// ------------------------------------------------------------------------ hooks in the whole state

static void add_everything(void) {
    struct adamd_action actions[6] = {make("unscale"),         make("clip_grad_norm"),
                                      make("clip_grad_value"), make("nonfinite_guard"),
                                      make("lr_schedule"),     make("ema")};

    actions[0].unscale.growth_interval = 3;
    actions[1].clip_grad_norm.max_norm = 1.0 / 3.0;
    actions[1].clip_grad_norm.norm_type = INFINITY;
    actions[1].clip_grad_norm.error_if_nonfinite = true;
    actions[2].clip_grad_value.clip_value = 0.1;
    actions[4].lr_schedule.kind = ADAMD_SCHEDULE_COSINE;
    actions[4].lr_schedule.t_max = 7;
    actions[5].ema.decay = 0.9;
    for (int i = 0; i < 6; i++) {
        add_action(&actions[i]);
    }
}

START_TEST(hooks_and_what_they_keep_come_back_with_the_state)
{
    struct adamd_fault fault = {0};
    enum adamd_status status = ADAMD_OK;
    float gradient[ELEMENTS];
    uint64_t digests[2][2];
    struct adamd_action_view view;

    create(ADAMD_EACH_PUSH);
    add_everything();
    fill(gradient, -3, 7);
    uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    for (uint64_t i = 1; i <= 4; i++) {
        push_applied(&kit, epoch, i, gradient);
    }
    const struct adamd_capture *dict = capture(&kit, &status);
    ck_assert_ptr_nonnull(dict->hooks);
    adamd_state_digest(adamd_model_layout(kit.model), dict, 1, digests[0]);
    ck_assert_int_eq(restore(&plain, dict, true, &fault), ADAMD_OK);
    adamd_capture_release(kit.model, dict);

    kit_digest(&plain, digests[1]);
    ck_assert_mem_eq(digests[0], digests[1], sizeof digests[0]);
    ck_assert(adamd_model_action_at(plain.model, 0, &view));
    ck_assert_double_eq(view.action->unscale.scale, 131072);
    ck_assert_uint_eq(view.action->unscale.growth_tracker, 1);
    ck_assert(adamd_model_action_at(plain.model, 4, &view));
    ck_assert_uint_eq(view.action->lr_schedule.position, 4);
    ck_assert(adamd_model_action_at(plain.model, 5, &view));
    ck_assert_uint_eq(view.action->ema.n_averaged, 4);
    ck_assert(!adamd_model_action_at(plain.model, 6, &view));

    // And they go on alike.
    const uint64_t other = kit_register(&plain, "a", UINT32_MAX);
    for (uint64_t i = 1; i <= 3; i++) {
        push_applied(&kit, epoch, 4 + i, gradient);
        push_applied(&plain, other, i, gradient);
    }
    kit_digest(&kit, digests[0]);
    kit_digest(&plain, digests[1]);
    ck_assert_mem_eq(digests[0], digests[1], sizeof digests[0]);
    finish();
}
END_TEST

START_TEST(a_state_without_hooks_leaves_them_or_removes_them)
{
    struct adamd_fault fault = {0};
    enum adamd_status status = ADAMD_OK;
    struct adamd_action_view view;

    create(ADAMD_EACH_PUSH);
    add_everything();
    add_hook(ADAMD_STEP_PRE, write_letter, "c");
    const struct adamd_capture *dict = capture(&plain, &status);
    ck_assert_int_eq(restore(&kit, dict, false, &fault), ADAMD_OK);
    ck_assert(adamd_model_action_at(kit.model, 5, &view));
    ck_assert_int_eq(restore(&kit, dict, true, &fault), ADAMD_OK);
    ck_assert(!adamd_model_action_at(kit.model, 0, &view));
    adamd_capture_release(plain.model, dict);

    float gradient[ELEMENTS]; // the callback is no part of a state
    fill(gradient, 1, 1);
    push_applied(&kit, kit_register(&kit, "a", UINT32_MAX), 1, gradient);
    ck_assert_str_eq(order, "c");
    finish();
}
END_TEST

static const char *const bad_texts[] = {
    "{}",
    "[",
    "[{}]",
    "[1]",
    "[{\"event\":\"step_pre\",\"action\":\"unscale\"}]",
    "[{\"action\":\"unscale\"}]",
    "[{\"action\":\"unscale\",\"event\":\"step_post\"}]",
    "[{\"action\":\"unscale\",\"event\":\"step_pre\",\"scale\":-1}]",
    "[{\"action\":\"unscale\",\"event\":\"step_pre\",\"scale\":\"big\"}]",
    "[{\"action\":\"unscale\",\"event\":\"step_pre\",\"growth_interval\":-1}]",
    "[{\"action\":\"unscale\",\"event\":\"step_pre\",\"max_norm\":1}]",
    "[{\"action\":\"clip_grad_norm\",\"event\":\"step_pre\"}]",
    "[{\"action\":\"clip_grad_norm\",\"event\":\"step_pre\",\"max_norm\":1,"
    "\"error_if_nonfinite\":1}]",
    "[{\"action\":\"format_disk\",\"event\":\"step_pre\"}]",
    "[{\"action\":\"lr_schedule\",\"event\":\"step_post\",\"schedule\":\"up\"}]",
    "[{\"action\":\"lr_schedule\",\"event\":\"step_post\",\"schedule\":\"linear\","
    "\"base_lrs\":[1,]}]",
    "[{\"action\":\"ema\",\"event\":\"step_post\"},{\"action\":\"ema\",\"event\":\"step_post\"}]",
    "[{\"action\":\"ema\",\"event\":\"step_post\"}] x",
};

START_TEST(a_bad_text_of_hooks_is_refused)
{
    struct adamd_restore *handle = NULL;
    struct adamd_fault fault = {0};

    create(ADAMD_EACH_PUSH);
    ck_assert_int_eq(adamd_restore_begin(kit.model, &handle, &fault), ADAMD_OK);
    ck_assert_int_eq(adamd_restore_hooks(handle, bad_texts[_i], &fault), ADAMD_BAD_FIELD);
    ck_assert_str_ne(fault.field, "");
    adamd_restore_abandon(handle);
    finish();
}
END_TEST

// ------------------------------------------------------------------------------------- what may go

START_TEST(there_is_one_ema_and_one_schedule)
{
    struct adamd_action action = make(_i == 0 ? "ema" : "lr_schedule");
    struct adamd_fault fault = {0};
    uint64_t id = 0;

    create(ADAMD_EACH_PUSH);
    action.lr_schedule.kind = _i == 0 ? action.lr_schedule.kind : ADAMD_SCHEDULE_LINEAR;
    add_action(&action);
    ck_assert_int_eq(
        adamd_model_add_action(kit.model, ADAMD_HOOK_EVENT_COUNT, &action, false, &id, &fault),
        ADAMD_EXISTS);
    ck_assert_str_eq(fault.field, "action");
    finish();
}
END_TEST

START_TEST(an_action_has_its_event)
{
    const struct adamd_action ema_action = make("ema");
    const struct adamd_action guard = make("nonfinite_guard");
    const struct adamd_action plugin = make("plugin:none");
    struct adamd_fault fault = {0};
    uint64_t id = 0;

    create(ADAMD_EACH_PUSH);
    ck_assert_int_eq(
        adamd_model_add_action(kit.model, ADAMD_STEP_PRE, &ema_action, false, &id, &fault),
        ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "event");
    ck_assert_int_eq(adamd_model_add_action(kit.model, ADAMD_STEP_PRE, &guard, true, &id, &fault),
                     ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "prepend");
    ck_assert_int_eq(
        adamd_model_add_action(kit.model, ADAMD_HOOK_EVENT_COUNT, &plugin, false, &id, &fault),
        ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "event");
    ck_assert_int_eq(adamd_model_add_action(kit.model, ADAMD_STEP_PRE, &plugin, false, &id, &fault),
                     ADAMD_NOT_FOUND);
    finish();
}
END_TEST

// ----------------------------------------------------------------------------------------- plugins

static int plugins_alive;

static void *make_plugin(const char *text, char *error, size_t error_size) {
    if (strcmp(text, "bad") == 0) {
        (void)snprintf(error, error_size, "this text is bad");
        return NULL;
    }
    plugins_alive++;
    return &plugins_alive;
}

// Halves lr, and the gradient where its norm is above 1.
static int run_plugin(void *state, const struct adamd_plugin_host *host, void *context) {
    ck_assert_ptr_eq(state, &plugins_alive);
    ck_assert_str_eq(host->event(context), "step_pre");
    if (host->turn(context) == 0) {
        host->set_lr(context, 0, host->lr(context, 0) / 2);
        host->set_lr(context, 1, 77); // there is no such group
        return host->norm(context) == 0 ? ADAMD_PLUGIN_WAIT : ADAMD_PLUGIN_FAIL;
    }
    if (host->nonfinite(context) > 0) {
        host->complain(context, "no numbers");
        return ADAMD_PLUGIN_FAIL;
    }
    return host->square_sum(context) <= 1.0 || host->scale(context, 0.5) == 0 ? ADAMD_PLUGIN_DONE
                                                                              : ADAMD_PLUGIN_FAIL;
}

static void end_plugin(void *state) {
    ck_assert_ptr_eq(state, &plugins_alive);
    plugins_alive--;
}

START_TEST(a_plugin_sees_the_step_and_works_on_the_gradient)
{
    static const struct adamd_plugin table = {ADAMD_PLUGIN_VERSION, sizeof table, make_plugin,
                                              run_plugin, end_plugin};
    struct adamd_action action = make("plugin:half");
    struct adamd_options options = adamd_options_default;
    struct adamd_fault fault = {0};
    struct kit_end end;
    float gradient[ELEMENTS];
    float halved[ELEMENTS];
    uint64_t id = 0;

    plugins_alive = 0;
    create(ADAMD_EACH_PUSH);
    ck_assert_int_eq(adamd_hook_registry_add_plugin(registry, "half", &table, &fault), ADAMD_OK);
    (void)snprintf(action.plugin.text, sizeof action.plugin.text, "bad");
    ck_assert_int_eq(adamd_model_add_action(kit.model, ADAMD_STEP_PRE, &action, false, &id, &fault),
                     ADAMD_HOOK_FAILED);
    ck_assert_str_eq(fault.message, "plugin half: this text is bad");
    action.plugin.text[0] = '\0';
    ck_assert_int_eq(adamd_model_add_action(kit.model, ADAMD_STEP_PRE, &action, false, &id, &fault),
                     ADAMD_OK);

    fill(gradient, 1, 1);
    scale_by(gradient, 0.5, halved);
    options.lr = 0.25;
    ck_assert_int_eq(adamd_model_set_options(plain.model, 0, &options, &id, NULL), ADAMD_OK);
    push_both(2, gradient, halved);
    gradient[1] = NAN;
    const uint64_t epoch = kit_register(&kit, "b", UINT32_MAX);
    ck_assert_int_eq(push(&kit, "b", epoch, 1, gradient, &end), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.status, ADAMD_HOOK_FAILED);
    ck_assert_str_eq(end.fault.message, "plugin: no numbers");
    ck_assert_int_eq(plugins_alive, 1);
    finish();
    ck_assert_int_eq(plugins_alive, 0);
}
END_TEST

START_TEST(a_plugin_of_another_version_is_refused)
{
    static const struct adamd_plugin tables[] = {
        {ADAMD_PLUGIN_VERSION + 1, sizeof tables[0], make_plugin, run_plugin, end_plugin},
        {ADAMD_PLUGIN_VERSION, 8, make_plugin, run_plugin, end_plugin},
        {ADAMD_PLUGIN_VERSION, sizeof tables[0], make_plugin, NULL, end_plugin},
    };
    struct adamd_fault fault = {0};

    registry = adamd_hook_registry_create();
    ck_assert_int_eq(adamd_hook_registry_add_plugin(registry, "half", &tables[_i], &fault),
                     ADAMD_BAD_FIELD);
    adamd_hook_registry_destroy(registry);
}
END_TEST

// ------------------------------------------------------------------------ ends in the middle of it

// Destroyed, or the device lost, after each number of operations.
START_TEST(a_model_may_end_between_any_two_operations)
{
    float gradient[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    fill(gradient, -3, 7);
    add_everything();
    kit_run(&kit);
    const uint64_t epoch = kit_register(&kit, "a", UINT32_MAX);
    ck_assert_int_eq(push(&kit, "a", epoch, 1, gradient, &end), ADAMD_OK);
    for (int i = 0; i < _i / 2 && backend_deferred_pending(kit.deferred) > 0; i++) {
        kit_run_one(&kit);
    }
    if (_i % 2 == 1 && end.count == 0) {
        backend_deferred_lose(kit.deferred);
        adamd_queue_poll(kit.queue);
        ck_assert_int_eq(end.count, 1);
        ck_assert_int_eq(end.status, ADAMD_DEVICE_LOST);
        ck_assert_int_eq(adamd_model_info(kit.model, 0).state, ADAMD_MODEL_FAILED);
    }
    finish();
}
END_TEST

START_TEST(a_restore_waits_for_no_hook)
{
    struct adamd_fault fault = {0};
    enum adamd_status status = ADAMD_OK;
    float gradient[ELEMENTS];
    struct kit_end end;

    create(ADAMD_EACH_PUSH);
    fill(gradient, -3, 7);
    add_everything();
    kit_run(&kit);
    const struct adamd_capture *dict = capture(&plain, &status);
    ck_assert_int_eq(push(&kit, "a", kit_register(&kit, "a", UINT32_MAX), 1, gradient, &end),
                     ADAMD_OK);
    kit_run_one(&kit); // between the hooks
    ck_assert_int_eq(restore(&kit, dict, false, &fault), ADAMD_OK);
    ck_assert_int_eq(end.count, 1);
    ck_assert_int_eq(end.status, ADAMD_RUN_RESTORED);
    ck_assert_uint_eq(version_of(&kit), 0);
    adamd_capture_release(plain.model, dict);
    finish();
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

static TCase *steps_case(void) {
    TCase *steps = tcase_create("steps");

    tcase_add_test(steps, all_hooks_of_a_step_run_in_pytorchs_order);
    tcase_add_loop_test(steps, a_step_stays_one_operation, 0, 2);
    tcase_add_test(steps, changed_arguments_are_the_steps_and_only_this_steps);
    tcase_add_loop_test(steps, a_refused_step_leaves_nothing_and_may_be_sent_again, 0, 2);
    tcase_add_loop_test(steps, bad_arguments_refuse_the_step, 0, 3);
    tcase_add_loop_test(steps, a_skipped_step_is_decided_and_changes_nothing, 0, 2);
    tcase_add_test(steps, a_failure_behind_the_step_stops_the_rest_but_the_version_stands);
    tcase_add_loop_test(steps, a_round_is_clipped_as_its_mean, 0, 2);
    tcase_add_test(steps, a_worker_that_comes_again_between_hooks_aborts_the_step);
    tcase_add_test(steps, a_round_with_a_nonfinite_push_is_skipped_whole_by_unscale);
    tcase_add_test(steps, clipping_in_manual_changes_the_gradient_that_stays);
    tcase_add_loop_test(steps, while_hooks_work_on_a_gradient_nobody_else_changes_it, 0, 3);
    tcase_add_test(steps, a_refused_manual_step_tells_who_asked_and_keeps_the_gradient);
    tcase_add_loop_test(steps, a_model_may_end_between_any_two_operations, 0, 24);
    return steps;
}

static TCase *actions_case(void) {
    TCase *actions = tcase_create("actions");

    tcase_add_test(actions, unscale_multiplies_by_the_rounded_reciprocal);
    tcase_add_test(actions, unscale_chooses_the_scale_as_gradscaler_does);
    tcase_add_test(actions, a_refused_step_does_not_count_for_the_scale);
    tcase_add_loop_test(actions, clip_grad_norm_is_pytorchs, 0, 5);
    tcase_add_loop_test(actions, a_norm_that_is_not_finite_clips_as_pytorch_or_refuses, 0, 4);
    tcase_add_test(actions, infinity_makes_clipping_erase_the_rest);
    tcase_add_test(actions, clip_grad_value_clamps_each);
    tcase_add_test(actions, a_guard_skips_what_is_not_finite);
    tcase_add_test(actions, with_a_guard_the_policy_lets_everything_in);
    tcase_add_test(actions, actions_compose_in_the_order_of_registration);
    tcase_add_test(actions, a_grad_scale_is_divided_by);
    tcase_add_test(actions, lr_schedule_moves_with_the_versions);
    tcase_add_test(actions, ema_begins_with_a_copy_and_averages_from_then_on);
    tcase_add_loop_test(actions, there_is_one_ema_and_one_schedule, 0, 2);
    tcase_add_test(actions, an_action_has_its_event);
    tcase_add_test(actions, a_plugin_sees_the_step_and_works_on_the_gradient);
    tcase_add_loop_test(actions, a_plugin_of_another_version_is_refused, 0, 3);
    return actions;
}

static TCase *states_case(void) {
    TCase *states = tcase_create("states");

    tcase_add_loop_test(states, state_dict_hooks_run_around_a_capture, 0, 2);
    tcase_add_test(states, load_hooks_run_around_a_load_and_may_replace_it);
    tcase_add_test(states, hooks_and_what_they_keep_come_back_with_the_state);
    tcase_add_test(states, a_state_without_hooks_leaves_them_or_removes_them);
    tcase_add_loop_test(states, a_bad_text_of_hooks_is_refused, 0, COUNT(bad_texts));
    tcase_add_test(states, a_restore_waits_for_no_hook);
    return states;
}

int main(void) {
    Suite *suite = suite_create("model_hooks");

    suite_add_tcase(suite, steps_case());
    suite_add_tcase(suite, actions_case());
    suite_add_tcase(suite, states_case());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
