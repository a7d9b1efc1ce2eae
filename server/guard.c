// Each check names the header that it refuses. What reaches the routes has one meaning.
#include "guard.h"

#include "target.h"

#include <string.h>
#include <strings.h>

struct findings {
    unsigned lengths, encodings, hosts;
    const struct guard_header *length, *encoding, *expect;
};

static bool is_token_byte(char byte) {
    return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= 'a' && byte <= 'z') ||
           (byte != '\0' && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

static bool is_token(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (!is_token_byte(text[i])) {
            return false;
        }
    }
    return size > 0;
}

static bool is_value(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++) {
        const unsigned char byte = (unsigned char)text[i];
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f) {
            return false;
        }
    }
    return true;
}

static bool name_is(const struct guard_header *header, const char *name) {
    return header->name_size == strlen(name) &&
           strncasecmp(header->name, name, header->name_size) == 0;
}

// "Content-Length " or "Transfer-Encoding\x85" are somebody else's framing.
static bool name_begins(const struct guard_header *header, const char *name) {
    const size_t size = strlen(name);
    return header->name_size > size && strncasecmp(header->name, name, size) == 0;
}

static bool value_is(const struct guard_header *header, const char *value) {
    return header->value_size == strlen(value) &&
           strncasecmp(header->value, value, header->value_size) == 0;
}

static void refuse(struct guard_result *result, enum reason reason, const char *field,
                   const char *why) {
    result->ok = false;
    result->reason = reason;
    (void)adamd_fail(&result->fault, ADAMD_BAD_FIELD, field, "%s", why);
}

static void check_header(const struct guard_header *header, struct findings *findings,
                         struct guard_result *result) {
    if (!is_token(header->name, header->name_size)) {
        refuse(result, REASON_BAD_FRAMING, NULL, "A header name holds a byte that is not allowed");
    } else if (name_begins(header, "Content-Length") || name_begins(header, "Transfer-Encoding")) {
        refuse(result, REASON_BAD_FRAMING, NULL, "A header name imitates a framing header");
    } else if (!is_value(header->value, header->value_size)) {
        refuse(result, REASON_BAD_FRAMING, NULL, "A header value holds a control character");
    } else if (name_is(header, "Content-Length")) {
        findings->lengths++;
        findings->length = header;
    } else if (name_is(header, "Transfer-Encoding")) {
        findings->encodings++;
        findings->encoding = header;
    } else if (name_is(header, "Host")) {
        findings->hosts++;
    } else if (name_is(header, "Expect")) {
        findings->expect = header;
    }
}

static void check_length(const struct guard_header *header, struct guard_result *result) {
    enum { DIGITS_MAX = 12 };
    uint64_t length = 0;

    if (header->value_size == 0) {
        refuse(result, REASON_BAD_FRAMING, "Content-Length", "Content-Length is empty");
        return;
    }
    for (size_t i = 0; i < header->value_size; i++) {
        const char digit = header->value[i];
        if (digit < '0' || digit > '9') {
            refuse(result, REASON_BAD_FRAMING, "Content-Length", "Content-Length is not a number");
            return;
        }
        if (i >= DIGITS_MAX) {
            refuse(result, REASON_TOO_LARGE, "Content-Length", "Content-Length is too large");
            return;
        }
        length = length * 10 + (uint64_t)(digit - '0');
    }
    result->has_length = true;
    result->content_length = length;
}

