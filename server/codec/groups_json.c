// optimizer.param_groups as the JSON text in a state file's metadata: PyTorch's names, keys instead
// of numbers, 17 significant digits, so that every double comes back as it was. What Python tells
// apart stays apart: 0 is an int, 0.0 a float, {"tensor":0.5} a tensor. Keys that PyTorch does not
// know stand between the options and the parameters, verbatim.
#include "codec/tensors.h"

#include "adamd/json.h"
#include "codec/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 20 }; // an extra key's value may have 16 levels, below the group's own two

// --------------------------------------------------------------------------------------- out

// Text without a point or an exponent would be an int.
static void put_real(struct codec_text *text, double value) {
    char digits[40];

    if (!isfinite(value)) { // lr may be infinite, as in PyTorch
        codec_text_double(text, value);
        return;
    }
    (void)snprintf(digits, sizeof digits, "%.17g", value);
    codec_text_put(text, digits);
    codec_text_put(text, strpbrk(digits, ".e") == NULL ? ".0" : "");
}

static void put_number(struct codec_text *text, double value, bool is_int) {
    char digits[400];

    if (is_int && isfinite(value)) {
        (void)snprintf(digits, sizeof digits, "%.0f", value);
        codec_text_put(text, digits);
        return;
    }
    put_real(text, value);
}

static void put_tensor(struct codec_text *text, double value, bool is_tensor, bool is_int) {
    if (!is_tensor) {
        put_number(text, value, is_int);
        return;
    }
    codec_text_put(text, "{\"tensor\":");
    put_real(text, value);
    codec_text_put(text, "}");
}

static void put_name(struct codec_text *text, const char *name) {
    codec_text_put(text, ",\"");
    codec_text_put(text, name);
    codec_text_put(text, "\":");
}

static void put_bool(struct codec_text *text, const char *name, bool value) {
    put_name(text, name);
    codec_text_put(text, value ? "true" : "false");
}

static void put_tristate(struct codec_text *text, const char *name, enum adamd_tristate value) {
    static const char *const words[] = {"null", "false", "true"};
    put_name(text, name);
    codec_text_put(text, words[value]);
}

static void put_options(struct codec_text *text, const struct adamd_options *options) {
    codec_text_put(text, "\"lr\":");
    put_tensor(text, options->lr, options->lr_is_tensor, (options->ints & ADAMD_NUMBER_LR) != 0);
    put_name(text, "betas");
    codec_text_put(text, "[");
    put_tensor(text, options->betas[0], options->betas_are_tensors, false);
    codec_text_put(text, ",");
    put_tensor(text, options->betas[1], options->betas_are_tensors, false);
    codec_text_put(text, "]");
    put_name(text, "eps");
    put_number(text, options->eps, (options->ints & ADAMD_NUMBER_EPS) != 0);
    put_name(text, "weight_decay");
    put_number(text, options->weight_decay, (options->ints & ADAMD_NUMBER_WEIGHT_DECAY) != 0);
    put_bool(text, "amsgrad", options->amsgrad);
    put_bool(text, "maximize", options->maximize);
    put_tristate(text, "foreach", options->foreach);
    put_bool(text, "capturable", options->capturable);
    put_bool(text, "differentiable", options->differentiable);
    put_tristate(text, "fused", options->fused);
    put_bool(text, "decoupled_weight_decay", options->decoupled_weight_decay);
}

static void put_keys(struct codec_text *text, const struct adamd_group_keys *keys) {
    for (uint32_t i = 0; i < keys->extra_count; i++) {
        codec_text_put(text, ",");
        codec_text_quote(text, keys->extras[i].key);
        codec_text_put(text, ":");
        codec_text_put(text, keys->extras[i].value);
    }
    if (keys->names == NULL) {
        return;
    }
    put_name(text, "param_names");
    for (uint32_t i = 0; i < keys->name_count; i++) {
        codec_text_put(text, i > 0 ? "," : "[");
        codec_text_quote(text, keys->names[i]);
    }
    codec_text_put(text, keys->name_count > 0 ? "]" : "[]");
}

