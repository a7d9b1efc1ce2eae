// The types of elements: by PyTorch's names in C, by safetensors' in files.

#include "internal.h"

static const struct {
    size_t size;
    const char *file_name;
} types[] = {
    [ADAMD_DTYPE_FLOAT32] = {4, "F32"},   [ADAMD_DTYPE_FLOAT16] = {2, "F16"},
    [ADAMD_DTYPE_BFLOAT16] = {2, "BF16"}, [ADAMD_DTYPE_FLOAT64] = {8, "F64"},
    [ADAMD_DTYPE_COMPLEX64] = {8, "C64"}, [ADAMD_DTYPE_COMPLEX128] = {16, "F64"},
};

adamd_dtype_t dtype_of(adamd_dtype_t dtype) {
    return dtype == ADAMD_DTYPE_DEFAULT ? ADAMD_DTYPE_FLOAT32 : dtype;
}

size_t adamd_dtype_size(adamd_dtype_t dtype) {
    const size_t i = (size_t)dtype_of(dtype);

    return i < sizeof types / sizeof types[0] ? types[i].size : 0;
}

const char *dtype_file_name(adamd_dtype_t dtype) {
    return types[dtype_of(dtype)].file_name;
}
