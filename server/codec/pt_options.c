// A saved param group: options by PyTorch's names, in whatever order; what an older file lacks has
// the value that load_state_dict fills in; what nobody knows is kept.
#include "codec/pt_options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void pt_note(struct problem_list *list, const char *field, const char *format, ...) {
    va_list arguments;

    if (list->count < PROBLEM_ENTRIES_MAX) {
        struct problem_entry *entry = &list->entries[list->count];
        (void)snprintf(entry->field, sizeof entry->field, "%s", field);
        va_start(arguments, format);
        (void)vsnprintf(entry->text, sizeof entry->text, format, arguments);
        va_end(arguments);
    }
    list->count++;
}

struct group_reader {
    const struct adamd_pt_value *saved;
    struct codec_arena *arena;
    struct problem_list *list;
    char place[40]; // "param_groups[1]"
};

static void note(struct group_reader *reader, const char *name, const char *text) {
    char field[128];

    (void)snprintf(field, sizeof field, "%s.%s", reader->place, name);
    pt_note(reader->list, field, "%s", text);
}

// --------------------------------------------------------------------------------------- options

static bool is_tensor(const struct adamd_pt_value *value) {
    return value->kind == ADAMD_PT_TENSOR;
}

static double read_number(struct group_reader *reader, const char *name,
                          const struct adamd_pt_value *value) {
    double number = 0;

    if (value == NULL) {
        note(reader, name, "is missing");
    } else if (value->kind == ADAMD_PT_TRUTH || !adamd_pt_number(value, &number)) {
        note(reader, name, "is no number, nor a tensor of one element");
    }
    return number;
}

static double read_option(struct group_reader *reader, const char *name, enum adamd_number number,
                          struct adamd_options *options) {
    const struct adamd_pt_value *value = adamd_pt_get(reader->saved, name);

    if (value != NULL && value->kind == ADAMD_PT_INT) {
        options->ints |= (unsigned)number;
    }
    return read_number(reader, name, value);
}

static bool read_truth(struct group_reader *reader, const char *name, bool missing) {
    const struct adamd_pt_value *value = adamd_pt_get(reader->saved, name);

    if (value == NULL) {
        return missing;
    }
    if (value->kind != ADAMD_PT_TRUTH) {
        note(reader, name, "is neither True nor False");
        return missing;
    }
    return value->truth;
}

static enum adamd_tristate read_tristate(struct group_reader *reader, const char *name) {
    const struct adamd_pt_value *value = adamd_pt_get(reader->saved, name);

    if (value == NULL || value->kind == ADAMD_PT_NONE) {
        return ADAMD_NONE;
    }
    return read_truth(reader, name, false) ? ADAMD_TRUE : ADAMD_FALSE;
}

static void read_betas(struct group_reader *reader, struct adamd_options *options) {
    const struct adamd_pt_value *value = adamd_pt_get(reader->saved, "betas");

    if (value == NULL) {
        note(reader, "betas", "is missing");
        return;
    }
    if ((value->kind != ADAMD_PT_TUPLE && value->kind != ADAMD_PT_LIST) || value->list.count != 2) {
        note(reader, "betas", "is no pair");
        return;
    }
    for (int i = 0; i < 2; i++) {
        const char *name = i == 0 ? "betas[0]" : "betas[1]";
        options->betas[i] = read_number(reader, name, value->list.items[i]);
        if (value->list.items[i]->kind == ADAMD_PT_INT) {
            options->ints |= i == 0 ? ADAMD_NUMBER_BETA0 : ADAMD_NUMBER_BETA1;
        }
    }
    options->betas_are_tensors = is_tensor(value->list.items[0]);
    options->betas_are_mixed = is_tensor(value->list.items[0]) != is_tensor(value->list.items[1]);
}

// A file from before PyTorch 2.7 does not say whether it is of AdamW: the model does then, as the
// class of the optimizer would.
static void read_options(struct group_reader *reader, const struct adamd_options *old,
                         struct adamd_options *options) {
    const struct adamd_pt_value *lr = adamd_pt_get(reader->saved, "lr");
    const size_t before = reader->list->count;
    struct adamd_fault fault = {0};

    options->lr = read_option(reader, "lr", ADAMD_NUMBER_LR, options);
    options->lr_is_tensor = lr != NULL && is_tensor(lr);
    read_betas(reader, options);
    options->eps = read_option(reader, "eps", ADAMD_NUMBER_EPS, options);
    options->weight_decay = read_option(reader, "weight_decay", ADAMD_NUMBER_WEIGHT_DECAY, options);
    options->amsgrad = read_truth(reader, "amsgrad", false);
    options->maximize = read_truth(reader, "maximize", false);
    options->foreach = read_tristate(reader, "foreach");
    options->capturable = read_truth(reader, "capturable", false);
    options->differentiable = read_truth(reader, "differentiable", false);
    options->fused = read_tristate(reader, "fused");
    options->decoupled_weight_decay =
        read_truth(reader, "decoupled_weight_decay", old->decoupled_weight_decay);
    adamd_options_round(options);
    if (reader->list->count == before && adamd_options_check(options, &fault) != ADAMD_OK) {
        note(reader, fault.field, fault.message);
    }
}

