// The status list's expansions, and how a fault is filled.
#include "adamd/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *text;
} statuses[ADAMD_STATUS_COUNT] = {
#define X(name, text) [ADAMD_##name] = {#name, text},
    ADAMD_STATUS_MAP(X)
#undef X
};

const char *adamd_status_name(enum adamd_status status) {
    ADAMD_ASSERT((unsigned)status < ADAMD_STATUS_COUNT);
    return statuses[status].name;
}

const char *adamd_status_text(enum adamd_status status) {
    ADAMD_ASSERT((unsigned)status < ADAMD_STATUS_COUNT);
    return statuses[status].text;
}

enum adamd_status adamd_fail(struct adamd_fault *fault, enum adamd_status status, const char *field,
                             const char *format, ...) {
    if (fault != NULL) {
        va_list arguments;
        *fault = (struct adamd_fault){.status = status};
        if (field != NULL) {
            (void)snprintf(fault->field, sizeof fault->field, "%s", field);
        }
        va_start(arguments, format);
        (void)vsnprintf(fault->message, sizeof fault->message, format, arguments);
        va_end(arguments);
    }
    return status;
}

enum adamd_status adamd_fail_plain(struct adamd_fault *fault, enum adamd_status status) {
    return adamd_fail(fault, status, NULL, "%s", adamd_status_text(status));
}

void adamd_fault_tell(struct adamd_fault *fault, const char *key, const char *format, ...) {
    if (fault == NULL || fault->metadata_count == ADAMD_FAULT_METADATA_MAX) {
        return;
    }
    va_list arguments;
    const size_t i = fault->metadata_count++;
    (void)snprintf(fault->metadata[i].key, sizeof fault->metadata[i].key, "%s", key);
    va_start(arguments, format);
    (void)vsnprintf(fault->metadata[i].value, sizeof fault->metadata[i].value, format, arguments);
    va_end(arguments);
}

void adamd_assert_failed(const char *condition, const char *file, int line) {
    (void)fprintf(stderr, "adamd: %s:%d: a defect: %s does not hold\n", file, line, condition);
    abort();
}
