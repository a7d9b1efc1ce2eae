// Changes to a model that exists: a message under a mask of paths, laid over what holds.
#include "codec/convert.h"

#include "codec/fields.h"
#include "codec/text.h"

#include <stdio.h>
#include <string.h>

struct update {
    struct codec_settings *settings;
    const Adamd__V1__Model *message;
    struct adamd_fault *fault;
};

enum adamd_status codec_settings_of(const struct adamd_model *model, uint64_t now_ms,
                                    struct codec_arena *arena,
                                    struct codec_settings *ret_settings) {
    const struct adamd_model_info info = adamd_model_info(model, now_ms);
    struct adamd_options *options = codec_arena_array(arena, info.group_count, sizeof *options);
    const struct adamd_group_keys **keys =
        codec_arena_array(arena, info.group_count, sizeof(void *));
    struct adamd_group_change *groups = codec_arena_array(arena, info.group_count, sizeof *groups);

    if (options == NULL || keys == NULL || groups == NULL) {
        return ADAMD_NO_MEMORY;
    }
    for (uint32_t i = 0; i < info.group_count; i++) {
        options[i] = *adamd_model_options(model, i);
        keys[i] = adamd_model_group_keys(model, i);
    }
    *ret_settings = (struct codec_settings){.options = options,
                                            .keys = keys,
                                            .groups = groups,
                                            .group_count = info.group_count,
                                            .arena = arena,
                                            .policy = info.policy};
    return ADAMD_OK;
}

// --------------------------------------------------------------------------------------- options

// All of `options`, or one of them, for every group.
static enum adamd_status lay_defaults(struct update *update, const ProtobufCFieldDescriptor *one) {
    struct codec_settings *settings = update->settings;
    const Adamd__V1__AdamOptions *options = update->message->defaults;

    for (uint32_t i = 0; i < settings->group_count; i++) {
        struct adamd_options *to = &settings->options[i];
        const enum adamd_status status =
            one != NULL ? codec_option_lay(options, one, "defaults", to, update->fault)
                        : codec_options_lay(options, "defaults", to, update->fault);
        if (status != ADAMD_OK) {
            return status;
        }
        settings->groups[i].options = to;
    }
    settings->changes |= CODEC_CHANGE_OPTIONS;
    return ADAMD_OK;
}

static enum adamd_status lay_groups(struct update *update) {
    struct codec_settings *settings = update->settings;
    const Adamd__V1__Model *message = update->message;
    char path[48];

    if (message->n_param_groups > settings->group_count) {
        return adamd_fail(update->fault, ADAMD_BAD_FIELD, "param_groups",
                          "%zu groups, but the model has %u", message->n_param_groups,
                          (unsigned)settings->group_count);
    }
    for (uint32_t i = 0; i < message->n_param_groups; i++) {
        (void)snprintf(path, sizeof path, "param_groups[%u]", i);
        const enum adamd_status status =
            codec_group_update(settings, i, message->param_groups[i], "", path, update->fault);
        if (status != ADAMD_OK) {
            return status;
        }
    }
    settings->changes |= CODEC_CHANGE_OPTIONS;
    return ADAMD_OK;
}

static enum adamd_status refuse_path(struct update *update, const char *path) {
    return adamd_fail(update->fault, ADAMD_BAD_FIELD, "update_mask",
                      "\"%s\" cannot be updated; paths are defaults, defaults.lr and so on, "
                      "param_groups, step_policy, step_policy.quorum and so on, labels, "
                      "display_name",
                      path);
}

static enum adamd_status apply_option(struct update *update, const char *path, const char *name) {
    const ProtobufCFieldDescriptor *field = codec_option_find(name);

    return field == NULL ? refuse_path(update, path) : lay_defaults(update, field);
}

// --------------------------------------------------------------------------------------- policy

enum policy_field {
    POLICY_TRIGGER,
    POLICY_NONFINITE,
    POLICY_QUORUM,
    POLICY_DEADLINE,
    POLICY_MIN_WORKERS,
    POLICY_MAX_STALENESS,
    POLICY_LEASE,
    POLICY_FIELD_COUNT
};

static const char *const policy_names[POLICY_FIELD_COUNT] = {
    "trigger", "nonfinite", "quorum", "deadline", "min_workers", "max_staleness", "lease"};

static void take_policy_field(struct adamd_policy *to, const struct adamd_policy *from,
                              enum policy_field field) {
    switch (field) {
    case POLICY_TRIGGER:
        to->trigger = from->trigger;
        break;
    case POLICY_NONFINITE:
        to->nonfinite = from->nonfinite;
        break;
    case POLICY_QUORUM:
        to->quorum = from->quorum;
        break;
    case POLICY_DEADLINE:
        to->deadline_ms = from->deadline_ms;
        break;
    case POLICY_MIN_WORKERS:
        to->min_workers = from->min_workers;
        break;
    case POLICY_MAX_STALENESS:
        to->max_staleness = from->max_staleness;
        break;
    default:
        to->lease_ms = from->lease_ms;
        break;
    }
}

