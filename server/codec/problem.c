// The list of reasons, and error bodies in two forms. Written by hand rather than through the JSON
// codec, since an error body must come out even of a process that has little memory left.
#include "problem.h"

#include "codec/text.h"

#include <adamd/v1/adamd.pb-c.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_SECONDS = 1 };

static const struct reason_info reasons[REASON_COUNT] = {
#define X(name, code, rpc_http, rest_http, text) \
    [REASON_##name] = {#name,     code,          \
                       text,      rpc_http,      \
                       rest_http, (rpc_http) == 503 || (rest_http) == 503 || (rest_http) == 429},
    REASON_MAP(X)
#undef X
};

const struct reason_info *reason_info(enum reason reason) {
    ADAMD_ASSERT((unsigned)reason < REASON_COUNT);
    return &reasons[reason];
}

// OK is no reason to fail: whoever asks has a defect. Every other status has a reason of its name,
// or this file does not compile.
enum { REASON_OK = REASON_INTERNAL };

enum reason reason_of_status(enum adamd_status status) {
    static const int of_status[ADAMD_STATUS_COUNT] = {
#define X(name, text) [ADAMD_##name] = REASON_##name,
        ADAMD_STATUS_MAP(X)
#undef X
    };
    ADAMD_ASSERT((unsigned)status < ADAMD_STATUS_COUNT);
    return (enum reason)of_status[status];
}

static void put_pair(struct codec_text *text, const char *key, const char *value) {
    codec_text_quote(text, key);
    codec_text_put(text, ":");
    codec_text_quote(text, value);
}

static void put_metadata(struct codec_text *text, const struct adamd_fault *fault) {
    codec_text_put(text, "\"metadata\":[");
    for (size_t i = 0; i < fault->metadata_count; i++) {
        codec_text_put(text, i > 0 ? ",{" : "{");
        put_pair(text, "key", fault->metadata[i].key);
        codec_text_put(text, ",");
        put_pair(text, "value", fault->metadata[i].value);
        codec_text_put(text, "}");
    }
    codec_text_put(text, "]");
}

// What is told of fields: the list, or the fault's own field with the message.
struct violations {
    const struct problem_list *list; // or NULL
    const char *field, *message;
};

static size_t violation_count(const struct violations *violations) {
    const struct problem_list *list = violations->list;

    if (list == NULL || list->count == 0) {
        return violations->field[0] != 0 ? 1 : 0;
    }
    return list->count < PROBLEM_ENTRIES_MAX ? list->count : PROBLEM_ENTRIES_MAX;
}

static const char *violation_field(const struct violations *violations, size_t i) {
    return violations->list != NULL && violations->list->count > 0
               ? violations->list->entries[i].field
               : violations->field;
}

static const char *violation_text(const struct violations *violations, size_t i) {
    return violations->list != NULL && violations->list->count > 0
               ? violations->list->entries[i].text
               : violations->message;
}

static void put_violations(struct codec_text *text, const struct violations *violations) {
    const size_t count = violation_count(violations);

    for (size_t i = 0; i < count; i++) {
        codec_text_put(text, i > 0 ? ",{" : ",\"fieldViolations\":[{");
        put_pair(text, "field", violation_field(violations, i));
        codec_text_put(text, ",");
        put_pair(text, "description", violation_text(violations, i));
        codec_text_put(text, "}");
    }
    codec_text_put(text, count > 0 ? "]" : "");
}

