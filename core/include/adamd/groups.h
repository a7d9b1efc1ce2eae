/**
 * What a param group holds beyond its options and its parameters: keys that PyTorch does not know
 * (LR schedulers put `initial_lr` there) and the parameters' names. Kept as they came, given back
 * as they came, and part of the state.
 */
#ifndef ADAMD_GROUPS_H
#define ADAMD_GROUPS_H

#include "adamd/status.h"

#include <stdbool.h>

enum {
    ADAMD_EXTRAS_MAX = 64,            // of one group
    ADAMD_EXTRA_KEY_MAX = 128,        // bytes, without the terminator
    ADAMD_EXTRA_VALUE_MAX = 16384,    // bytes, without the terminator
    ADAMD_EXTRAS_BYTES_MAX = 1 << 20, // keys and values of all groups of a model
};

/** One unknown key; its value is a JSON text. */
struct adamd_extra {
    const char *key, *value;
};

/**
 * Never written once it is made, so that other threads may read one that somebody holds; the count
 * of holders belongs to the loop's thread.
 */
struct adamd_group_keys {
    const struct adamd_extra *extras; // in the order of insertion
    uint32_t extra_count;
    uint32_t bytes;           // of the extras' keys and values
    bool unnamed;             // the parameters came without names
    const char *const *names; // PyTorch's param_names, by place; NULL: the tensors' keys
    uint32_t name_count;
    uint32_t holders;
};

/** What to make one from: borrowed for the call. */
struct adamd_group_keys_spec {
    const struct adamd_extra *extras;
    uint32_t extra_count;
    bool unnamed;
    const char *const *names;
    uint32_t name_count; // of `names`
};

/**
 * BAD_FIELD or TOO_LARGE names "extra[2].key", "extra[2].value" or "param_names[7]": too many, too
 * long, twice, the name of an option or of a list that the group has anyway, not JSON (at most 16
 * levels), not UTF-8.
 */
ADAMD_MUST_USE enum adamd_status adamd_group_keys_check(const struct adamd_group_keys_spec *spec,
                                                        struct adamd_fault *fault);

/** A checked one, held once. NULL for want of memory. */
struct adamd_group_keys *adamd_group_keys_create(const struct adamd_group_keys_spec *spec);
struct adamd_group_keys *adamd_group_keys_hold(struct adamd_group_keys *keys);
/** NULL is harmless. */
void adamd_group_keys_drop(struct adamd_group_keys *keys);

/** The same as a specification, to make another from. `keys` may be NULL. */
struct adamd_group_keys_spec adamd_group_keys_spec_of(const struct adamd_group_keys *keys);

#endif
