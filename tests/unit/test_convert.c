// Messages to core's types and back: what is set is laid over what holds, what is wrong is refused
// with its path, and nothing is half applied.
#include "codec/convert.h"

#include "adamd/backend.h"
#include "codec/json.h"
#include "codec/message.h"

#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct codec_arena arena;
static struct adamd_fault fault;

static void clear(void) {
    codec_arena_finish(&arena);
}

static void *parse(const ProtobufCMessageDescriptor *type, const char *text) {
    ProtobufCMessage *message = NULL;

    memset(&fault, 0, sizeof fault);
    ck_assert_msg(codec_json_parse(type, text, strlen(text), CODEC_JSON_MAX, &arena, &message,
                                   &fault) == ADAMD_OK,
                  "%s: %s", fault.field, fault.message);
    return message;
}

static Adamd__V1__Model *parse_model(const char *text) {
    return parse(&adamd__v1__model__descriptor, text);
}

// --------------------------------------------------------------------------------------- options

START_TEST(options_that_are_set_are_laid_over_those_that_hold)
{
    const Adamd__V1__AdamOptions *message =
        parse(&adamd__v1__adam_options__descriptor,
              "{\"lr\":0.5,\"betas\":[0.8,0.9],\"fused\":false,\"maximize\":true}");
    struct adamd_options options = adamd_options_default;

    options.eps = 1e-3;
    ck_assert_int_eq(codec_options_lay(message, "x", &options, &fault), ADAMD_OK);
    ck_assert_double_eq(options.lr, 0.5);
    ck_assert_double_eq(options.betas[0], 0.8);
    ck_assert_double_eq(options.betas[1], 0.9);
    ck_assert_double_eq(options.eps, 1e-3);
    ck_assert_int_eq(options.fused, ADAMD_FALSE);
    ck_assert_int_eq(options.foreach, ADAMD_NONE);
    ck_assert(options.maximize);
}
END_TEST

START_TEST(options_come_back_as_they_were)
{
    struct adamd_options options = {.lr = 0.1 + 0.2,
                                    .betas = {0.7, 0.77},
                                    .eps = 1e-9,
                                    .weight_decay = 0.01,
                                    .amsgrad = true,
                                    .decoupled_weight_decay = true,
                                    .foreach = ADAMD_FALSE};
    struct adamd_options back = adamd_options_default;
    const Adamd__V1__AdamOptions *message = codec_options_message(&arena, &options);

    ck_assert_ptr_nonnull(message);
    ck_assert_int_eq(codec_options_lay(message, "", &back, &fault), ADAMD_OK);
    ck_assert_double_eq(back.lr, options.lr);
    ck_assert_double_eq(back.betas[1], options.betas[1]);
    ck_assert(back.amsgrad && back.decoupled_weight_decay && !back.maximize);
    ck_assert_int_eq(back.foreach, ADAMD_FALSE);
    ck_assert_int_eq(back.fused, ADAMD_NONE);
}
END_TEST

static const struct {
    const char *text, *path, *field;
    enum adamd_status status;
} bad_options[] = {
    {"{\"lr\":-1}", "defaults", "defaults.lr", ADAMD_BAD_FIELD},
    {"{\"lr\":\"NaN\"}", "defaults", "defaults.lr", ADAMD_BAD_FIELD},
    {"{\"lr\":-1}", "", "lr", ADAMD_BAD_FIELD},
    {"{\"eps\":-1e-8}", "param_groups[1].options", "param_groups[1].options.eps", ADAMD_BAD_FIELD},
    {"{\"betas\":[0.9]}", "defaults", "defaults.betas", ADAMD_BAD_FIELD},
    {"{\"betas\":[0.9,0.9,0.9]}", "defaults", "defaults.betas", ADAMD_BAD_FIELD},
    {"{\"betas\":[1.0,0.9]}", "defaults", "defaults.betas[0]", ADAMD_BAD_FIELD},
    {"{\"betas\":[0.9,1.0]}", "defaults", "defaults.betas[1]", ADAMD_BAD_FIELD},
    {"{\"weightDecay\":-1}", "defaults", "defaults.weight_decay", ADAMD_BAD_FIELD},
    {"{\"lr\":\"NaN\",\"tensorLr\":true,\"foreach\":true}", "defaults", "defaults.lr",
     ADAMD_BAD_FIELD},
    {"{\"betas\":[0.5,0.5],\"tensorBetas\":[true,false]}", "defaults", "defaults.betas",
     ADAMD_BAD_FIELD},
    {"{\"betas\":[0,0.5],\"integers\":[\"betas[0]\"]}", "defaults", "defaults.betas",
     ADAMD_BAD_FIELD},
    {"{\"tensorBetas\":[true,true,true]}", "defaults", "defaults.tensor_betas", ADAMD_BAD_FIELD},
    {"{\"lr\":1,\"integers\":[\"lrr\"]}", "defaults", "defaults.integers[0]", ADAMD_BAD_FIELD},
    {"{\"lr\":0.5,\"integers\":[\"lr\"]}", "defaults", "defaults.integers[0]", ADAMD_BAD_FIELD},
    {"{\"fused\":true,\"foreach\":true}", "defaults", "defaults.fused", ADAMD_BAD_FIELD},
};

