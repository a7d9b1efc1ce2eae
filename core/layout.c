// Places tensors in the arena and on the wire, and finds them by name.
#include "adamd/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

// Far more than any machine holds, and far from where sums of bytes could overflow.
static const uint64_t arena_bytes_max = UINT64_C(1) << 50;

uint64_t adamd_tensor_bytes(const struct adamd_tensor *tensor) {
    return tensor->count * adamd_dtype_size(tensor->dtype);
}

uint64_t adamd_tensor_reals(const struct adamd_tensor *tensor) {
    return adamd_tensor_bytes(tensor) / adamd_dtype_size(adamd_dtype_real(tensor->dtype));
}

static enum adamd_status fail_at(struct adamd_fault *fault, enum adamd_status status, uint32_t i,
                                 const char *member, const char *message) {
    char field[64];
    (void)snprintf(field, sizeof field, "tensors[%u].%s", i, member);
    return adamd_fail(fault, status, field, "%s", message);
}

// The length of the UTF-8 sequence at `s` and its code point; 0 if it is malformed (cut off,
// overlong, a surrogate, past U+10FFFF). Stops at the terminator by itself.
static size_t decode_utf8(const unsigned char *s, uint32_t *ret_point) {
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t size = s[0] < 0x80             ? 1
                        : (s[0] & 0xE0) == 0xC0 ? 2
                        : (s[0] & 0xF0) == 0xE0 ? 3
                        : (s[0] & 0xF8) == 0xF0 ? 4
                                                : 0;
    if (size <= 1) {
        *ret_point = s[0];
        return size;
    }
    uint32_t point = s[0] & (0x7FU >> size);
    for (size_t i = 1; i < size; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
        point = point << 6 | (s[i] & 0x3FU);
    }
    *ret_point = point;
    const bool surrogate = point >= 0xD800 && point <= 0xDFFF;
    return point < smallest[size] || point > 0x10FFFF || surrogate ? 0 : size;
}

// What is wrong with a key, or NULL.
static const char *judge_key(const char *key) {
    if (key == NULL || key[0] == '\0') {
        return "a tensor's key must not be empty";
    }
    if (strnlen(key, ADAMD_KEY_MAX + 1) > ADAMD_KEY_MAX) {
        return "a tensor's key must not be longer than 256 bytes";
    }
    if (strcmp(key, "__metadata__") == 0) {
        return "\"__metadata__\" is reserved by the safetensors format";
    }
    for (const unsigned char *s = (const unsigned char *)key; *s != '\0';) {
        uint32_t point = 0;
        const size_t size = decode_utf8(s, &point);
        if (size == 0) {
            return "a tensor's key must be UTF-8";
        }
        if (point < 0x20 || (point >= 0x7F && point < 0xA0)) {
            return "a tensor's key must not contain control characters";
        }
        s += size;
    }
    return NULL;
}

static enum adamd_status check_spec(const struct adamd_tensor_spec *spec, uint32_t i,
                                    struct adamd_fault *fault) {
    const char *wrong = judge_key(spec->key);

    if (wrong != NULL) {
        return fail_at(fault, ADAMD_BAD_FIELD, i, "key", wrong);
    }
    if ((unsigned)spec->dtype >= ADAMD_DTYPE_COUNT) {
        return fail_at(fault, ADAMD_BAD_FIELD, i, "dtype", "a tensor's dtype is not known");
    }
    if (spec->rank > ADAMD_RANK_MAX) {
        return fail_at(fault, ADAMD_TOO_LARGE, i, "shape", "a tensor has at most 8 dimensions");
    }
    if (spec->dtype == ADAMD_COMPLEX128 && spec->rank == ADAMD_RANK_MAX) {
        return fail_at(fault, ADAMD_TOO_LARGE, i, "shape",
                       "a complex128 tensor has at most 7 dimensions: in files it takes one more");
    }
    return ADAMD_OK;
}

// False where the product passes what a model may have.
static bool count_elements(const struct adamd_tensor_spec *spec, uint64_t *ret_count) {
    uint64_t count = 1;

    for (uint32_t d = 0; d < spec->rank; d++) {
        if (spec->shape[d] != 0 && count > arena_bytes_max / spec->shape[d]) {
            return false;
        }
        count *= spec->shape[d];
    }
    *ret_count = count;
    return true;
}

static uint64_t padded_bytes(const struct adamd_tensor *tensor) {
    return (adamd_tensor_bytes(tensor) + ADAMD_ALIGN_BYTES - 1) / ADAMD_ALIGN_BYTES *
           ADAMD_ALIGN_BYTES;
}