// Which fields of a policy a message sets: a bit for each.
static unsigned populated_policy(const Adamd__V1__StepPolicy *message) {
    return (message->trigger != 0 ? 1U << POLICY_TRIGGER : 0) |
           (message->nonfinite != 0 ? 1U << POLICY_NONFINITE : 0) |
           (message->quorum != 0 ? 1U << POLICY_QUORUM : 0) |
           (message->deadline != NULL ? 1U << POLICY_DEADLINE : 0) |
           (message->min_workers != 0 ? 1U << POLICY_MIN_WORKERS : 0) |
           (message->max_staleness_oneof_case != 0 ? 1U << POLICY_MAX_STALENESS : 0) |
           (message->lease != NULL ? 1U << POLICY_LEASE : 0);
}

static enum adamd_status apply_policy(struct update *update, unsigned fields) {
    struct adamd_policy given;
    const enum adamd_status status =
        codec_policy_take(update->message->step_policy, &given, update->fault);

    if (status != ADAMD_OK) {
        return status;
    }
    for (int i = 0; i < POLICY_FIELD_COUNT; i++) {
        if ((fields >> i & 1U) != 0) {
            take_policy_field(&update->settings->policy, &given, (enum policy_field)i);
        }
    }
    update->settings->changes |= CODEC_CHANGE_POLICY;
    return ADAMD_OK;
}

static enum adamd_status apply_policy_path(struct update *update, const char *path,
                                           const char *name) {
    for (unsigned i = 0; i < POLICY_FIELD_COUNT; i++) {
        if (codec_name_is(name, policy_names[i])) {
            return apply_policy(update, 1U << i);
        }
    }
    return refuse_path(update, path);
}

// --------------------------------------------------------------------------------------- the rest

static enum adamd_status apply_labels(struct update *update) {
    update->settings->changes |= CODEC_CHANGE_LABELS;
    return codec_labels_read(update->message->labels, update->message->n_labels,
                             update->settings->labels, &update->settings->label_count,
                             update->fault);
}

static enum adamd_status apply_display_name(struct update *update) {
    update->settings->changes |= CODEC_CHANGE_DISPLAY_NAME;
    return codec_display_name_read(update->message->display_name, update->settings->display_name,
                                   update->fault);
}

static enum adamd_status apply_path(void *arg, char *path) {
    struct update *update = arg;
    char *dot = strchr(path, '.');

    if (dot != NULL) {
        char head[CODEC_MASK_PATH_MAX];
        (void)snprintf(head, sizeof head, "%.*s", (int)(dot - path), path);
        if (codec_name_is(head, "defaults")) {
            return apply_option(update, path, dot + 1);
        }
        return codec_name_is(head, "step_policy") ? apply_policy_path(update, path, dot + 1)
                                                  : refuse_path(update, path);
    }
    if (codec_name_is(path, "defaults")) {
        return lay_defaults(update, NULL);
    }
    if (codec_name_is(path, "param_groups")) {
        return lay_groups(update);
    }
    if (codec_name_is(path, "step_policy")) {
        return apply_policy(update, (1U << POLICY_FIELD_COUNT) - 1);
    }
    if (codec_name_is(path, "labels")) {
        return apply_labels(update);
    }
    return codec_name_is(path, "display_name") ? apply_display_name(update)
                                               : refuse_path(update, path);
}

static enum adamd_status apply_populated(struct update *update) {
    const Adamd__V1__Model *message = update->message;
    enum adamd_status status = ADAMD_OK;

    if (message->n_tensors > 0) {
        return adamd_fail(update->fault, ADAMD_BAD_FIELD, "tensors",
                          "the tensors of a model cannot change: leave them out");
    }
    if (message->defaults != NULL) {
        status = lay_defaults(update, NULL);
    }
    if (status == ADAMD_OK && message->n_param_groups > 0) {
        status = lay_groups(update);
    }
    if (status == ADAMD_OK && message->step_policy != NULL) {
        status = apply_policy(update, populated_policy(message->step_policy));
    }
    if (status == ADAMD_OK && message->n_labels > 0) {
        status = apply_labels(update);
    }
    if (status == ADAMD_OK && message->display_name[0] != 0) {
        status = apply_display_name(update);
    }
    return status;
}

enum adamd_status codec_settings_update(struct codec_settings *settings,
                                        const Adamd__V1__Model *message, const char *update_mask,
                                        struct adamd_fault *fault) {
    struct update update = {.settings = settings, .message = message, .fault = fault};
    enum adamd_status status = codec_durability_check(message, fault);

    if (status == ADAMD_OK) {
        status = update_mask[0] != 0 ? codec_mask_walk(update_mask, apply_path, &update, fault)
                                     : apply_populated(&update);
    }
    if (status == ADAMD_OK && (settings->changes & CODEC_CHANGE_POLICY) != 0) {
        status = adamd_policy_check(&settings->policy, fault);
    }
    return status;
}
