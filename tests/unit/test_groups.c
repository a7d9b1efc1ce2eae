// Goal: what param groups hold beyond their options is checked, kept as it came, changed whole or
// not at all, captured with its version and taken in with a state.
#include "backend_deferred.h"
#include "modelkit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct kit kit;

// ------------------------------------------------------------------------------------ unknown keys

static char long_text[ADAMD_EXTRA_VALUE_MAX + 2];

static const struct {
    struct adamd_extra extras[2];
    const char *field;
    enum adamd_status status;
} bad_extras[] = {
    {{{"", "1"}}, "extra[0].key", ADAMD_BAD_FIELD},
    {{{long_text, "1"}}, "extra[0].key", ADAMD_BAD_FIELD},
    {{{"\xff", "1"}}, "extra[0].key", ADAMD_BAD_FIELD},
    {{{"lr", "1"}}, "extra[0].key", ADAMD_BAD_FIELD},
    {{{"decoupled_weight_decay", "1"}}, "extra[0].key", ADAMD_BAD_FIELD},
    {{{"params", "[]"}}, "extra[0].key", ADAMD_BAD_FIELD},
    {{{"param_names", "[]"}}, "extra[0].key", ADAMD_BAD_FIELD},
    {{{"a", "1"}, {"a", "2"}}, "extra[1].key", ADAMD_BAD_FIELD},
    {{{"a", "1"}, {"b", ""}}, "extra[1].value", ADAMD_BAD_FIELD},
    {{{"a", "1 2"}}, "extra[0].value", ADAMD_BAD_FIELD},
    {{{"a", "Infinity"}}, "extra[0].value", ADAMD_BAD_FIELD},
    {{{"a", "\"\xff\""}}, "extra[0].value", ADAMD_BAD_FIELD},
    {{{"a", "[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]"}}, "extra[0].value", ADAMD_BAD_FIELD},
    {{{"a", long_text}}, "extra[0].value", ADAMD_TOO_LARGE},
};

START_TEST(a_key_that_cannot_be_kept_is_named)
{
    struct adamd_fault fault = {0};
    struct adamd_group_keys_spec spec = {.extras = bad_extras[_i].extras};

    memset(long_text, '1', sizeof long_text - 1);
    spec.extra_count = bad_extras[_i].extras[1].key != NULL ? 2 : 1;
    ck_assert_int_eq(adamd_group_keys_check(&spec, &fault), bad_extras[_i].status);
    ck_assert_str_eq(fault.field, bad_extras[_i].field);
}
END_TEST

START_TEST(anything_json_is_kept)
{
    static const struct adamd_extra extras[] = {{"initial_lr", "1e-3"},
                                                {"name", "\"decay\""},
                                                {"flag", "true"},
                                                {"none", "null"},
                                                {"nested", "{\"a\": [1, 2.50, {\"b\":null}]}"},
                                                {"LR", "-0"},
                                                {"schl\xc3\xbcssel", " 1 "}};
    static const char *const names[] = {"w", "", "w"};
    const struct adamd_group_keys_spec spec = {
        .extras = extras, .extra_count = 7, .names = names, .name_count = 3};
    struct adamd_group_keys *keys;
    struct adamd_group_keys *second;

    ck_assert_int_eq(adamd_group_keys_check(&spec, NULL), ADAMD_OK);
    keys = adamd_group_keys_create(&spec);
    second = adamd_group_keys_hold(keys);
    adamd_group_keys_drop(keys);
    for (uint32_t i = 0; i < 7; i++) {
        ck_assert_str_eq(second->extras[i].key, extras[i].key);
        ck_assert_str_eq(second->extras[i].value, extras[i].value);
    }
    ck_assert_str_eq(second->names[2], "w");
    adamd_group_keys_drop(second);
    adamd_group_keys_drop(NULL);
}
END_TEST

START_TEST(too_many_keys_are_refused)
{
    struct adamd_extra extras[ADAMD_EXTRAS_MAX + 1];
    char keys[ADAMD_EXTRAS_MAX + 1][8];
    struct adamd_group_keys_spec spec = {.extras = extras, .extra_count = ADAMD_EXTRAS_MAX};
    struct adamd_fault fault = {0};

    for (int i = 0; i <= ADAMD_EXTRAS_MAX; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "k%d", i);
        extras[i] = (struct adamd_extra){keys[i], "0"};
    }
    ck_assert_int_eq(adamd_group_keys_check(&spec, &fault), ADAMD_OK);
    spec.extra_count++;
    ck_assert_int_eq(adamd_group_keys_check(&spec, &fault), ADAMD_TOO_LARGE);
    ck_assert_str_eq(fault.field, "extra");
}
END_TEST

