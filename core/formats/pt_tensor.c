// Elements out of storages: in any order of bytes and with any strides, each rounded at most once.
#include "formats/pt_impl.h"

#include <math.h>
#include <string.h>

#define REAL ADAMD_PT_CLASS_REAL
#define COMPLEX ADAMD_PT_CLASS_COMPLEX
#define OTHER ADAMD_PT_CLASS_OTHER
const struct pt_dtype_info pt_dtypes[ADAMD_PT_DTYPE_COUNT] = {
    [ADAMD_PT_FLOAT64] = {"float64", "DoubleStorage", 8, 8, REAL},
    [ADAMD_PT_FLOAT32] = {"float32", "FloatStorage", 4, 4, REAL},
    [ADAMD_PT_FLOAT16] = {"float16", "HalfStorage", 2, 2, REAL},
    [ADAMD_PT_BFLOAT16] = {"bfloat16", "BFloat16Storage", 2, 2, REAL},
    [ADAMD_PT_COMPLEX64] = {"complex64", "ComplexFloatStorage", 8, 4, COMPLEX},
    [ADAMD_PT_COMPLEX128] = {"complex128", "ComplexDoubleStorage", 16, 8, COMPLEX},
    [ADAMD_PT_INT64] = {"int64", "LongStorage", 8, 8, OTHER},
    [ADAMD_PT_INT32] = {"int32", "IntStorage", 4, 4, OTHER},
    [ADAMD_PT_INT16] = {"int16", "ShortStorage", 2, 2, OTHER},
    [ADAMD_PT_INT8] = {"int8", "CharStorage", 1, 1, OTHER},
    [ADAMD_PT_UINT8] = {"uint8", "ByteStorage", 1, 1, OTHER},
    [ADAMD_PT_BOOL] = {"bool", "BoolStorage", 1, 1, OTHER},
    [ADAMD_PT_UINT16] = {"uint16", NULL, 2, 2, OTHER},
    [ADAMD_PT_UINT32] = {"uint32", NULL, 4, 4, OTHER},
    [ADAMD_PT_UINT64] = {"uint64", NULL, 8, 8, OTHER},
    [ADAMD_PT_FLOAT8_E4M3FN] = {"float8_e4m3fn", NULL, 1, 1, OTHER},
    [ADAMD_PT_FLOAT8_E5M2] = {"float8_e5m2", NULL, 1, 1, OTHER},
    [ADAMD_PT_FLOAT8_E4M3FNUZ] = {"float8_e4m3fnuz", NULL, 1, 1, OTHER},
    [ADAMD_PT_FLOAT8_E5M2FNUZ] = {"float8_e5m2fnuz", NULL, 1, 1, OTHER},
};
#undef REAL
#undef COMPLEX
#undef OTHER

const char *adamd_pt_dtype_name(enum adamd_pt_dtype dtype) {
    return pt_dtypes[dtype].name;
}

size_t adamd_pt_dtype_size(enum adamd_pt_dtype dtype) {
    return pt_dtypes[dtype].size;
}

enum adamd_pt_class adamd_pt_dtype_class(enum adamd_pt_dtype dtype) {
    return pt_dtypes[dtype].class;
}

// ----------------------------------------------------------------------- floats of 16 bits

struct half {
    unsigned digits; // of the fraction
    int bias;        // of the exponent
};

static const struct half float16 = {10, 15};
static const struct half bfloat16 = {7, 127};

enum { DOUBLE_DIGITS = 52, DOUBLE_BIAS = 1023, DOUBLE_EXPONENTS = 0x7ff };

static double widen(uint16_t bits, struct half form) {
    const int exponents = 2 * form.bias + 1;
    const int exponent = (bits >> form.digits) & exponents;
    const uint64_t fraction = bits & ((1U << form.digits) - 1);
    const double sign = bits >> 15 != 0 ? -1.0 : 1.0;
    const double unit = (double)fraction / (double)(1U << form.digits);

    if (exponent == exponents) {
        return fraction == 0 ? copysign((double)INFINITY, sign) : copysign((double)NAN, sign);
    }
    if (exponent == 0) {
        return sign * ldexp(unit, 1 - form.bias);
    }
    return sign * ldexp(1.0 + unit, exponent - form.bias);
}