START_TEST(bad_options_are_refused_and_change_nothing)
{
    const Adamd__V1__AdamOptions *message =
        parse(&adamd__v1__adam_options__descriptor, bad_options[_i].text);
    struct adamd_options options = adamd_options_default;

    ck_assert_int_eq(codec_options_lay(message, bad_options[_i].path, &options, &fault),
                     bad_options[_i].status);
    ck_assert_str_eq(fault.field, bad_options[_i].field);
    ck_assert_mem_eq(&options, &adamd_options_default, sizeof options);
}
END_TEST

START_TEST(policy_has_its_defaults_and_comes_back)
{
    struct adamd_policy policy;
    struct adamd_policy back;

    ck_assert_int_eq(codec_policy_read(NULL, &policy, &fault), ADAMD_OK);
    ck_assert_int_eq(policy.trigger, ADAMD_EACH_PUSH);
    ck_assert_int_eq(policy.nonfinite, ADAMD_NONFINITE_REJECT);
    ck_assert_uint_eq(policy.max_staleness, UINT64_MAX);
    const Adamd__V1__StepPolicy *message =
        parse(&adamd__v1__step_policy__descriptor,
              "{\"trigger\":\"TRIGGER_BARRIER\",\"nonfinite\":2,\"quorum\":2,\"deadline\":\"1.5s\","
              "\"minWorkers\":3,\"lease\":\"0.1000001s\",\"maxStaleness\":\"0\"}");
    ck_assert_int_eq(codec_policy_read(message, &policy, &fault), ADAMD_OK);
    ck_assert_int_eq(policy.trigger, ADAMD_BARRIER);
    ck_assert_uint_eq(policy.deadline_ms, 1500);
    ck_assert_uint_eq(policy.lease_ms, 101); // rounded up
    ck_assert_uint_eq(policy.max_staleness, 0);
    ck_assert_int_eq(codec_policy_read(codec_policy_message(&arena, &policy), &back, &fault),
                     ADAMD_OK);
    ck_assert_mem_eq(&back, &policy, sizeof back);
}
END_TEST

START_TEST(policy_with_an_endless_or_negative_time_is_refused)
{
    static const char *const rows[][2] = {
        {"{\"deadline\":\"-1s\"}", "step_policy.deadline"},
        {"{\"lease\":\"-0.1s\"}", "step_policy.lease"},
        {"{\"lease\":\"1000000s\"}", "step_policy.lease"},
    };
    struct adamd_policy policy;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_int_eq(codec_policy_read(parse(&adamd__v1__step_policy__descriptor, rows[i][0]),
                                           &policy, &fault),
                         ADAMD_BAD_FIELD);
        ck_assert_str_eq(fault.field, rows[i][1]);
    }
}
END_TEST

// --------------------------------------------------------------------------------------- creation

#define TENSORS                                                                       \
    "\"tensors\":[{\"key\":\"w\",\"shape\":[2,3]},{\"key\":\"b\",\"shape\":[\"3\"]}," \
    "{\"key\":\"s\"}]"

START_TEST(a_model_without_groups_has_one_of_all_tensors)
{
    struct codec_creation creation;

    ck_assert_int_eq(codec_creation_read(parse_model("{" TENSORS ",\"defaults\":{\"lr\":0.25},"
                                                     "\"displayName\":\"D\",\"labels\":[{\"key\":"
                                                     "\"k\",\"value\":\"v\"}]}"),
                                         &arena, &creation, &fault),
                     ADAMD_OK);
    ck_assert_uint_eq(creation.spec.tensor_count, 3);
    ck_assert_uint_eq(creation.spec.tensors[0].rank, 2);
    ck_assert_uint_eq(creation.spec.tensors[0].shape[1], 3);
    ck_assert_uint_eq(creation.spec.tensors[2].rank, 0);
    ck_assert_uint_eq(creation.spec.group_count, 1);
    ck_assert_uint_eq(creation.spec.groups[0].tensor_count, 3);
    ck_assert_double_eq(creation.spec.groups[0].options.lr, 0.25);
    ck_assert_double_eq(creation.spec.groups[0].options.eps, 1e-8);
    ck_assert_str_eq(creation.display_name, "D");
    ck_assert_uint_eq(creation.label_count, 1);
    ck_assert_str_eq(creation.labels[0].value, "v");
}
END_TEST

START_TEST(groups_are_made_of_keys_and_inherit_defaults)
{
    struct codec_creation creation;

    ck_assert_int_eq(
        codec_creation_read(parse_model("{" TENSORS ",\"defaults\":{\"lr\":0.25},\"paramGroups\":["
                                        "{\"params\":[\"s\",\"w\"],\"options\":{\"eps\":1e-4}},"
                                        "{\"params\":[\"b\"],\"options\":{\"lr\":0}}]}"),
                            &arena, &creation, &fault),
        ADAMD_OK);
    ck_assert_uint_eq(creation.spec.group_count, 2);
    ck_assert_uint_eq(creation.spec.groups[0].tensor_count, 2);
    ck_assert_uint_eq(creation.spec.groups[0].tensors[0], 2);
    ck_assert_uint_eq(creation.spec.groups[0].tensors[1], 0);
    ck_assert_double_eq(creation.spec.groups[0].options.lr, 0.25);
    ck_assert_double_eq(creation.spec.groups[0].options.eps, 1e-4);
    ck_assert_double_eq(creation.spec.groups[1].options.lr, 0);
}
END_TEST

