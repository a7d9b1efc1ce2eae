// Goal: the parameters of the built-in hooks have PyTorch's defaults and ranges, and the schedules
// its values: those expected here were printed by torch.optim.lr_scheduler.
#include "adamd/actions.h"

#include <check.h>
#include <float.h>
#include <math.h>
#include <string.h>

static struct adamd_fault fault;

static struct adamd_action make(const char *name) {
    struct adamd_action action = {0};

    fault = (struct adamd_fault){0};
    ck_assert_int_eq(adamd_action_default(name, &action, &fault), ADAMD_OK);
    return action;
}

START_TEST(defaults_are_pytorchs)
{
    const struct adamd_unscale unscale = make("unscale").unscale;
    const struct adamd_clip_grad_norm clip = make("clip_grad_norm").clip_grad_norm;

    ck_assert_double_eq(unscale.scale, 65536.0);
    ck_assert_double_eq(unscale.growth_factor, 2.0);
    ck_assert_double_eq(unscale.backoff_factor, 0.5);
    ck_assert_uint_eq(unscale.growth_interval, 2000);
    ck_assert_double_eq(clip.norm_type, 2.0);
    ck_assert(!clip.error_if_nonfinite);
    ck_assert_double_eq(make("ema").ema.decay, 0.999);
    ck_assert_str_eq(make("plugin:abc").plugin.plugin, "abc");
}
END_TEST

static const char *const bad_names[] = {
    "", "clip", "plugin", "plugin:", "Clip_grad_norm", "plugin:0123456789012345678901234567890123"};

