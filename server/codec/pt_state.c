// A file of torch.save against a model: PyTorch's rules for what belongs where, and a list of all
// that PyTorch would only find out later.
#include "codec/pt_state.h"

#include "adamd/json.h"
#include "codec/convert.h"
#include "codec/pt_options.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const struct codec_pt_model *model;
    struct codec_arena *arena;
    struct codec_pt_state *state;
    struct problem_list *list;
    size_t capacity; // of items
    bool has_memory;
};

static const char *const array_names[] = {"param", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"};

// --------------------------------------------------------------------------------------- tensors

static void format_shape(char text[96], const uint64_t *shape, uint32_t rank) {
    size_t filled = (size_t)snprintf(text, 96, "[");

    for (uint32_t i = 0; i < rank && filled < 70; i++) {
        filled +=
            (size_t)snprintf(text + filled, 96 - filled, "%s%" PRIu64, i > 0 ? "," : "", shape[i]);
    }
    (void)snprintf(text + (filled < 95 ? filled : 94), 2, "]");
}

static bool has_shape(const struct adamd_pt_tensor *given, const struct adamd_tensor *wanted) {
    return given->rank == wanted->rank &&
           (given->rank == 0 ||
            memcmp(given->shape, wanted->shape, given->rank * sizeof given->shape[0]) == 0);
}

// True if it may be cast into the model's tensor.
static bool check_tensor(struct reader *reader, const char *field,
                         const struct adamd_pt_value *value, const struct adamd_tensor *wanted) {
    const enum adamd_pt_class class = adamd_pt_dtype_class(codec_pt_dtype(wanted->dtype));
    char given_shape[96];
    char wanted_shape[96];

    if (value->kind != ADAMD_PT_TENSOR) {
        pt_note(reader->list, field, "is no tensor");
        return false;
    }
    if (adamd_pt_dtype_class(value->tensor->dtype) != class) {
        pt_note(reader->list, field, "is %s, the model's %s takes %s numbers",
                adamd_pt_dtype_name(value->tensor->dtype), adamd_dtype_name(wanted->dtype),
                class == ADAMD_PT_CLASS_COMPLEX ? "complex" : "real");
        return false;
    }
    if (!has_shape(value->tensor, wanted)) {
        format_shape(given_shape, value->tensor->shape, value->tensor->rank);
        format_shape(wanted_shape, wanted->shape, wanted->rank);
        pt_note(reader->list, field, "has shape %s, the model's is %s", given_shape, wanted_shape);
        return false;
    }
    return true;
}

static void add_item(struct reader *reader, const struct adamd_pt_value *value, uint32_t array,
                     uint32_t tensor) {
    ADAMD_ASSERT(reader->state->item_count < reader->capacity);
    reader->state->items[reader->state->item_count++] =
        (struct codec_pt_item){.from = value->tensor, .array = array, .tensor = tensor};
}

// ----------------------------------------------------------------------------------------- model

static void read_model(struct reader *reader, const struct adamd_pt_value *dict, uint32_t array) {
    const struct adamd_layout *layout = reader->model->layout;
    char field[128];

    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct adamd_tensor *tensor = &layout->tensors[i];
        const struct adamd_pt_value *value = adamd_pt_get(dict, tensor->key);
        (void)snprintf(field, sizeof field, "%.120s", tensor->key);
        if (value == NULL) {
            pt_note(reader->list, field, "is missing");
        } else if (check_tensor(reader, field, value, tensor)) {
            add_item(reader, value, array, i);
        }
    }
    for (size_t i = 0; i < dict->dict.count; i++) {
        const struct adamd_pt_value *key = dict->dict.pairs[i].key;
        if (key->kind != ADAMD_PT_TEXT) {
            pt_note(reader->list, "model", "has a key that is no text");
        } else if (adamd_layout_find(layout, key->text.bytes, key->text.size) < 0) {
            (void)snprintf(field, sizeof field, "%.*s",
                           key->text.size < 120 ? (int)key->text.size : 120, key->text.bytes);
            pt_note(reader->list, field, "is none of the model's parameters");
        }
    }
}

