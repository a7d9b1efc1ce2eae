// Looks for what is not finite, and how large the rest can be, while the bytes are in the cache.
// The upper 16 bits of a real without its sign are a signed number that orders as the real does,
// whatever the dtype, and SSE2 has a maximum of those. It runs on the loop's thread at several
// GB/s; gcc does not find the instruction, and its code was three to five times slower, hence the
// intrinsics.
#include "model_impl.h"

#include "adamd/storage.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

static const uint16_t infinities[ADAMD_REAL_COUNT] = {
    [ADAMD_FLOAT32] = 0x7f80,
    [ADAMD_FLOAT16] = 0x7c00,
    [ADAMD_BFLOAT16] = 0x7f80,
    [ADAMD_FLOAT64] = 0x7ff0,
};

static uint16_t magnitude(const unsigned char *top) {
    uint16_t bits;

    memcpy(&bits, top, sizeof bits);
    return bits & 0x7fff;
}

enum { BLOCK_BYTES = 64 };

#ifdef __SSE2__

// A block's worth of what to keep of each real.
static __m128i mask_of(size_t size) {
    if (size == 2) {
        return _mm_set1_epi16(0x7fff);
    }
    return size == 4 ? _mm_set1_epi32(0x7fff0000) : _mm_set1_epi64x(0x7fff000000000000);
}

static uint16_t scan_blocks(const unsigned char *reals, size_t size, size_t blocks,
                            uint16_t max_top) {
    const __m128i mask = mask_of(size);
    __m128i even = _mm_setzero_si128();
    __m128i odd = _mm_setzero_si128();
    uint16_t lanes[8];

    for (size_t i = 0; i < blocks; i++) {
        const __m128i *at = (const __m128i *)(const void *)reals + 4 * i;
        even = _mm_max_epi16(even, _mm_and_si128(_mm_loadu_si128(at), mask));
        odd = _mm_max_epi16(odd, _mm_and_si128(_mm_loadu_si128(at + 1), mask));
        even = _mm_max_epi16(even, _mm_and_si128(_mm_loadu_si128(at + 2), mask));
        odd = _mm_max_epi16(odd, _mm_and_si128(_mm_loadu_si128(at + 3), mask));
    }
    _mm_storeu_si128((__m128i *)(void *)lanes, _mm_max_epi16(even, odd));
    for (int lane = 0; lane < 8; lane++) {
        max_top = lanes[lane] > max_top ? lanes[lane] : max_top;
    }
    return max_top;
}

#else

static uint16_t scan_blocks(const unsigned char *reals, size_t size, size_t blocks,
                            uint16_t max_top) {
    for (size_t i = 0; i < blocks * BLOCK_BYTES; i += size) {
        const uint16_t top = magnitude(reals + i + size - sizeof top);
        max_top = top > max_top ? top : max_top;
    }
    return max_top;
}

#endif

uint16_t scan_reals(enum adamd_dtype dtype, const unsigned char *reals, size_t count,
                    uint16_t max_top) {
    const size_t size = adamd_dtype_size(dtype);
    const size_t bytes = count * size;
    const size_t blocks = bytes / BLOCK_BYTES;

    max_top = scan_blocks(reals, size, blocks, max_top);
    for (size_t i = blocks * BLOCK_BYTES; i < bytes; i += size) {
        const uint16_t top = magnitude(reals + i + size - sizeof top);
        max_top = top > max_top ? top : max_top;
    }
    return max_top;
}

bool scan_is_finite(enum adamd_dtype dtype, uint16_t max_top) {
    return max_top < infinities[dtype];
}

double scan_max(enum adamd_dtype dtype) {
    return scan_bound(dtype, (uint16_t)(infinities[dtype] - 1));
}

double scan_bound(enum adamd_dtype dtype, uint16_t max_top) {
    const uint64_t wide = ((uint64_t)max_top << 48) + 0xffffffffffffU;
    const uint32_t narrow = ((uint32_t)max_top << 16) + 0xffffU;
    double bound;

    switch (dtype) {
    case ADAMD_FLOAT16:
        return (double)adamd_f32_of_f16(max_top);
    case ADAMD_BFLOAT16:
        return (double)adamd_f32_of_bf16(max_top);
    case ADAMD_FLOAT64:
        memcpy(&bound, &wide, sizeof bound);
        return bound;
    default:
        return (double)adamd_f32_of_bits(narrow);
    }
}
