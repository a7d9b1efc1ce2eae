// Reaches guard_check, target_init, target_check, nearest_name.
// Oracle: what passes has one framing, and a path whose segments name what they seem to name.
#include "fuzz.h"

#include "guard.h"
#include "target.h"

#include <string.h>

// The next line of the input, without its end; NULL when there is none.
static char *next_line(char **rest) {
    char *line = *rest;

    if (line == NULL) {
        return NULL;
    }
    *rest = strchr(line, '\n');
    if (*rest != NULL) {
        *(*rest)++ = '\0';
    }
    return line;
}

static char *next_word(char **rest) {
    char *word = *rest;
    char *space = strchr(word, ' ');

    *rest = word + strlen(word);
    if (space != NULL) {
        *space = '\0';
        *rest = space + 1;
    }
    return word;
}

static size_t take_headers(char *rest, struct guard_header *headers) {
    size_t count = 0;

    for (char *line = next_line(&rest); line != NULL && count < GUARD_HEADERS_MAX;
         line = next_line(&rest)) {
        char *colon = strchr(line, ':');
        char *value = colon != NULL ? colon + 1 : line + strlen(line);
        headers[count++] = (struct guard_header){
            .name = line,
            .name_size = colon != NULL ? (size_t)(colon - line) : strlen(line),
            .value = value,
            .value_size = strlen(value),
        };
    }
    return count;
}

static void check_target(const char *raw) {
    static const char *const known[] = {"worker", "sequence", "metric.", NULL};
    struct target target;

    ADAMD_ASSERT(target_init(&target, raw, NULL) == ADAMD_OK);
    for (size_t i = 0; i < target.segment_count; i++) {
        const char *segment = target.segments[i];
        ADAMD_ASSERT(segment[0] != '\0' && strpbrk(segment, "/\\") == NULL);
        ADAMD_ASSERT(strcmp(segment, ".") != 0 && strstr(segment, "..") == NULL);
    }
    struct adamd_fault fault;
    if (target_check(&target, known, &fault) != ADAMD_OK) {
        ADAMD_ASSERT(fault.field[0] != '\0' && fault.message[0] != '\0');
    }
    target_finish(&target);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char text[1 << 16];
    struct guard_header headers[GUARD_HEADERS_MAX];
    struct guard_result result;
    char *rest = text;

    size = size < sizeof text ? size : sizeof text - 1;
    memcpy(text, data, size);
    text[size] = '\0';
    char *line = next_line(&rest);
    const char *method = next_word(&line);
    const char *target = next_word(&line);
    const struct guard_request request = {
        .method = method,
        .target = target,
        .version = line,
        .headers = headers,
        .header_count = take_headers(rest, headers),
    };
    guard_check(&request, &result);
    if (!result.ok) {
        ADAMD_ASSERT(result.fault.message[0] != '\0');
        return 0;
    }
    ADAMD_ASSERT(!(result.chunked && result.has_length));
    ADAMD_ASSERT(result.content_length <= UINT64_C(999999999999));
    ADAMD_ASSERT(strcmp(method, "GET") != 0 || !guard_has_body(&result));
    check_target(target);
    return 0;
}