static const struct {
    const char *text, *field;
    enum adamd_status status;
} bad_models[] = {
    {"{" TENSORS ",\"paramGroups\":[{\"params\":[\"w\",\"b\"]}]}", "param_groups", ADAMD_BAD_FIELD},
    {"{" TENSORS ",\"paramGroups\":[{\"params\":[\"w\",\"x\"]}]}", "param_groups[0].params[1]",
     ADAMD_BAD_FIELD},
    {"{" TENSORS ",\"paramGroups\":[{\"params\":[\"w\"]},{\"params\":[\"b\",\"s\",\"w\"]}]}",
     "param_groups[1].params[2]", ADAMD_BAD_FIELD},
    {"{" TENSORS ",\"paramGroups\":[{\"params\":[\"w\",\"b\",\"s\"]},{\"options\":{\"lr\":-1}}]}",
     "param_groups[1].options.lr", ADAMD_BAD_FIELD},
    {"{" TENSORS ",\"defaults\":{\"eps\":-1}}", "defaults.eps", ADAMD_BAD_FIELD},
    {"{" TENSORS ",\"durability\":\"DURABILITY_WAL\"}", "durability", ADAMD_UNSUPPORTED},
    {"{" TENSORS ",\"labels\":[{\"key\":\"a\"},{\"key\":\"a\"}]}", "labels[1].key",
     ADAMD_BAD_FIELD},
    {"{" TENSORS ",\"labels\":[{\"value\":\"a\"}]}", "labels[0].key", ADAMD_BAD_FIELD},
    {"{" TENSORS ",\"stepPolicy\":{\"lease\":\"-1s\"}}", "step_policy.lease", ADAMD_BAD_FIELD},
    {"{\"tensors\":[{\"key\":\"w\",\"dataType\":\"DATA_TYPE_COMPLEX128\","
     "\"shape\":[1,1,1,1,1,1,1,1]}]}",
     "tensors[0].shape", ADAMD_TOO_LARGE},
    {"{\"tensors\":[{\"key\":\"w\",\"shape\":[1,1,1,1,1,1,1,1,1]}]}", "tensors[0].shape",
     ADAMD_BAD_FIELD},
    {"{\"tensors\":[{\"key\":\"w\"},{\"key\":\"w\"}]}", "tensors[1].key", ADAMD_BAD_FIELD},
    {"{\"tensors\":[{\"key\":\"w\"},{\"key\":\"\"}]}", "param_groups[0].params", ADAMD_BAD_FIELD},
    {"{\"tensors\":[{\"key\":\"1\"},{\"key\":\"\"}]}", "tensors[1].key", ADAMD_BAD_FIELD},
    {"{" TENSORS ",\"paramGroups\":[{\"params\":[\"w\",\"b\",\"s\",\"w\"]}]}",
     "param_groups[0].params[3]", ADAMD_BAD_FIELD},
    {"{}", "tensors", ADAMD_BAD_FIELD},
};

START_TEST(parameters_without_names_are_called_by_their_index)
{
    struct codec_creation creation;

    ck_assert_int_eq(codec_creation_read(parse_model("{\"tensors\":[{},{\"shape\":[\"2\"]}]}"),
                                         &arena, &creation, &fault),
                     ADAMD_OK);
    ck_assert_str_eq(creation.spec.tensors[0].key, "0");
    ck_assert_str_eq(creation.spec.tensors[1].key, "1");
    ck_assert(creation.spec.groups[0].keys.unnamed);
    ck_assert_int_eq(
        codec_creation_read(parse_model("{\"tensors\":[{},{}],\"paramGroups\":["
                                        "{\"params\":[\"1\"],\"paramNames\":[\"n\"],"
                                        "\"extra\":[{\"key\":\"k\",\"json\":\"1\"}]},"
                                        "{\"params\":[\"0\"],\"paramNames\":[\"n\"]}]}"),
                            &arena, &creation, &fault),
        ADAMD_OK);
    ck_assert(!creation.spec.groups[0].keys.unnamed);
    ck_assert_str_eq(creation.spec.groups[0].keys.names[0], "n");
    ck_assert_str_eq(creation.spec.groups[0].keys.extras[0].value, "1");
}
END_TEST

START_TEST(bad_model_is_refused_with_its_field)
{
    struct codec_creation creation;

    ck_assert_int_eq(
        codec_creation_read(parse_model(bad_models[_i].text), &arena, &creation, &fault),
        bad_models[_i].status);
    ck_assert_str_eq(fault.field, bad_models[_i].field);
}
END_TEST

// ----------------------------------------------------------------------------------------- update

static struct adamd_options two_options[2];
static struct adamd_group_change two_changes[2];
static const struct adamd_extra held[] = {{"initial_lr", "0.5"}, {"tag", "[1, 2.0]"}};
static const struct adamd_group_keys no_keys;
static const struct adamd_group_keys some_keys = {.extras = held, .extra_count = 2};
static const struct adamd_group_keys *const two_keys[] = {&no_keys, &some_keys};
static struct codec_settings settings;