// ----------------------------------------------------------------------------------------- state

// The keys of one parameter's state, by what they are.
struct slots {
    const struct adamd_pt_value *step, *arrays[ADAMD_ARRAY_COUNT];
};

static void sort_slots(struct reader *reader, const char *place, const struct adamd_pt_value *saved,
                       struct slots *slots) {
    char field[128];

    for (size_t i = 0; i < saved->dict.count; i++) {
        const struct adamd_pt_pair *pair = &saved->dict.pairs[i];
        if (adamd_pt_text_is(pair->key, "step")) {
            slots->step = pair->value;
        } else if (adamd_pt_text_is(pair->key, "exp_avg")) {
            slots->arrays[ADAMD_EXP_AVG] = pair->value;
        } else if (adamd_pt_text_is(pair->key, "exp_avg_sq")) {
            slots->arrays[ADAMD_EXP_AVG_SQ] = pair->value;
        } else if (adamd_pt_text_is(pair->key, "max_exp_avg_sq")) {
            slots->arrays[ADAMD_MAX_EXP_AVG_SQ] = pair->value;
        } else {
            const bool is_text = pair->key->kind == ADAMD_PT_TEXT;
            (void)snprintf(field, sizeof field, "%s.%.*s", place,
                           is_text && pair->key->text.size < 60 ? (int)pair->key->text.size : 0,
                           is_text ? pair->key->text.bytes : "");
            pt_note(reader->list, field, "is no state of Adam");
        }
    }
}

static void read_step(struct reader *reader, const char *place, const struct adamd_pt_value *value,
                      uint32_t tensor) {
    struct codec_pt_state *state = reader->state;
    char field[128];
    double t = 0;

    (void)snprintf(field, sizeof field, "%s.step", place);
    if (value == NULL) {
        pt_note(reader->list, field, "is missing");
    } else if (!adamd_pt_number(value, &t) || !isfinite(t) || t < 0 || t != floor(t) ||
               t > 9007199254740992.0) {
        pt_note(reader->list, field, "is no count: a whole number of at least 0 is expected");
    } else {
        state->steps[tensor] = (uint64_t)t;
        state->largest_step =
            state->steps[tensor] > state->largest_step ? state->steps[tensor] : state->largest_step;
    }
}

static void read_entry(struct reader *reader, const char *place, const struct adamd_pt_value *saved,
                       uint32_t tensor, bool amsgrad) {
    const struct adamd_tensor *spec = &reader->model->layout->tensors[tensor];
    struct slots slots = {0};
    char field[128];

    if (saved->kind != ADAMD_PT_DICT) {
        pt_note(reader->list, place, "is no dict");
        return;
    }
    sort_slots(reader, place, saved, &slots);
    read_step(reader, place, slots.step, tensor);
    for (uint32_t array = ADAMD_EXP_AVG; array <= ADAMD_MAX_EXP_AVG_SQ; array++) {
        const struct adamd_pt_value *value = slots.arrays[array];
        (void)snprintf(field, sizeof field, "%s.%s", place, array_names[array]);
        if (value == NULL && (array != ADAMD_MAX_EXP_AVG_SQ || amsgrad)) {
            pt_note(reader->list, field, "is missing");
        } else if (value != NULL && check_tensor(reader, field, value, spec)) {
            add_item(reader, value, array, tensor);
        }
    }
}

// The parameters of one saved group, by place.
static size_t read_group_state(struct reader *reader, const struct adamd_pt_value *state,
                               const struct adamd_pt_value *ids,
                               const struct adamd_group_spec *group) {
    size_t used = 0;

    for (uint32_t k = 0; k < group->tensor_count; k++) {
        const struct adamd_pt_value *id = ids->list.items[k];
        char place[64];
        if (id->kind != ADAMD_PT_INT) {
            pt_note(reader->list, "param_groups", "an id in params is no int");
            continue;
        }
        const struct adamd_pt_value *saved = adamd_pt_get_int(state, id->integer);
        (void)snprintf(place, sizeof place, "state[%" PRId64 "]", id->integer);
        if (saved != NULL) {
            read_entry(reader, place, saved, group->tensors[k], group->options.amsgrad);
            used++;
        }
    }
    return used;
}

