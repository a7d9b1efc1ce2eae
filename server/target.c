// Targets are split before they are decoded, so that an escaped separator never separates.
#include "target.h"

#include "adamd/json.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int hex_value(char digit) {
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

static enum adamd_status refuse(struct adamd_fault *fault, const char *why) {
    return adamd_fail(fault, ADAMD_BAD_FIELD, "target", "The request target %s", why);
}

// In a path: what would change where it ends or what it names. In a query: control characters but
// those that a JSON document holds.
static bool is_treacherous(int byte, bool in_path) {
    if (in_path) {
        return byte < 0x20 || byte == 0x7f || byte == '.' || byte == '/' || byte == '\\';
    }
    return (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7f;
}

static enum adamd_status check_bytes(const char *raw, struct adamd_fault *fault) {
    bool in_path = true;

    if (raw[0] != '/') {
        return refuse(fault, "does not begin with '/'");
    }
    if (strlen(raw) > TARGET_BYTES_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "target", "The request target is too long");
    }
    for (const char *at = raw; *at != '\0'; at++) {
        if (*at <= ' ' || *at >= 0x7f || *at == '#' || *at == '\\') {
            return refuse(fault, "holds a byte that is not allowed");
        }
        in_path = in_path && *at != '?';
        if (*at != '%') {
            continue;
        }
        const int high = hex_value(at[1]);
        const int low = high < 0 ? -1 : hex_value(at[2]);
        if (low < 0) {
            return refuse(fault, "has a broken percent escape");
        }
        const int byte = high * 16 + low;
        if (is_treacherous(byte, in_path)) {
            return refuse(fault, "has a percent escape that is not allowed");
        }
    }
    return ADAMD_OK;
}

// In place; escapes were checked. '+' is a space in queries, as curl and every form sends it.
static enum adamd_status decode(char *text, bool plus_is_space, struct adamd_fault *fault) {
    char *to = text;

    for (const char *from = text; *from != '\0'; from++) {
        if (*from == '%') {
            *to++ = (char)(hex_value(from[1]) * 16 + hex_value(from[2]));
            from += 2;
        } else {
            *to++ = (char)(plus_is_space && *from == '+' ? ' ' : *from);
        }
    }
    *to = '\0';
    return adamd_utf8_valid(text, (size_t)(to - text)) ? ADAMD_OK : refuse(fault, "is not UTF-8");
}

static enum adamd_status add_segment(struct target *target, char *segment,
                                     struct adamd_fault *fault) {
    if (segment[0] == '\0') {
        return refuse(fault, "has an empty path segment");
    }
    if (strcmp(segment, ".") == 0 || strstr(segment, "..") != NULL) {
        return refuse(fault, "has a dot segment");
    }
    if (target->segment_count == TARGET_SEGMENTS_MAX) {
        return refuse(fault, "has too many path segments");
    }
    target->segments[target->segment_count++] = segment;
    return decode(segment, false, fault);
}

static enum adamd_status split_path(struct target *target, char *path, struct adamd_fault *fault) {
    char *segment = path + 1;
    enum adamd_status status = ADAMD_OK;

    if (*segment == '\0') {
        return ADAMD_OK;
    }
    while (status == ADAMD_OK && segment != NULL) {
        char *slash = strchr(segment, '/');
        if (slash != NULL) {
            *slash = '\0';
        }
        status = add_segment(target, segment, fault);
        segment = slash != NULL ? slash + 1 : NULL;
    }
    return status;
}

static enum adamd_status add_parameter(struct target *target, char *name,
                                       struct adamd_fault *fault) {
    static char nothing[] = "";
    char *equals = strchr(name, '=');
    char *value = nothing;

    if (equals != NULL) {
        *equals = '\0';
        value = equals + 1;
    }
    if (target->parameter_count == TARGET_PARAMETERS_MAX) {
        return refuse(fault, "has too many query parameters");
    }
    if (decode(name, true, fault) != ADAMD_OK || decode(value, true, fault) != ADAMD_OK) {
        return ADAMD_BAD_FIELD;
    }
    if (name[0] == '\0') {
        return refuse(fault, "has a query parameter without a name");
    }
    if (target_parameter(target, name) != NULL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, name, "The query parameter is given twice");
    }
    target->parameters[target->parameter_count++] = (struct target_parameter){name, value};
    return ADAMD_OK;
}

