/** What reader and writer of safetensors headers share. */
#ifndef ADAMD_FORMATS_SAFETENSORS_IMPL_H
#define ADAMD_FORMATS_SAFETENSORS_IMPL_H

#include "adamd/safetensors.h"

/**
 * How many bits a tensor takes; false where the product overflows on the way, in the reference's
 * order: dimensions from left to right, then the type.
 */
bool safetensors_bits(const struct adamd_safetensors_entry *entry, uint64_t *ret_bits);

#endif
