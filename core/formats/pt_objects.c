// The few names that a pickle may call, and what each makes of its arguments. A table and nothing
// else: what is not in it is refused by its name.
#include "formats/pt_impl.h"

#include <string.h>

static bool refuse(struct adamd_pt_file *file, const char *text) {
    return pt_refuse(file, ADAMD_BAD_FIELD, NULL, "data.pkl: %s", text);
}

// --------------------------------------------------------------------------------------- globals

static const struct {
    const char *module, *name;
    struct pt_global global;
} others[] = {
    {"collections", "OrderedDict", {PT_ORDERED_DICT, 0}},
    {"torch", "Size", {PT_SIZE, 0}},
    {"torch._utils", "_rebuild_tensor_v2", {PT_REBUILD_TENSOR_V2, 0}},
    {"torch._utils", "_rebuild_tensor_v3", {PT_REBUILD_TENSOR_V3, 0}},
    {"torch._utils", "_rebuild_parameter", {PT_REBUILD_PARAMETER, 0}},
    {"torch._utils", "_rebuild_parameter_with_state", {PT_REBUILD_PARAMETER_WITH_STATE, 0}},
    {"torch.storage", "UntypedStorage", {PT_STORAGE_CLASS, ADAMD_PT_DTYPE_COUNT}},
};

static const struct pt_global storages[ADAMD_PT_DTYPE_COUNT] = {
#define X(dtype) [ADAMD_PT_##dtype] = {PT_STORAGE_CLASS, ADAMD_PT_##dtype}
    X(FLOAT64), X(FLOAT32), X(FLOAT16), X(BFLOAT16), X(INT64),     X(INT32),
    X(INT16),   X(INT8),    X(UINT8),   X(BOOL),     X(COMPLEX64), X(COMPLEX128),
#undef X
};

static bool is_word(const char *bytes, size_t size, const char *word) {
    return word != NULL && strlen(word) == size && memcmp(bytes, word, size) == 0;
}

static bool give_global(struct adamd_pt_file *file, const struct pt_global *global,
                        struct adamd_pt_value **ret_value) {
    struct adamd_pt_value *value = pt_value_new(file, ADAMD_PT_INNER);

    if (value == NULL) {
        return false;
    }
    value->mark = PT_INNER_GLOBAL;
    value->inner = global;
    *ret_value = value;
    return true;
}

static bool give_dtype(struct adamd_pt_file *file, enum adamd_pt_dtype dtype,
                       struct adamd_pt_value **ret_value) {
    struct adamd_pt_value *value = pt_value_new(file, ADAMD_PT_DTYPE_VALUE);

    if (value == NULL) {
        return false;
    }
    value->dtype = dtype;
    *ret_value = value;
    return true;
}

static bool refuse_global(struct adamd_pt_file *file, const char *module, size_t module_size,
                          const char *name, size_t name_size) {
    const struct pt_shown shown = pt_show(name, name_size);
    const char *fix = "only dicts, lists, tuples, numbers, texts and tensors are taken: save "
                      "state_dict()s, not the objects";

    if (strstr(shown.text, "qtensor") != NULL || strncmp(shown.text, "Q", 1) == 0) {
        fix = "quantized tensors are not taken: save dequantize()";
    } else if (strstr(shown.text, "sparse") != NULL) {
        fix = "sparse tensors are not taken: save to_dense()";
    }
    return pt_refuse(file, ADAMD_UNSUPPORTED, NULL, "data.pkl names %s.%s: %s",
                     pt_show(module, module_size).text, shown.text, fix);
}

bool pt_global_find(struct adamd_pt_file *file, const char *module, size_t module_size,
                    const char *name, size_t name_size, struct adamd_pt_value **ret_value) {
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (is_word(module, module_size, others[i].module) &&
            is_word(name, name_size, others[i].name)) {
            return give_global(file, &others[i].global, ret_value);
        }
    }
    for (int i = 0; i < ADAMD_PT_DTYPE_COUNT && is_word(module, module_size, "torch"); i++) {
        if (is_word(name, name_size, pt_dtypes[i].storage)) {
            return give_global(file, &storages[i], ret_value);
        }
        if (is_word(name, name_size, pt_dtypes[i].name)) {
            return give_dtype(file, (enum adamd_pt_dtype)i, ret_value);
        }
    }
    return refuse_global(file, module, module_size, name, name_size);
}

