/**
 * The digits data: read, split into rows to train on and rows held out, and put into an order for
 * each epoch.
 */
#ifndef EXAMPLE_DIGITS_H
#define EXAMPLE_DIGITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DIGITS_PIXELS = 64,
    DIGITS_CLASSES = 10,
    DIGITS_ROWS_MAX = 1000000,
    DIGITS_HELD_OUT_EACH = 5, // one row in five is never trained on
};

struct digits_row {
    float pixels[DIGITS_PIXELS]; // 0 to 1
    uint32_t class;
};

struct digits {
    struct digits_row *train, *held_out;
    size_t train_count, held_out_count;
};

/** Reads a file of lines of 64 pixels (0 to 16) and a class (0 to 9), separated by commas. On
 *  failure says why on stderr and leaves `digits` empty. */
bool digits_load(struct digits *digits, const char *path);
void digits_finish(struct digits *digits);

/**
 * Who computes what: a batch is a function of (seed, version, rank) and of nothing else. So a
 * worker that was killed and started again goes on where the model is, with no memory of its own,
 * and no row is seen twice in an epoch.
 */
struct schedule {
    uint32_t *order; // of the train rows, in `epoch`
    size_t row_count;
    uint64_t epoch, seed;
    size_t workers, batch; // rows of one worker in one step
};

/** False: out of memory, or one step takes more than all rows. */
bool schedule_init(struct schedule *schedule, size_t row_count, size_t workers, size_t batch,
                   uint64_t seed);
void schedule_finish(struct schedule *schedule);
/** The rows of `rank` for the step from `version`; schedule->batch of them, valid until the next
 *  call. */
const uint32_t *schedule_rows(struct schedule *schedule, uint64_t version, size_t rank);

#endif