static void reset_settings(void) {
    memset(two_changes, 0, sizeof two_changes);
    two_options[0] = adamd_options_default;
    two_options[1] = adamd_options_default;
    two_options[1].lr = 0.5;
    settings = (struct codec_settings){.options = two_options,
                                       .keys = two_keys,
                                       .groups = two_changes,
                                       .group_count = 2,
                                       .arena = &arena,
                                       .policy = {.quorum = 2, .max_staleness = 7},
                                       .display_name = "old"};
}

static enum adamd_status update(const char *text, const char *mask) {
    reset_settings();
    const Adamd__V1__Model *message = parse_model(text);
    memset(&fault, 0, sizeof fault);
    return codec_settings_update(&settings, message, mask, &fault);
}

START_TEST(a_mask_changes_what_it_names_and_no_more)
{
    ck_assert_int_eq(update("{\"defaults\":{\"lr\":3e-4,\"eps\":1}}", "defaults.lr"), ADAMD_OK);
    ck_assert_double_eq(two_options[0].lr, 3e-4);
    ck_assert_double_eq(two_options[1].lr, 3e-4);
    ck_assert_double_eq(two_options[0].eps, 1e-8);
    ck_assert_uint_eq(settings.changes, CODEC_CHANGE_OPTIONS);

    ck_assert_int_eq(update("{\"stepPolicy\":{\"quorum\":5,\"minWorkers\":4}}",
                            "stepPolicy.minWorkers,display_name"),
                     ADAMD_OK);
    ck_assert_uint_eq(settings.policy.quorum, 2);
    ck_assert_uint_eq(settings.policy.min_workers, 4);
    ck_assert_str_eq(settings.display_name, ""); // named and not set: cleared
    ck_assert_uint_eq(settings.changes, CODEC_CHANGE_POLICY | CODEC_CHANGE_DISPLAY_NAME);

    ck_assert_int_eq(update("{\"stepPolicy\":{\"trigger\":1}}", "step_policy"), ADAMD_OK);
    ck_assert_uint_eq(settings.policy.quorum, 0); // the whole policy was given
    ck_assert_uint_eq(settings.policy.max_staleness, UINT64_MAX);
    ck_assert_int_eq(settings.policy.trigger, ADAMD_BARRIER);

    ck_assert_int_eq(update("{\"defaults\":{\"betas\":[0.5,0.6]}}", "defaults.betas"), ADAMD_OK);
    ck_assert_double_eq(two_options[1].betas[1], 0.6);
}
END_TEST

START_TEST(without_a_mask_what_is_populated_is_meant)
{
    ck_assert_int_eq(update("{\"paramGroups\":[{},{\"options\":{\"amsgrad\":true}}],"
                            "\"stepPolicy\":{\"minWorkers\":4},\"displayName\":\"new\","
                            "\"version\":\"7\",\"name\":\"models/x\"}",
                            ""),
                     ADAMD_OK);
    ck_assert(!two_options[0].amsgrad && two_options[1].amsgrad);
    ck_assert_uint_eq(settings.policy.quorum, 2);
    ck_assert_uint_eq(settings.policy.min_workers, 4);
    ck_assert_uint_eq(settings.policy.max_staleness, 7);
    ck_assert_str_eq(settings.display_name, "new");
    ck_assert_uint_eq(settings.changes,
                      CODEC_CHANGE_OPTIONS | CODEC_CHANGE_POLICY | CODEC_CHANGE_DISPLAY_NAME);
    ck_assert_int_eq(update("{}", ""), ADAMD_OK);
    ck_assert_uint_eq(settings.changes, 0);
}
END_TEST

static const struct adamd_extra *extra_of(int group, uint32_t i) {
    ck_assert_ptr_nonnull(two_changes[group].extras);
    ck_assert_uint_lt(i, two_changes[group].extra_count);
    return &two_changes[group].extras[i];
}

static enum adamd_status update_group(const char *text, const char *mask) {
    const Adamd__V1__ParamGroup *message = parse(&adamd__v1__param_group__descriptor, text);

    reset_settings();
    memset(&fault, 0, sizeof fault);
    return codec_group_update(&settings, 1, message, mask, "", &fault);
}

START_TEST(extra_keys_keep_their_place_and_new_ones_come_last)
{
    ck_assert_int_eq(update("{\"paramGroups\":[{},{\"extra\":[{\"key\":\"x\",\"json\":\"null\"},"
                            "{\"key\":\"initial_lr\",\"json\":\"0.25\"}]}]}",
                            ""),
                     ADAMD_OK);
    ck_assert_ptr_null(two_changes[0].extras);
    ck_assert_ptr_null(two_changes[1].options);
    ck_assert_uint_eq(two_changes[1].extra_count, 3);
    ck_assert_str_eq(extra_of(1, 0)->key, "initial_lr");
    ck_assert_str_eq(extra_of(1, 0)->value, "0.25");
    ck_assert_str_eq(extra_of(1, 1)->value, "[1, 2.0]");
    ck_assert_str_eq(extra_of(1, 2)->key, "x");
}
END_TEST

