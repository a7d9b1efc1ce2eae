/**
 * How a call failed: made from the daemon's answer, or here. Never NULL: where there is no memory
 * for an error, a static one stands for it.
 */
#ifndef ADAMD_CLIENT_ERROR_H
#define ADAMD_CLIENT_ERROR_H

#include "adamd/client.h"

#include <stdbool.h>

enum { ERROR_METADATA_MAX = 16 };

struct adamd_error {
    int http_status;
    bool retriable, fatal, wants_register;
    bool of_daemon; // adamd itself gave the reason, not a proxy or libmicrohttpd
    char reason[64], field[128], message[768];
    struct {
        char key[64], value[192];
    } metadata[ERROR_METADATA_MAX];
    size_t metadata_count;
};

/** The flags follow from the reason. */
struct adamd_error *error_new(const char *reason, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/** BAD_FIELD; `field` is an argument. */
struct adamd_error *error_argument(const char *field, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
struct adamd_error *error_no_memory(void);

/** An answer that is not 2xx. `body` may be anything: what is not adamd's JSON is mapped by status.
 */
struct adamd_error *error_of_answer(int http_status, const char *body, size_t size);

/** Appends to the message. */
void error_append(struct adamd_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
