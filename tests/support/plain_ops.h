/**
 * Every operation of a backend as a plain scalar loop in one thread: what the conformance suite
 * compares with, and what the deferred backend runs.
 */
#ifndef PLAIN_OPS_H
#define PLAIN_OPS_H

#include "adamd/backend.h"

/** Runs `op` now, on buffers that all have a host address. */
void plain_run(const struct adamd_op *op);

#endif
