// The head of an HTTP/1.1 answer.

#include "http.h"

#include <string.h>
#include <strings.h>

static const char name_characters[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                                      "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

size_t http_head_length(const char *bytes, size_t size) {
    for (size_t i = 0; i + 4 <= size; i++) {
        const char *cr = memchr(bytes + i, '\r', size - i - 3);
        if (cr == NULL) {
            return 0;
        }
        i = (size_t)(cr - bytes);
        if (memcmp(cr, "\r\n\r\n", 4) == 0) {
            return i + 4;
        }
    }
    return 0;
}

static bool parse_digits(const char *text, size_t size, uint64_t *ret_value) {
    uint64_t value = 0;

    if (size == 0 || size > 19) { // 19 digits cannot overflow
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *ret_value = value;
    return true;
}

// "HTTP/1.1 200 OK"; a 1.0 peer closes.
static bool parse_status_line(const char *line, size_t size, struct http_head *head) {
    uint64_t status = 0;

    if (size < 12 || memcmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') ||
        line[8] != ' ' || !parse_digits(line + 9, 3, &status) || (size > 12 && line[12] != ' ')) {
        return false;
    }
    head->close = line[7] == '0';
    head->status = (int)status;
    return status >= 100 && status <= 599;
}

struct value {
    const char *text;
    size_t size;
};

static bool value_is(struct value value, const char *word) {
    return value.size == strlen(word) && strncasecmp(value.text, word, value.size) == 0;
}

static bool take_length(struct value value, struct http_head *head) {
    uint64_t length = 0;

    if (!parse_digits(value.text, value.size, &length) ||
        (head->has_length && head->length != length)) {
        return false;
    }
    head->has_length = true;
    head->length = length;
    return true;
}

static bool take_coding(struct value value, struct http_head *head) {
    head->chunked = value_is(value, "chunked");
    return head->chunked;
}

static bool take_connection(struct value value, struct http_head *head) {
    head->close = head->close || value_is(value, "close");
    return true;
}

// Only the form in seconds; a date is not what adamd sends, and not worth failing for.
static bool take_retry_after(struct value value, struct http_head *head) {
    uint64_t seconds = 0;

    if (parse_digits(value.text, value.size, &seconds)) {
        head->has_retry_after = true;
        head->retry_after_s = seconds < 86400 ? (uint32_t)seconds : 86400;
    }
    return true;
}

static bool take_generation(struct value value, struct http_head *head) {
    return parse_digits(value.text, value.size, &head->generation);
}

static bool take_version(struct value value, struct http_head *head) {
    return parse_digits(value.text, value.size, &head->version);
}

static bool take_holds_from(struct value value, struct http_head *head) {
    return parse_digits(value.text, value.size, &head->holds_from);
}

static bool copy_value(struct value value, char *text, size_t size) {
    if (value.size >= size) {
        return false;
    }
    memcpy(text, value.text, value.size);
    text[value.size] = '\0';
    return true;
}

static bool take_etag(struct value value, struct http_head *head) {
    return copy_value(value, head->etag, sizeof head->etag);
}

static bool take_type(struct value value, struct http_head *head) {
    (void)copy_value(value, head->content_type, sizeof head->content_type);
    return true;
}

static bool take_field(struct value name, struct value value, struct http_head *head) {
    static const struct {
        const char *name;
        bool (*take)(struct value value, struct http_head *head);
    } fields[] = {
        {"Content-Length", take_length},
        {"Transfer-Encoding", take_coding},
        {"Connection", take_connection},
        {"Retry-After", take_retry_after},
        {"Adamd-Generation", take_generation},
        {"Adamd-Version", take_version},
        {"Adamd-Holds-From-Version", take_holds_from},
        {"ETag", take_etag},
        {"Content-Type", take_type},
    };

    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (value_is(name, fields[i].name)) {
            return fields[i].take(value, head);
        }
    }
    return true;
}

// "Name: value". No space before the colon, no continuation of the line before, no control
// characters.
static bool parse_line(const char *line, size_t size, struct http_head *head) {
    const char *colon = memchr(line, ':', size);
    struct value name = {line, 0}, value = {0};

    if (colon == NULL || colon == line) {
        return false;
    }
    name.size = (size_t)(colon - line);
    for (size_t i = 0; i < name.size; i++) {
        if (line[i] == '\0' || strchr(name_characters, line[i]) == NULL) {
            return false;
        }
    }
    value = (struct value){colon + 1, size - name.size - 1};
    for (size_t i = 0; i < value.size; i++) {
        if (((unsigned char)value.text[i] < 0x20 && value.text[i] != '\t') ||
            value.text[i] == 0x7f) {
            return false;
        }
    }
    while (value.size > 0 && (value.text[0] == ' ' || value.text[0] == '\t')) {
        value.text++;
        value.size--;
    }
    while (value.size > 0 &&
           (value.text[value.size - 1] == ' ' || value.text[value.size - 1] == '\t')) {
        value.size--;
    }
    return take_field(name, value, head);
}

bool http_head_parse(const char *bytes, size_t size, struct http_head *ret_head) {
    struct http_head head = {0};
    size_t at = 0;

    for (size_t lines = 0; lines <= HTTP_LINES_MAX; lines++) {
        const char *end = at < size ? memchr(bytes + at, '\n', size - at) : NULL;
        size_t length = 0;
        if (end == NULL || end == bytes + at || end[-1] != '\r') {
            return false;
        }
        length = (size_t)(end - (bytes + at)) - 1;
        if (length == 0) {
            *ret_head = head;
            return lines > 0 && !(head.chunked && head.has_length);
        }
        if (!(lines == 0 ? parse_status_line(bytes + at, length, &head)
                         : parse_line(bytes + at, length, &head))) {
            return false;
        }
        at += length + 2;
    }
    return false;
}

static int digit_of(char c) {
    static const char digits[] = "0123456789abcdef";
    const char *digit = NULL;

    if (c >= 'A' && c <= 'F') {
        c = (char)(c - 'A' + 'a');
    }
    digit = c != '\0' ? strchr(digits, c) : NULL;
    return digit != NULL ? (int)(digit - digits) : -1;
}

bool http_chunk_size(const char *line, size_t size, uint64_t *ret_size) {
    uint64_t value = 0;
    size_t i = 0;

    for (; i < size && digit_of(line[i]) >= 0; i++) {
        if (i == 15) { // 60 bits are enough
            return false;
        }
        value = value * 16 + (uint64_t)digit_of(line[i]);
    }
    if (i == 0 || (i < size && line[i] != ';')) {
        return false;
    }
    *ret_size = value;
    return true;
}
