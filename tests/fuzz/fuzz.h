/** What fuzz targets share: the entry point, and the check that outlives optimisation. */
#ifndef ADAMD_TESTS_FUZZ_H
#define ADAMD_TESTS_FUZZ_H

#include "adamd/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
