// Unknown keys and names of param groups: checked, then kept in one piece of memory.
#include "adamd/groups.h"

#include "adamd/json.h"
#include "adamd/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 16, VALUES_MAX = 4096 };

// What a group has by itself.
static const char *const own_keys[] = {"lr",
                                       "betas",
                                       "eps",
                                       "weight_decay",
                                       "amsgrad",
                                       "maximize",
                                       "foreach",
                                       "capturable",
                                       "differentiable",
                                       "fused",
                                       "params",
                                       "param_names",
                                       "decoupled_weight_decay"};

static enum adamd_status fail_at(struct adamd_fault *fault, enum adamd_status status, uint32_t i,
                                 const char *member, const char *message) {
    char field[48];

    (void)snprintf(field, sizeof field, "extra[%u]%s", i, member);
    return adamd_fail(fault, status, field, "%s", message);
}

static bool is_own(const char *key) {
    for (size_t i = 0; i < sizeof own_keys / sizeof own_keys[0]; i++) {
        if (strcmp(key, own_keys[i]) == 0) {
            return true;
        }
    }
    return false;
}

static enum adamd_status check_key(const struct adamd_extra *extras, uint32_t i,
                                   struct adamd_fault *fault) {
    const char *key = extras[i].key;
    const size_t size = strnlen(key, ADAMD_EXTRA_KEY_MAX + 1);

    if (size == 0 || size > ADAMD_EXTRA_KEY_MAX) {
        return fail_at(fault, ADAMD_BAD_FIELD, i, ".key", "a key has 1 to 128 bytes");
    }
    if (!adamd_utf8_valid(key, size)) {
        return fail_at(fault, ADAMD_BAD_FIELD, i, ".key", "a key must be UTF-8");
    }
    if (is_own(key)) {
        return fail_at(fault, ADAMD_BAD_FIELD, i, ".key",
                       "a group has this key by itself: set it as an option");
    }
    for (uint32_t k = 0; k < i; k++) {
        if (strcmp(extras[k].key, key) == 0) {
            return fail_at(fault, ADAMD_BAD_FIELD, i, ".key", "the key is given twice");
        }
    }
    return ADAMD_OK;
}

static enum adamd_status check_value(const struct adamd_extra *extra, uint32_t i,
                                     struct adamd_fault *fault) {
    struct adamd_json json;
    const size_t size = strnlen(extra->value, ADAMD_EXTRA_VALUE_MAX + 1);

    if (size > ADAMD_EXTRA_VALUE_MAX) {
        return fail_at(fault, ADAMD_TOO_LARGE, i, ".value", "a value has at most 16,384 bytes");
    }
    adamd_json_init(&json, extra->value, size, DEPTH_MAX, VALUES_MAX);
    if (!adamd_json_skip(&json) || !adamd_json_finish(&json)) {
        char message[128];
        (void)snprintf(message, sizeof message, "the value must be JSON: %s", json.complaint);
        return fail_at(fault, ADAMD_BAD_FIELD, i, ".value", message);
    }
    return ADAMD_OK;
}

static enum adamd_status check_names(const struct adamd_group_keys_spec *spec,
                                     struct adamd_fault *fault) {
    char field[40];

    for (uint32_t i = 0; spec->names != NULL && i < spec->name_count; i++) {
        const size_t size = strnlen(spec->names[i], ADAMD_KEY_MAX + 1);
        if (size > ADAMD_KEY_MAX || !adamd_utf8_valid(spec->names[i], size)) {
            (void)snprintf(field, sizeof field, "param_names[%u]", i);
            return adamd_fail(fault, ADAMD_BAD_FIELD, field, "a name has at most %d bytes of UTF-8",
                              ADAMD_KEY_MAX);
        }
    }
    return ADAMD_OK;
}

enum adamd_status adamd_group_keys_check(const struct adamd_group_keys_spec *spec,
                                         struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;

    if (spec->extra_count > ADAMD_EXTRAS_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "extra", "%u extra keys, at most %d",
                          spec->extra_count, ADAMD_EXTRAS_MAX);
    }
    for (uint32_t i = 0; i < spec->extra_count && status == ADAMD_OK; i++) {
        status = check_key(spec->extras, i, fault);
        status = status == ADAMD_OK ? check_value(&spec->extras[i], i, fault) : status;
    }
    return status == ADAMD_OK ? check_names(spec, fault) : status;
}

// ------------------------------------------------------------------------------------ in one piece

// The struct, the lists of pointers, the texts.
struct piece {
    struct adamd_group_keys keys;
    void *lists[];
};

static size_t text_bytes(const struct adamd_group_keys_spec *spec, uint32_t *ret_extras) {
    size_t bytes = 0;

    for (uint32_t i = 0; i < spec->extra_count; i++) {
        bytes += strlen(spec->extras[i].key) + strlen(spec->extras[i].value);
    }
    *ret_extras = (uint32_t)bytes;
    bytes += 2 * (size_t)spec->extra_count;
    for (uint32_t i = 0; spec->names != NULL && i < spec->name_count; i++) {
        bytes += strlen(spec->names[i]) + 1;
    }
    return bytes;
}

static const char *put_text(char **at, const char *text) {
    const size_t size = strlen(text) + 1;
    const char *copy = memcpy(*at, text, size);

    *at += size;
    return copy;
}

struct adamd_group_keys *adamd_group_keys_create(const struct adamd_group_keys_spec *spec) {
    const uint32_t names = spec->names != NULL ? spec->name_count : 0;
    const size_t lists = spec->extra_count * sizeof(struct adamd_extra) + names * sizeof(char *);
    uint32_t extra_bytes = 0;
    struct piece *piece = malloc(sizeof *piece + lists + text_bytes(spec, &extra_bytes));

    if (piece == NULL) {
        return NULL;
    }
    struct adamd_extra *extras = (struct adamd_extra *)(void *)piece->lists;
    const char **to = (const char **)(void *)(extras + spec->extra_count);
    char *at = (char *)piece->lists + lists;
    for (uint32_t i = 0; i < spec->extra_count; i++) {
        extras[i].key = put_text(&at, spec->extras[i].key);
        extras[i].value = put_text(&at, spec->extras[i].value);
    }
    for (uint32_t i = 0; i < names; i++) {
        to[i] = put_text(&at, spec->names[i]);
    }
    piece->keys = (struct adamd_group_keys){
        .extras = extras,
        .extra_count = spec->extra_count,
        .bytes = extra_bytes,
        .unnamed = spec->unnamed,
        .names = spec->names != NULL ? to : NULL,
        .name_count = names,
        .holders = 1,
    };
    return &piece->keys;
}

struct adamd_group_keys *adamd_group_keys_hold(struct adamd_group_keys *keys) {
    keys->holders++;
    return keys;
}

void adamd_group_keys_drop(struct adamd_group_keys *keys) {
    if (keys != NULL && --keys->holders == 0) {
        free(keys); // the first member of its piece
    }
}

struct adamd_group_keys_spec adamd_group_keys_spec_of(const struct adamd_group_keys *keys) {
    if (keys == NULL) {
        return (struct adamd_group_keys_spec){0};
    }
    return (struct adamd_group_keys_spec){
        .extras = keys->extras,
        .extra_count = keys->extra_count,
        .unnamed = keys->unnamed,
        .names = keys->names,
        .name_count = keys->name_count,
    };
}