static enum adamd_status split_query(struct target *target, char *query,
                                     struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;

    while (status == ADAMD_OK && query != NULL && *query != '\0') {
        char *ampersand = strchr(query, '&');
        if (ampersand != NULL) {
            *ampersand = '\0';
        }
        status = add_parameter(target, query, fault);
        query = ampersand != NULL ? ampersand + 1 : NULL;
    }
    return status;
}

enum adamd_status target_init(struct target *target, const char *raw, struct adamd_fault *fault) {
    enum adamd_status status = check_bytes(raw, fault);

    *target = (struct target){.segment_count = 0};
    if (status != ADAMD_OK) {
        return status;
    }
    target->storage = strdup(raw);
    if (target->storage == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    char *query = strchr(target->storage, '?');
    if (query != NULL) {
        *query++ = '\0';
    }
    status = split_path(target, target->storage, fault);
    if (status == ADAMD_OK) {
        status = split_query(target, query, fault);
    }
    if (status != ADAMD_OK) {
        target_finish(target);
    }
    return status;
}

void target_finish(struct target *target) {
    free(target->storage);
    *target = (struct target){.segment_count = 0};
}

const char *target_parameter(const struct target *target, const char *name) {
    for (size_t i = 0; i < target->parameter_count; i++) {
        if (strcmp(target->parameters[i].name, name) == 0) {
            return target->parameters[i].value;
        }
    }
    return NULL;
}

static bool is_known(const char *name, const char *const *known) {
    for (; known != NULL && *known != NULL; known++) {
        const size_t size = strlen(*known);
        const bool is_prefix = size > 0 && (*known)[size - 1] == '.';
        if (is_prefix ? strncmp(name, *known, size) == 0 && name[size] != '\0'
                      : strcmp(name, *known) == 0) {
            return true;
        }
    }
    return false;
}

enum adamd_status target_check(const struct target *target, const char *const *known,
                               struct adamd_fault *fault) {
    for (size_t i = 0; i < target->parameter_count; i++) {
        const char *name = target->parameters[i].name;
        if (is_known(name, known)) {
            continue;
        }
        const char *nearest = nearest_name(name, known);
        if (nearest != NULL) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, name,
                              "There is no query parameter '%.64s' here; did you mean '%s'?", name,
                              nearest);
        }
        return adamd_fail(fault, ADAMD_BAD_FIELD, name, "There is no query parameter '%.64s' here",
                          name);
    }
    return ADAMD_OK;
}

enum { NAME_MAX_COMPARED = 48 };

// Levenshtein's distance, in one row.
static unsigned distance(const char *left, const char *right) {
    unsigned row[NAME_MAX_COMPARED + 1];
    const size_t columns = strlen(right);

    if (strlen(left) > NAME_MAX_COMPARED || columns > NAME_MAX_COMPARED) {
        return UINT_MAX;
    }
    for (unsigned j = 0; j <= columns; j++) {
        row[j] = j;
    }
    for (unsigned i = 1; left[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            const unsigned above = row[j];
            unsigned best = diagonal + (left[i - 1] == right[j - 1] ? 0 : 1);
            best = above + 1 < best ? above + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[columns];
}

const char *nearest_name(const char *name, const char *const *names) {
    const char *nearest = NULL;
    unsigned least = UINT_MAX;

    for (; names != NULL && *names != NULL; names++) {
        const unsigned d = distance(name, *names);
        if (d < least) {
            least = d;
            nearest = *names;
        }
    }
    // A third of the letters may be wrong: more is another word.
    return least <= 1 + strlen(name) / 4 ? nearest : NULL;
}
