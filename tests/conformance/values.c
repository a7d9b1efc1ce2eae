// Reals of every dtype, decoded and encoded by their definition: slow, and nothing shared with
// adamd/storage.h.
#include "scene.h"

#include <check.h>
#include <math.h>
#include <string.h>

// Bits of the significand (the leading one too), and the exponent of the smallest normal number
// and of the largest.
struct format {
    int digits, least, most;
};

static struct format format_of(enum adamd_dtype dtype) {
    return dtype == ADAMD_FLOAT16 ? (struct format){11, -14, 15} : (struct format){8, -126, 127};
}

// `value` in units of its last place, ties to even, and that place's exponent.
static double in_units(struct format format, double value, int *ret_exponent) {
    const int exponent = value == 0.0 ? format.least : ilogb(value);

    *ret_exponent = (exponent < format.least ? format.least : exponent) - format.digits + 1;
    return nearbyint(ldexp(value, -*ret_exponent));
}

double value_round_once(enum adamd_dtype dtype, double value) {
    const struct format format = format_of(dtype);
    int exponent = 0;

    if (dtype == ADAMD_FLOAT64) {
        return value;
    }
    if (dtype == ADAMD_FLOAT32) {
        return (double)(float)value;
    }
    if (isnan(value) || isinf(value)) {
        return value;
    }
    const double units = in_units(format, value, &exponent);
    const double rounded = ldexp(units, exponent);
    return fabs(rounded) >= ldexp(1.0, format.most + 1) ? copysign(INFINITY, value) : rounded;
}

double value_round(enum adamd_dtype dtype, double value) {
    // As whoever rounds a scalar: to float first.
    return value_round_once(dtype, dtype == ADAMD_FLOAT64 ? value : (double)(float)value);
}

static uint16_t encode(struct format format, double value) {
    const int mantissa_bits = format.digits - 1;
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const uint16_t infinity = (uint16_t)((format.most - format.least + 2) << mantissa_bits);
    int exponent = 0;

    if (isnan(value)) {
        return (uint16_t)(infinity | 1U << (mantissa_bits - 1));
    }
    if (isinf(value)) {
        return sign | infinity;
    }
    // A subnormal has biased exponent 0 and no leading one: both count as one unit of the exponent.
    const long units = lrint(fabs(in_units(format, value, &exponent)));
    const int biased = exponent + mantissa_bits - format.least;
    return (uint16_t)(sign | (uint16_t)((biased << mantissa_bits) + units));
}

static double decode(struct format format, uint16_t bits) {
    const int mantissa_bits = format.digits - 1;
    const int biased = (bits & 0x7fff) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;

    if (biased == format.most - format.least + 2) {
        return mantissa != 0 ? NAN : sign * INFINITY;
    }
    if (biased == 0) {
        return sign * ldexp(mantissa, format.least - mantissa_bits);
    }
    return sign * ldexp(mantissa + (1 << mantissa_bits), format.least + biased - 1 - mantissa_bits);
}

double value_get(const unsigned char *array, enum adamd_dtype dtype, uint64_t i) {
    const unsigned char *at = array + i * adamd_dtype_size(dtype);
    uint16_t bits;
    float single;
    double wide;

    if (dtype == ADAMD_FLOAT64) {
        memcpy(&wide, at, sizeof wide);
        return wide;
    }
    if (dtype == ADAMD_FLOAT32) {
        memcpy(&single, at, sizeof single);
        return (double)single;
    }
    memcpy(&bits, at, sizeof bits);
    return decode(format_of(dtype), bits);
}

void value_set(unsigned char *array, enum adamd_dtype dtype, uint64_t i, double value) {
    unsigned char *at = array + i * adamd_dtype_size(dtype);
    const double rounded = value_round(dtype, value);
    const float single = (float)rounded;

    if (dtype == ADAMD_FLOAT64) {
        memcpy(at, &rounded, sizeof rounded);
    } else if (dtype == ADAMD_FLOAT32) {
        memcpy(at, &single, sizeof single);
    } else {
        const uint16_t bits = encode(format_of(dtype), rounded);
        memcpy(at, &bits, sizeof bits);
    }
}