// From the double at once: by way of a float it would be rounded twice.
static uint16_t narrow(double value, struct half form) {
    const uint64_t exponents = 2 * (uint64_t)form.bias + 1;
    uint64_t bits = 0;

    memcpy(&bits, &value, sizeof bits);
    const uint64_t sign = bits >> 63 << 15;
    const uint64_t fraction = bits & ((UINT64_C(1) << DOUBLE_DIGITS) - 1);
    const int biased = (int)(bits >> DOUBLE_DIGITS & DOUBLE_EXPONENTS);
    if (biased == DOUBLE_EXPONENTS) {
        const uint64_t quiet = fraction != 0 ? UINT64_C(1) << (form.digits - 1) : 0;
        return (uint16_t)(sign | exponents << form.digits | quiet);
    }
    if (biased == 0) {
        return (uint16_t)sign; // far below the smallest
    }
    const int exponent = biased - DOUBLE_BIAS;
    const int least = 1 - form.bias;
    const int below = exponent < least ? least - exponent : 0;
    const int dropped = DOUBLE_DIGITS - (int)form.digits + below;
    if (dropped > DOUBLE_DIGITS + 1) {
        return (uint16_t)sign; // less than half of the smallest
    }
    const uint64_t whole = fraction | UINT64_C(1) << DOUBLE_DIGITS;
    const uint64_t rest = whole & ((UINT64_C(1) << dropped) - 1);
    const uint64_t half = UINT64_C(1) << (dropped - 1);
    uint64_t kept = whole >> dropped;
    kept += rest > half || (rest == half && (kept & 1) != 0) ? 1 : 0;
    const uint64_t above = below > 0 ? 0 : (uint64_t)(exponent - least);
    const uint64_t rounded = (above << form.digits) + kept; // a carry raises the exponent
    const uint64_t infinite = exponents << form.digits;
    return (uint16_t)(sign | (rounded < infinite ? rounded : infinite));
}

// --------------------------------------------------------------------------------- one element

static void load_part(const unsigned char *from, size_t size, bool swap, unsigned char *to) {
    for (size_t i = 0; i < size; i++) {
        to[i] = from[swap ? size - 1 - i : i];
    }
}

// A part of an element, little-endian, as a double, which holds every real dtype's values.
static double to_double(const unsigned char *bytes, enum adamd_pt_dtype dtype) {
    uint64_t bits = 0;
    double wide = 0;
    float single = 0;

    for (size_t i = pt_dtypes[dtype].part; i > 0; i--) {
        bits = bits << 8 | bytes[i - 1];
    }
    switch (dtype) {
    case ADAMD_PT_FLOAT16:
        return widen((uint16_t)bits, float16);
    case ADAMD_PT_BFLOAT16:
        return widen((uint16_t)bits, bfloat16);
    case ADAMD_PT_FLOAT32:
    case ADAMD_PT_COMPLEX64:
        memcpy(&single, bytes, sizeof single);
        return (double)single;
    case ADAMD_PT_FLOAT64:
    case ADAMD_PT_COMPLEX128:
        memcpy(&wide, bytes, sizeof wide);
        return wide;
    case ADAMD_PT_INT64:
        return (double)(int64_t)bits;
    case ADAMD_PT_INT32:
        return (double)(int32_t)(uint32_t)bits;
    case ADAMD_PT_INT16:
        return (double)(int16_t)(uint16_t)bits;
    case ADAMD_PT_INT8:
        return (double)(int8_t)(uint8_t)bits;
    default:
        return (double)bits;
    }
}

static void from_double(double value, enum adamd_pt_dtype dtype, unsigned char *to) {
    const float single = (float)value;
    uint16_t half = 0;

    switch (dtype) {
    case ADAMD_PT_FLOAT16:
    case ADAMD_PT_BFLOAT16:
        half = narrow(value, dtype == ADAMD_PT_FLOAT16 ? float16 : bfloat16);
        memcpy(to, &half, sizeof half);
        break;
    case ADAMD_PT_FLOAT32:
    case ADAMD_PT_COMPLEX64:
        memcpy(to, &single, sizeof single);
        break;
    default:
        memcpy(to, &value, sizeof value);
        break;
    }
}

static bool is_number(enum adamd_pt_dtype dtype) {
    return pt_dtypes[dtype].class == ADAMD_PT_CLASS_REAL ||
           (dtype >= ADAMD_PT_INT64 && dtype <= ADAMD_PT_UINT64 && dtype != ADAMD_PT_BOOL);
}

