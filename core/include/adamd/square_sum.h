/**
 * The order in which a step's sum of squares is formed: it depends on the runs alone, so that every
 * backend, instruction set and number of threads gives the same bits.
 *
 * Each run is cut into blocks of ADAMD_BLOCK_ELEMENTS from its own start. In a block, element i
 * adds to lane i modulo ADAMD_LANES, in ascending order; the lanes are folded in halves (lane l
 * takes l + 8, then l + 4, ...). The blocks' sums are added one after another in ascending order,
 * from 0. The square of a float32 is exact in double, so a contraction changes nothing.
 */
#ifndef ADAMD_SQUARE_SUM_H
#define ADAMD_SQUARE_SUM_H

enum { ADAMD_BLOCK_ELEMENTS = 4096, ADAMD_LANES = 16 };

static inline double adamd_fold_lanes(double lanes[ADAMD_LANES]) {
    for (int half = ADAMD_LANES / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) {
            lanes[l] += lanes[l + half];
        }
    }
    return lanes[0];
}

#endif
