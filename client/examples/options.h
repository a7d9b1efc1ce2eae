/**
 * The command line of train_digits.
 */
#ifndef EXAMPLE_OPTIONS_H
#define EXAMPLE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct options {
    const char *endpoint, *model, *data;
    uint64_t rank, workers, min_workers;
    uint64_t batch, steps, report, seed;
    uint64_t lease_ms, wait_ms;
    double lr, weight_decay, require_accuracy;
    bool create, evaluate;
};

/** Fills in the defaults and reads the command line. Returns -1 to go on, else the exit status: the
 *  help was printed, or an error named the option. */
int options_read(struct options *options, int argc, char **argv);

#endif
