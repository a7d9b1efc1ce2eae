/**
 * Where each parameter lies: in the flat arenas of a backend and in raw pushes and pulls.
 *
 * An arena is one buffer that holds one array of all tensors. Tensors of one dtype lie side by side
 * in it, in table order, each at a 64-byte boundary; complex tensors are pairs of reals and lie
 * with their reals. Tensors that are added later lie behind all that were there, again by dtype
 * among themselves: an offset never changes. Raw bodies are in table order, without padding.
 */
#ifndef ADAMD_LAYOUT_H
#define ADAMD_LAYOUT_H

#include "adamd/dtype.h"
#include "adamd/status.h"

#include <stdbool.h>

enum {
    ADAMD_TENSORS_MAX = 65536, // 10,000 small tensors are an ordinary model
    ADAMD_RANK_MAX = 8,
    ADAMD_KEY_MAX = 256, // bytes, without the terminator
    ADAMD_GROUPS_MAX = 1024,
    ADAMD_ALIGN_BYTES = 64, // where a tensor may begin in an arena
};

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
    uint64_t offset;      // bytes, from the arena's start
    uint64_t wire_offset; // bytes, from the start of a raw push of all tensors
};

/** What it takes, in the arena without its padding and on the wire. */
uint64_t adamd_tensor_bytes(const struct adamd_tensor *tensor);
/** How many reals that is: twice the elements of a complex one. */
uint64_t adamd_tensor_reals(const struct adamd_tensor *tensor);

/** Public to read, never to write. */
struct adamd_layout {
    struct adamd_tensor *tensors;
    uint32_t tensor_count;
    uint64_t parameter_count; // sum of count
    uint64_t arena_bytes;     // padding included, a multiple of ADAMD_ALIGN_BYTES
    uint64_t wire_bytes;
    uint64_t digest[2];  // XXH3-128 of keys, dtypes and shapes, in table order
    uint32_t *by_key;    // indices in byte order of the keys, for lookup
    uint32_t *by_offset; // indices in the order in which they lie in the arena
};

/**
 * BAD_FIELD (tensors[3].key: empty, too long, not UTF-8, twice, or "<other key>.exp_avg" and the
 * like, which a state file could not tell from state), TOO_LARGE, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status adamd_layout_init(struct adamd_layout *layout,
                                                   const struct adamd_tensor_spec *specs,
                                                   uint32_t count, struct adamd_fault *fault);

/**
 * Makes `ret_layout` of `layout` with `count` tensors more, which get the next indices; what was
 * there keeps its index and its offsets. Errors as above, tensors[0] being the first new one.
 * `layout` stays as it is.
 */
ADAMD_MUST_USE enum adamd_status
adamd_layout_extend(const struct adamd_layout *layout, const struct adamd_tensor_spec *specs,
                    uint32_t count, struct adamd_layout *ret_layout, struct adamd_fault *fault);

/** Takes anything from zeroed to whole. */
void adamd_layout_finish(struct adamd_layout *layout);

/** The index of the tensor called `key` (of `size` bytes), or -1. */
int64_t adamd_layout_find(const struct adamd_layout *layout, const char *key, size_t size);

#endif
