// optimizer.param_groups as the JSON text in a state file's metadata: PyTorch's names, keys instead
// of numbers, 17 significant digits, so that every double comes back as it was.
#include "codec/tensors.h"

#include "codec/json_tree.h"
#include "codec/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --------------------------------------------------------------------------------------- out

static void put_number(struct codec_text *text, double value) {
    char digits[32];

    if (!isfinite(value)) { // lr may be infinite, as in PyTorch
        codec_text_double(text, value);
        return;
    }
    (void)snprintf(digits, sizeof digits, "%.17g", value);
    codec_text_put(text, digits);
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
    put_number(text, options->lr);
    put_name(text, "betas");
    codec_text_put(text, "[");
    put_number(text, options->betas[0]);
    codec_text_put(text, ",");
    put_number(text, options->betas[1]);
    codec_text_put(text, "]");
    put_name(text, "eps");
    put_number(text, options->eps);
    put_name(text, "weight_decay");
    put_number(text, options->weight_decay);
    put_bool(text, "amsgrad", options->amsgrad);
    put_bool(text, "maximize", options->maximize);
    put_tristate(text, "foreach", options->foreach);
    put_bool(text, "capturable", options->capturable);
    put_bool(text, "differentiable", options->differentiable);
    put_tristate(text, "fused", options->fused);
    put_bool(text, "decoupled_weight_decay", options->decoupled_weight_decay);
}

enum adamd_status codec_groups_print(const struct adamd_layout *layout,
                                     const struct adamd_group_spec *groups,
                                     const struct adamd_options *options, uint32_t group_count,
                                     char **ret_text) {
    struct codec_text text = {0};

    codec_text_put(&text, "[");
    for (uint32_t i = 0; i < group_count; i++) {
        codec_text_put(&text, i > 0 ? ",{" : "{");
        put_options(&text, &options[i]);
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
    const struct adamd_layout *layout;
    struct codec_path path;
    struct adamd_fault *fault;
};

static bool refuse(struct group_reader *reader, enum adamd_status status, const char *text) {
    (void)adamd_fail(reader->fault, status, reader->path.text, "%s: %s", reader->path.text, text);
    return false;
}

static bool read_double(struct group_reader *reader, const cJSON *item, double *to) {
    if (cJSON_IsString(item) && strcmp(item->valuestring, "Infinity") == 0) {
        *to = (double)INFINITY;
        return true;
    }
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)) {
        return refuse(reader, ADAMD_BAD_FIELD, "a number is expected");
    }
    *to = item->valuedouble;
    return true;
}

static bool read_betas(struct group_reader *reader, const cJSON *item, double to[2]) {
    const cJSON *first = cJSON_IsArray(item) ? item->child : NULL;

    if (first == NULL || first->next == NULL || first->next->next != NULL) {
        return refuse(reader, ADAMD_BAD_FIELD, "an array of two numbers is expected");
    }
    return read_double(reader, first, &to[0]) && read_double(reader, first->next, &to[1]);
}

static bool read_bool(struct group_reader *reader, const cJSON *item, bool *to) {
    if (!cJSON_IsBool(item)) {
        return refuse(reader, ADAMD_BAD_FIELD, "true or false is expected");
    }
    *to = cJSON_IsTrue(item) != 0;
    return true;
}

static bool read_tristate(struct group_reader *reader, const cJSON *item, enum adamd_tristate *to) {
    bool value = false;

    if (cJSON_IsNull(item)) {
        *to = ADAMD_NONE;
        return true;
    }
    if (!read_bool(reader, item, &value)) {
        return false;
    }
    *to = value ? ADAMD_TRUE : ADAMD_FALSE;
    return true;
}

static bool read_params(struct group_reader *reader, const cJSON *item,
                        const struct adamd_group_spec *group) {
    const size_t path_size = reader->path.size;
    uint32_t count = 0;

    if (!cJSON_IsArray(item)) {
        return refuse(reader, ADAMD_BAD_FIELD, "an array of keys is expected");
    }
    for (const cJSON *key = item->child; key != NULL; key = key->next, count++) {
        codec_path_index(&reader->path, count);
        if (!cJSON_IsString(key)) {
            return refuse(reader, ADAMD_BAD_FIELD, "a key is expected");
        }
        if (count == group->tensor_count ||
            strcmp(key->valuestring, reader->layout->tensors[group->tensors[count]].key) != 0) {
            return refuse(reader, ADAMD_LAYOUT_MISMATCH,
                          "the parameters of this group are not those of the model's");
        }
        codec_path_cut(&reader->path, path_size);
    }
    return count == group->tensor_count ||
           refuse(reader, ADAMD_LAYOUT_MISMATCH,
                  "the parameters of this group are not those of the model's");
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
    OPTION_COUNT
};

static const char *const option_names[OPTION_COUNT] = {"lr",
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
                                                       "params"};

