// Reaches codec_map_state, codec_map_gradients, codec_map_cotangents, codec_groups_parse,
// codec_groups_print. The input
// is a safetensors header, without its length, against a model of four tensors in two groups.
// Oracle: an accepted state names every array of every tensor at most once, each with the tensor's
// length; its options pass PyTorch's checks and print to what parses as the same.
#include "fuzz.h"

#include "codec/tensors.h"

#include <stdlib.h>
#include <string.h>

static const struct adamd_tensor_spec specs[] = {{"w", ADAMD_FLOAT32, 2, {2, 3}},
                                                 {"b", ADAMD_FLOAT32, 1, {3}},
                                                 {"s", ADAMD_FLOAT32, 0, {0}},
                                                 {"e", ADAMD_FLOAT32, 1, {0}}};
static const uint32_t first[] = {0, 1};
static const uint32_t second[] = {3, 2};
static const struct adamd_group_spec groups[] = {
    {.options = {.lr = 0.1, .betas = {0.9, 0.99}, .eps = 1e-8},
     .tensors = first,
     .tensor_count = 2},
    {.options = {.lr = 0.1, .betas = {0.9, 0.99}, .eps = 1e-8, .amsgrad = true},
     .tensors = second,
     .tensor_count = 2},
};

static void check_keys(const struct adamd_group_keys_spec *keys,
                       const struct adamd_group_keys_spec *back) {
    ADAMD_ASSERT(keys->extra_count == back->extra_count && keys->unnamed == back->unnamed);
    ADAMD_ASSERT(keys->name_count == back->name_count);
    for (uint32_t i = 0; i < keys->extra_count; i++) {
        ADAMD_ASSERT(strcmp(keys->extras[i].key, back->extras[i].key) == 0);
        ADAMD_ASSERT(strcmp(keys->extras[i].value, back->extras[i].value) == 0);
    }
    for (uint32_t i = 0; i < keys->name_count; i++) {
        ADAMD_ASSERT(strcmp(keys->names[i], back->names[i]) == 0);
    }
}

static void check_options(const struct adamd_layout *layout, const struct codec_state *state) {
    struct codec_arena arena = {0};
    struct adamd_group_spec *back = NULL;
    struct adamd_options options[2];
    struct adamd_group_keys *keys[2];
    char *text = NULL;

    for (int i = 0; i < 2; i++) {
        options[i] = state->groups[i].options;
        ADAMD_ASSERT(adamd_options_check(&options[i], NULL) == ADAMD_OK);
        keys[i] = adamd_group_keys_create(&state->groups[i].keys);
        ADAMD_ASSERT(keys[i] != NULL);
    }
    ADAMD_ASSERT(codec_groups_print(layout, groups, 2, options, keys, &text) == ADAMD_OK);
    ADAMD_ASSERT(codec_groups_match(text, layout, groups, 2, &arena, &back, NULL) == ADAMD_OK);
    for (int i = 0; i < 2; i++) {
        ADAMD_ASSERT(back[i].options.lr == options[i].lr && back[i].options.eps == options[i].eps);
        ADAMD_ASSERT(memcmp(back[i].options.betas, options[i].betas, sizeof options[i].betas) == 0);
        ADAMD_ASSERT(back[i].options.amsgrad == options[i].amsgrad);
        ADAMD_ASSERT(back[i].options.ints == options[i].ints);
        ADAMD_ASSERT(back[i].options.lr_is_tensor == options[i].lr_is_tensor);
        check_keys(&state->groups[i].keys, &back[i].keys);
        adamd_group_keys_drop(keys[i]);
    }
    codec_arena_finish(&arena);
    free(text);
}

static void check_state(const struct adamd_layout *layout, const struct adamd_safetensors *header,
                        const struct codec_state *state) {
    bool seen[CODEC_TARGET_STEP + 1][4] = {{false}};

    for (size_t i = 0; i < header->entry_count; i++) {
        const struct codec_target target = state->targets[i];
        const uint64_t size = header->entries[i].end - header->entries[i].begin;
        ADAMD_ASSERT(target.array <= CODEC_TARGET_STEP && target.tensor < 4);
        ADAMD_ASSERT(!seen[target.array][target.tensor]);
        seen[target.array][target.tensor] = true;
        ADAMD_ASSERT(
            size ==
            (target.array == CODEC_TARGET_STEP ? 8 : layout->tensors[target.tensor].count * 4));
    }
    for (int i = 0; i < 4; i++) {
        ADAMD_ASSERT(seen[ADAMD_PARAM][i]);
        ADAMD_ASSERT(state->parameters_only == !seen[ADAMD_EXP_AVG][i]);
        ADAMD_ASSERT(seen[ADAMD_EXP_AVG][i] == seen[CODEC_TARGET_STEP][i]);
    }
    if (state->groups != NULL) {
        check_options(layout, state);
    }
}

static void check_gradients(const struct adamd_layout *layout,
                            const struct adamd_safetensors *header,
                            const struct codec_gradients *gradients) {
    uint64_t bytes = 0;

    ADAMD_ASSERT(gradients->count == header->entry_count && gradients->count > 0);
    for (uint32_t i = 0; i < gradients->count; i++) {
        ADAMD_ASSERT(i == 0 || gradients->tensors[i] > gradients->tensors[i - 1]);
        bytes += layout->tensors[gradients->tensors[i]].count * 4;
    }
    ADAMD_ASSERT(bytes == gradients->byte_size);
}

static void check_cotangents(const struct adamd_layout *layout,
                             const struct adamd_safetensors *header,
                             const struct codec_target *targets) {
    for (size_t i = 0; i < header->entry_count; i++) {
        ADAMD_ASSERT(targets[i].array < ADAMD_GRAD && targets[i].tensor < 4);
        ADAMD_ASSERT(header->entries[i].end - header->entries[i].begin ==
                     layout->tensors[targets[i].tensor].count * 4);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct adamd_layout layout = {0};
    struct adamd_safetensors header = {0};
    struct codec_arena arena = {0};
    struct codec_state state = {0};
    struct codec_gradients gradients = {0};
    struct codec_target *targets = NULL;
    struct adamd_fault fault = {0};

    ADAMD_ASSERT(adamd_layout_init(&layout, specs, 4, NULL) == ADAMD_OK);
    if (adamd_safetensors_parse(data, size, UINT64_MAX, &header, NULL) == ADAMD_OK) {
        enum adamd_status status =
            codec_map_state(&layout, groups, 2, &header, &arena, &state, &fault);
        if (status == ADAMD_OK) {
            check_state(&layout, &header, &state);
        } else {
            ADAMD_ASSERT(fault.status == status && fault.message[0] != 0);
        }
        status = codec_map_gradients(&layout, &header, &arena, &gradients, &fault);
        if (status == ADAMD_OK) {
            check_gradients(&layout, &header, &gradients);
        }
        if (codec_map_cotangents(&layout, &header, &arena, &targets, &fault) == ADAMD_OK) {
            check_cotangents(&layout, &header, targets);
        }
    }
    adamd_safetensors_finish(&header);
    codec_arena_finish(&arena);
    adamd_layout_finish(&layout);
    return 0;
}