START_TEST(unknown_actions_are_refused_by_name)
{
    struct adamd_action action;

    ck_assert_int_eq(adamd_action_default(bad_names[_i], &action, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "action");
}
END_TEST

// One parameter that is set to a value, by its name.
static const struct {
    const char *action, *schedule, *name;
    double value;
    const char *field; // NULL: accepted
} settings[] = {
    {"unscale", NULL, "scale", 1.0, NULL},
    {"unscale", NULL, "scale", 0.0, "parameters.scale"},
    {"unscale", NULL, "scale", NAN, "parameters.scale"},
    {"unscale", NULL, "scale", INFINITY, "parameters.scale"},
    {"unscale", NULL, "growth_factor", 1.0, "parameters.growth_factor"},
    {"unscale", NULL, "growth_factor", NAN, "parameters.growth_factor"},
    {"unscale", NULL, "backoff_factor", 1.0, "parameters.backoff_factor"},
    {"unscale", NULL, "backoff_factor", 0.0, "parameters.backoff_factor"},
    {"clip_grad_norm", NULL, "norm_type", 2.0, "parameters.max_norm"}, // required
    {"clip_grad_norm", NULL, "max_norm", 0.0, NULL},
    {"clip_grad_norm", NULL, "max_norm", INFINITY, NULL},
    {"clip_grad_norm", NULL, "max_norm", -1.0, "parameters.max_norm"},
    {"clip_grad_norm", NULL, "max_norm", NAN, "parameters.max_norm"},
    {"clip_grad_value", NULL, "clip_value", 0.5, NULL},
    {"clip_grad_value", NULL, "clip_value", -0.5, "parameters.clip_value"},
    {"clip_grad_value", NULL, "clip_value", NAN, "parameters.clip_value"},
    {"ema", NULL, "decay", 0.0, NULL},
    {"ema", NULL, "decay", 1.0, NULL},
    {"ema", NULL, "decay", 1.5, "parameters.decay"},
    {"ema", NULL, "decay", NAN, "parameters.decay"},
    {"lr_schedule", "constant", "factor", 1.5, "parameters.factor"},
    {"lr_schedule", "linear", "start_factor", 0.0, "parameters.start_factor"},
    {"lr_schedule", "linear", "end_factor", 2.0, "parameters.end_factor"},
    {"lr_schedule", "linear", "end_factor", 0.0, NULL},
    {"lr_schedule", "cosine", "eta_min", 0.0, "parameters.t_max"},
    {"lr_schedule", "exponential", "gamma", 0.9, NULL},
    {"lr_schedule", "exponential", "gamma", 0.0, "parameters.gamma"},
    {"lr_schedule", "exponential", "gamma", INFINITY, "parameters.gamma"},
    {"lr_schedule", "step", "gamma", 0.5, "parameters.step_size"},
    {"lr_schedule", "constant", "warmup_start_factor", 0.0, "parameters.warmup_start_factor"},
    {"lr_schedule", "constant", "warmup_start_factor", 1.0, NULL},
};

static const struct adamd_parameter *find(const struct adamd_action *action, const char *name) {
    size_t count = 0;
    const struct adamd_parameter *table = adamd_action_parameters(action->kind, &count);
    size_t i = 0;

    while (i < count && strcmp(table[i].name, name) != 0) {
        i++;
    }
    ck_assert_msg(i < count, "no parameter %s", name);
    return &table[i];
}

static void set(struct adamd_action *action, const char *name, double value) {
    const struct adamd_parameter *parameter = find(action, name);
    void *to = (char *)action + parameter->offset;

    if (parameter->type == ADAMD_PARAMETER_DOUBLE) {
        *(double *)to = value;
    } else {
        *(uint64_t *)to = (uint64_t)value;
    }
}

START_TEST(ranges_are_checked_and_the_parameter_is_named)
{
    struct adamd_action action = make(settings[_i].action);
    enum adamd_schedule_kind kind = ADAMD_SCHEDULE_CONSTANT;

    if (settings[_i].schedule != NULL) {
        ck_assert(adamd_schedule_of(settings[_i].schedule, &kind));
        action.lr_schedule.kind = kind;
    }
    set(&action, settings[_i].name, settings[_i].value);
    const enum adamd_status status = adamd_action_check(&action, &fault);
    ck_assert_int_eq(status, settings[_i].field == NULL ? ADAMD_OK : ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, settings[_i].field == NULL ? "" : settings[_i].field);
}
END_TEST

// base lr 0.1 throughout, positions 0 to 7.
static const struct {
    const char *schedule;
    struct {
        const char *name;
        double value;
    } parameters[4];
    double lrs[8];
} schedules[] = {
    {"constant", {{0}}, {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1}},
    {"constant",
     {{"factor", 1.0 / 3}},
     {0.03333333333333333, 0.03333333333333333, 0.03333333333333333, 0.03333333333333333,
      0.03333333333333333, 0.1, 0.1, 0.1}},
    {"linear",
     {{0}},
     {0.03333333333333333, 0.04666666666666667, 0.060000000000000005, 0.07333333333333335,
      0.08666666666666668, 0.1, 0.1, 0.1}},
    {"linear",
     {{"start_factor", 1.0}, {"end_factor", 0.0}, {"total_iters", 4}},
     {0.1, 0.07500000000000001, 0.05000000000000001, 0.025000000000000005, 0.0, 0.0, 0.0, 0.0}},
    {"cosine",
     {{"t_max", 5}},
     {0.1, 0.09045084971874738, 0.06545084971874737, 0.03454915028125263, 0.009549150281252633, 0.0,
      0.009549150281252628, 0.03454915028125265}},
    {"cosine",
     {{"t_max", 4}, {"eta_min", 0.01}},
     {0.1, 0.08681980515339464, 0.05500000000000001, 0.023180194846605363, 0.01,
      0.023180194846605363, 0.05500000000000002, 0.08681980515339469}},
    {"exponential",
     {{"gamma", 0.9}},
     {0.1, 0.09000000000000001, 0.08100000000000002, 0.07290000000000002, 0.06561000000000002,
      0.05904900000000002, 0.05314410000000002, 0.04782969000000002}},
    {"step", {{"gamma", 0.5}, {"step_size", 3}}, {0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025}},
    {"cosine",
     {{"t_max", 5}, {"warmup_steps", 3}},
     {0.03333333333333333, 0.05555555555555556, 0.07777777777777778, 0.1, 0.09045084971874738,
      0.06545084971874737, 0.03454915028125263, 0.009549150281252633}},
    {"exponential",
     {{"gamma", 0.5}, {"warmup_steps", 2}, {"warmup_start_factor", 0.1}},
     {0.010000000000000002, 0.05500000000000001, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125}},
};

static struct adamd_lr_schedule make_schedule(int row) {
    struct adamd_action action = make("lr_schedule");
    enum adamd_schedule_kind kind = ADAMD_SCHEDULE_CONSTANT;

    ck_assert(adamd_schedule_of(schedules[row].schedule, &kind));
    action.lr_schedule.kind = kind;
    for (int i = 0; i < 4 && schedules[row].parameters[i].name != NULL; i++) {
        set(&action, schedules[row].parameters[i].name, schedules[row].parameters[i].value);
    }
    ck_assert_int_eq(adamd_action_check(&action, &fault), ADAMD_OK);
    return action.lr_schedule;
}

START_TEST(schedules_give_pytorchs_values)
{
    const struct adamd_lr_schedule schedule = make_schedule(_i);

    for (uint64_t position = 0; position < 8; position++) {
        const double got = adamd_lr_schedule_at(&schedule, 0.1, position);
        const double wanted = schedules[_i].lrs[position];
        ck_assert_msg(fabs(got - wanted) <= 1e-14, "position %d: %.17g, wanted %.17g",
                      (int)position, got, wanted);
    }
}
END_TEST

START_TEST(a_position_far_out_gives_a_number)
{
    const struct adamd_lr_schedule schedule = make_schedule(_i);
    const double lr = adamd_lr_schedule_at(&schedule, 0.1, UINT64_MAX / 2);

    ck_assert(lr >= 0 && isfinite(lr));
}
END_TEST

START_TEST(names_go_there_and_back)
{
    enum adamd_schedule_kind kind;

    for (int i = 0; i < ADAMD_SCHEDULE_KIND_COUNT; i++) {
        ck_assert(adamd_schedule_of(adamd_schedule_name((enum adamd_schedule_kind)i), &kind));
        ck_assert_int_eq(kind, i);
    }
    ck_assert(!adamd_schedule_of("Cosine", &kind));
    ck_assert_int_eq(adamd_action_event(ADAMD_EMA_ACTION), ADAMD_STEP_POST);
    ck_assert_int_eq(adamd_action_event(ADAMD_LR_SCHEDULE), ADAMD_STEP_POST);
    ck_assert_int_eq(adamd_action_event(ADAMD_CLIP_GRAD_NORM), ADAMD_STEP_PRE);
    ck_assert_int_eq(adamd_action_event(ADAMD_PLUGIN), ADAMD_HOOK_EVENT_COUNT);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

int main(void) {
    Suite *suite = suite_create("actions");
    TCase *all = tcase_create("all");

    tcase_add_test(all, defaults_are_pytorchs);
    tcase_add_loop_test(all, unknown_actions_are_refused_by_name, 0, COUNT(bad_names));
    tcase_add_loop_test(all, ranges_are_checked_and_the_parameter_is_named, 0, COUNT(settings));
    tcase_add_loop_test(all, schedules_give_pytorchs_values, 0, COUNT(schedules));
    tcase_add_loop_test(all, a_position_far_out_gives_a_number, 0, COUNT(schedules));
    tcase_add_test(all, names_go_there_and_back);
    suite_add_tcase(suite, all);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
