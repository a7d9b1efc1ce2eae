// Error objects, and what the daemon's error body says.

#include "error.h"

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Handed out where there is no memory for one. Never written, never freed.
static struct adamd_error no_memory = {
    .reason = "NO_MEMORY",
    .message = "out of memory",
};

static bool is_one_of(const char *reason, const char *const *list) {
    for (; *list != NULL; list++) {
        if (strcmp(reason, *list) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_retriable(int status, const char *reason) {
    // On RPC paths the limits of a message are 429 as well: the same bytes will not fit later.
    static const char *const never[] = {"TOO_LARGE", NULL};
    // OPERATION_RUNNING: an earlier attempt on a lost connection was read after this one.
    static const char *const always[] = {
        "CONNECTION",   "TIMED_OUT",         "IN_DOUBT", "STEP_ABORTED",
        "STILL_STAGED", "OPERATION_RUNNING", NULL};

    if (is_one_of(reason, never)) {
        return false;
    }
    return is_one_of(reason, always) || status == 408 || status == 429 || status == 502 ||
           status == 503 || status == 504;
}

static void classify(struct adamd_error *error) {
    static const char *const fatal[] = {
        "FENCED",       "BAD_EPOCH",      "SEQ_REUSED",      "OUT_OF_ORDER",
        "STATE_BEHIND", "FUTURE_VERSION", "ALREADY_DECIDED", NULL};
    static const char *const register_again[] = {"UNKNOWN_WORKER", "RUN_RESTORED", NULL};

    error->retriable = is_retriable(error->http_status, error->reason);
    error->fatal = is_one_of(error->reason, fatal);
    error->wants_register = is_one_of(error->reason, register_again);
}

struct adamd_error *error_new(const char *reason, const char *format, ...) {
    struct adamd_error *error = calloc(1, sizeof *error);
    va_list arguments;

    if (error == NULL) {
        return &no_memory;
    }
    snprintf(error->reason, sizeof error->reason, "%s", reason);
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    classify(error);
    return error;
}

adamd_error_t *adamd_error_new(const char *reason, const char *message) {
    return error_new(reason, "%s", message);
}

struct adamd_error *error_argument(const char *field, const char *format, ...) {
    struct adamd_error *error = error_new("BAD_FIELD", "%s", "");
    va_list arguments;

    if (error == &no_memory) {
        return error;
    }
    snprintf(error->field, sizeof error->field, "%s", field);
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    return error;
}

struct adamd_error *error_no_memory(void) {
    return &no_memory;
}

void error_append(struct adamd_error *error, const char *format, ...) {
    size_t length = strlen(error->message);
    va_list arguments;

    if (error == &no_memory) {
        return;
    }
    va_start(arguments, format);
    vsnprintf(error->message + length, sizeof error->message - length, format, arguments);
    va_end(arguments);
}

static void copy_text(const cJSON *object, const char *name, char *text, size_t size) {
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));

    if (value != NULL) {
        snprintf(text, size, "%s", value);
    }
}

static void read_metadata(struct adamd_error *error, const cJSON *list) {
    const cJSON *item = NULL;

    cJSON_ArrayForEach(item, list) {
        if (error->metadata_count == ERROR_METADATA_MAX) {
            break;
        }
        size_t i = error->metadata_count++;
        copy_text(item, "key", error->metadata[i].key, sizeof error->metadata[i].key);
        copy_text(item, "value", error->metadata[i].value, sizeof error->metadata[i].value);
    }
}

// Connect's shape, or RFC 9457's, where reason and metadata stand at the top.
static void read_body(struct adamd_error *error, const cJSON *body) {
    const cJSON *details = cJSON_GetObjectItemCaseSensitive(body, "details");
    const cJSON *debug = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(details, 0), "debug");
    const cJSON *info = debug != NULL ? debug : body;
    const cJSON *violations = cJSON_GetObjectItemCaseSensitive(info, "fieldViolations");

    copy_text(body, "detail", error->message, sizeof error->message);
    copy_text(body, "message", error->message, sizeof error->message);
    copy_text(info, "reason", error->reason, sizeof error->reason);
    error->of_daemon = error->reason[0] != '\0';
    copy_text(cJSON_GetArrayItem(violations, 0), "field", error->field, sizeof error->field);
    read_metadata(error, cJSON_GetObjectItemCaseSensitive(info, "metadata"));
    if (error->field[0] == '\0') {
        const char *field = adamd_error_metadata(error, "field");
        snprintf(error->field, sizeof error->field, "%s", field != NULL ? field : "");
    }
}

// Of answers that adamd did not write: libmicrohttpd's own, a proxy's.
static const char *reason_of_status(int status) {
    switch (status) {
    case 404:
        return "UNKNOWN_METHOD";
    case 408:
    case 429:
    case 502:
    case 503:
    case 504:
        return "UNAVAILABLE";
    case 413:
        return "TOO_LARGE";
    case 400:
    case 431:
        return "BAD_FRAMING";
    default:
        return "BAD_ANSWER";
    }
}

struct adamd_error *error_of_answer(int http_status, const char *body, size_t size) {
    struct adamd_error *error = error_new("", "%s", "");
    cJSON *json = NULL;

    if (error == &no_memory) {
        return error;
    }
    error->http_status = http_status;
    json = cJSON_ParseWithLength(body != NULL ? body : "", size);
    if (cJSON_IsObject(json)) {
        read_body(error, json);
    }
    cJSON_Delete(json);
    if (error->reason[0] == '\0') {
        snprintf(error->reason, sizeof error->reason, "%s", reason_of_status(http_status));
    }
    if (error->message[0] == '\0') {
        snprintf(error->message, sizeof error->message, "the answer was HTTP status %d",
                 http_status);
    }
    classify(error);
    return error;
}

const char *adamd_error_reason(const adamd_error_t *error) {
    return error->reason;
}

const char *adamd_error_message(const adamd_error_t *error) {
    return error->message;
}

const char *adamd_error_field(const adamd_error_t *error) {
    return error->field;
}

const char *adamd_error_metadata(const adamd_error_t *error, const char *key) {
    for (size_t i = 0; i < error->metadata_count; i++) {
        if (strcmp(error->metadata[i].key, key) == 0) {
            return error->metadata[i].value;
        }
    }
    return NULL;
}

int adamd_error_http_status(const adamd_error_t *error) {
    return error->http_status;
}

int adamd_error_is_retriable(const adamd_error_t *error) {
    return error->retriable;
}

int adamd_error_is_fatal(const adamd_error_t *error) {
    return error->fatal;
}

int adamd_error_wants_register(const adamd_error_t *error) {
    return error->wants_register;
}

void adamd_error_destroy(adamd_error_t *error) {
    if (error != &no_memory) {
        free(error);
    }
}
