// The table of dtypes.
#include "adamd/dtype.h"

#include "adamd/status.h"

static const struct {
    const char *name;
    size_t size;
    enum adamd_dtype real;
} dtypes[ADAMD_DTYPE_COUNT] = {
    [ADAMD_FLOAT32] = {"float32", 4, ADAMD_FLOAT32},
    [ADAMD_FLOAT16] = {"float16", 2, ADAMD_FLOAT16},
    [ADAMD_BFLOAT16] = {"bfloat16", 2, ADAMD_BFLOAT16},
    [ADAMD_FLOAT64] = {"float64", 8, ADAMD_FLOAT64},
    [ADAMD_COMPLEX64] = {"complex64", 8, ADAMD_FLOAT32},
    [ADAMD_COMPLEX128] = {"complex128", 16, ADAMD_FLOAT64},
};

size_t adamd_dtype_size(enum adamd_dtype dtype) {
    ADAMD_ASSERT((unsigned)dtype < ADAMD_DTYPE_COUNT);
    return dtypes[dtype].size;
}

const char *adamd_dtype_name(enum adamd_dtype dtype) {
    ADAMD_ASSERT((unsigned)dtype < ADAMD_DTYPE_COUNT);
    return dtypes[dtype].name;
}

enum adamd_dtype adamd_dtype_real(enum adamd_dtype dtype) {
    ADAMD_ASSERT((unsigned)dtype < ADAMD_DTYPE_COUNT);
    return dtypes[dtype].real;
}