// Appends spec `i` to the table and to the wire; the arena only grows.
static enum adamd_status append(struct adamd_layout *layout, const struct adamd_tensor_spec *spec,
                                uint32_t i, struct adamd_fault *fault) {
    struct adamd_tensor *tensor = &layout->tensors[layout->tensor_count];

    *tensor = (struct adamd_tensor){
        .dtype = spec->dtype, .rank = spec->rank, .wire_offset = layout->wire_bytes};
    if (spec->rank > 0) {
        memcpy(tensor->shape, spec->shape, spec->rank * sizeof spec->shape[0]);
    }
    if (!count_elements(spec, &tensor->count) ||
        padded_bytes(tensor) > arena_bytes_max - layout->arena_bytes) {
        return fail_at(fault, ADAMD_TOO_LARGE, i, "shape",
                       "the tensors together have too many elements");
    }
    tensor->key = strdup(spec->key);
    if (tensor->key == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    layout->tensor_count++;
    layout->parameter_count += tensor->count;
    layout->arena_bytes += padded_bytes(tensor);
    layout->wire_bytes += adamd_tensor_bytes(tensor);
    return ADAMD_OK;
}

// Gives the tensors of one real dtype from `first` on their place behind the `offset` bytes that
// are taken; returns where they end. `*placed` counts all.
static uint64_t place_dtype(struct adamd_layout *layout, enum adamd_dtype real, uint32_t first,
                            uint64_t offset, uint32_t *placed) {
    for (uint32_t i = first; i < layout->tensor_count; i++) {
        struct adamd_tensor *tensor = &layout->tensors[i];
        if (adamd_dtype_real(tensor->dtype) == real) {
            tensor->offset = offset;
            offset += padded_bytes(tensor);
            layout->by_offset[(*placed)++] = i;
        }
    }
    return offset;
}

static void place(struct adamd_layout *layout, uint32_t first, uint64_t offset) {
    uint32_t placed = first;

    for (unsigned real = 0; real < ADAMD_REAL_COUNT; real++) {
        offset = place_dtype(layout, real, first, offset, &placed);
    }
    ADAMD_ASSERT(placed == layout->tensor_count && offset == layout->arena_bytes);
}

struct key_index {
    const char *key;
    uint32_t i;
};

static int compare_keys(const void *left, const void *right) {
    const struct key_index *a = left;
    const struct key_index *b = right;
    const int order = strcmp(a->key, b->key);
    // Equal keys keep the table's order, so that the fault names the second.
    return order != 0 ? order : (a->i > b->i) - (a->i < b->i);
}

// Faults count from `first`, which is what the caller added.
static enum adamd_status sort_keys(struct adamd_layout *layout, uint32_t first,
                                   struct adamd_fault *fault) {
    struct key_index *sorted = calloc(layout->tensor_count, sizeof *sorted);
    enum adamd_status status = ADAMD_OK;

    if (sorted == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        sorted[i] = (struct key_index){layout->tensors[i].key, i};
    }
    qsort(sorted, layout->tensor_count, sizeof *sorted, compare_keys);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        layout->by_key[i] = sorted[i].i;
        if (i > 0 && status == ADAMD_OK && strcmp(sorted[i].key, sorted[i - 1].key) == 0) {
            status = fail_at(fault, ADAMD_BAD_FIELD, sorted[i].i - first, "key",
                             "two tensors have the same key");
        }
    }
    free(sorted);
    return status;
}

// A state file holds "<key>.exp_avg" and the like beside "<key>", one of cotangents "<key>.grad".
// Of a pair the newer is at fault.
static enum adamd_status check_state_names(const struct adamd_layout *layout, uint32_t i,
                                           uint32_t first, struct adamd_fault *fault) {
    static const char *const suffixes[] = {".exp_avg", ".exp_avg_sq", ".max_exp_avg_sq",
                                           ".ema",     ".step",       ".grad"};
    const char *key = layout->tensors[i].key;

    ADAMD_ASSERT(key != NULL);
    const size_t size = strlen(key);
    for (size_t s = 0; s < sizeof suffixes / sizeof suffixes[0]; s++) {
        const size_t suffix_size = strlen(suffixes[s]);
        if (size <= suffix_size || strcmp(key + size - suffix_size, suffixes[s]) != 0) {
            continue;
        }
        const int64_t owner = adamd_layout_find(layout, key, size - suffix_size);
        if (owner >= 0) {
            return fail_at(fault, ADAMD_BAD_FIELD, (i >= first ? i : (uint32_t)owner) - first,
                           "key", "the key is the name of another tensor's state");
        }
    }
    return ADAMD_OK;
}

static void hash_number(XXH3_state_t *hash, uint64_t number) {
    unsigned char bytes[8]; // little-endian on every machine
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)(number >> (8 * i));
    }
    (void)XXH3_128bits_update(hash, bytes, sizeof bytes);
}

static enum adamd_status digest(struct adamd_layout *layout, struct adamd_fault *fault) {
    XXH3_state_t *hash = XXH3_createState();

    if (hash == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    (void)XXH3_128bits_reset(hash);
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        const struct adamd_tensor *tensor = &layout->tensors[i];
        const size_t size = strlen(tensor->key);
        hash_number(hash, size);
        (void)XXH3_128bits_update(hash, tensor->key, size);
        hash_number(hash, (uint64_t)tensor->dtype);
        hash_number(hash, tensor->rank);
        for (uint32_t d = 0; d < tensor->rank; d++) {
            hash_number(hash, tensor->shape[d]);
        }
    }
    const XXH128_hash_t value = XXH3_128bits_digest(hash);
    (void)XXH3_freeState(hash);
    layout->digest[0] = value.high64;
    layout->digest[1] = value.low64;
    return ADAMD_OK;
}

