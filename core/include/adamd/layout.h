/**
 * Where each parameter lies: in the flat arenas of a backend (each tensor at a 64-byte boundary, in
 * table order) and in raw pushes and pulls (in table order, without padding). One arena holds one
 * dtype; today that is float32.
 */
#ifndef ADAMD_LAYOUT_H
#define ADAMD_LAYOUT_H

#include "adamd/status.h"

#include <stdbool.h>

enum {
    ADAMD_TENSORS_MAX = 65536, // 10,000 small tensors are an ordinary model
    ADAMD_RANK_MAX = 8,
    ADAMD_KEY_MAX = 256, // bytes, without the terminator
    ADAMD_GROUPS_MAX = 1024,
};

enum adamd_dtype { ADAMD_FLOAT32, ADAMD_FLOAT16, ADAMD_BFLOAT16, ADAMD_FLOAT64 };

size_t adamd_dtype_size(enum adamd_dtype dtype);
/** "float32" */
const char *adamd_dtype_name(enum adamd_dtype dtype);

/** What a caller says of a tensor. `key` is borrowed for the call. */
struct adamd_tensor_spec {
    const char *key;
    enum adamd_dtype dtype;
    uint32_t rank;
    uint64_t shape[ADAMD_RANK_MAX];
};

struct adamd_tensor {
    char *key;
    enum adamd_dtype dtype;
    uint32_t rank;
    uint64_t shape[ADAMD_RANK_MAX];
    uint64_t count;       // elements; 0 is legal
    uint64_t offset;      // elements, from the arena's start
    uint64_t wire_offset; // bytes, from the start of a raw push of all tensors
};

/** Public to read, never to write. */
struct adamd_layout {
    struct adamd_tensor *tensors;
    uint32_t tensor_count;
    uint64_t parameter_count; // sum of count
    uint64_t element_count;   // of the arena, padding included
    uint64_t wire_bytes;
    uint64_t digest[2]; // XXH3-128 of keys, dtypes and shapes
    uint32_t *by_key;   // indices in byte order of the keys, for lookup
};

/**
 * BAD_FIELD (tensors[3].key: empty, too long, not UTF-8, twice, or "<other key>.exp_avg" and the
 * like, which a state file could not tell from state), TOO_LARGE, UNSUPPORTED (dtype), NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status adamd_layout_init(struct adamd_layout *layout,
                                                   const struct adamd_tensor_spec *specs,
                                                   uint32_t count, struct adamd_fault *fault);

/** Takes anything from zeroed to whole. */
void adamd_layout_finish(struct adamd_layout *layout);

/** The index of the tensor called `key` (of `size` bytes), or -1. */
int64_t adamd_layout_find(const struct adamd_layout *layout, const char *key, size_t size);

#endif