START_TEST(a_groups_mask_replaces_what_it_names)
{
    ck_assert_int_eq(update_group("{\"extra\":[{\"key\":\"x\",\"json\":\"1\"}]}", "extra"),
                     ADAMD_OK);
    ck_assert_uint_eq(two_changes[1].extra_count, 1);
    ck_assert_int_eq(update_group("{}", "extra"), ADAMD_OK);
    ck_assert_uint_eq(two_changes[1].extra_count, 0);
    ck_assert_ptr_nonnull(two_changes[1].extras); // none, rather than those that were
    ck_assert_int_eq(update_group("{\"options\":{\"lr\":2,\"eps\":1}}", "options.lr"), ADAMD_OK);
    ck_assert_double_eq(two_changes[1].options->lr, 2);
    ck_assert_double_eq(two_changes[1].options->eps, 1e-8);
    ck_assert_ptr_null(two_changes[1].extras);
    ck_assert_int_eq(update_group("{\"options\":{\"fused\":true}}", ""), ADAMD_OK);
    ck_assert_int_eq(two_changes[1].options->fused, ADAMD_TRUE);
    ck_assert_int_eq(update_group("{\"options\":{\"foreach\":true}}", "options"), ADAMD_OK);
    ck_assert_int_eq(two_changes[1].options->foreach, ADAMD_TRUE);
    // What is named and not set is None, for the two that can be.
    two_options[1].foreach = ADAMD_TRUE;
    const Adamd__V1__ParamGroup empty = ADAMD__V1__PARAM_GROUP__INIT;
    ck_assert_int_eq(
        codec_group_update(&settings, 1, &empty, "options.foreach,options.fused", "", &fault),
        ADAMD_OK);
    ck_assert_int_eq(two_options[1].foreach, ADAMD_NONE);
}
END_TEST

START_TEST(ints_and_tensors_stay_what_they_are_until_they_are_set)
{
    ck_assert_int_eq(update_group("{\"options\":{\"lr\":1,\"integers\":[\"lr\"]}}", ""), ADAMD_OK);
    ck_assert_uint_eq(two_options[1].ints, ADAMD_NUMBER_LR | ADAMD_NUMBER_WEIGHT_DECAY);
    ck_assert_int_eq(update_group("{\"options\":{\"lr\":1,\"integers\":[\"lr\"],\"eps\":1}}",
                                  "options.eps,options.lr"),
                     ADAMD_OK);
    ck_assert_uint_eq(two_options[1].ints, ADAMD_NUMBER_LR | ADAMD_NUMBER_WEIGHT_DECAY);
    ck_assert_int_eq(update_group("{\"options\":{\"weightDecay\":0}}", ""), ADAMD_OK);
    ck_assert_uint_eq(two_options[1].ints, 0);
    ck_assert_int_eq(update_group("{\"options\":{\"lr\":0.1,\"tensorLr\":true}}", ""), ADAMD_OK);
    const Adamd__V1__AdamOptions *message = codec_options_message(&arena, &two_options[1]);
    ck_assert_double_eq(message->lr, 0.10000000149011612);
    ck_assert(message->tensor_lr && message->n_tensor_betas == 0);
    ck_assert_str_eq(message->integers[0], "weight_decay");
    ck_assert_int_eq(
        update_group("{\"options\":{\"betas\":[0.5,0.75],\"tensorBetas\":[true]}}", ""), ADAMD_OK);
    ck_assert(two_options[1].betas_are_tensors);
    message = codec_options_message(&arena, &two_options[1]);
    ck_assert(message->n_tensor_betas == 1 && message->tensor_betas[0]);
}
END_TEST

static const struct {
    const char *text, *mask, *field;
} bad_group_updates[] = {
    {"{\"params\":[\"w\"]}", "", "params"},
    {"{\"paramNames\":[\"w\"]}", "", "param_names"},
    {"{}", "params", "update_mask"},
    {"{}", "options.lrr", "update_mask"},
    {"{}", "options.", "update_mask"},
    {"{}", "optionsx.lr", "update_mask"},
    {"{}", "extra.key", "update_mask"},
    {"{}", "options.lr", "options.lr"},
    {"{\"options\":{\"eps\":-1}}", "", "options.eps"},
    {"{\"options\":{\"lr\":-1}}", "options.lr", "options.lr"},
    {"{\"extra\":[{\"key\":\"lr\",\"json\":\"1\"}]}", "", "extra[0].key"},
    {"{\"extra\":[{\"key\":\"a\",\"json\":\"1\"},{\"key\":\"a\",\"json\":\"1\"}]}", "",
     "extra[1].key"},
    {"{\"extra\":[{\"key\":\"a\",\"json\":\"nan\"}]}", "extra", "extra[0].value"},
    {"{\"extra\":[{\"key\":\"a\"}]}", "extra", "extra[0].value"},
};

START_TEST(bad_group_update_is_refused_with_its_field)
{
    ck_assert_int_eq(update_group(bad_group_updates[_i].text, bad_group_updates[_i].mask),
                     ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, bad_group_updates[_i].field);
}
END_TEST