static const struct adamd_pt_value *params_of(const struct adamd_pt_value *group) {
    const struct adamd_pt_value *ids = adamd_pt_get(group, "params");
    return ids != NULL && ids->kind == ADAMD_PT_LIST ? ids : NULL;
}

static bool is_same_id(const struct adamd_pt_value *a, const struct adamd_pt_value *b) {
    return a->kind == ADAMD_PT_INT && b->kind == ADAMD_PT_INT && a->integer == b->integer;
}

static void check_ids(struct reader *reader, const char *field, const struct adamd_pt_value *ids) {
    for (size_t k = 1; k < ids->list.count; k++) {
        if (is_same_id(ids->list.items[k - 1], ids->list.items[k])) {
            pt_note(reader->list, field, "names a parameter twice");
        }
    }
}

static bool check_sizes(struct reader *reader, const struct adamd_pt_value *groups) {
    const struct codec_pt_model *model = reader->model;

    for (uint32_t i = 0; i < model->group_count; i++) {
        const struct adamd_pt_value *ids = params_of(groups->list.items[i]);
        char field[48];
        (void)snprintf(field, sizeof field, "param_groups[%u].params", i);
        if (ids == NULL || ids->list.count != model->groups[i].tensor_count) {
            pt_note(reader->list, field,
                    "loaded state dict contains a parameter group that doesn't match the size of "
                    "optimizer's group: %zu, the model's has %u",
                    ids != NULL ? ids->list.count : 0, model->groups[i].tensor_count);
            return false;
        }
        check_ids(reader, field, ids);
    }
    return true;
}

// PyTorch's order and texts: the number of groups, then the sizes of all.
static bool check_groups(struct reader *reader, const struct adamd_pt_value *groups) {
    if (groups == NULL || groups->kind != ADAMD_PT_LIST) {
        pt_note(reader->list, "param_groups", "is missing, or no list");
        return false;
    }
    if (groups->list.count != reader->model->group_count) {
        pt_note(reader->list, "param_groups",
                "loaded state dict has a different number of parameter groups: %zu, the model has "
                "%u",
                groups->list.count, reader->model->group_count);
        return false;
    }
    return check_sizes(reader, groups);
}

// Names that are the tensors' keys are not said, as in a model that was never told any.
static void forget_own_names(const struct reader *reader, struct adamd_group_spec *group) {
    uint32_t i = 0;

    while (i < group->keys.name_count &&
           strcmp(group->keys.names[i], reader->model->layout->tensors[group->tensors[i]].key) ==
               0) {
        i++;
    }
    if (i == group->keys.name_count) {
        group->keys.names = NULL;
        group->keys.name_count = 0;
    }
}

static void read_optimizer(struct reader *reader, const struct adamd_pt_value *dict) {
    const struct codec_pt_model *model = reader->model;
    const struct adamd_pt_value *state = adamd_pt_get(dict, "state");
    const struct adamd_pt_value *groups = adamd_pt_get(dict, "param_groups");
    size_t used = 0;

    if (state == NULL || state->kind != ADAMD_PT_DICT) {
        pt_note(reader->list, "state", "is missing, or no dict");
        return;
    }
    if (!check_groups(reader, groups)) {
        return;
    }
    reader->state->steps =
        codec_arena_array(reader->arena, model->layout->tensor_count, sizeof *reader->state->steps);
    reader->state->groups =
        codec_arena_array(reader->arena, model->group_count, sizeof *reader->state->groups);
    reader->has_memory = reader->state->steps != NULL && reader->state->groups != NULL;
    for (uint32_t i = 0; i < model->group_count && reader->has_memory; i++) {
        const struct adamd_pt_value *saved = groups->list.items[i];
        reader->has_memory = pt_read_group(saved, &model->groups[i], i, reader->arena, reader->list,
                                           &reader->state->groups[i]);
        if (reader->has_memory) {
            forget_own_names(reader, &reader->state->groups[i]);
            used += read_group_state(reader, state, params_of(saved), &reader->state->groups[i]);
        }
    }
    if (reader->has_memory && used != state->dict.count) {
        pt_note(reader->list, "state", "has entries that belong to no parameter: %zu of %zu fit",
                used, state->dict.count);
    }
    reader->state->has_state = true;
}

