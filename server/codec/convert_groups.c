// Param groups by themselves: as messages, and changed under a mask.
#include "codec/convert.h"

#include "codec/fields.h"
#include "codec/message.h"
#include "codec/text.h"

#include <stdio.h>
#include <string.h>

enum { MASK_PATHS_MAX = 64 };

// --------------------------------------------------------------------------------------- messages

static bool fill_params(struct codec_arena *arena, const struct adamd_model *model, uint32_t index,
                        Adamd__V1__ParamGroup *message) {
    uint32_t count = 0;
    const uint32_t *tensors = adamd_model_group(model, index, &count);
    const struct adamd_group_keys *keys = adamd_model_group_keys(model, index);

    message->params = codec_arena_array(arena, count, sizeof *message->params);
    if (message->params == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        message->params[i] = adamd_model_layout(model)->tensors[tensors[i]].key;
    }
    message->n_params = count;
    message->param_names = (char **)keys->names;
    message->n_param_names = keys->name_count;
    return true;
}

static bool fill_extra(struct codec_arena *arena, const struct adamd_group_keys *keys,
                       Adamd__V1__ParamGroup *message) {
    message->extra = codec_arena_array(arena, keys->extra_count, sizeof(void *));
    if (message->extra == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < keys->extra_count; i++) {
        Adamd__V1__ParamGroupExtra *extra =
            CODEC_NEW(arena, Adamd__V1__ParamGroupExtra, adamd__v1__param_group_extra);
        if (extra == NULL) {
            return false;
        }
        extra->key = (char *)keys->extras[i].key;
        extra->json = (char *)keys->extras[i].value;
        message->extra[i] = extra;
    }
    message->n_extra = keys->extra_count;
    return true;
}

Adamd__V1__ParamGroup *codec_group_message(struct codec_arena *arena,
                                           const struct adamd_model *model, const char *model_id,
                                           uint32_t index, bool with_params) {
    Adamd__V1__ParamGroup *message =
        CODEC_NEW(arena, Adamd__V1__ParamGroup, adamd__v1__param_group);
    const struct adamd_group_keys *keys = adamd_model_group_keys(model, index);

    if (message == NULL) {
        return NULL;
    }
    message->name = codec_arena_format(arena, "models/%s/groups/%u", model_id, (unsigned)index);
    message->options = codec_options_message(arena, adamd_model_options(model, index));
    message->index = index;
    message->unnamed = keys->unnamed;
    message->since_version = adamd_model_group_since(model, index);
    const bool whole = message->name != NULL && message->options != NULL &&
                       fill_extra(arena, keys, message) &&
                       (!with_params || fill_params(arena, model, index, message));
    return whole ? message : NULL;
}

// --------------------------------------------------------------------------------------- changes

enum adamd_status codec_mask_walk(const char *mask,
                                  enum adamd_status (*apply)(void *arg, char *path), void *arg,
                                  struct adamd_fault *fault) {
    const char *at = mask;

    for (size_t count = 0; count < MASK_PATHS_MAX; count++) {
        char path[CODEC_MASK_PATH_MAX];
        const size_t size = strcspn(at, ",");
        if (size == 0 || size >= sizeof path) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, "update_mask",
                              "update_mask is not a list of paths with commas between them");
        }
        memcpy(path, at, size);
        path[size] = 0;
        const enum adamd_status status = apply(arg, path);
        if (status != ADAMD_OK || at[size] == 0) {
            return status;
        }
        at += size + 1;
    }
    return adamd_fail(fault, ADAMD_BAD_FIELD, "update_mask", "update_mask has more than %d paths",
                      MASK_PATHS_MAX);
}

struct group_update {
    struct codec_settings *settings;
    uint32_t group;
    const Adamd__V1__ParamGroup *message;
    const char *path;
    struct adamd_fault *fault;
};

// What stands before the name of one of the group's fields in a fault.
static void join_path(const struct group_update *update, const char *name, char to[96]) {
    (void)snprintf(to, 96, "%s%s%s", update->path, update->path[0] != 0 ? "." : "", name);
}