// --------------------------------------------------------------------------------------- storages

static bool is_inner(const struct adamd_pt_value *value, enum pt_inner inner) {
    return value->kind == ADAMD_PT_INNER && value->mark == (uint32_t)inner;
}

static bool is_storage_class(const struct adamd_pt_value *value) {
    return is_inner(value, PT_INNER_GLOBAL) &&
           ((const struct pt_global *)value->inner)->callable == PT_STORAGE_CLASS;
}

static bool is_digits(const struct adamd_pt_value *key) {
    size_t i = 0;

    while (i < key->text.size && key->text.bytes[i] >= '0' && key->text.bytes[i] <= '9') {
        i++;
    }
    return i == key->text.size && i > 0 && i <= 20;
}

static struct pt_record *find_data(const struct adamd_pt_file *file,
                                   const struct adamd_pt_value *key) {
    char name[32] = "data/";

    memcpy(name + 5, key->text.bytes, key->text.size);
    return pt_archive_find(file, name, 5 + key->text.size);
}

static bool claim(struct adamd_pt_file *file, struct pt_record *record, enum adamd_pt_dtype dtype,
                  int64_t count) {
    const uint64_t item = dtype == ADAMD_PT_DTYPE_COUNT ? 1 : pt_dtypes[dtype].size;
    uint64_t bytes = 0;

    if (count < 0 || __builtin_mul_overflow((uint64_t)count, item, &bytes) ||
        bytes != record->storage.size) {
        return refuse(file, "a storage has not the length of its record");
    }
    if (record->claimed && record->dtype != dtype) {
        return refuse(file, "a storage has two dtypes");
    }
    record->claimed = true;
    record->dtype = dtype;
    return true;
}

bool pt_persistent(struct adamd_pt_file *file, const struct adamd_pt_value *id,
                   struct adamd_pt_value **ret_value) {
    if (id->kind != ADAMD_PT_TUPLE || id->list.count != 5) {
        return refuse(file, "a persistent id is no tuple of five");
    }
    const struct adamd_pt_value *const *items = id->list.items;
    if (!adamd_pt_text_is(items[0], "storage") || !is_storage_class(items[1]) ||
        items[2]->kind != ADAMD_PT_TEXT || items[3]->kind != ADAMD_PT_TEXT ||
        items[4]->kind != ADAMD_PT_INT) {
        return refuse(file, "a persistent id is no storage");
    }
    if (!is_digits(items[2])) {
        return refuse(file, "the key of a storage is no number");
    }
    struct pt_record *record = find_data(file, items[2]);
    if (record == NULL) {
        return pt_refuse(file, ADAMD_BAD_FIELD, NULL, "data.pkl: there is no record data/%s",
                         pt_show(items[2]->text.bytes, items[2]->text.size).text);
    }
    if (!claim(file, record, ((const struct pt_global *)items[1]->inner)->dtype,
               items[4]->integer)) {
        return false;
    }
    struct adamd_pt_value *value = pt_value_new(file, ADAMD_PT_INNER);
    if (value == NULL) {
        return false;
    }
    value->mark = PT_INNER_STORAGE;
    value->inner = record;
    *ret_value = value;
    return true;
}

// ---------------------------------------------------------------------------------------- tensors

static bool read_extents(struct adamd_pt_file *file, const struct adamd_pt_value *tuple,
                         uint64_t *to) {
    for (size_t i = 0; i < tuple->list.count; i++) {
        const struct adamd_pt_value *item = tuple->list.items[i];
        if (item->kind != ADAMD_PT_INT || item->integer < 0) {
            return refuse(file, "a size or stride of a tensor is no number of at least 0");
        }
        to[i] = (uint64_t)item->integer;
    }
    return true;
}