// Copies the table of `from`, which has room for more in `layout`.
static enum adamd_status copy_table(struct adamd_layout *layout, const struct adamd_layout *from,
                                    struct adamd_fault *fault) {
    for (uint32_t i = 0; i < from->tensor_count; i++) {
        layout->tensors[i] = from->tensors[i];
        layout->by_offset[i] = from->by_offset[i];
        layout->tensors[i].key = strdup(from->tensors[i].key);
        if (layout->tensors[i].key == NULL) {
            return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
        }
        layout->tensor_count++;
    }
    layout->parameter_count = from->parameter_count;
    layout->arena_bytes = from->arena_bytes;
    layout->wire_bytes = from->wire_bytes;
    return ADAMD_OK;
}

static enum adamd_status fill(struct adamd_layout *layout, const struct adamd_tensor_spec *specs,
                              uint32_t count, struct adamd_fault *fault) {
    const uint32_t first = layout->tensor_count;
    const uint64_t taken = layout->arena_bytes;
    enum adamd_status status = ADAMD_OK;

    for (uint32_t i = 0; i < count && status == ADAMD_OK; i++) {
        status = check_spec(&specs[i], i, fault);
        if (status == ADAMD_OK) {
            status = append(layout, &specs[i], i, fault);
        }
    }
    if (status == ADAMD_OK) {
        place(layout, first, taken);
        status = sort_keys(layout, first, fault);
    }
    for (uint32_t i = 0; i < layout->tensor_count && status == ADAMD_OK; i++) {
        status = check_state_names(layout, i, first, fault);
    }
    return status != ADAMD_OK ? status : digest(layout, fault);
}

static enum adamd_status check_count(uint32_t before, uint32_t count, struct adamd_fault *fault) {
    if (count == 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "tensors",
                          "optimizer got an empty parameter list");
    }
    if (count > ADAMD_TENSORS_MAX || before > ADAMD_TENSORS_MAX - count) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "tensors", "a model has at most %d tensors",
                          ADAMD_TENSORS_MAX);
    }
    return ADAMD_OK;
}

enum adamd_status adamd_layout_extend(const struct adamd_layout *layout,
                                      const struct adamd_tensor_spec *specs, uint32_t count,
                                      struct adamd_layout *ret_layout, struct adamd_fault *fault) {
    struct adamd_layout made = {0};
    enum adamd_status status = check_count(layout->tensor_count, count, fault);

    *ret_layout = made;
    if (status != ADAMD_OK) {
        return status;
    }
    const size_t total = (size_t)layout->tensor_count + count;
    ADAMD_ASSERT(total > 0);
    made.tensors = calloc(total, sizeof *made.tensors);
    made.by_key = calloc(total, sizeof *made.by_key);
    made.by_offset = calloc(total, sizeof *made.by_offset);
    status = made.tensors == NULL || made.by_key == NULL || made.by_offset == NULL
                 ? adamd_fail_plain(fault, ADAMD_NO_MEMORY)
                 : copy_table(&made, layout, fault);
    status = status == ADAMD_OK ? fill(&made, specs, count, fault) : status;
    if (status != ADAMD_OK) {
        adamd_layout_finish(&made);
    }
    *ret_layout = made;
    return status;
}

enum adamd_status adamd_layout_init(struct adamd_layout *layout,
                                    const struct adamd_tensor_spec *specs, uint32_t count,
                                    struct adamd_fault *fault) {
    const struct adamd_layout empty = {0};

    return adamd_layout_extend(&empty, specs, count, layout, fault);
}

void adamd_layout_finish(struct adamd_layout *layout) {
    for (uint32_t i = 0; layout->tensors != NULL && i < layout->tensor_count; i++) {
        free(layout->tensors[i].key);
    }
    free(layout->tensors);
    free(layout->by_key);
    free(layout->by_offset);
    *layout = (struct adamd_layout){0};
}

// As strcmp() of a tensor's key with `size` bytes at `key`.
static int compare_key(const struct adamd_tensor *tensor, const char *key, size_t size) {
    const size_t own_size = strlen(tensor->key);
    const int order = memcmp(tensor->key, key, own_size < size ? own_size : size);
    return order != 0 ? order : (own_size > size) - (own_size < size);
}

int64_t adamd_layout_find(const struct adamd_layout *layout, const char *key, size_t size) {
    uint32_t begin = 0;
    uint32_t end = layout->tensor_count;

    while (begin < end) {
        const uint32_t middle = begin + (end - begin) / 2;
        const uint32_t i = layout->by_key[middle];
        const int order = compare_key(&layout->tensors[i], key, size);
        if (order == 0) {
            return i;
        }
        if (order < 0) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return -1;
}