static enum adamd_status lay_options(struct group_update *update,
                                     const ProtobufCFieldDescriptor *one) {
    struct adamd_options *to = &update->settings->options[update->group];
    const Adamd__V1__AdamOptions *options = update->message->options;
    char path[96];

    join_path(update, "options", path);
    const enum adamd_status status = one != NULL
                                         ? codec_option_lay(options, one, path, to, update->fault)
                                         : codec_options_lay(options, path, to, update->fault);
    if (status == ADAMD_OK) {
        update->settings->groups[update->group].options = to;
    }
    return status;
}

// In its place, or behind the others.
static uint32_t put_extra(struct adamd_extra *extras, uint32_t count,
                          const Adamd__V1__ParamGroupExtra *message) {
    uint32_t i = 0;

    while (i < count && strcmp(extras[i].key, message->key) != 0) {
        i++;
    }
    extras[i] = (struct adamd_extra){message->key, message->json};
    return i < count ? count : count + 1;
}

// What a message gives twice must be seen by the check: only what held before is replaced.
static enum adamd_status lay_extra(struct group_update *update, bool replaces) {
    struct adamd_group_change *change = &update->settings->groups[update->group];
    const struct adamd_group_keys *keys = update->settings->keys[update->group];
    const Adamd__V1__ParamGroup *message = update->message;
    const uint32_t held = replaces ? 0 : keys->extra_count;
    struct adamd_extra *extras =
        codec_arena_array(update->settings->arena, held + message->n_extra, sizeof *extras);
    struct adamd_group_keys_spec spec = {.extras = extras};

    if (extras == NULL) {
        return adamd_fail_plain(update->fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < message->n_extra; i++) {
        extras[i] = (struct adamd_extra){message->extra[i]->key, message->extra[i]->json};
    }
    // The message's own list is checked by itself, so that a fault has its numbers.
    spec.extra_count = (uint32_t)message->n_extra;
    enum adamd_status status = adamd_group_keys_check(&spec, update->fault);
    if (status != ADAMD_OK) {
        return codec_fail_at(update->fault, status, update->path);
    }
    if (held > 0) {
        memcpy(extras, keys->extras, held * sizeof *extras);
    }
    change->extra_count = held;
    for (size_t i = 0; i < message->n_extra; i++) {
        change->extra_count = put_extra(extras, change->extra_count, message->extra[i]);
    }
    change->extras = extras;
    return ADAMD_OK;
}

static enum adamd_status apply_path(void *arg, char *path) {
    struct group_update *update = arg;
    char *dot = strchr(path, '.');
    const ProtobufCFieldDescriptor *one = NULL;

    if (dot == NULL && codec_name_is(path, "options")) {
        return lay_options(update, NULL);
    }
    if (dot == NULL && codec_name_is(path, "extra")) {
        return lay_extra(update, true);
    }
    if (dot != NULL && strncmp(path, "options.", (size_t)(dot - path) + 1) == 0) {
        one = codec_option_find(dot + 1);
    }
    return one != NULL ? lay_options(update, one)
                       : adamd_fail(update->fault, ADAMD_BAD_FIELD, "update_mask",
                                    "\"%s\" cannot be updated; paths are options, options.lr and "
                                    "so on, extra",
                                    path);
}

enum adamd_status codec_group_update(struct codec_settings *settings, uint32_t group,
                                     const Adamd__V1__ParamGroup *message, const char *update_mask,
                                     const char *path, struct adamd_fault *fault) {
    struct group_update update = {
        .settings = settings, .group = group, .message = message, .path = path, .fault = fault};
    enum adamd_status status = ADAMD_OK;

    if (message->n_params > 0 || message->n_param_names > 0) {
        char field[96];
        join_path(&update, message->n_params > 0 ? "params" : "param_names", field);
        return adamd_fail(fault, ADAMD_BAD_FIELD, field,
                          "the parameters of a group cannot change: leave them out");
    }
    if (update_mask[0] != 0) {
        return codec_mask_walk(update_mask, apply_path, &update, fault);
    }
    if (message->options != NULL) {
        status = lay_options(&update, NULL);
    }
    if (status == ADAMD_OK && message->n_extra > 0) {
        status = lay_extra(&update, false);
    }
    return status;
}
