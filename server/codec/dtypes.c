// The dtypes by their names on the wire and in safetensors files.
#include "codec/convert.h"

#include "codec/files.h"
#include "codec/text.h"

#include <string.h>

static const struct {
    Adamd__V1__DataType message;
    enum adamd_safetensors_type file;
} dtypes[ADAMD_DTYPE_COUNT] = {
    [ADAMD_FLOAT32] = {ADAMD__V1__DATA_TYPE__DATA_TYPE_FLOAT32, ADAMD_ST_F32},
    [ADAMD_FLOAT16] = {ADAMD__V1__DATA_TYPE__DATA_TYPE_FLOAT16, ADAMD_ST_F16},
    [ADAMD_BFLOAT16] = {ADAMD__V1__DATA_TYPE__DATA_TYPE_BFLOAT16, ADAMD_ST_BF16},
    [ADAMD_FLOAT64] = {ADAMD__V1__DATA_TYPE__DATA_TYPE_FLOAT64, ADAMD_ST_F64},
    [ADAMD_COMPLEX64] = {ADAMD__V1__DATA_TYPE__DATA_TYPE_COMPLEX64, ADAMD_ST_C64},
    [ADAMD_COMPLEX128] = {ADAMD__V1__DATA_TYPE__DATA_TYPE_COMPLEX128, ADAMD_ST_F64}, // pairs
};

Adamd__V1__DataType codec_dtype_message(enum adamd_dtype dtype) {
    return dtypes[dtype].message;
}

bool codec_dtype_read(Adamd__V1__DataType message, enum adamd_dtype *ret_dtype) {
    if (message == ADAMD__V1__DATA_TYPE__DATA_TYPE_UNSPECIFIED) {
        *ret_dtype = ADAMD_FLOAT32;
        return true;
    }
    for (unsigned i = 0; i < ADAMD_DTYPE_COUNT; i++) {
        if (dtypes[i].message == message) {
            *ret_dtype = i;
            return true;
        }
    }
    return false;
}

// The format has no complex128: it stands as F64 with a dimension of two behind.
bool codec_dtype_of(enum adamd_safetensors_type type, enum adamd_dtype *ret_dtype) {
    for (enum adamd_dtype i = 0; i < ADAMD_DTYPE_COUNT; i++) {
        // A complex128 tensor is a file's pair of float64: nothing tells it from two of those.
        if (i != ADAMD_COMPLEX128 && dtypes[i].file == type) {
            *ret_dtype = i;
            return true;
        }
    }
    return false;
}

void codec_entry_of(struct adamd_safetensors_entry *entry, const struct adamd_tensor *tensor,
                    const char *name) {
    *entry = (struct adamd_safetensors_entry){
        .name = name, .type = dtypes[tensor->dtype].file, .rank = tensor->rank};
    memcpy(entry->shape, tensor->shape, sizeof entry->shape);
    if (tensor->dtype == ADAMD_COMPLEX128) {
        ADAMD_ASSERT(entry->rank < ADAMD_RANK_MAX);
        entry->shape[entry->rank++] = 2;
    }
}

bool codec_pairs_list(const struct adamd_layout *layout, char **ret_text) {
    struct codec_text text = {0};

    *ret_text = NULL;
    for (uint32_t i = 0; i < layout->tensor_count; i++) {
        if (layout->tensors[i].dtype == ADAMD_COMPLEX128) {
            codec_text_put(&text, text.size > 0 ? "\n" : "");
            codec_text_put(&text, layout->tensors[i].key);
        }
    }
    if (text.size > 0 || text.failed) {
        size_t size = 0;
        *ret_text = codec_text_end(&text, &size);
        return *ret_text != NULL;
    }
    return true;
}
