// Building and reading of short texts. Numbers are printed here and never by cJSON, which rounds.
#include "codec/text.h"

#include "adamd/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(struct codec_text *text, size_t more) {
    size_t wanted = 0;

    if (text->failed || __builtin_add_overflow(text->size, more, &wanted)) {
        text->failed = true;
        return false;
    }
    if (wanted <= text->capacity) {
        return true;
    }
    const size_t capacity = wanted < 256 ? 256 : wanted + wanted / 2;
    char *bytes = realloc(text->bytes, capacity);
    if (bytes == NULL) {
        text->failed = true;
        return false;
    }
    text->bytes = bytes;
    text->capacity = capacity;
    return true;
}

void codec_text_add(struct codec_text *text, const void *bytes, size_t size) {
    if (size > 0 && reserve(text, size)) {
        memcpy(text->bytes + text->size, bytes, size);
        text->size += size;
    }
}

void codec_text_put(struct codec_text *text, const char *string) {
    codec_text_add(text, string, strlen(string));
}

static void quote_character(struct codec_text *text, unsigned char c) {
    static const char named[] = "\"\\\b\f\n\r\t";
    static const char letters[] = "\"\\bfnrt";
    const char *found = strchr(named, c);
    char escape[8];

    if (found != NULL) {
        (void)snprintf(escape, sizeof escape, "\\%c", letters[found - named]);
    } else {
        (void)snprintf(escape, sizeof escape, "\\u%04x", c);
    }
    codec_text_put(text, escape);
}

// How many bytes the well-formed character at `string` takes; 0 if there is none.
static size_t measure_character(const char *string) {
    for (size_t size = 1; size <= 4 && string[size - 1] != 0; size++) {
        if (adamd_utf8_valid(string, size)) {
            return size;
        }
    }
    return 0;
}

static size_t measure_plain(const char *string, bool sound) {
    size_t plain = 0;

    while ((unsigned char)string[plain] >= 0x20 && string[plain] != '"' && string[plain] != '\\') {
        const size_t size = sound ? 1 : measure_character(string + plain);
        if (size == 0) {
            break;
        }
        plain += size;
    }
    return plain;
}

void codec_text_quote(struct codec_text *text, const char *string) {
    // A text that was cut to fit may end inside a character.
    const bool sound = adamd_utf8_valid(string, strlen(string));

    codec_text_put(text, "\"");
    for (;;) {
        const size_t plain = measure_plain(string, sound);
        codec_text_add(text, string, plain);
        string += plain;
        if (*string == 0) {
            break;
        }
        if ((unsigned char)*string >= 0x80) {
            codec_text_put(text, "\xef\xbf\xbd"); // the replacement character
        } else {
            quote_character(text, (unsigned char)*string);
        }
        string++;
    }
    codec_text_put(text, "\"");
}

void codec_text_uint(struct codec_text *text, uint64_t value) {
    char digits[24];
    (void)snprintf(digits, sizeof digits, "%" PRIu64, value);
    codec_text_put(text, digits);
}

static bool put_special(struct codec_text *text, double value) {
    if (isnan(value)) {
        codec_text_put(text, "\"NaN\"");
    } else if (isinf(value)) {
        codec_text_put(text, value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
    } else {
        return false;
    }
    return true;
}

void codec_text_double(struct codec_text *text, double value) {
    char digits[32];

    if (put_special(text, value)) {
        return;
    }
    for (int precision = 15; precision <= 17; precision++) {
        (void)snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) {
            break;
        }
    }
    codec_text_put(text, digits);
}

void codec_text_float(struct codec_text *text, float value) {
    char digits[32];

    if (put_special(text, (double)value)) {
        return;
    }
    for (int precision = 6; precision <= 9; precision++) {
        (void)snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        if (strtof(digits, NULL) == value) {
            break;
        }
    }
    codec_text_put(text, digits);
}