static const struct {
    const char *text, *mask, *field;
} bad_updates[] = {
    {"{}", "defaults.lr", "defaults.lr"},
    {"{\"defaults\":{\"eps\":1}}", "defaults.lr", "defaults.lr"},
    {"{\"defaults\":{\"lr\":-1}}", "defaults.lr", "defaults.lr"},
    {"{}", "tensors", "update_mask"},
    {"{}", "*", "update_mask"},
    {"{}", "defaults.", "update_mask"},
    {"{}", "defaults.lrr", "update_mask"},
    {"{}", "labels.key", "update_mask"},
    {"{}", "step_policy.quorun", "update_mask"},
    {"{}", "labels,", "update_mask"},
    {"{}", ",labels", "update_mask"},
    {"{}", "labels,,labels", "update_mask"},
    {"{}", "labels, labels", "update_mask"},
    {"{\"paramGroups\":[{},{},{}]}", "", "param_groups"},
    {"{\"paramGroups\":[{\"params\":[\"w\"]}]}", "", "param_groups[0].params"},
    {"{\"tensors\":[{}]}", "", "tensors"},
    {"{\"stepPolicy\":{\"deadline\":\"-1s\"}}", "step_policy.deadline", "step_policy.deadline"},
};

START_TEST(bad_update_is_refused_with_its_field)
{
    ck_assert_int_eq(update(bad_updates[_i].text, bad_updates[_i].mask), ADAMD_BAD_FIELD);
    ck_assert_str_eq(fault.field, bad_updates[_i].field);
}
END_TEST

// ------------------------------------------------------------------------------------------- push

static const struct adamd_tensor_spec specs[] = {{"w", ADAMD_FLOAT32, 2, {2, 3}},
                                                 {"b", ADAMD_FLOAT32, 1, {3}}};

START_TEST(head_of_a_push_is_read_and_checked)
{
    static const struct {
        const char *text, *field;
        enum adamd_status status;
    } rows[] = {
        {"{\"dataType\":\"DATA_TYPE_BFLOAT16\"}", "data_type", ADAMD_LAYOUT_MISMATCH},
        {"{\"dataType\":\"DATA_TYPE_FLOAT64\",\"tensors\":[1]}", "data_type",
         ADAMD_LAYOUT_MISMATCH},
        {"{\"layoutDigest\":\"00\"}", "layout_digest", ADAMD_BAD_FIELD},
        {"{\"layoutDigest\":\"00000000000000000000000000000000\"}", "layout_digest",
         ADAMD_LAYOUT_MISMATCH},
        {"{\"weight\":0}", "weight", ADAMD_BAD_FIELD},
        {"{\"weight\":-1}", "weight", ADAMD_BAD_FIELD},
        {"{\"weight\":\"NaN\"}", "weight", ADAMD_BAD_FIELD},
        {"{\"weight\":\"Infinity\"}", "weight", ADAMD_BAD_FIELD},
        {"{\"metrics\":[{\"value\":1}]}", "metrics", ADAMD_BAD_FIELD},
        {"{\"tensors\":[0,1,1]}", "tensors", ADAMD_LAYOUT_MISMATCH},
    };
    struct adamd_layout layout = {0};
    struct adamd_push_head head;
    char text[200];
    char digest[33];

    ck_assert_int_eq(adamd_layout_init(&layout, specs, 2, &fault), ADAMD_OK);
    codec_digest_text(layout.digest, digest);
    (void)snprintf(text, sizeof text,
                   "{\"worker\":\"w0\",\"sequence\":\"3\",\"baseVersion\":0,\"tensors\":[1],"
                   "\"layoutDigest\":\"%s\",\"metrics\":[{\"key\":\"loss\",\"value\":\"NaN\"}]}",
                   digest);
    ck_assert_int_eq(codec_push_head_read(parse(&adamd__v1__push_header__descriptor, text), &layout,
                                          &arena, &head, &fault),
                     ADAMD_OK);
    ck_assert_str_eq(head.worker, "w0");
    ck_assert_uint_eq(head.sequence, 3);
    ck_assert(head.has_base_version && head.base_version == 0);
    ck_assert_double_eq(head.weight, 1);
    ck_assert_uint_eq(head.tensor_count, 1);
    ck_assert_uint_eq(head.tensors[0], 1);
    ck_assert_uint_eq(head.metric_count, 1);
    ck_assert(isnan(head.metrics[0].value));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_int_eq(
            codec_push_head_read(parse(&adamd__v1__push_header__descriptor, rows[i].text), &layout,
                                 &arena, &head, &fault),
            rows[i].status);
        ck_assert_str_eq(fault.field, rows[i].field);
    }
    adamd_layout_finish(&layout);
}
END_TEST

