/**
 * Between the types in which tensors are stored and those in which is computed: float for float32,
 * float16 and bfloat16, double for float64. To the nearest, ties to even, subnormals kept. C
 * kernels of every instruction set and CUDA compile this text: it is branch-free and made of
 * integers, so compilers find the vectors and every device gives the same bits. All NaN become one.
 */
#ifndef ADAMD_STORAGE_H
#define ADAMD_STORAGE_H

#include "adamd/dtype.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define ADAMD_INLINE static __host__ __device__ __forceinline__
#else
#define ADAMD_INLINE static inline __attribute__((always_inline))
#endif

// Absolute values as bits of a float. As signed numbers they compare as the floats do, also where
// an instruction set only compares signed ones.
enum {
    ADAMD_BITS_HALF_NORMAL = 0x38800000,   // 2^-14, the smallest normal float16
    ADAMD_BITS_HALF_OVERFLOW = 0x47800000, // 2^16
    ADAMD_BITS_INFINITY = 0x7f800000,
    ADAMD_BITS_NAN = 0x7fc00000,
    ADAMD_BITS_MAGNITUDE = 0x7fffffff,
    ADAMD_BITS_ONE_HALF =
        0x3f000000, // 0.5, whose last bit is worth 2^-24, as a subnormal float16's
};

ADAMD_INLINE uint32_t adamd_bits_of_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

ADAMD_INLINE float adamd_f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// -------------------------------------------------------------------------------------- bfloat16

ADAMD_INLINE float adamd_f32_of_bf16(uint16_t stored) {
    return adamd_f32_of_bits((uint32_t)stored << 16);
}

/** The bits of `x` rounded to bfloat16: the lower half is 0. */
ADAMD_INLINE uint32_t adamd_round_bits_bf16(float x) {
    const uint32_t bits = adamd_bits_of_f32(x);
    const int32_t magnitude = (int32_t)(bits & ADAMD_BITS_MAGNITUDE);
    const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) & 0xffff0000U;

    return magnitude > ADAMD_BITS_INFINITY ? (uint32_t)ADAMD_BITS_NAN : rounded;
}

ADAMD_INLINE uint16_t adamd_bf16_of_f32(float x) {
    return (uint16_t)(adamd_round_bits_bf16(x) >> 16);
}

// --------------------------------------------------------------------------------------- float16

ADAMD_INLINE float adamd_f32_of_f16(uint16_t stored) {
    const uint32_t sign = (uint32_t)(stored & 0x8000U) << 16;
    const int32_t shifted = (int32_t)(stored & 0x7fffU) << 13;
    const int32_t exponent = shifted & 0x0f800000;
    const int32_t rebias = 0x38000000; // (127 - 15) << 23
    // A subnormal's digits behind those of 2^-14, which is then taken away: no subnormal floats.
    const float subnormal = adamd_f32_of_bits((uint32_t)(shifted + ADAMD_BITS_HALF_NORMAL)) -
                            adamd_f32_of_bits(ADAMD_BITS_HALF_NORMAL);
    const int32_t normal = shifted + rebias + (exponent == 0x0f800000 ? rebias : 0);

    return adamd_f32_of_bits((exponent == 0 ? adamd_bits_of_f32(subnormal) : (uint32_t)normal) |
                             sign);
}

/** `x` rounded to float16, as a float. */
ADAMD_INLINE float adamd_round_f16(float x) {
    const uint32_t bits = adamd_bits_of_f32(x);
    const uint32_t sign = bits & 0x80000000U;
    const int32_t magnitude = (int32_t)(bits & ADAMD_BITS_MAGNITUDE);
    // Where float16 is subnormal, one half pushes what it cannot hold out of the float.
    const float one_half = adamd_f32_of_bits(ADAMD_BITS_ONE_HALF);
    const float pushed = adamd_f32_of_bits((uint32_t)magnitude) + one_half;
    const int32_t subnormal = (int32_t)adamd_bits_of_f32(pushed - one_half);
    const uint32_t normal = ((uint32_t)magnitude + 0xfffU + ((bits >> 13) & 1U)) & ~0x1fffU;
    int32_t rounded = magnitude < ADAMD_BITS_HALF_NORMAL ? subnormal : (int32_t)normal;

    rounded = rounded >= ADAMD_BITS_HALF_OVERFLOW ? ADAMD_BITS_INFINITY : rounded;
    rounded = magnitude > ADAMD_BITS_INFINITY ? ADAMD_BITS_NAN : rounded;
    return adamd_f32_of_bits((uint32_t)rounded | sign);
}

ADAMD_INLINE uint16_t adamd_f16_of_f32(float x) {
    const uint32_t bits = adamd_bits_of_f32(x);
    const int32_t magnitude = (int32_t)(bits & ADAMD_BITS_MAGNITUDE);
    const float pushed =
        adamd_f32_of_bits((uint32_t)magnitude) + adamd_f32_of_bits(ADAMD_BITS_ONE_HALF);
    const int32_t subnormal = (int32_t)adamd_bits_of_f32(pushed) - ADAMD_BITS_ONE_HALF;
    const int32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    int32_t stored = magnitude < ADAMD_BITS_HALF_NORMAL ? subnormal : normal;

    stored = magnitude >= ADAMD_BITS_HALF_OVERFLOW ? 0x7c00 : stored;
    stored = magnitude > ADAMD_BITS_INFINITY ? 0x7e00 : stored;
    return (uint16_t)((uint32_t)stored | (bits >> 16 & 0x8000U));
}

// ------------------------------------------------------------------------------------ from doubles

/**
 * `x` as a float that rounds further, to fewer digits, as `x` itself would: what it cannot hold is
 * told by its last bit (rounding to odd), so no tie comes of what was none.
 */
ADAMD_INLINE float adamd_odd_f32_of_f64(double x) {
    const float nearest = (float)x;
    const double back = (double)nearest;
    const double excess = x < 0.0 ? x - back : back - x; // of the magnitude
    const uint32_t bits = adamd_bits_of_f32(nearest);
    const uint32_t towards_zero = bits - (excess > 0.0 ? 1U : 0U);
    const uint32_t odd = excess > 0.0 || excess < 0.0 ? 1U : 0U;

    return adamd_f32_of_bits(towards_zero | odd);
}

ADAMD_INLINE uint16_t adamd_f16_of_f64(double x) {
    return adamd_f16_of_f32(adamd_odd_f32_of_f64(x));
}

ADAMD_INLINE uint16_t adamd_bf16_of_f64(double x) {
    return adamd_bf16_of_f32(adamd_odd_f32_of_f64(x));
}

// -------------------------------------------------------------------------------------- any dtype

/** `x` rounded to `storage`, one of those that are computed with in float. */
ADAMD_INLINE float adamd_round_f32(enum adamd_dtype storage, float x) {
    if (storage == ADAMD_BFLOAT16) {
        return adamd_f32_of_bits(adamd_round_bits_bf16(x));
    }
    return storage == ADAMD_FLOAT16 ? adamd_round_f16(x) : x;
}

#endif