static const char base64_letters[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void codec_text_base64(struct codec_text *text, const void *bytes, size_t size, bool padded) {
    const unsigned char *from = bytes;

    for (size_t i = 0; i < size; i += 3) {
        const size_t left = size - i < 3 ? size - i : 3;
        uint32_t bits = (uint32_t)from[i] << 16;
        char letters[] = "====";
        bits |= left > 1 ? (uint32_t)from[i + 1] << 8 : 0;
        bits |= left > 2 ? from[i + 2] : 0;
        for (unsigned k = 0; k <= left; k++) {
            letters[k] = base64_letters[bits >> (18 - 6 * k) & 63];
        }
        codec_text_add(text, letters, padded ? 4 : left + 1);
    }
}

char *codec_text_end(struct codec_text *text, size_t *ret_size) {
    const size_t size = text->size;
    char *bytes = NULL;

    codec_text_add(text, "", 1);
    if (text->failed) {
        free(text->bytes);
    } else {
        bytes = text->bytes;
        if (ret_size != NULL) {
            *ret_size = size;
        }
    }
    *text = (struct codec_text){0};
    return bytes;
}

static int base64_value(char c) {
    const char *found = c != 0 ? strchr(base64_letters, c) : NULL;

    if (found != NULL) {
        return (int)(found - base64_letters);
    }
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

bool codec_base64_decode(const char *text, size_t size, unsigned char *to, size_t *ret_size) {
    uint32_t bits = 0;
    unsigned held = 0;
    size_t written = 0;

    if (size % 4 == 0 && size > 0 && text[size - 1] == '=') {
        size -= text[size - 2] == '=' ? 2 : 1;
    }
    if (size % 4 == 1) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        const int value = base64_value(text[i]);
        if (value < 0) {
            return false;
        }
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held >= 8) {
            held -= 8;
            to[written++] = (unsigned char)(bits >> held);
        }
    }
    // What is left over must be zero, else two texts would mean the same bytes.
    if ((bits & ((1U << held) - 1)) != 0) {
        return false;
    }
    *ret_size = written;
    return true;
}

void codec_camel(const char *snake, char *to, size_t size) {
    size_t filled = 0;
    bool upper = false;

    for (; *snake != 0 && filled + 1 < size; snake++) {
        if (*snake == '_') {
            upper = true;
            continue;
        }
        const char c = *snake;
        to[filled++] = (char)(upper && c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
        upper = false;
    }
    to[filled] = 0;
}

bool codec_name_is(const char *name, const char *snake) {
    char camel[64];

    if (strcmp(name, snake) == 0) {
        return true;
    }
    codec_camel(snake, camel, sizeof camel);
    return strcmp(name, camel) == 0;
}

static size_t min_of(size_t a, size_t b) {
    return a < b ? a : b;
}

size_t codec_distance(const char *a, const char *b, size_t max) {
    enum { LENGTH_MAX = 40 };
    size_t row[LENGTH_MAX + 1];
    const size_t a_size = strlen(a);
    const size_t b_size = strlen(b);

    if (a_size > LENGTH_MAX || b_size > LENGTH_MAX) {
        return max + 1;
    }
    for (size_t j = 0; j <= b_size; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= a_size; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            const size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = min_of(changed, min_of(row[j], row[j - 1]) + 1);
        }
    }
    return min_of(row[b_size], max + 1);
}

static void append_path(struct codec_path *path, const char *before, const char *name) {
    const int added =
        snprintf(path->text + path->size, sizeof path->text - path->size, "%s%s", before, name);
    const size_t wanted = path->size + (size_t)(added > 0 ? added : 0);

    path->size = min_of(wanted, sizeof path->text - 1);
}

void codec_path_add(struct codec_path *path, const char *name) {
    append_path(path, path->size > 0 ? "." : "", name);
}

void codec_path_index(struct codec_path *path, size_t index) {
    char digits[32];
    (void)snprintf(digits, sizeof digits, "[%zu]", index);
    append_path(path, "", digits);
}

void codec_path_cut(struct codec_path *path, size_t size) {
    path->size = size;
    path->text[size] = 0;
}
