/** One Range of a body, and conditions on its entity tag (RFC 9110). Pure. */
#ifndef ADAMD_SERVER_RANGE_H
#define ADAMD_SERVER_RANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum range_verdict { RANGE_WHOLE, RANGE_PART, RANGE_OUTSIDE };

/**
 * What a Range header (may be NULL) asks of a body of `total` bytes. Anything but exactly one range
 * of bytes is ignored, as the RFC allows, and means the whole.
 */
enum range_verdict range_parse(const char *header, uint64_t total, uint64_t *ret_first,
                               uint64_t *ret_size);

uint64_t vector_size(const struct iovec *vector, size_t count);

/** Cuts `vector` down to `size` bytes from `first`. Answers how many pieces are left. */
size_t vector_slice(struct iovec *vector, size_t count, uint64_t first, uint64_t size);

/** Whether an If-None-Match header lists the tag; weak tags compare as strong ones, "*" lists all.
 */
bool tag_listed(const char *header, const char *tag);

#endif