// ------------------------------------------------------------------------------------------ file

static bool is_optimizer(const struct adamd_pt_value *value) {
    return value != NULL && adamd_pt_get(value, "param_groups") != NULL;
}

static bool is_model(const struct adamd_pt_value *value) {
    size_t tensors = 0;

    for (size_t i = 0; value != NULL && value->kind == ADAMD_PT_DICT && i < value->dict.count;
         i++) {
        tensors += value->dict.pairs[i].value->kind == ADAMD_PT_TENSOR ? 1 : 0;
    }
    return tensors > 0 && tensors == value->dict.count;
}

// A state of ours is what it digests to: without hooks, there are none.
static void read_hooks(struct reader *reader, const struct adamd_pt_value *hooks,
                       const struct adamd_pt_value *average) {
    if (hooks != NULL && hooks->kind != ADAMD_PT_TEXT) {
        pt_note(reader->list, "adamd.hooks", "is no text");
        return;
    }
    reader->state->hooks =
        hooks == NULL ? "" : codec_arena_copy(reader->arena, hooks->text.bytes, hooks->text.size);
    reader->has_memory = reader->has_memory && reader->state->hooks != NULL;
    if (average != NULL && average->kind == ADAMD_PT_DICT) {
        read_model(reader, average, ADAMD_EMA);
    }
}

// What adamd wrote beside model and optimizer.
static void read_own(struct reader *reader, const struct adamd_pt_value *own) {
    const struct adamd_pt_value *version = adamd_pt_get(own, "version");
    const struct adamd_pt_value *digest = adamd_pt_get(own, "state_digest");
    char text[33] = "";

    if (version != NULL && version->kind == ADAMD_PT_INT && version->integer >= 0) {
        reader->state->has_version = true;
        reader->state->version = (uint64_t)version->integer;
    }
    if (digest == NULL) {
        return;
    }
    read_hooks(reader, adamd_pt_get(own, "hooks"), adamd_pt_get(own, "ema"));
    if (digest->kind == ADAMD_PT_TEXT && digest->text.size == 32) {
        memcpy(text, digest->text.bytes, 32);
    }
    reader->state->has_digest = codec_digest_read(text, reader->state->digest);
    if (!reader->state->has_digest) {
        pt_note(reader->list, "adamd.state_digest", "is not 32 hex digits");
    }
}

static enum adamd_status fail_to_know(const struct adamd_pt_value *root,
                                      struct adamd_fault *fault) {
    char keys[120] = "";
    size_t filled = 0;

    for (size_t i = 0; root->kind == ADAMD_PT_DICT && i < root->dict.count && filled < 80; i++) {
        const struct adamd_pt_value *key = root->dict.pairs[i].key;
        if (key->kind == ADAMD_PT_TEXT && adamd_utf8_valid(key->text.bytes, key->text.size)) {
            filled += (size_t)snprintf(
                keys + filled, sizeof keys - filled, "%s%.*s", filled > 0 ? ", " : "",
                key->text.size < 30 ? (int)key->text.size : 30, key->text.bytes);
        }
    }
    return adamd_fail(
        fault, ADAMD_LAYOUT_MISMATCH, "body",
        "the file is neither an optimizer's state_dict nor a model's: it has %s; name "
        "a part of it with ?path=",
        filled > 0 ? keys : "no keys");
}