enum adamd_status codec_groups_print(const struct adamd_layout *layout,
                                     const struct adamd_group_spec *groups, uint32_t group_count,
                                     const struct adamd_options *options,
                                     struct adamd_group_keys *const *keys, char **ret_text) {
    struct codec_text text = {0};

    codec_text_put(&text, "[");
    for (uint32_t i = 0; i < group_count; i++) {
        codec_text_put(&text, i > 0 ? ",{" : "{");
        put_options(&text, &options[i]);
        if (keys != NULL && keys[i] != NULL) {
            put_keys(&text, keys[i]);
        }
        put_name(&text, "params");
        codec_text_put(&text, "[");
        for (uint32_t k = 0; k < groups[i].tensor_count; k++) {
            codec_text_put(&text, k > 0 ? "," : "");
            codec_text_quote(&text, layout->tensors[groups[i].tensors[k]].key);
        }
        codec_text_put(&text, "]}");
    }
    codec_text_put(&text, "]");
    char *bytes = codec_text_end(&text, NULL);
    if (bytes == NULL) {
        return ADAMD_NO_MEMORY;
    }
    *ret_text = bytes;
    return ADAMD_OK;
}

// --------------------------------------------------------------------------------------- in

struct group_reader {
    struct adamd_json json;
    struct codec_arena *arena;
    struct codec_path path;
    struct adamd_fault *fault;
};

static bool refuse(struct group_reader *reader, enum adamd_status status, const char *text) {
    (void)adamd_fail(reader->fault, status, reader->path.text, "%s: %s", reader->path.text, text);
    return false;
}

// Of the wrong kind, or no JSON at all.
static bool refuse_kind(struct group_reader *reader, const char *text) {
    return refuse(reader, ADAMD_BAD_FIELD,
                  reader->json.complaint != NULL ? reader->json.complaint : text);
}

static bool refuse_memory(struct group_reader *reader) {
    return refuse(reader, ADAMD_NO_MEMORY, "out of memory");
}

static bool read_string(struct group_reader *reader, char **ret_string) {
    struct adamd_json_slice slice;

    if (adamd_json_peek(&reader->json) != '"' || !adamd_json_string(&reader->json, &slice)) {
        return refuse_kind(reader, "a string is expected");
    }
    char *string = codec_arena_alloc(reader->arena, slice.size + 1);
    if (string == NULL) {
        return refuse_memory(reader);
    }
    string[adamd_json_decode(slice, string)] = 0;
    *ret_string = string;
    return true;
}

// `ret_int` may be NULL.
static bool read_number(struct group_reader *reader, double *to, bool *ret_int) {
    char digits[ADAMD_JSON_NUMBER_MAX + 1];
    struct adamd_json_slice slice;
    const char first = adamd_json_peek(&reader->json);

    if (first == '"') {
        char *word = NULL;
        if (!read_string(reader, &word)) {
            return false;
        }
        ADAMD_ASSERT(word != NULL);
        *to = (double)INFINITY;
        return strcmp(word, "Infinity") == 0 || refuse_kind(reader, "a number is expected");
    }
    if ((first != '-' && (first < '0' || first > '9')) ||
        !adamd_json_number(&reader->json, &slice) || slice.size >= sizeof digits) {
        return refuse_kind(reader, "a number is expected");
    }
    memcpy(digits, slice.text, slice.size);
    digits[slice.size] = 0;
    *to = strtod(digits, NULL);
    if (ret_int != NULL) {
        *ret_int = strpbrk(digits, ".eE") == NULL;
    }
    return isfinite(*to) || refuse_kind(reader, "a number is expected");
}

// A number, or one in {"tensor": …}.
static bool read_tensor(struct group_reader *reader, double *to, bool *ret_tensor, bool *ret_int) {
    char *name = NULL;

    *ret_tensor = adamd_json_take(&reader->json, '{');
    if (!*ret_tensor) {
        return read_number(reader, to, ret_int);
    }
    if (!read_string(reader, &name)) {
        return false;
    }
    ADAMD_ASSERT(name != NULL);
    if (strcmp(name, "tensor") != 0 || !adamd_json_expect(&reader->json, ':')) {
        return refuse_kind(reader, "a number or {\"tensor\": a number} is expected");
    }
    return read_number(reader, to, NULL) &&
           (adamd_json_expect(&reader->json, '}') ||
            refuse_kind(reader, "a number or {\"tensor\": a number} is expected"));
}