// ---------------------------------------------------------------------------------- changed live

static const struct adamd_extra initial[] = {{"initial_lr", "0.001"}, {"b", "2"}};

// Two tensors, each in a group of its own.
static void create(void) {
    static const struct adamd_tensor_spec tensors[] = {{.key = "t0", .rank = 1, .shape = {3}},
                                                       {.key = "t1", .rank = 1, .shape = {20}}};
    static const uint32_t indices[] = {0, 1};
    const struct adamd_group_spec groups[] = {
        {.options = adamd_options_default, .tensors = &indices[0], .tensor_count = 1},
        {.options = adamd_options_default,
         .tensors = &indices[1],
         .tensor_count = 1,
         .keys = {.extras = initial, .extra_count = 2}}};
    const struct adamd_model_spec spec = {.tensors = tensors,
                                          .tensor_count = 2,
                                          .groups = groups,
                                          .group_count = 2,
                                          .policy = {.max_staleness = UINT64_MAX, .lease_ms = 1000},
                                          .slots_max = 4,
                                          .published_max = 2};

    kit_destroy(&kit);
    kit = (struct kit){.now_ms = 1000000};
    kit.deferred = backend_deferred_create(NULL, NULL);
    kit.backend = kit.deferred;
    kit.queue = adamd_queue_create(kit.backend);
    ck_assert_int_eq(adamd_model_create(kit.queue, &spec, &kit.model, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_model_initialize(kit.model, NULL), ADAMD_OK);
    kit_run(&kit);
}

static void set_up(void) {
    const struct kit_plan plan = kit_plan(ADAMD_EACH_PUSH);

    kit_create(&kit, &plan);
    create();
}

static void tear_down(void) {
    kit_destroy(&kit);
}

START_TEST(groups_change_together_and_name_the_version)
{
    struct adamd_group_change changes[2] = {{0}};
    struct adamd_options options = adamd_options_default;
    uint64_t version = 0;

    options.lr = 0.5;
    changes[0].options = &options;
    changes[1].extras = initial;
    changes[1].extra_count = 1;
    ck_assert_int_eq(adamd_model_set_groups(kit.model, changes, &version, NULL), ADAMD_OK);
    ck_assert_uint_eq(version, 1);
    ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, 0.5);
    ck_assert_double_eq(adamd_model_options(kit.model, 1)->lr, 1e-3);
    ck_assert_uint_eq(adamd_model_group_keys(kit.model, 0)->extra_count, 0);
    ck_assert_uint_eq(adamd_model_group_keys(kit.model, 1)->extra_count, 1);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).config_count, 1);
}
END_TEST

START_TEST(a_change_during_a_step_holds_from_the_step_behind_it)
{
    static struct kit_end end;
    const struct adamd_push_head head = kit_head("a", kit_register(&kit, "a", 0), 1);
    struct adamd_group_change changes[2] = {{0}};
    struct adamd_options options = adamd_options_default;
    uint64_t version = 0;

    ck_assert_int_eq(kit_push(&kit, &head, 1, &end), ADAMD_OK);
    changes[1].options = &options;
    ck_assert_int_eq(adamd_model_set_groups(kit.model, changes, &version, NULL), ADAMD_OK);
    ck_assert_uint_eq(version, 2);
    ck_assert_uint_eq(adamd_model_group_since(kit.model, 0), 1);
    ck_assert_uint_eq(adamd_model_group_since(kit.model, 1), 2);
    kit_run(&kit);
}
END_TEST

START_TEST(a_bad_change_of_one_group_changes_none)
{
    static const struct adamd_extra bad[] = {{"a", "1"}, {"lr", "1"}};
    struct adamd_group_change changes[2] = {{0}};
    struct adamd_options options = adamd_options_default;
    struct adamd_fault fault = {0};
    uint64_t version = 7;

    options.lr = 0.5;
    changes[0].options = &options;
    changes[1].extras = bad;
    changes[1].extra_count = 2;
    ck_assert_int_eq(adamd_model_set_groups(kit.model, changes, &version, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "param_groups[1].extra[1].key");
    options.lr = -1;
    ck_assert_int_eq(adamd_model_set_groups(kit.model, changes, &version, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "param_groups[0].lr");
    ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, 1e-3);
    ck_assert_uint_eq(adamd_model_group_keys(kit.model, 1)->extra_count, 2);
    ck_assert_uint_eq(version, 7);
    ck_assert_uint_eq(adamd_model_info(kit.model, kit.now_ms).config_count, 0);
}
END_TEST

START_TEST(tensor_options_hold_as_float32)
{
    struct adamd_group_change changes[2] = {{0}};
    struct adamd_options options = adamd_options_default;
    uint64_t version;

    options.lr = 0.1;
    options.lr_is_tensor = true;
    changes[0].options = &options;
    ck_assert_int_eq(adamd_model_set_groups(kit.model, changes, &version, NULL), ADAMD_OK);
    ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, 0.10000000149011612);
    ck_assert_int_eq(adamd_model_set_options(kit.model, 1, &options, &version, NULL), ADAMD_OK);
    ck_assert_double_eq(adamd_model_options(kit.model, 1)->lr, 0.10000000149011612);
}
END_TEST

