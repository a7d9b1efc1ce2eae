/** What the elements of a tensor are. */
#ifndef ADAMD_DTYPE_H
#define ADAMD_DTYPE_H

#include <stddef.h>

/** The real ones first: backends know nothing else. */
enum adamd_dtype {
    ADAMD_FLOAT32,
    ADAMD_FLOAT16,
    ADAMD_BFLOAT16,
    ADAMD_FLOAT64,
    ADAMD_COMPLEX64,
    ADAMD_COMPLEX128,
    ADAMD_DTYPE_COUNT,
    ADAMD_REAL_COUNT = ADAMD_COMPLEX64,
};

/** Bytes of one element. */
size_t adamd_dtype_size(enum adamd_dtype dtype);

/** "float32" */
const char *adamd_dtype_name(enum adamd_dtype dtype);

/** The dtype of the parts of a complex one; itself where it is real. */
enum adamd_dtype adamd_dtype_real(enum adamd_dtype dtype);

#endif