static bool read_betas(struct group_reader *reader, struct adamd_options *to) {
    bool tensors[2];

    if (!adamd_json_take(&reader->json, '[')) {
        return refuse_kind(reader, "an array of two numbers is expected");
    }
    for (int i = 0; i < 2; i++) {
        if (adamd_json_peek(&reader->json) == ']') {
            return refuse_kind(reader, "an array of two numbers is expected");
        }
        if (!read_tensor(reader, &to->betas[i], &tensors[i], NULL)) {
            return false;
        }
        if (!adamd_json_take(&reader->json, i == 0 ? ',' : ']')) {
            return refuse_kind(reader, "an array of two numbers is expected");
        }
    }
    to->betas_are_tensors = tensors[0] && tensors[1];
    to->betas_are_mixed = tensors[0] != tensors[1];
    return true;
}

// A word of JSON, which the caller compares with what it expects.
static bool read_word(struct group_reader *reader, const char *word) {
    const char *at;
    const char first = adamd_json_peek(&reader->json);

    at = reader->json.at;
    return first == word[0] && adamd_json_skip(&reader->json) &&
           (size_t)(reader->json.at - at) == strlen(word) && memcmp(at, word, strlen(word)) == 0;
}

static bool read_bool(struct group_reader *reader, bool *to) {
    *to = adamd_json_peek(&reader->json) == 't';
    return read_word(reader, *to ? "true" : "false") ||
           refuse_kind(reader, "true or false is expected");
}

static bool read_tristate(struct group_reader *reader, enum adamd_tristate *to) {
    bool value = false;

    if (adamd_json_peek(&reader->json) == 'n') {
        *to = ADAMD_NONE;
        return read_word(reader, "null") || refuse_kind(reader, "true, false or null is expected");
    }
    if (!read_bool(reader, &value)) {
        return false;
    }
    *to = value ? ADAMD_TRUE : ADAMD_FALSE;
    return true;
}

// How many elements the array has that comes next; it is still unread then.
static uint32_t count_elements(const struct group_reader *reader) {
    struct adamd_json ahead = reader->json;
    uint32_t count = 0;

    (void)adamd_json_take(&ahead, '[');
    if (adamd_json_peek(&ahead) == ']') {
        return 0;
    }
    do {
        count++;
    } while (adamd_json_skip(&ahead) && adamd_json_take(&ahead, ','));
    return count;
}

static bool read_strings(struct group_reader *reader, const char *const **ret_strings,
                         uint32_t *ret_count) {
    const size_t path_size = reader->path.size;

    if (adamd_json_peek(&reader->json) != '[') {
        return refuse_kind(reader, "an array of strings is expected");
    }
    const uint32_t count = count_elements(reader);
    char **strings = codec_arena_array(reader->arena, count, sizeof *strings);
    if (strings == NULL) {
        return refuse_memory(reader);
    }
    (void)adamd_json_take(&reader->json, '[');
    for (uint32_t i = 0; i < count; i++) {
        codec_path_index(&reader->path, i);
        if (!read_string(reader, &strings[i])) {
            return false;
        }
        codec_path_cut(&reader->path, path_size);
        if (!adamd_json_expect(&reader->json, i + 1 < count ? ',' : ']')) {
            return refuse_kind(reader, "an array of strings is expected");
        }
    }
    if (count == 0 && !adamd_json_expect(&reader->json, ']')) {
        return refuse_kind(reader, "an array of strings is expected");
    }
    *ret_strings = (const char *const *)strings;
    *ret_count = count;
    return true;
}