// ------------------------------------------------------------------------------------- the state

static const struct adamd_capture *capture(void) {
    static struct adamd_wait wait;
    static struct kit_end end;

    end = (struct kit_end){0};
    adamd_model_capture(kit.model, &wait, kit_on_ready, &end);
    kit_run(&kit);
    ck_assert_int_eq(end.status, ADAMD_OK);
    return end.what;
}

START_TEST(a_capture_holds_the_keys_of_its_version)
{
    const struct adamd_capture *held = capture();
    struct adamd_group_change changes[2] = {{0}};
    uint64_t before[2];
    uint64_t after[2];
    uint64_t version;

    changes[1].extras = initial;
    ck_assert_int_eq(adamd_model_set_groups(kit.model, changes, &version, NULL), ADAMD_OK);
    ck_assert_uint_eq(adamd_model_group_keys(kit.model, 1)->extra_count, 0);
    ck_assert_uint_eq(held->keys[1]->extra_count, 2);
    ck_assert_str_eq(held->keys[1]->extras[0].value, "0.001");
    adamd_state_digest(adamd_model_layout(kit.model), held, 2, before);
    adamd_capture_release(kit.model, held);
    held = capture();
    adamd_state_digest(adamd_model_layout(kit.model), held, 2, after);
    adamd_capture_release(kit.model, held);
    ck_assert_mem_ne(before, after, sizeof before);
}
END_TEST

static const float zeros[20];

static struct adamd_restore *begin_restore(void) {
    struct adamd_restore *restore = NULL;