// How many elements it shows, and that all of them lie in its storage.
static bool check_extents(struct adamd_pt_file *file, struct adamd_pt_tensor *tensor,
                          uint64_t elements) {
    uint64_t count = 1;
    uint64_t last = tensor->offset;
    bool overflows = false;

    for (uint32_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] == 0) {
            return tensor->offset <= elements || refuse(file, "a tensor lies outside its storage");
        }
    }
    for (uint32_t i = 0; i < tensor->rank; i++) {
        uint64_t reach = 0;
        overflows = overflows || __builtin_mul_overflow(count, tensor->shape[i], &count) ||
                    __builtin_mul_overflow(tensor->shape[i] - 1, tensor->strides[i], &reach) ||
                    __builtin_add_overflow(last, reach, &last);
    }
    if (overflows || last >= elements) {
        return refuse(file, "a tensor lies outside its storage");
    }
    tensor->count = count;
    if (count > elements &&
        count > file->limits.expanded_bytes_max / pt_dtypes[tensor->dtype].size) {
        return pt_refuse(file, ADAMD_TOO_LARGE, NULL,
                         "data.pkl: an expanded tensor of %llu elements over a storage of %llu is "
                         "too large: save contiguous()",
                         (unsigned long long)count, (unsigned long long)elements);
    }
    return true;
}

// Storage, offset, size and stride: the first four arguments of both functions.
static bool make_tensor(struct adamd_pt_file *file, const struct adamd_pt_value *const *items,
                        enum adamd_pt_dtype dtype, struct adamd_pt_value **ret_value) {
    struct pt_record *record = (struct pt_record *)items[0]->inner;
    const size_t rank = items[2]->list.count;

    if (items[1]->kind != ADAMD_PT_INT || items[1]->integer < 0 ||
        items[2]->kind != ADAMD_PT_TUPLE || items[3]->kind != ADAMD_PT_TUPLE ||
        rank != items[3]->list.count || rank > ADAMD_PT_RANK_MAX) {
        return refuse(file, "a tensor's offset, size and stride do not fit each other");
    }
    struct adamd_pt_tensor *tensor = pt_alloc(&file->memory, sizeof *tensor);
    uint64_t *extents = pt_alloc(&file->memory, 2 * rank * sizeof *extents);
    struct adamd_pt_value *value = pt_value_new(file, ADAMD_PT_TENSOR);
    if (tensor == NULL || extents == NULL || value == NULL) {
        return pt_refuse_memory(file);
    }
    *tensor = (struct adamd_pt_tensor){
        .dtype = dtype,
        .rank = (uint32_t)rank,
        .big_endian = file->big_endian,
        .shape = extents,
        .strides = extents + rank,
        .offset = (uint64_t)items[1]->integer,
        .storage = &record->storage,
    };
    record->storage.tensor_count++;
    value->tensor = tensor;
    *ret_value = value;
    return read_extents(file, items[2], extents) && read_extents(file, items[3], extents + rank) &&
           check_extents(file, tensor, record->storage.size / pt_dtypes[dtype].size);
}

// Conjugate and negative views hold other bytes than they show.
static bool check_metadata(struct adamd_pt_file *file, const struct adamd_pt_value *metadata) {
    if (metadata->kind == ADAMD_PT_NONE) {
        return true;
    }
    if (metadata->kind != ADAMD_PT_DICT) {
        return refuse(file, "a tensor's metadata is no dict");
    }
    for (size_t i = 0; i < metadata->dict.count; i++) {
        const struct adamd_pt_value *value = metadata->dict.pairs[i].value;
        if (value->kind != ADAMD_PT_TRUTH || value->truth) {
            return pt_refuse(file, ADAMD_UNSUPPORTED, NULL,
                             "data.pkl: a conjugate or negative view is not taken: save clone()");
        }
    }
    return true;
}

static bool is_empty_ordered(const struct adamd_pt_value *value) {
    return value->kind == ADAMD_PT_DICT && value->mark == PT_ORDERED && value->dict.count == 0;
}

