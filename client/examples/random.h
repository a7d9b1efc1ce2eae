/**
 * Random numbers that are the same on every machine: SplitMix64 (Steele, Lea and Flood, 2014).
 */
#ifndef EXAMPLE_RANDOM_H
#define EXAMPLE_RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *random) {
    random->state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = random->state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/** In [0, 1), a multiple of 2^-24, so that it is exact as a float. */
static inline float random_float(struct random *random) {
    return (float)(random_next(random) >> 40) * 0x1p-24f;
}

/** In [0, bound). The bias of the modulo is below 2^-32 for the bounds in use. */
static inline uint32_t random_below(struct random *random, uint32_t bound) {
    return (uint32_t)(random_next(random) % bound);
}

#endif