enum option {
    OPTION_LR,
    OPTION_BETAS,
    OPTION_EPS,
    OPTION_WEIGHT_DECAY,
    OPTION_AMSGRAD,
    OPTION_MAXIMIZE,
    OPTION_FOREACH,
    OPTION_CAPTURABLE,
    OPTION_DIFFERENTIABLE,
    OPTION_FUSED,
    OPTION_DECOUPLED,
    OPTION_PARAMS,
    OPTION_NAMES,
    OPTION_COUNT
};

static const char *const option_names[OPTION_COUNT] = {
    [OPTION_LR] = "lr",
    [OPTION_BETAS] = "betas",
    [OPTION_EPS] = "eps",
    [OPTION_WEIGHT_DECAY] = "weight_decay",
    [OPTION_AMSGRAD] = "amsgrad",
    [OPTION_MAXIMIZE] = "maximize",
    [OPTION_FOREACH] = "foreach",
    [OPTION_CAPTURABLE] = "capturable",
    [OPTION_DIFFERENTIABLE] = "differentiable",
    [OPTION_FUSED] = "fused",
    [OPTION_DECOUPLED] = "decoupled_weight_decay",
    [OPTION_PARAMS] = "params",
    [OPTION_NAMES] = "param_names",
};

static bool read_noted(struct group_reader *reader, double *to, enum adamd_number number,
                       unsigned *ints) {
    bool is_int = false;

    if (!read_number(reader, to, &is_int)) {
        return false;
    }
    *ints = is_int ? *ints | number : *ints & ~(unsigned)number;
    return true;
}

static bool read_lr(struct group_reader *reader, struct adamd_options *to) {
    bool is_int = false;

    if (!read_tensor(reader, &to->lr, &to->lr_is_tensor, &is_int)) {
        return false;
    }
    to->ints = is_int ? to->ints | ADAMD_NUMBER_LR : to->ints & ~(unsigned)ADAMD_NUMBER_LR;
    return true;
}

static bool read_option(struct group_reader *reader, enum option option,
                        struct codec_parsed_group *group) {
    struct adamd_options *to = &group->options;

    switch (option) {
    case OPTION_LR:
        return read_lr(reader, to);
    case OPTION_BETAS:
        return read_betas(reader, to);
    case OPTION_EPS:
        return read_noted(reader, &to->eps, ADAMD_NUMBER_EPS, &to->ints);
    case OPTION_WEIGHT_DECAY:
        return read_noted(reader, &to->weight_decay, ADAMD_NUMBER_WEIGHT_DECAY, &to->ints);
    case OPTION_AMSGRAD:
        return read_bool(reader, &to->amsgrad);
    case OPTION_MAXIMIZE:
        return read_bool(reader, &to->maximize);
    case OPTION_FOREACH:
        return read_tristate(reader, &to->foreach);
    case OPTION_CAPTURABLE:
        return read_bool(reader, &to->capturable);
    case OPTION_DIFFERENTIABLE:
        return read_bool(reader, &to->differentiable);
    case OPTION_FUSED:
        return read_tristate(reader, &to->fused);
    case OPTION_DECOUPLED:
        return read_bool(reader, &to->decoupled_weight_decay);
    case OPTION_PARAMS:
        return read_strings(reader, &group->params, &group->param_count);
    default:
        return read_strings(reader, &group->keys.names, &group->keys.name_count);
    }
}

// The text of the value as it stands.
static bool read_extra(struct group_reader *reader, const char *name,
                       struct codec_parsed_group *group, struct adamd_extra *extras) {
    (void)adamd_json_peek(&reader->json);
    const char *at = reader->json.at;

    if (group->keys.extra_count == ADAMD_EXTRAS_MAX) {
        return refuse(reader, ADAMD_TOO_LARGE, "more unknown keys than a group may have");
    }
    if (!adamd_json_skip(&reader->json)) {
        return refuse_kind(reader, "a value is expected");
    }
    char *value = codec_arena_copy(reader->arena, at, (size_t)(reader->json.at - at));
    if (value == NULL) {
        return refuse_memory(reader);
    }
    for (uint32_t i = 0; i < group->keys.extra_count; i++) {
        if (strcmp(extras[i].key, name) == 0) {
            return refuse(reader, ADAMD_BAD_FIELD, "given twice");
        }
    }
    extras[group->keys.extra_count++] = (struct adamd_extra){name, value};
    return true;
}