    ck_assert_int_eq(adamd_restore_begin(kit.model, &restore, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_restore_write(restore, ADAMD_PARAM, 0, zeros, 12, NULL), ADAMD_OK);
    ck_assert_int_eq(adamd_restore_write(restore, ADAMD_PARAM, 1, zeros, 80, NULL), ADAMD_OK);
    return restore;
}

static void commit(struct adamd_restore *restore) {
    static struct adamd_wait wait;
    static struct kit_end end;

    end = (struct kit_end){0};
    ck_assert_int_eq(adamd_restore_commit(restore, 5, &wait, kit_on_ready, &end, NULL), ADAMD_OK);
    kit_run(&kit);
    ck_assert_int_eq(end.status, ADAMD_OK);
}

START_TEST(a_state_brings_its_groups_and_names_stay_where_it_has_none)
{
    static const struct adamd_extra loaded[] = {{"z", "[]"}};
    static const char *const names[] = {"given"};
    struct adamd_group_spec groups[] = {
        {.options = adamd_options_default, .tensor_count = 1, .keys = {.unnamed = true}},
        {.options = adamd_options_default,
         .tensor_count = 1,
         .keys = {.extras = loaded, .extra_count = 1, .names = names, .name_count = 1}}};
    struct adamd_restore *restore = begin_restore();

    groups[1].options.lr = 0.25;
    ck_assert_int_eq(adamd_restore_groups(restore, groups, 2, NULL), ADAMD_OK);
    commit(restore);
    ck_assert(!adamd_model_group_keys(kit.model, 0)->unnamed); // by its keys, as it was
    ck_assert_uint_eq(adamd_model_group_keys(kit.model, 1)->extra_count, 1);
    ck_assert_str_eq(adamd_model_group_keys(kit.model, 1)->extras[0].key, "z");
    ck_assert_str_eq(adamd_model_group_keys(kit.model, 1)->names[0], "given");
    ck_assert_double_eq(adamd_model_options(kit.model, 1)->lr, 0.25);
    ck_assert_uint_eq(adamd_model_group_since(kit.model, 1), 6);
    restore = begin_restore();
    groups[1].keys.unnamed = true;
    groups[1].keys.names = NULL;
    groups[1].keys.name_count = 0;
    ck_assert_int_eq(adamd_restore_groups(restore, groups, 2, NULL), ADAMD_OK);
    commit(restore);
    ck_assert_str_eq(adamd_model_group_keys(kit.model, 1)->names[0], "given");
}
END_TEST

START_TEST(a_state_of_other_groups_is_refused_in_pytorchs_words)
{
    struct adamd_group_spec groups[] = {{.options = adamd_options_default, .tensor_count = 1},
                                        {.options = adamd_options_default, .tensor_count = 2},
                                        {.options = adamd_options_default, .tensor_count = 1}};
    struct adamd_restore *restore = begin_restore();
    struct adamd_fault fault = {0};
    static const char number[] = "loaded state dict has a different number of parameter groups";
    static const char size[] =
        "loaded state dict contains a parameter group that doesn't match the "
        "size of optimizer's group";

    groups[0].options.lr = -1; // said last, as PyTorch would
    ck_assert_int_eq(adamd_restore_groups(restore, groups, 3, &fault), ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, "param_groups");
    ck_assert_mem_eq(fault.message, number, sizeof number - 1);
    ck_assert_int_eq(adamd_restore_groups(restore, groups, 2, &fault), ADAMD_LAYOUT_MISMATCH);
    ck_assert_str_eq(fault.field, "param_groups[1].params");
    ck_assert_mem_eq(fault.message, size, sizeof size - 1);
    groups[1].tensor_count = 1;
    ck_assert_int_eq(adamd_restore_groups(restore, groups, 2, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "param_groups[0].lr");
    ck_assert_str_eq(fault.message, "Invalid learning rate: -1.0");
    adamd_restore_abandon(restore);
    ck_assert_double_eq(adamd_model_options(kit.model, 0)->lr, 1e-3);
}
END_TEST

// ------------------------------------------------------------------------------------------ names

static enum adamd_status validate(const struct adamd_group_keys_spec *first,
                                  const struct adamd_group_keys_spec *second,
                                  struct adamd_fault *fault) {
    static const struct adamd_tensor_spec tensors[] = {{.key = "0"}, {.key = "1"}};
    static const uint32_t indices[] = {0, 1};
    const struct adamd_group_spec groups[] = {{.options = adamd_options_default,
                                               .tensors = &indices[0],
                                               .tensor_count = 1,
                                               .keys = *first},
                                              {.options = adamd_options_default,
                                               .tensors = &indices[1],
                                               .tensor_count = 1,
                                               .keys = *second}};
    const struct adamd_model_spec spec = {.tensors = tensors,
                                          .tensor_count = 2,
                                          .groups = groups,
                                          .group_count = 2,
                                          .slots_max = 1,
                                          .published_max = 2};
    uint64_t bytes;

    return adamd_model_validate(&spec, &bytes, fault);
}

START_TEST(all_groups_have_names_or_none)
{
    static const char *const two[] = {"a", "b"};
    const struct adamd_group_keys_spec named = {0};
    const struct adamd_group_keys_spec unnamed = {.unnamed = true};
    const struct adamd_group_keys_spec wrong = {.names = two, .name_count = 2};
    struct adamd_fault fault = {0};

    ck_assert_int_eq(validate(&named, &named, &fault), ADAMD_OK);
    ck_assert_int_eq(validate(&unnamed, &unnamed, &fault), ADAMD_OK);
    ck_assert_int_eq(validate(&unnamed, &named, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "param_groups[1].param_names");
    ck_assert_str_eq(fault.message,
                     "all optimizer param groups should be with/without names. cannot add param "
                     "group with names to the optimizer");
    ck_assert_int_eq(validate(&named, &unnamed, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.message,
                     "all optimizer param groups should be with/without names. cannot add param "
                     "group without names to the optimizer");
    ck_assert_int_eq(validate(&wrong, &named, &fault), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, "param_groups[0].param_names");
}
END_TEST

static Suite *groups_suite(void) {
    Suite *suite = suite_create("groups");
    TCase *pure = tcase_create("keys");
    TCase *live = tcase_create("live");

    tcase_add_loop_test(pure, a_key_that_cannot_be_kept_is_named, 0,
                        sizeof bad_extras / sizeof bad_extras[0]);
    tcase_add_test(pure, anything_json_is_kept);
    tcase_add_test(pure, too_many_keys_are_refused);
    tcase_add_test(pure, all_groups_have_names_or_none);
    suite_add_tcase(suite, pure);
    tcase_add_checked_fixture(live, set_up, tear_down);
    tcase_add_test(live, groups_change_together_and_name_the_version);
    tcase_add_test(live, a_change_during_a_step_holds_from_the_step_behind_it);
    tcase_add_test(live, a_bad_change_of_one_group_changes_none);
    tcase_add_test(live, tensor_options_hold_as_float32);
    tcase_add_test(live, a_capture_holds_the_keys_of_its_version);
    tcase_add_test(live, a_state_brings_its_groups_and_names_stay_where_it_has_none);
    tcase_add_test(live, a_state_of_other_groups_is_refused_in_pytorchs_words);
    suite_add_tcase(suite, live);
    return suite;
}

int main(void) {
    SRunner *runner = srunner_create(groups_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
