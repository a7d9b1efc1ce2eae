// One number for a whole state: what two daemons compare, and what a restore must reproduce.
#define XXH_STATIC_LINKING_ONLY
#include "adamd/model.h"

#include <string.h>
#include <xxhash.h>

static void add_number(XXH3_state_t *hash, uint64_t number) {
    unsigned char bytes[8]; // little-endian on every machine
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(number >> (8 * i));
    }
    (void)XXH3_128bits_update(hash, bytes, sizeof bytes);
}

static void add_double(XXH3_state_t *hash, double value) {
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    add_number(hash, bits);
}

static void add_options(XXH3_state_t *hash, const struct adamd_options *options) {
    add_double(hash, options->lr);
    add_double(hash, options->betas[0]);
    add_double(hash, options->betas[1]);
    add_double(hash, options->eps);
    add_double(hash, options->weight_decay);
    add_number(hash, options->amsgrad ? 1 : 0);
    add_number(hash, options->maximize ? 1 : 0);
    add_number(hash, options->capturable ? 1 : 0);
    add_number(hash, options->differentiable ? 1 : 0);
    add_number(hash, options->decoupled_weight_decay ? 1 : 0);
    add_number(hash, (uint64_t)options->foreach);
    add_number(hash, (uint64_t)options->fused);
}

static void add_text(XXH3_state_t *hash, const char *text) {
    const size_t size = strlen(text);

    add_number(hash, size);
    (void)XXH3_128bits_update(hash, text, size);
}

// Only what is there: the digest of a model without any of it is that of the first format.
static void add_keys(XXH3_state_t *hash, const struct adamd_options *options,
                     const struct adamd_group_keys *keys) {
    enum { TENSOR_LR = 1, TENSOR_BETAS, EXTRA, UNNAMED, NAME };

    if (options->lr_is_tensor) {
        add_number(hash, TENSOR_LR);
    }
    if (options->betas_are_tensors) {
        add_number(hash, TENSOR_BETAS);
    }
    if (keys == NULL) {
        return;
    }
    for (uint32_t i = 0; i < keys->extra_count; i++) {
        add_number(hash, EXTRA);
        add_text(hash, keys->extras[i].key);
        add_text(hash, keys->extras[i].value);
    }
    if (keys->unnamed) {
        add_number(hash, UNNAMED);
    }
    for (uint32_t i = 0; i < keys->name_count; i++) {
        add_number(hash, NAME);
        add_text(hash, keys->names[i]);
    }
}

// An array that is NULL was never written: zeros.
static void add_array(XXH3_state_t *hash, const struct adamd_layout *layout,
                      const unsigned char *array) {
    static const unsigned char zeros[4096];

    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct adamd_tensor *tensor = &layout->tensors[i];
        uint64_t left = adamd_tensor_bytes(tensor);
        if (array != NULL) {
            (void)XXH3_128bits_update(hash, array + tensor->offset, (size_t)left);
            continue;
        }
        while (left > 0) {
            const size_t part = left < sizeof zeros ? (size_t)left : sizeof zeros;
            (void)XXH3_128bits_update(hash, zeros, part);
            left -= part;
        }
    }
}

// As users of earlier versions know it where there are no hooks.
static bool has_array(const struct adamd_capture *capture, int array, bool amsgrad) {
    switch (array) {
    case ADAMD_MAX_EXP_AVG_SQ:
        return amsgrad;
    case ADAMD_EMA:
        return capture->hooks != NULL && capture->arrays[ADAMD_EMA] != NULL;
    default:
        return true;
    }
}

void adamd_state_digest(const struct adamd_layout *layout, const struct adamd_capture *capture,
                        uint32_t group_count, uint64_t ret_digest[2]) {
    XXH3_state_t hash;
    XXH128_hash_t value;
    bool amsgrad = false;

    (void)XXH3_128bits_reset(&hash);
    add_number(&hash, layout->digest[0]);
    add_number(&hash, layout->digest[1]);
    add_number(&hash, group_count);
    for (uint32_t i = 0; i < group_count; i++) {
        add_options(&hash, &capture->options[i]);
        add_keys(&hash, &capture->options[i], capture->keys != NULL ? capture->keys[i] : NULL);
        amsgrad = amsgrad || capture->options[i].amsgrad;
    }
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        add_number(&hash, capture->steps[i]);
    }
    for (int array = 0; array < ADAMD_ARRAY_COUNT; array++) {
        if (has_array(capture, array, amsgrad)) {
            add_array(&hash, layout, capture->arrays[array]);
        }
    }
    if (capture->hooks != NULL) {
        add_number(&hash, strlen(capture->hooks));
        (void)XXH3_128bits_update(&hash, capture->hooks, strlen(capture->hooks));
    }
    value = XXH3_128bits_digest(&hash);
    ret_digest[0] = value.high64;
    ret_digest[1] = value.low64;
}