static bool read_option(struct group_reader *reader, const cJSON *item, enum option option,
                        const struct adamd_group_spec *group, struct adamd_options *to) {
    switch (option) {
    case OPTION_LR:
        return read_double(reader, item, &to->lr);
    case OPTION_BETAS:
        return read_betas(reader, item, to->betas);
    case OPTION_EPS:
        return read_double(reader, item, &to->eps);
    case OPTION_WEIGHT_DECAY:
        return read_double(reader, item, &to->weight_decay);
    case OPTION_AMSGRAD:
        return read_bool(reader, item, &to->amsgrad);
    case OPTION_MAXIMIZE:
        return read_bool(reader, item, &to->maximize);
    case OPTION_FOREACH:
        return read_tristate(reader, item, &to->foreach);
    case OPTION_CAPTURABLE:
        return read_bool(reader, item, &to->capturable);
    case OPTION_DIFFERENTIABLE:
        return read_bool(reader, item, &to->differentiable);
    case OPTION_FUSED:
        return read_tristate(reader, item, &to->fused);
    case OPTION_DECOUPLED:
        return read_bool(reader, item, &to->decoupled_weight_decay);
    default:
        return read_params(reader, item, group);
    }
}

static enum option find_option(const char *name) {
    int option = 0;
    while (option < OPTION_COUNT && strcmp(name, option_names[option]) != 0) {
        option++;
    }
    return (enum option)option;
}

static bool check_options(struct group_reader *reader, const struct adamd_options *options) {
    struct adamd_fault why;
    const enum adamd_status status = adamd_options_check(options, &why);

    if (status == ADAMD_OK) {
        return true;
    }
    codec_path_add(&reader->path, why.field);
    return refuse(reader, status, why.message);
}

// What a group leaves out has PyTorch's default, as load_state_dict has it for files of older
// versions; only its parameters cannot be guessed.
static bool read_group(struct group_reader *reader, const cJSON *object,
                       const struct adamd_group_spec *group, struct adamd_options *ret_options) {
    const size_t path_size = reader->path.size;
    struct adamd_options options = adamd_options_default;
    unsigned seen = 0;

    if (!cJSON_IsObject(object)) {
        return refuse(reader, ADAMD_BAD_FIELD, "an object is expected");
    }
    for (const cJSON *item = object->child; item != NULL; item = item->next) {
        const enum option option = find_option(item->string);
        codec_path_add(&reader->path, item->string);
        if (option == OPTION_COUNT) {
            return refuse(reader, ADAMD_BAD_FIELD, "there is no option of this name");
        }
        if ((seen >> option & 1U) != 0) {
            return refuse(reader, ADAMD_BAD_FIELD, "given twice");
        }
        seen |= 1U << option;
        if (!read_option(reader, item, option, group, &options)) {
            return false;
        }
        codec_path_cut(&reader->path, path_size);
    }
    if ((seen >> OPTION_PARAMS & 1U) == 0) {
        return refuse(reader, ADAMD_BAD_FIELD, "\"params\" is missing");
    }
    if (!check_options(reader, &options)) {
        return false;
    }
    *ret_options = options;
    return true;
}

static bool read_groups(struct group_reader *reader, const cJSON *array,
                        const struct adamd_group_spec *groups, uint32_t group_count,
                        struct adamd_options *ret_options) {
    const size_t path_size = reader->path.size;
    uint32_t count = 0;

    if (!cJSON_IsArray(array)) {
        return refuse(reader, ADAMD_BAD_FIELD, "an array is expected");
    }
    for (const cJSON *item = array->child; item != NULL; item = item->next, count++) {
        if (count == group_count) {
            return refuse(reader, ADAMD_LAYOUT_MISMATCH, "more groups than the model has");
        }
        codec_path_index(&reader->path, count);
        if (!read_group(reader, item, &groups[count], &ret_options[count])) {
            return false;
        }
        codec_path_cut(&reader->path, path_size);
    }
    return count == group_count ||
           refuse(reader, ADAMD_LAYOUT_MISMATCH, "fewer groups than the model has");
}

enum adamd_status codec_groups_parse(const char *text, const struct adamd_layout *layout,
                                     const struct adamd_group_spec *groups, uint32_t group_count,
                                     struct adamd_options *ret_options, struct adamd_fault *fault) {
    struct adamd_fault own;
    struct group_reader reader = {.layout = layout, .fault = fault != NULL ? fault : &own};
    cJSON *tree = NULL;

    codec_path_add(&reader.path, "adamd.param_groups");
    const enum adamd_status status = codec_json_tree(text, strlen(text), &tree, reader.fault);
    if (status != ADAMD_OK) {
        if (fault != NULL && fault->field[0] == 0) {
            (void)snprintf(fault->field, sizeof fault->field, "%s", reader.path.text);
        }
        return status;
    }
    const bool good = read_groups(&reader, tree, groups, group_count, ret_options);
    cJSON_Delete(tree);
    return good ? ADAMD_OK : reader.fault->status;
}