static enum option find_option(const char *name) {
    int option = 0;
    while (option < OPTION_COUNT && strcmp(name, option_names[option]) != 0) {
        option++;
    }
    return (enum option)option;
}

static bool check_group(struct group_reader *reader, const struct codec_parsed_group *group) {
    struct adamd_fault why;
    enum adamd_status status = adamd_options_check(&group->options, &why);

    status = status == ADAMD_OK ? adamd_group_keys_check(&group->keys, &why) : status;
    if (status == ADAMD_OK) {
        return true;
    }
    codec_path_add(&reader->path, why.field);
    return refuse(reader, status, why.message);
}

static bool read_member(struct group_reader *reader, struct codec_parsed_group *group,
                        struct adamd_extra *extras, unsigned *seen) {
    const size_t path_size = reader->path.size;
    char *name = NULL;
    bool good;

    if (!read_string(reader, &name)) {
        return false;
    }
    if (!adamd_json_expect(&reader->json, ':')) {
        return refuse_kind(reader, "a value is expected");
    }
    codec_path_add(&reader->path, name);
    const enum option option = find_option(name);
    if (option == OPTION_COUNT) {
        good = read_extra(reader, name, group, extras);
    } else if ((*seen >> option & 1U) != 0) {
        good = refuse(reader, ADAMD_BAD_FIELD, "given twice");
    } else {
        *seen |= 1U << option;
        good = read_option(reader, option, group);
    }
    if (good) {
        codec_path_cut(&reader->path, path_size);
    }
    return good;
}

static bool read_members(struct group_reader *reader, struct codec_parsed_group *group,
                         struct adamd_extra *extras, unsigned *seen) {
    if (!adamd_json_take(&reader->json, '{')) {
        return refuse_kind(reader, "an object is expected");
    }
    if (adamd_json_take(&reader->json, '}')) {
        return true;
    }
    do {
        if (!read_member(reader, group, extras, seen)) {
            return false;
        }
    } while (adamd_json_take(&reader->json, ','));
    return adamd_json_expect(&reader->json, '}') || refuse_kind(reader, "");
}

// What a group leaves out has its default, as load_state_dict has it for files of older versions;
// only its parameters cannot be guessed.
static bool read_group(struct group_reader *reader, const struct adamd_options *defaults,
                       struct codec_parsed_group *group) {
    struct adamd_extra *extras = codec_arena_array(reader->arena, ADAMD_EXTRAS_MAX, sizeof *extras);
    unsigned seen = 0;

    if (extras == NULL) {
        return refuse_memory(reader);
    }
    *group = (struct codec_parsed_group){.options = *defaults, .keys = {.extras = extras}};
    if (!read_members(reader, group, extras, &seen)) {
        return false;
    }
    if ((seen >> OPTION_PARAMS & 1U) == 0) {
        return refuse(reader, ADAMD_BAD_FIELD, "\"params\" is missing");
    }
    // Without names: those that the model's group has stay.
    group->keys.unnamed = (seen >> OPTION_NAMES & 1U) == 0;
    adamd_options_round(&group->options);
    return check_group(reader, group);
}

static bool read_groups(struct group_reader *reader, const struct adamd_options *defaults,
                        struct codec_parsed_group **ret_groups, uint32_t *ret_count) {
    const size_t path_size = reader->path.size;

    if (adamd_json_peek(&reader->json) != '[') {
        return refuse_kind(reader, "an array is expected");
    }
    const uint32_t count = count_elements(reader);
    if (count > ADAMD_GROUPS_MAX) {
        return refuse(reader, ADAMD_TOO_LARGE, "more groups than a model may have");
    }
    struct codec_parsed_group *groups = codec_arena_array(reader->arena, count, sizeof *groups);
    if (groups == NULL) {
        return refuse_memory(reader);
    }
    (void)adamd_json_take(&reader->json, '[');
    for (uint32_t i = 0; i < count; i++) {
        codec_path_index(&reader->path, i);
        if (!read_group(reader, defaults, &groups[i])) {
            return false;
        }
        codec_path_cut(&reader->path, path_size);
        if (!adamd_json_expect(&reader->json, i + 1 < count ? ',' : ']')) {
            return refuse_kind(reader, "");
        }
    }
    if ((count == 0 && !adamd_json_expect(&reader->json, ']')) ||
        !adamd_json_finish(&reader->json)) {
        return refuse_kind(reader, "");
    }
    *ret_groups = groups;
    *ret_count = count;
    return true;
}