bool adamd_pt_number(const struct adamd_pt_value *value, double *ret_number) {
    unsigned char part[16];

    if (value->kind == ADAMD_PT_INT || value->kind == ADAMD_PT_FLOAT) {
        *ret_number = value->kind == ADAMD_PT_INT ? (double)value->integer : value->number;
        return true;
    }
    if (value->kind != ADAMD_PT_TENSOR || value->tensor->count != 1 ||
        !is_number(value->tensor->dtype)) {
        return false;
    }
    const struct adamd_pt_tensor *tensor = value->tensor;
    const size_t size = pt_dtypes[tensor->dtype].size;
    load_part(tensor->storage->bytes + tensor->offset * size, size, tensor->big_endian, part);
    *ret_number = to_double(part, tensor->dtype);
    return true;
}

// -------------------------------------------------------------------------------- many elements

// A line of elements at equal distances.
struct line {
    const unsigned char *from;
    size_t stride; // bytes
    uint64_t count;
    enum adamd_pt_dtype dtype;
    bool swap;
};

// One part of one element.
static void copy_part(const struct line *line, const unsigned char *from, enum adamd_pt_dtype dtype,
                      unsigned char *to) {
    unsigned char bytes[16];

    load_part(from, pt_dtypes[line->dtype].part, line->swap, bytes);
    if (line->dtype == dtype) {
        memcpy(to, bytes, pt_dtypes[dtype].part);
    } else {
        from_double(to_double(bytes, line->dtype), dtype, to);
    }
}

static void copy_line(const struct line *line, enum adamd_pt_dtype dtype, unsigned char *to) {
    const size_t part = pt_dtypes[line->dtype].part;
    const size_t out = pt_dtypes[dtype].part;
    const size_t parts = pt_dtypes[dtype].size / out;

    if (line->dtype == dtype && !line->swap && line->stride == pt_dtypes[dtype].size) {
        memcpy(to, line->from, (size_t)line->count * line->stride);
        return;
    }
    for (uint64_t i = 0; i < line->count; i++) {
        for (size_t k = 0; k < parts; k++, to += out) {
            copy_part(line, line->from + i * line->stride + k * part, dtype, to);
        }
    }
}

static bool is_contiguous(const struct adamd_pt_tensor *tensor) {
    uint64_t stride = 1;

    for (uint32_t i = tensor->rank; i > 0; i--) {
        if (tensor->shape[i - 1] != 1 && tensor->strides[i - 1] != stride) {
            return false;
        }
        stride *= tensor->shape[i - 1];
    }
    return true;
}

// Where element `index` lies, and how many follow it along the last dimension.
static uint64_t locate(const struct adamd_pt_tensor *tensor, uint64_t index, uint64_t *ret_left) {
    uint64_t at = tensor->offset;

    *ret_left = 1;
    for (uint32_t i = tensor->rank; i > 0; i--) {
        const uint64_t place = index % tensor->shape[i - 1];
        if (i == tensor->rank) {
            *ret_left = tensor->shape[i - 1] - place;
        }
        at += place * tensor->strides[i - 1];
        index /= tensor->shape[i - 1];
    }
    return at;
}

void adamd_pt_copy(const struct adamd_pt_tensor *tensor, uint64_t first, uint64_t count,
                   enum adamd_pt_dtype dtype, void *to) {
    const size_t size = pt_dtypes[tensor->dtype].size;
    const bool contiguous = is_contiguous(tensor);
    unsigned char *out = to;

    ADAMD_ASSERT(first <= tensor->count && count <= tensor->count - first);
    ADAMD_ASSERT(dtype == tensor->dtype ||
                 (pt_dtypes[dtype].class == pt_dtypes[tensor->dtype].class &&
                  pt_dtypes[dtype].class != ADAMD_PT_CLASS_OTHER));
    while (count > 0) {
        uint64_t left = count;
        const uint64_t at = contiguous ? tensor->offset + first : locate(tensor, first, &left);
        struct line line = {.from = tensor->storage->bytes + at * size,
                            .stride = size,
                            .count = left < count ? left : count,
                            .dtype = tensor->dtype,
                            .swap = tensor->big_endian};
        if (!contiguous) {
            line.stride = (size_t)tensor->strides[tensor->rank - 1] * size;
        }
        copy_line(&line, dtype, out);
        first += line.count;
        count -= line.count;
        out += line.count * pt_dtypes[dtype].size;
    }
}
