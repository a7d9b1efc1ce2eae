/**
 * A request target as the client sent it, taken apart: decoded path segments and query parameters.
 * Strict: what two parsers could read differently is refused, never repaired. Pure.
 */
#ifndef ADAMD_SERVER_TARGET_H
#define ADAMD_SERVER_TARGET_H

#include "adamd/status.h"

#include <stdbool.h>

enum {
    TARGET_BYTES_MAX = 16384, // a Connect GET carries its message here
    TARGET_SEGMENTS_MAX = 8,
    TARGET_PARAMETERS_MAX = 96, // 64 metrics and the head of a push
};

struct target_parameter {
    const char *name, *value;
};

/** Zeroed is empty. Texts live until target_finish(). */
struct target {
    const char *segments[TARGET_SEGMENTS_MAX];
    size_t segment_count;
    struct target_parameter parameters[TARGET_PARAMETERS_MAX];
    size_t parameter_count;
    char *storage;
};

/**
 * `raw` begins with '/', is printable ASCII without '#', has whole percent escapes, none of which
 * is %00, %2e, %2f or %5c (in the path), no empty segment, no "..", no parameter twice. Decoded
 * texts are UTF-8 without control characters. "/" has no segments. BAD_FIELD names "target" or the
 * parameter; NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status target_init(struct target *target, const char *raw,
                                             struct adamd_fault *fault);
void target_finish(struct target *target);

/** The value of the parameter, or NULL. */
const char *target_parameter(const struct target *target, const char *name);

/**
 * Refuses parameters that are not in `known` (NULL-terminated; may be NULL for none). A known name
 * that ends with '.' is a prefix. BAD_FIELD names the parameter and suggests the nearest.
 */
ADAMD_MUST_USE enum adamd_status target_check(const struct target *target, const char *const *known,
                                              struct adamd_fault *fault);

/** The name of `names` (NULL-terminated) that `name` was probably meant to be, or NULL. */
const char *nearest_name(const char *name, const char *const *names);

#endif
