// Query parameters and headers to numbers.
#include "arguments.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct shown show(const char *text) {
    struct shown shown = {{0}};
    size_t length = 0;

    for (; text[length] != '\0' && length < ADAMD_SHOWN_MAX; length++) {
        const char c = text[length];
        shown.text[length] = c;
        if (c < 0x20 || c > 0x7e) {
            shown.text[length] = '?';
        }
    }
    if (text[length] != '\0') {
        memcpy(shown.text + length, "...", 4);
    }
    return shown;
}

bool parse_u64(const char *text, uint64_t *ret_value) {
    const size_t length = strlen(text);
    char *end = NULL;

    // strtoull alone takes signs and blanks.
    if (length == 0 || length > 20 || strspn(text, "0123456789") != length) {
        return false;
    }
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0) {
        return false;
    }
    *ret_value = value;
    return true;
}

bool parse_ordinal(const char *text, uint64_t *ret_value) {
    const bool padded = text[0] == '0' && text[1] != '\0';

    return !padded && parse_u64(text, ret_value);
}

bool parse_double(const char *text, double *ret_value) {
    char *end = NULL;

    if (text[0] == '\0' || strchr(" \t\r\n\v\f", text[0]) != NULL || strpbrk(text, "xX(") != NULL) {
        return false;
    }
    const double value = strtod(text, &end);
    if (*end != '\0') {
        return false;
    }
    *ret_value = value;
    return true;
}

bool parse_bool(const char *text, bool *ret_value) {
    if (text[0] == '\0' || strcmp(text, "true") == 0 || strcmp(text, "1") == 0) {
        *ret_value = true;
        return true;
    }
    if (strcmp(text, "false") == 0 || strcmp(text, "0") == 0) {
        *ret_value = false;
        return true;
    }
    return false;
}

bool parse_duration_ms(const char *text, uint64_t *ret_ms) {
    char number[24];
    const size_t digits = strspn(text, "0123456789.");
    const char *unit = text + digits;
    double value = 0;
    double scale = 1000;

    // A number without its unit is refused: seconds to some, milliseconds to others.
    if (digits == 0 || digits >= sizeof number) {
        return false;
    }
    memcpy(number, text, digits);
    number[digits] = '\0';
    if (strcmp(unit, "ms") == 0) {
        scale = 1;
    } else if (strcmp(unit, "s") != 0) {
        return false;
    }
    if (!parse_double(number, &value) || value * scale > 1e15) {
        return false;
    }
    *ret_ms = (uint64_t)ceil(value * scale);
    return true;
}

enum adamd_status argument_u64(const struct exchange *exchange, const char *name, uint64_t *value,
                               struct adamd_fault *fault) {
    const char *text = exchange_parameter(exchange, name);

    if (text != NULL && !parse_u64(text, value)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, name, "%s must be a whole number, not \"%s\"",
                          name, show(text).text);
    }
    return ADAMD_OK;
}

enum adamd_status argument_bool(const struct exchange *exchange, const char *name, bool *value,
                                struct adamd_fault *fault) {
    const char *text = exchange_parameter(exchange, name);

    if (text != NULL && !parse_bool(text, value)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, name, "%s must be true or false, not \"%s\"",
                          name, show(text).text);
    }
    return ADAMD_OK;
}

bool content_type_is(const char *content_type, const char *type) {
    const size_t length = strlen(type);

    if (content_type == NULL || strncasecmp(content_type, type, length) != 0) {
        return false;
    }
    return strchr("; \t", content_type[length]) != NULL; // finds the terminator too
}

bool accepts(const struct exchange *exchange, const char *type) {
    const char *accept = exchange_header(exchange, "Accept");

    while (accept != NULL && *accept != '\0') {
        accept += strspn(accept, ", \t");
        const size_t length = strcspn(accept, ",; \t");
        if (length == strlen(type) && strncasecmp(accept, type, length) == 0) {
            return true;
        }
        accept += strcspn(accept, ",");
    }
    return false;
}