static void check_framing(const struct guard_request *request, const struct findings *findings,
                          struct guard_result *result) {
    const bool is_http_1_0 = strcmp(request->version, "HTTP/1.0") == 0;

    if (findings->lengths > 1) {
        refuse(result, REASON_BAD_FRAMING, "Content-Length", "Content-Length is given twice");
    } else if (findings->encodings > 1) {
        refuse(result, REASON_BAD_FRAMING, "Transfer-Encoding", "Transfer-Encoding is given twice");
    } else if (findings->lengths > 0 && findings->encodings > 0) {
        refuse(result, REASON_BAD_FRAMING, "Transfer-Encoding",
               "Content-Length and Transfer-Encoding exclude each other");
    } else if (findings->encodings > 0 && is_http_1_0) {
        refuse(result, REASON_BAD_FRAMING, "Transfer-Encoding", "Transfer-Encoding needs HTTP/1.1");
    } else if (findings->encodings > 0 && !value_is(findings->encoding, "chunked")) {
        refuse(result, REASON_UNSUPPORTED, "Transfer-Encoding",
               "The only Transfer-Encoding is chunked");
    } else if (findings->hosts > 1) {
        refuse(result, REASON_BAD_FRAMING, "Host", "Host is given twice");
    } else if (findings->hosts == 0 && !is_http_1_0) {
        refuse(result, REASON_BAD_FRAMING, "Host", "HTTP/1.1 needs Host");
    } else if (findings->lengths > 0) {
        check_length(findings->length, result);
    } else {
        result->chunked = findings->encodings > 0;
    }
}

static void check_method(const struct guard_request *request, struct guard_result *result) {
    const bool has_no_body =
        strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0;

    if (has_no_body && guard_has_body(result)) {
        refuse(result, REASON_BAD_FRAMING, "Content-Length", "GET and HEAD carry no body");
    } else if (strcmp(request->version, "HTTP/1.1") != 0 &&
               strcmp(request->version, "HTTP/1.0") != 0) {
        refuse(result, REASON_BAD_FRAMING, NULL, "This port speaks HTTP/1.1 and HTTP/1.0");
    }
}

static void check_target(const struct guard_request *request, struct guard_result *result) {
    struct target target;

    if (strcmp(request->method, "OPTIONS") == 0 && strcmp(request->target, "*") == 0) {
        refuse(result, REASON_METHOD_NOT_ALLOWED, NULL, "OPTIONS is not served");
        return;
    }
    const enum adamd_status status = target_init(&target, request->target, &result->fault);

    target_finish(&target);
    if (status != ADAMD_OK) {
        result->ok = false;
        result->reason =
            status == ADAMD_TOO_LARGE ? REASON_TARGET_TOO_LONG : reason_of_status(status);
    }
}

static void check_expect(const struct findings *findings, struct guard_result *result) {
    if (findings->expect == NULL) {
        return;
    }
    if (!value_is(findings->expect, "100-continue")) {
        refuse(result, REASON_EXPECTATION_FAILED, "Expect", "The only expectation is 100-continue");
        return;
    }
    result->expects_continue = true;
}

static size_t header_bytes(const struct guard_request *request) {
    size_t bytes = 0;

    for (size_t i = 0; i < request->header_count; i++) {
        bytes += request->headers[i].name_size + request->headers[i].value_size + 4;
    }
    return bytes;
}

void guard_check(const struct guard_request *request, struct guard_result *ret_result) {
    struct findings findings = {.lengths = 0};

    *ret_result = (struct guard_result){.ok = true};
    if (request->header_count > GUARD_HEADERS_MAX) {
        refuse(ret_result, REASON_HEADERS_TOO_LARGE, NULL, "There are more than 100 header lines");
    } else if (header_bytes(request) > GUARD_HEADER_BYTES_MAX) {
        refuse(ret_result, REASON_HEADERS_TOO_LARGE, NULL, "The headers are longer than 32 KiB");
    }
    for (size_t i = 0; ret_result->ok && i < request->header_count; i++) {
        check_header(&request->headers[i], &findings, ret_result);
    }
    if (ret_result->ok) {
        check_framing(request, &findings, ret_result);
    }
    if (ret_result->ok) {
        check_target(request, ret_result);
    }
    if (ret_result->ok) {
        check_method(request, ret_result);
    }
    if (ret_result->ok) {
        check_expect(&findings, ret_result);
    }
}

bool guard_has_body(const struct guard_result *result) {
    return result->chunked || result->content_length > 0;
}
