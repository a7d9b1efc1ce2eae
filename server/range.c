// Ranges are cut out of the vector that the whole body would be sent from: no byte is copied.
#include "range.h"

#include <stdlib.h>
#include <string.h>

// Digits at `*text`, which moves past them. UINT64_MAX where there are none; large ones saturate
// below that.
static uint64_t take_number(const char **text) {
    uint64_t number = 0;
    const char *start = *text;

    for (; **text >= '0' && **text <= '9'; (*text)++) {
        const uint64_t digit = (uint64_t)(**text - '0');
        number = number > (UINT64_MAX - 1 - digit) / 10 ? UINT64_MAX - 1 : number * 10 + digit;
    }
    return *text == start ? UINT64_MAX : number;
}

enum range_verdict range_parse(const char *header, uint64_t total, uint64_t *ret_first,
                               uint64_t *ret_size) {
    static const char unit[] = "bytes=";

    if (header == NULL || strncmp(header, unit, sizeof unit - 1) != 0) {
        return RANGE_WHOLE;
    }
    const char *at = header + sizeof unit - 1;
    uint64_t first = take_number(&at);
    if (*at != '-') {
        return RANGE_WHOLE;
    }
    at++;
    uint64_t last = take_number(&at);
    if (*at != '\0' || (first == UINT64_MAX && last == UINT64_MAX) ||
        (first != UINT64_MAX && last < first)) {
        return RANGE_WHOLE;
    }
    if (first == UINT64_MAX) { // the last bytes
        if (last == 0 || total == 0) {
            return RANGE_OUTSIDE;
        }
        first = last < total ? total - last : 0;
        last = total - 1;
    }
    if (first >= total) {
        return RANGE_OUTSIDE;
    }
    *ret_first = first;
    *ret_size = (last < total ? last : total - 1) - first + 1;
    return RANGE_PART;
}

uint64_t vector_size(const struct iovec *vector, size_t count) {
    uint64_t size = 0;

    for (size_t i = 0; i < count; i++) {
        size += vector[i].iov_len;
    }
    return size;
}

size_t vector_slice(struct iovec *vector, size_t count, uint64_t first, uint64_t size) {
    size_t kept = 0;

    for (size_t i = 0; i < count && size > 0; i++) {
        if (first >= vector[i].iov_len) {
            first -= vector[i].iov_len;
            continue;
        }
        struct iovec piece = {.iov_base = (char *)vector[i].iov_base + first,
                              .iov_len = vector[i].iov_len - first};
        piece.iov_len = piece.iov_len < size ? piece.iov_len : size;
        first = 0;
        size -= piece.iov_len;
        vector[kept++] = piece;
    }
    return kept;
}

bool tag_listed(const char *header, const char *tag) {
    const size_t size = strlen(tag);

    if (header == NULL) {
        return false;
    }
    while (*header != '\0') {
        header += strspn(header, ", \t");
        if (*header == '*') {
            return true;
        }
        if (strncmp(header, "W/", 2) == 0) {
            header += 2;
        }
        if (size > 0 && strncmp(header, tag, size) == 0 && strchr(", \t", header[size]) != NULL) {
            return true;
        }
        header += strcspn(header, ",");
    }
    return false;
}