static bool rebuild_tensor(struct adamd_pt_file *file, const struct adamd_pt_value *arguments,
                           bool has_dtype, struct adamd_pt_value **ret_value) {
    const struct adamd_pt_value *const *items = arguments->list.items;
    const size_t least = has_dtype ? 7 : 6;
    const size_t count = arguments->list.count;

    if (count < least || count > least + 1 || !is_inner(items[0], PT_INNER_STORAGE) ||
        items[4]->kind != ADAMD_PT_TRUTH || !is_empty_ordered(items[5])) {
        return refuse(file, "a tensor is rebuilt from other arguments than torch.save writes");
    }
    if (count > least && !check_metadata(file, items[least])) {
        return false;
    }
    enum adamd_pt_dtype dtype = ((const struct pt_record *)items[0]->inner)->dtype;
    if (has_dtype != (dtype == ADAMD_PT_DTYPE_COUNT)) {
        return refuse(file, "a tensor's function and storage class do not fit each other");
    }
    if (has_dtype) {
        if (items[6]->kind != ADAMD_PT_DTYPE_VALUE) {
            return refuse(file, "a tensor has no dtype");
        }
        dtype = items[6]->dtype;
    }
    return make_tensor(file, items, dtype, ret_value);
}

// A Parameter is its tensor: requires_grad and attributes mean nothing to a state.
static bool rebuild_parameter(struct adamd_pt_file *file, const struct adamd_pt_value *arguments,
                              size_t count, struct adamd_pt_value **ret_value) {
    const struct adamd_pt_value *const *items = arguments->list.items;

    if (arguments->list.count != count || items[0]->kind != ADAMD_PT_TENSOR ||
        items[1]->kind != ADAMD_PT_TRUTH || !is_empty_ordered(items[2])) {
        return refuse(file, "a parameter is rebuilt from other arguments than torch.save writes");
    }
    *ret_value = (struct adamd_pt_value *)items[0];
    return true;
}

static bool make_ordered(struct adamd_pt_file *file, const struct adamd_pt_value *arguments,
                         struct adamd_pt_value **ret_value) {
    struct adamd_pt_value *value = NULL;

    if (arguments->list.count != 0) {
        return refuse(file, "an OrderedDict is made with arguments");
    }
    value = pt_value_new(file, ADAMD_PT_DICT);
    if (value == NULL) {
        return false;
    }
    value->mark = PT_ORDERED;
    *ret_value = value;
    return true;
}

static bool make_size(struct adamd_pt_file *file, const struct adamd_pt_value *arguments,
                      struct adamd_pt_value **ret_value) {
    if (arguments->list.count != 1 || arguments->list.items[0]->kind != ADAMD_PT_TUPLE) {
        return refuse(file, "a torch.Size is made of something else than a tuple");
    }
    *ret_value = (struct adamd_pt_value *)arguments->list.items[0];
    return true;
}

bool pt_call(struct adamd_pt_file *file, const struct adamd_pt_value *callable,
             const struct adamd_pt_value *arguments, struct adamd_pt_value **ret_value) {
    if (!is_inner(callable, PT_INNER_GLOBAL) || arguments->kind != ADAMD_PT_TUPLE) {
        return refuse(file, "something is called that is no function, or without a tuple");
    }
    switch (((const struct pt_global *)callable->inner)->callable) {
    case PT_ORDERED_DICT:
        return make_ordered(file, arguments, ret_value);
    case PT_SIZE:
        return make_size(file, arguments, ret_value);
    case PT_REBUILD_TENSOR_V2:
        return rebuild_tensor(file, arguments, false, ret_value);
    case PT_REBUILD_TENSOR_V3:
        return rebuild_tensor(file, arguments, true, ret_value);
    case PT_REBUILD_PARAMETER:
        return rebuild_parameter(file, arguments, 3, ret_value);
    case PT_REBUILD_PARAMETER_WITH_STATE:
        return rebuild_parameter(file, arguments, 4, ret_value);
    default:
        return refuse(file, "a storage class is called");
    }
}