static void read_parts(struct reader *reader, const struct adamd_pt_value *model,
                       const struct adamd_pt_value *optimizer) {
    const enum codec_load load = reader->model->load;

    if (model != NULL && load != CODEC_LOAD_MOMENTS) {
        read_model(reader, model, ADAMD_PARAM);
        reader->state->has_parameters = true;
    }
    if (optimizer != NULL && (load == CODEC_LOAD_ALL || load == CODEC_LOAD_MOMENTS)) {
        read_optimizer(reader, optimizer);
    }
}

static enum adamd_status check_wanted(const struct reader *reader, struct adamd_fault *fault) {
    const struct codec_pt_state *state = reader->state;
    const enum codec_load load = reader->model->load;

    if (load == CODEC_LOAD_WEIGHTS && !state->has_parameters) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "load", "the file has no parameters");
    }
    if (load == CODEC_LOAD_MOMENTS && !state->has_state) {
        return adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, "load",
                          "the file has no optimizer's state");
    }
    return ADAMD_OK;
}

static enum adamd_status conclude(const struct problem_list *list, struct adamd_fault *fault) {
    if (list->count == 0) {
        return ADAMD_OK;
    }
    (void)adamd_fail(fault, ADAMD_LAYOUT_MISMATCH, list->entries[0].field, "%.90s: %.150s",
                     list->entries[0].field, list->entries[0].text);
    adamd_fault_tell(fault, "differences", "%zu", list->count);
    return ADAMD_LAYOUT_MISMATCH;
}

static int compare_sources(const void *a, const void *b) {
    const struct codec_pt_item *left = *(struct codec_pt_item *const *)a;
    const struct codec_pt_item *right = *(struct codec_pt_item *const *)b;

    return ((uintptr_t)left->from > (uintptr_t)right->from) -
           ((uintptr_t)left->from < (uintptr_t)right->from);
}

// One object of the file may stand in several places.
static bool mark_shared(struct codec_pt_state *state, struct codec_arena *arena) {
    struct codec_pt_item **sorted = codec_arena_array(arena, state->item_count, sizeof *sorted);

    if (sorted == NULL) {
        return false;
    }
    for (size_t i = 0; i < state->item_count; i++) {
        sorted[i] = &state->items[i];
    }
    qsort(sorted, state->item_count, sizeof *sorted, compare_sources);
    for (size_t i = 1; i < state->item_count; i++) {
        if (sorted[i]->from == sorted[i - 1]->from) {
            sorted[i]->is_shared = true;
            sorted[i - 1]->is_shared = true;
        }
    }
    return true;
}

enum adamd_status codec_map_pt(const struct adamd_pt_value *root,
                               const struct codec_pt_model *model, struct codec_arena *arena,
                               struct codec_pt_state *ret_state, struct problem_list *list,
                               struct adamd_fault *fault) {
    struct codec_pt_state state = {0};
    struct reader reader = {.model = model,
                            .arena = arena,
                            .state = &state,
                            .list = list,
                            .capacity = (size_t)model->layout->tensor_count * ADAMD_ARRAY_COUNT,
                            .has_memory = true};
    const struct adamd_pt_value *model_part = adamd_pt_get(root, "model");
    const struct adamd_pt_value *optimizer_part = adamd_pt_get(root, "optimizer");

    state.items = codec_arena_array(arena, reader.capacity, sizeof *state.items);
    if (state.items == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    if (is_optimizer(root)) {
        read_parts(&reader, NULL, root);
    } else if (is_model(root)) {
        read_parts(&reader, root, NULL);
    } else if (is_model(model_part) && is_optimizer(optimizer_part)) {
        read_parts(&reader, model_part, optimizer_part);
        if (model->load == CODEC_LOAD_ALL) {
            read_own(&reader, adamd_pt_get(root, "adamd"));
        }
    } else {
        return fail_to_know(root, fault);
    }
    if (!reader.has_memory || !mark_shared(&state, arena)) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    enum adamd_status status = conclude(list, fault);
    status = status == ADAMD_OK ? check_wanted(&reader, fault) : status;
    if (status == ADAMD_OK) {
        *ret_state = state;
    }
    return status;
}