// ------------------------------------------------------------------------------------------ keys

static const char *copy_text(struct codec_arena *arena, const struct adamd_pt_value *value) {
    return codec_arena_copy(arena, value->text.bytes, value->text.size);
}

static bool is_option(const struct adamd_pt_value *key) {
    static const char *const names[] = {"lr",
                                        "betas",
                                        "eps",
                                        "weight_decay",
                                        "amsgrad",
                                        "maximize",
                                        "foreach",
                                        "capturable",
                                        "differentiable",
                                        "fused",
                                        "decoupled_weight_decay",
                                        "params",
                                        "param_names"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (adamd_pt_text_is(key, names[i])) {
            return true;
        }
    }
    return false;
}

static bool read_extra(struct group_reader *reader, const struct adamd_pt_pair *pair,
                       struct adamd_extra *extra) {
    char *json = codec_pt_to_json(pair->value);

    extra->key = copy_text(reader->arena, pair->key);
    if (extra->key == NULL) {
        free(json);
        return false;
    }
    if (json == NULL) {
        note(reader, extra->key,
             "cannot be kept: only numbers, texts, None and containers of them");
        extra->value = "null";
        return true;
    }
    extra->value = codec_arena_copy(reader->arena, json, strlen(json));
    free(json);
    return extra->value != NULL;
}

static bool read_extras(struct group_reader *reader, struct adamd_group_keys_spec *keys) {
    const struct adamd_pt_value *saved = reader->saved;
    struct adamd_extra *extras =
        codec_arena_array(reader->arena, ADAMD_EXTRAS_MAX + 1, sizeof *extras);

    keys->extras = extras;
    for (size_t i = 0; extras != NULL && i < saved->dict.count; i++) {
        const struct adamd_pt_pair *pair = &saved->dict.pairs[i];
        if (pair->key->kind == ADAMD_PT_TEXT && is_option(pair->key)) {
            continue;
        }
        if (pair->key->kind != ADAMD_PT_TEXT) {
            note(reader, "", "has a key that is no text");
        } else if (keys->extra_count <= ADAMD_EXTRAS_MAX &&
                   !read_extra(reader, pair, &extras[keys->extra_count++])) {
            return false;
        }
    }
    return extras != NULL;
}

static bool read_names(struct group_reader *reader, uint32_t count,
                       struct adamd_group_keys_spec *keys) {
    const struct adamd_pt_value *value = adamd_pt_get(reader->saved, "param_names");

    keys->unnamed = value == NULL;
    if (value == NULL) {
        return true;
    }
    if (value->kind != ADAMD_PT_LIST || value->list.count != count) {
        note(reader, "param_names", "is no list of as many texts as there are parameters");
        return true;
    }
    const char **names = codec_arena_array(reader->arena, (size_t)count + 1, sizeof *names);
    for (uint32_t i = 0; names != NULL && i < count; i++) {
        if (value->list.items[i]->kind != ADAMD_PT_TEXT) {
            note(reader, "param_names", "is no list of as many texts as there are parameters");
            return true;
        }
        names[i] = copy_text(reader->arena, value->list.items[i]);
        if (names[i] == NULL) {
            return false;
        }
    }
    keys->names = names;
    keys->name_count = count;
    return names != NULL;
}

bool pt_read_group(const struct adamd_pt_value *saved, const struct adamd_group_spec *old,
                   uint32_t index, struct codec_arena *arena, struct problem_list *list,
                   struct adamd_group_spec *ret_group) {
    struct group_reader reader = {.saved = saved, .arena = arena, .list = list};
    struct adamd_group_spec group = {.tensors = old->tensors, .tensor_count = old->tensor_count};
    struct adamd_fault fault = {0};

    (void)snprintf(reader.place, sizeof reader.place, "param_groups[%u]", index);
    read_options(&reader, &old->options, &group.options);
    if (!read_extras(&reader, &group.keys) ||
        !read_names(&reader, old->tensor_count, &group.keys)) {
        return false;
    }
    if (adamd_group_keys_check(&group.keys, &fault) != ADAMD_OK) {
        note(&reader, fault.field, fault.message);
    }
    *ret_group = group;
    return true;
}