START_TEST(metrics_of_a_query_are_added_up_to_the_limit)
{
    static const char *const bad[] = {"", "x", "1x", " 1", "0x10", "inf", "1e"};
    Adamd__V1__PushHeader *header =
        CODEC_NEW(&arena, Adamd__V1__PushHeader, adamd__v1__push_header);

    ck_assert_int_eq(codec_push_metric_add(header, "loss", "0.25", &arena, &fault), ADAMD_OK);
    ck_assert_int_eq(codec_push_metric_add(header, "bad", "NaN", &arena, &fault), ADAMD_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_int_eq(codec_push_metric_add(header, "m", bad[i], &arena, &fault),
                         ADAMD_BAD_FIELD);
        ck_assert_str_eq(fault.field, "metric.m");
    }
    ck_assert_uint_eq(header->n_metrics, 2);
    ck_assert_double_eq(header->metrics[0]->value, 0.25);
    for (int i = 2; i < ADAMD_METRICS_MAX; i++) {
        ck_assert_int_eq(codec_push_metric_add(header, "m", "1", &arena, &fault), ADAMD_OK);
    }
    ck_assert_int_eq(codec_push_metric_add(header, "m", "1", &arena, &fault), ADAMD_BAD_FIELD);
    ck_assert_int_eq(codec_push_metric_add(header, "", "1", &arena, &fault), ADAMD_BAD_FIELD);
}
END_TEST

START_TEST(digests_are_32_hex_digits)
{
    const uint64_t digest[2] = {UINT64_C(0x0123456789abcdef), UINT64_C(0xfedcba9876543210)};
    uint64_t back[2] = {0, 0};
    char text[33];

    codec_digest_text(digest, text);
    ck_assert_str_eq(text, "0123456789abcdeffedcba9876543210");
    ck_assert(codec_digest_read(text, back));
    ck_assert_mem_eq(back, digest, sizeof back);
    ck_assert(!codec_digest_read("0123456789abcdeffedcba987654321", back));
    ck_assert(!codec_digest_read("0123456789abcdeffedcba98765432100", back));
    ck_assert(!codec_digest_read("0123456789abcdeffedcba987654321g", back));
}
END_TEST

// ---------------------------------------------------------------------------------------- answers

static void ignore_notify(void *arg) {
    (void)arg;
}

START_TEST(a_model_as_message_says_what_core_says)
{
    struct adamd_backend *backend = adamd_cpu_backend_create(NULL, 1, ignore_notify, NULL);
    struct adamd_queue *queue = adamd_queue_create(backend);
    struct adamd_model *model = NULL;
    struct codec_creation creation;
    const struct codec_label label = {"k", "v"};

    ck_assert_int_eq(
        codec_creation_read(parse_model("{" TENSORS ",\"paramGroups\":[{\"params\":[\"w\",\"s\"]},"
                                        "{\"params\":[\"b\"],\"options\":{\"lr\":0.5}}]}"),
                            &arena, &creation, &fault),
        ADAMD_OK);
    creation.spec.slots_max = 2;
    creation.spec.published_max = 2;
    ck_assert_msg(adamd_model_create(queue, &creation.spec, &model, &fault) == ADAMD_OK, "%s: %s",
                  fault.field, fault.message);
    const struct codec_model_view view = {.model = model,
                                          .id = "m",
                                          .uid = "u",
                                          .display_name = "D",
                                          .device = "cpu",
                                          .labels = &label,
                                          .label_count = 1,
                                          .create_time_ns = UINT64_C(1500000000),
                                          .with_tensors = true};
    const Adamd__V1__Model *message = codec_model_message(&arena, &view);
    ck_assert_ptr_nonnull(message);
    ck_assert_str_eq(message->name, "models/m");
    ck_assert_int_eq(message->state, ADAMD__V1__MODEL__STATE__STATE_INITIALIZING);
    ck_assert_uint_eq(message->n_tensors, 3);
    ck_assert_str_eq(message->tensors[1]->name, "models/m/tensors/1");
    ck_assert_str_eq(message->tensors[1]->key, "b");
    ck_assert_uint_eq(message->tensors[1]->group, 1);
    ck_assert_uint_eq(message->tensors[1]->flat_offset, 24);
    ck_assert_uint_eq(message->tensors[1]->byte_size, 12);
    ck_assert_uint_eq(message->parameter_count, 10);
    ck_assert_uint_eq(message->byte_size, 40);
    ck_assert_uint_eq(message->n_param_groups, 2);
    ck_assert_str_eq(message->param_groups[0]->params[1], "s");
    ck_assert_double_eq(message->param_groups[1]->options->lr, 0.5);
    ck_assert_uint_eq(strlen(message->layout_digest), 32);
    ck_assert_int_eq(message->create_time->nanos, 500000000);
    ck_assert_str_eq(message->labels[0]->value, "v");

    struct codec_settings now;
    ck_assert_int_eq(codec_settings_of(model, 0, &arena, &now), ADAMD_OK);
    ck_assert_uint_eq(now.group_count, 2);
    ck_assert_double_eq(now.options[1].lr, 0.5);

    struct adamd_registration registration;
    ck_assert_int_eq(
        adamd_model_register(model, "w0", "n", UINT32_MAX, 0, 0, 1000, &registration, &fault),
        ADAMD_OK);
    const struct codec_now at = {.loop_ms = 1000, .unix_ns = UINT64_C(5000000000)};
    const Adamd__V1__RegisterWorkerResponse *answer =
        codec_registration_message(&arena, "m", model, &registration, at);
    ck_assert_str_eq(answer->worker->name, "models/m/workers/w0");
    ck_assert_uint_eq(answer->epoch, registration.epoch);
    ck_assert_uint_eq(answer->byte_size, 40);
    ck_assert(answer->worker->live);
    ck_assert_int_eq(answer->worker->lease_expire_time->seconds, 5 + answer->lease->seconds);
    adamd_model_destroy(model);
    while (adamd_queue_busy(queue)) {
        adamd_queue_poll(queue);
    }
    adamd_queue_destroy(queue);
    adamd_backend_destroy(backend);
}
END_TEST

