// A strict JSON reader over borrowed text. Nothing here recurses: nesting is a bit per level.
#include "adamd/json.h"

#include "adamd/status.h"

#include <string.h>

static bool complain(struct adamd_json *json, const char *complaint) {
    if (json->complaint == NULL) {
        json->complaint = complaint;
    }
    return false;
}

// How many bytes the character at `at` takes, or 0 if it is malformed.
static size_t measure_character(const unsigned char *at, const unsigned char *end) {
    const size_t left = (size_t)(end - at);
    const unsigned char first = at[0];

    if (first < 0x80) {
        return first != 0 ? 1 : 0;
    }
    const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || left < size) {
        return 0;
    }
    // The second byte alone decides about overlong forms, surrogates and the end of Unicode.
    const unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return size;
}

// Passes over plain ASCII eight bytes at a time, which is most of every document.
static const unsigned char *pass_ascii(const unsigned char *at, const unsigned char *end) {
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        // A byte that is zero, or any high bit, leaves a high bit behind.
        if (((word | (word - UINT64_C(0x0101010101010101))) & UINT64_C(0x8080808080808080)) != 0) {
            break;
        }
        at += 8;
    }
    return at;
}

bool adamd_utf8_valid(const void *bytes, size_t size) {
    const unsigned char *at = bytes;
    const unsigned char *end = at + size;

    while (at < end) {
        at = pass_ascii(at, end);
        const size_t step = at < end ? measure_character(at, end) : 1;
        if (step == 0) {
            return false;
        }
        at += at < end ? step : 0;
    }
    return true;
}

void adamd_json_init(struct adamd_json *json, const void *text, size_t size, unsigned depth_max,
                     uint64_t values_max) {
    ADAMD_ASSERT(depth_max <= ADAMD_JSON_DEPTH_MAX);
    *json = (struct adamd_json){
        .at = size > 0 ? text : "", .depth_max = depth_max, .values_left = values_max};
    json->end = json->at + size;
    if (size > 0 && !adamd_utf8_valid(text, size)) {
        (void)complain(json, "not UTF-8, or with a NUL in it");
    }
}

char adamd_json_peek(struct adamd_json *json) {
    if (json->complaint != NULL) {
        return 0;
    }
    while (json->at < json->end &&
           (*json->at == ' ' || *json->at == '\n' || *json->at == '\t' || *json->at == '\r')) {
        json->at++;
    }
    if (json->at == json->end) {
        return 0;
    }
    return *json->at;
}

bool adamd_json_take(struct adamd_json *json, char wanted) {
    if (adamd_json_peek(json) != wanted || json->complaint != NULL) {
        return false;
    }
    json->at++;
    return true;
}

bool adamd_json_expect(struct adamd_json *json, char wanted) {
    if (adamd_json_take(json, wanted)) {
        return true;
    }
    switch (wanted) {
    case '{':
        return complain(json, "an object is expected");
    case '[':
        return complain(json, "an array is expected");
    case ':':
        return complain(json, "':' is expected after a name");
    case '}':
        return complain(json, "',' or '}' is expected");
    default:
        return complain(json, "',' or ']' is expected");
    }
}

static bool count_value(struct adamd_json *json) {
    if (json->complaint != NULL) {
        return false;
    }
    if (json->values_left == 0) {
        return complain(json, "too many values");
    }
    json->values_left--;
    return true;
}

// The four hex digits of \uXXXX, or -1.
static int32_t read_unit(const char *at, const char *end) {
    int32_t unit = 0;

    if (end - at < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        const char c = at[i];
        int digit = -1;
        if (c >= '0' && c <= '9') {
            digit = c - '0';
        } else if (c >= 'a' && c <= 'f') {
            digit = c - 'a' + 10;
        } else if (c >= 'A' && c <= 'F') {
            digit = c - 'A' + 10;
        }
        if (digit < 0) {
            return -1;
        }
        unit = unit * 16 + digit;
    }
    return unit;
}