enum adamd_status codec_groups_parse(const char *text, const struct adamd_options *defaults,
                                     struct codec_arena *arena,
                                     struct codec_parsed_group **ret_groups, uint32_t *ret_count,
                                     struct adamd_fault *fault) {
    struct adamd_fault own;
    struct group_reader reader = {.arena = arena, .fault = fault != NULL ? fault : &own};

    codec_path_add(&reader.path, "adamd.param_groups");
    adamd_json_init(&reader.json, text, strlen(text), DEPTH_MAX, UINT64_MAX);
    return read_groups(&reader, defaults, ret_groups, ret_count) ? ADAMD_OK : reader.fault->status;
}

// --------------------------------------------------------------------------------------- matching

static enum adamd_status mismatch(struct adamd_fault *fault, const char *field, const char *text) {
    return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, field, "%s: %s", field, text);
}

static enum adamd_status match_params(const struct adamd_layout *layout,
                                      const struct adamd_group_spec *group,
                                      const struct codec_parsed_group *parsed, uint32_t index,
                                      struct adamd_fault *fault) {
    for (uint32_t i = 0; i < group->tensor_count; i++) {
        if (strcmp(parsed->params[i], layout->tensors[group->tensors[i]].key) != 0) {
            char field[64];
            (void)snprintf(field, sizeof field, "adamd.param_groups[%u].params[%u]", index, i);
            return mismatch(fault, field,
                            "the parameters of this group are not those of the model's");
        }
    }
    return ADAMD_OK;
}

// PyTorch's order: how many groups, then the sizes of all, then what is in them.
static enum adamd_status match(const struct adamd_layout *layout,
                               const struct adamd_group_spec *groups, uint32_t group_count,
                               const struct codec_parsed_group *parsed, uint32_t count,
                               struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;
    char field[48];

    if (count != group_count) {
        return mismatch(fault, "adamd.param_groups",
                        "loaded state dict has a different number of parameter groups");
    }
    for (uint32_t i = 0; i < count; i++) {
        if (parsed[i].param_count != groups[i].tensor_count) {
            (void)snprintf(field, sizeof field, "adamd.param_groups[%u].params", i);
            return mismatch(fault, field,
                            "loaded state dict contains a parameter group that doesn't match the "
                            "size of optimizer's group");
        }
    }
    for (uint32_t i = 0; i < count && status == ADAMD_OK; i++) {
        status = match_params(layout, &groups[i], &parsed[i], i, fault);
    }
    return status;
}

enum adamd_status codec_groups_match(const char *text, const struct adamd_layout *layout,
                                     const struct adamd_group_spec *groups, uint32_t group_count,
                                     struct codec_arena *arena,
                                     struct adamd_group_spec **ret_groups,
                                     struct adamd_fault *fault) {
    struct codec_parsed_group *parsed = NULL;
    uint32_t count = 0;
    enum adamd_status status =
        codec_groups_parse(text, &adamd_options_default, arena, &parsed, &count, fault);

    status = status == ADAMD_OK ? match(layout, groups, group_count, parsed, count, fault) : status;
    if (status != ADAMD_OK) {
        return status;
    }
    struct adamd_group_spec *matched = codec_arena_array(arena, count, sizeof *matched);
    if (matched == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (uint32_t i = 0; i < count; i++) {
        matched[i] = groups[i];
        matched[i].options = parsed[i].options;
        matched[i].keys = parsed[i].keys;
    }
    *ret_groups = matched;
    return ADAMD_OK;
}