// What "debug" shows to people, for programs that unpack it: the same ErrorInfo as protobuf.
static void put_packed(struct codec_text *text, const struct reason_info *info,
                       const struct adamd_fault *fault, const struct violations *told) {
    Adamd__V1__Label labels[ADAMD_FAULT_METADATA_MAX];
    Adamd__V1__Label *label_list[ADAMD_FAULT_METADATA_MAX];
    Adamd__V1__FieldViolation entries[PROBLEM_ENTRIES_MAX];
    Adamd__V1__FieldViolation *entry_list[PROBLEM_ENTRIES_MAX];
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    Adamd__V1__ErrorInfo error = ADAMD__V1__ERROR_INFO__INIT;

    error.reason = (char *)info->name;
    error.domain = (char *)"adamd";
    for (size_t i = 0; i < fault->metadata_count; i++) {
        adamd__v1__label__init(&labels[i]);
        labels[i].key = (char *)fault->metadata[i].key;
        labels[i].value = (char *)fault->metadata[i].value;
        label_list[i] = &labels[i];
    }
    error.n_metadata = fault->metadata_count;
    error.metadata = label_list;
    error.n_field_violations = violation_count(told);
    error.field_violations = entry_list;
    for (size_t i = 0; i < error.n_field_violations; i++) {
        adamd__v1__field_violation__init(&entries[i]);
        entries[i].field = (char *)violation_field(told, i);
        entries[i].description = (char *)violation_text(told, i);
        entry_list[i] = &entries[i];
    }
    if (info->retry_later) {
        delay.seconds = RETRY_SECONDS;
        error.retry_delay = &delay;
    }
    const size_t size = adamd__v1__error_info__get_packed_size(&error);
    unsigned char *packed = malloc(size);
    if (packed == NULL) {
        text->failed = true;
        return;
    }
    (void)adamd__v1__error_info__pack(&error, packed);
    codec_text_base64(text, packed, size, false); // Connect: without padding
    free(packed);
}

static void put_connect(struct codec_text *text, const struct reason_info *info,
                        const struct adamd_fault *fault, const struct violations *told) {
    codec_text_put(text, "{");
    put_pair(text, "code", info->code);
    codec_text_put(text, ",");
    put_pair(text, "message", told->message);
    codec_text_put(text, ",\"details\":[{\"type\":\"adamd.v1.ErrorInfo\",\"value\":\"");
    put_packed(text, info, fault, told);
    codec_text_put(text, "\",\"debug\":{");
    put_pair(text, "reason", info->name);
    codec_text_put(text, ",\"domain\":\"adamd\",");
    put_metadata(text, fault);
    if (info->retry_later) {
        codec_text_put(text, ",\"retryDelay\":\"1s\"");
    }
    put_violations(text, told);
    codec_text_put(text, "}}]}");
}

static void put_problem(struct codec_text *text, const struct reason_info *info,
                        const struct adamd_fault *fault, const struct violations *told,
                        const char *request_id) {
    codec_text_put(text, "{\"type\":\"urn:adamd:reason:");
    codec_text_put(text, info->name);
    codec_text_put(text, "\",");
    put_pair(text, "title", info->text);
    codec_text_put(text, ",\"status\":");
    codec_text_uint(text, info->rest_http);
    codec_text_put(text, ",");
    put_pair(text, "detail", told->message);
    if (request_id != NULL) {
        codec_text_put(text, ",");
        put_pair(text, "instance", request_id);
    }
    codec_text_put(text, ",");
    put_pair(text, "code", info->code);
    codec_text_put(text, ",");
    put_pair(text, "reason", info->name);
    codec_text_put(text, ",");
    put_metadata(text, fault);
    put_violations(text, told);
    codec_text_put(text, "}");
}

char *problem_body_listing(enum reason reason, const struct adamd_fault *fault,
                           const struct problem_list *list, bool as_problem,
                           const char *request_id) {
    static const struct adamd_fault nothing;
    const struct reason_info *info = reason_info(reason);
    const struct adamd_fault *told = fault != NULL ? fault : &nothing;
    const struct violations violations = {list, told->field,
                                          told->message[0] != 0 ? told->message : info->text};
    struct codec_text text = {0};

    if (as_problem) {
        put_problem(&text, info, told, &violations, request_id);
    } else {
        put_connect(&text, info, told, &violations);
    }
    return codec_text_end(&text, NULL);
}

char *problem_body(enum reason reason, const struct adamd_fault *fault, bool as_problem,
                   const char *request_id) {
    return problem_body_listing(reason, fault, NULL, as_problem, request_id);
}