START_TEST(a_record_as_message_says_what_core_says)
{
    struct adamd_contribution contribution = {
        .worker = "w0", .epoch = 1, .sequence = 2, .staleness = 3, .weight = 0.5};
    struct adamd_metric metric = {.key = "loss", .value = 0.25};
    const struct adamd_step_record record = {.generation = 1,
                                             .version = 9,
                                             .time_unix_ns = UINT64_C(1000000001),
                                             .contributions = &contribution,
                                             .contribution_count = 1,
                                             .metrics = &metric,
                                             .metric_count = 1,
                                             .weight = 0.5,
                                             .grad_norm = 2,
                                             .lr = 0.1,
                                             .counts = {.applied = 4},
                                             .barrier_ns = 1500000000};
    const Adamd__V1__StepRecord *message = codec_record_message(&arena, &record);
    char *text = NULL;
    size_t size = 0;

    ck_assert_ptr_nonnull(message);
    ck_assert_int_eq(codec_json_print(&message->base, 0, &text, &size), ADAMD_OK);
    ck_assert_str_eq(text,
                     "{\"generation\":\"1\",\"version\":\"9\",\"time\":\"1970-01-01T00:00:01."
                     "000000001Z\",\"contributions\":[{\"worker\":\"w0\",\"epoch\":\"1\","
                     "\"sequence\":\"2\",\"weight\":0.5,\"staleness\":\"3\"}],\"weight\":0.5,"
                     "\"gradNorm\":2,\"lr\":0.1,\"metrics\":[{\"key\":\"loss\",\"value\":0.25}],"
                     "\"pushCounts\":{\"applied\":\"4\"},\"barrierDuration\":\"1.500s\","
                     "\"updateDuration\":\"0s\"}");
    free(text);
}
END_TEST

START_TEST(every_failed_allocation_of_an_answer_is_told)
{
    struct adamd_contribution contribution = {.worker = "w0"};
    struct adamd_metric metric = {.key = "loss"};
    const struct adamd_step_record record = {.contributions = &contribution,
                                             .contribution_count = 1,
                                             .metrics = &metric,
                                             .metric_count = 1};
    size_t needed = 0;

    ck_assert_ptr_nonnull(codec_record_message(&arena, &record));
    needed = arena.taken;
    for (size_t limit = 1; limit < needed; limit += 16) {
        struct codec_arena small = {.limit = limit};
        ck_assert_ptr_null(codec_record_message(&small, &record));
        codec_arena_finish(&small);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("convert");
    TCase *cases = tcase_create("convert");

    tcase_add_checked_fixture(cases, NULL, clear);
    tcase_add_test(cases, options_that_are_set_are_laid_over_those_that_hold);
    tcase_add_test(cases, options_come_back_as_they_were);
    tcase_add_loop_test(cases, bad_options_are_refused_and_change_nothing, 0,
                        sizeof bad_options / sizeof bad_options[0]);
    tcase_add_test(cases, policy_has_its_defaults_and_comes_back);
    tcase_add_test(cases, policy_with_an_endless_or_negative_time_is_refused);
    tcase_add_test(cases, a_model_without_groups_has_one_of_all_tensors);
    tcase_add_test(cases, groups_are_made_of_keys_and_inherit_defaults);
    tcase_add_test(cases, parameters_without_names_are_called_by_their_index);
    tcase_add_test(cases, extra_keys_keep_their_place_and_new_ones_come_last);
    tcase_add_test(cases, a_groups_mask_replaces_what_it_names);
    tcase_add_test(cases, ints_and_tensors_stay_what_they_are_until_they_are_set);
    tcase_add_loop_test(cases, bad_group_update_is_refused_with_its_field, 0,
                        sizeof bad_group_updates / sizeof bad_group_updates[0]);
    tcase_add_loop_test(cases, bad_model_is_refused_with_its_field, 0,
                        sizeof bad_models / sizeof bad_models[0]);
    tcase_add_test(cases, a_mask_changes_what_it_names_and_no_more);
    tcase_add_test(cases, without_a_mask_what_is_populated_is_meant);
    tcase_add_loop_test(cases, bad_update_is_refused_with_its_field, 0,
                        sizeof bad_updates / sizeof bad_updates[0]);
    tcase_add_test(cases, head_of_a_push_is_read_and_checked);
    tcase_add_test(cases, metrics_of_a_query_are_added_up_to_the_limit);
    tcase_add_test(cases, digests_are_32_hex_digits);
    tcase_add_test(cases, a_model_as_message_says_what_core_says);
    tcase_add_test(cases, a_record_as_message_says_what_core_says);
    tcase_add_test(cases, every_failed_allocation_of_an_answer_is_told);
    suite_add_tcase(suite, cases);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