// The code point of an escape whose "\u" was read, and how many characters it took; 0 if malformed.
static uint32_t read_escaped(const char *at, const char *end, size_t *ret_size) {
    const int32_t high = read_unit(at, end);

    *ret_size = 4;
    if (high <= 0 || (high >= 0xdc00 && high <= 0xdfff)) {
        return 0;
    }
    if (high < 0xd800 || high > 0xdbff) {
        return (uint32_t)high;
    }
    if (end - at < 10 || at[4] != '\\' || at[5] != 'u') {
        return 0;
    }
    const int32_t low = read_unit(at + 6, end);
    if (low < 0xdc00 || low > 0xdfff) {
        return 0;
    }
    *ret_size = 10;
    return 0x10000U + (((uint32_t)high - 0xd800U) << 10) + ((uint32_t)low - 0xdc00U);
}

static char next_character(const struct adamd_json *json) {
    if (json->at == json->end) {
        return 0;
    }
    return *json->at;
}

// Passes over the escape behind a backslash.
static bool pass_escape(struct adamd_json *json) {
    size_t size = 0;
    const char c = next_character(json);

    if (c == 0 || strchr("\"\\/bfnrtu", c) == NULL) {
        return complain(json, "an unknown escape in a string");
    }
    json->at++;
    if (c != 'u') {
        return true;
    }
    if (read_escaped(json->at, json->end, &size) == 0) {
        return complain(json, "a \\u escape that is malformed, NUL or half of a pair");
    }
    json->at += size;
    return true;
}

// One character of a string, which is not its end.
static bool pass_character(struct adamd_json *json, bool *escaped) {
    const char c = *json->at;

    if ((unsigned char)c < 0x20) {
        return complain(json, "a control character in a string");
    }
    json->at++;
    if (c != '\\') {
        return true;
    }
    *escaped = true;
    return pass_escape(json);
}

// A string, which is a name or a value: only the caller knows.
static bool read_string(struct adamd_json *json, struct adamd_json_slice *ret_slice) {
    if (!adamd_json_take(json, '"')) {
        return complain(json, "a string is expected");
    }
    struct adamd_json_slice slice = {.text = json->at};
    while (json->at < json->end && *json->at != '"') {
        if (!pass_character(json, &slice.escaped)) {
            return false;
        }
    }
    if (json->at == json->end) {
        return complain(json, "a string without its end");
    }
    slice.size = (size_t)(json->at - slice.text);
    json->at++;
    *ret_slice = slice;
    return true;
}

bool adamd_json_string(struct adamd_json *json, struct adamd_json_slice *ret_slice) {
    return count_value(json) && read_string(json, ret_slice);
}

static size_t pass_digits(struct adamd_json *json) {
    const char *start = json->at;

    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        json->at++;
    }
    return (size_t)(json->at - start);
}

static bool pass_one_of(struct adamd_json *json, const char *set) {
    if (json->at < json->end && *json->at != 0 && strchr(set, *json->at) != NULL) {
        json->at++;
        return true;
    }
    return false;
}

bool adamd_json_number(struct adamd_json *json, struct adamd_json_slice *ret_slice) {
    if (!count_value(json)) {
        return false;
    }
    (void)adamd_json_peek(json);
    const char *start = json->at;
    (void)pass_one_of(json, "-");
    const char *digits = json->at;
    const size_t whole = pass_digits(json);
    if (whole == 0) {
        return complain(json, "a value is expected");
    }
    if (whole > 1 && *digits == '0') {
        return complain(json, "a number with a leading zero");
    }
    if (pass_one_of(json, ".") && pass_digits(json) == 0) {
        return complain(json, "a number that ends in its point");
    }
    if (pass_one_of(json, "eE")) {
        (void)pass_one_of(json, "+-");
        if (pass_digits(json) == 0) {
            return complain(json, "a number without its exponent");
        }
    }
    if (json->at - start > ADAMD_JSON_NUMBER_MAX) {
        return complain(json, "a number of more than 60 characters");
    }
    *ret_slice = (struct adamd_json_slice){.text = start, .size = (size_t)(json->at - start)};
    return true;
}

bool adamd_json_uint(struct adamd_json *json, uint64_t *ret_value) {
    struct adamd_json_slice slice;
    uint64_t value = 0;

    if (!adamd_json_number(json, &slice)) {
        return false;
    }
    for (size_t i = 0; i < slice.size; i++) {
        const char c = slice.text[i];
        if (c < '0' || c > '9') {
            return complain(json, "a plain non-negative integer is expected");
        }
        if (__builtin_mul_overflow(value, 10U, &value) ||
            __builtin_add_overflow(value, (unsigned)(c - '0'), &value)) {
            return complain(json, "an integer of more than 64 bits");
        }
    }
    *ret_value = value;
    return true;
}

