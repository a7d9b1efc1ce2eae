/**
 * What is refused before anything else is looked at: framing that two parsers could read
 * differently, header names and values that no client sends by accident, targets that try to
 * escape. The HTTP library accepts many of them. A pure function over what it parsed.
 */
#ifndef ADAMD_SERVER_GUARD_H
#define ADAMD_SERVER_GUARD_H

#include "problem.h"

#include <stdint.h>

enum { GUARD_HEADERS_MAX = 100, GUARD_HEADER_BYTES_MAX = 32 << 10 };

struct guard_header {
    const char *name, *value;
    size_t name_size, value_size;
};

struct guard_request {
    const char *method, *version; // "GET", "HTTP/1.1"
    const char *target;           // raw
    const struct guard_header *headers;
    size_t header_count; // may be above GUARD_HEADERS_MAX: refused; then only so many are read
};

struct guard_result {
    bool ok;
    enum reason reason; // if not ok
    struct adamd_fault fault;
    bool has_length, chunked, expects_continue;
    uint64_t content_length;
};

void guard_check(const struct guard_request *request, struct guard_result *ret_result);

/** True where the request announces body bytes. */
bool guard_has_body(const struct guard_result *result);

#endif