static bool pass_word(struct adamd_json *json, const char *word) {
    const size_t size = strlen(word);

    if ((size_t)(json->end - json->at) < size || memcmp(json->at, word, size) != 0) {
        return complain(json, "a value is expected");
    }
    json->at += size;
    return count_value(json);
}

static bool skip_scalar(struct adamd_json *json, char first) {
    struct adamd_json_slice ignored;

    switch (first) {
    case '"':
        return adamd_json_string(json, &ignored);
    case 't':
        return pass_word(json, "true");
    case 'f':
        return pass_word(json, "false");
    case 'n':
        return pass_word(json, "null");
    default:
        return adamd_json_number(json, &ignored);
    }
}

static bool skip_name(struct adamd_json *json) {
    struct adamd_json_slice ignored;
    return read_string(json, &ignored) && adamd_json_expect(json, ':');
}

// The containers that are open: bit i of `objects` says what the i-th is.
struct nesting {
    uint64_t objects;
    unsigned depth;
};

// After '{' or '['. True if a value follows; false if it was empty and is closed, or on a fault.
static bool open_container(struct adamd_json *json, struct nesting *nesting, bool is_object) {
    if (!count_value(json)) {
        return false;
    }
    if (nesting->depth == json->depth_max) {
        return complain(json, "nested too deeply");
    }
    if (adamd_json_take(json, is_object ? '}' : ']')) {
        return false;
    }
    const uint64_t bit = UINT64_C(1) << nesting->depth++;
    nesting->objects = is_object ? nesting->objects | bit : nesting->objects & ~bit;
    return !is_object || skip_name(json);
}

// After a value: closes what ends here. True if another value follows.
static bool close_containers(struct adamd_json *json, struct nesting *nesting) {
    while (nesting->depth > 0 && json->complaint == NULL) {
        const bool is_object = (nesting->objects >> (nesting->depth - 1) & 1) != 0;
        if (adamd_json_take(json, ',')) {
            return !is_object || skip_name(json);
        }
        if (!adamd_json_expect(json, is_object ? '}' : ']')) {
            return false;
        }
        nesting->depth--;
    }
    return false;
}

bool adamd_json_skip(struct adamd_json *json) {
    struct nesting nesting = {0};
    bool more = true;

    while (more) {
        const char first = adamd_json_peek(json);
        bool opened = false;
        if (first == '{' || first == '[') {
            json->at++;
            opened = open_container(json, &nesting, first == '{');
        } else if (!skip_scalar(json, first)) {
            return false;
        }
        more = opened || close_containers(json, &nesting);
    }
    return json->complaint == NULL;
}

bool adamd_json_finish(struct adamd_json *json) {
    if (adamd_json_peek(json) != 0 || json->at != json->end) {
        return complain(json, "text after the end of the value");
    }
    return json->complaint == NULL;
}

static size_t encode_utf8(uint32_t point, char *to) {
    if (point < 0x80) {
        to[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char)(0xc0 | point >> 6);
        to[1] = (char)(0x80 | (point & 0x3f));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char)(0xe0 | point >> 12);
        to[1] = (char)(0x80 | (point >> 6 & 0x3f));
        to[2] = (char)(0x80 | (point & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | point >> 18);
    to[1] = (char)(0x80 | (point >> 12 & 0x3f));
    to[2] = (char)(0x80 | (point >> 6 & 0x3f));
    to[3] = (char)(0x80 | (point & 0x3f));
    return 4;
}

static char decode_letter(char letter) {
    static const char letters[] = "bfnrt";
    static const char meanings[] = "\b\f\n\r\t";
    const char *found = strchr(letters, letter);

    if (found == NULL) {
        return letter;
    }
    return meanings[found - letters];
}

size_t adamd_json_decode(struct adamd_json_slice slice, char *to) {
    const char *at = slice.text;
    const char *end = at + slice.size;
    char *start = to;

    if (!slice.escaped) {
        memcpy(to, slice.text, slice.size);
        return slice.size;
    }
    while (at < end) {
        if (*at != '\\') {
            *to++ = *at++;
        } else if (at[1] == 'u') {
            size_t size = 0;
            to += encode_utf8(read_escaped(at + 2, end, &size), to);
            at += 2 + size;
        } else {
            *to++ = decode_letter(at[1]);
            at += 2;
        }
    }
    return (size_t)(to - start);
}
