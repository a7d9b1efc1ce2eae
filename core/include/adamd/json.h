/**
 * Strict JSON, read once from front to back, without memory of its own: for safetensors headers,
 * and to check a document before a more lenient library sees it. RFC 8259 by the letter, and beyond
 * it no NUL, no lone surrogate and no malformed UTF-8.
 */
#ifndef ADAMD_JSON_H
#define ADAMD_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ADAMD_JSON_DEPTH_MAX = 64, ADAMD_JSON_NUMBER_MAX = 60 };

/** A place in a document. Borrows the text. */
struct adamd_json {
    const char *at, *end;
    unsigned depth_max;    // at most ADAMD_JSON_DEPTH_MAX
    uint64_t values_left;  // of every kind; names of members do not count
    const char *complaint; // what is wrong, from the first failure on; static storage
};

/** A piece of the text: a string without its quotes, a number. */
struct adamd_json_slice {
    const char *text;
    size_t size;
    bool escaped; // a string with a backslash in it
};

/** Begins to read `size` bytes. Complains at once of malformed UTF-8. */
void adamd_json_init(struct adamd_json *json, const void *text, size_t size, unsigned depth_max,
                     uint64_t values_max);

/** The next character that is not white space, still unread; 0 at the end. */
char adamd_json_peek(struct adamd_json *json);

/** Reads that character if it is `wanted`; never complains. */
bool adamd_json_take(struct adamd_json *json, char wanted);

/** As take, but complains of anything else. */
bool adamd_json_expect(struct adamd_json *json, char wanted);

/** Reads a string, checked. */
bool adamd_json_string(struct adamd_json *json, struct adamd_json_slice *ret_slice);

/** Reads a number by JSON's grammar, of at most ADAMD_JSON_NUMBER_MAX characters. */
bool adamd_json_number(struct adamd_json *json, struct adamd_json_slice *ret_slice);

/** Reads a non-negative integer without fraction, exponent or sign, below 2^64. */
bool adamd_json_uint(struct adamd_json *json, uint64_t *ret_value);

/** Reads one value of any kind, with all that is in it. */
bool adamd_json_skip(struct adamd_json *json);

/** Complains unless only white space is left. */
bool adamd_json_finish(struct adamd_json *json);

/** Writes the decoded string, at most `slice.size` bytes, without a terminator; returns its size.
 */
size_t adamd_json_decode(struct adamd_json_slice slice, char *to);

/** Well-formed (no overlong forms, no surrogates, at most U+10FFFF) and without NUL. */
bool adamd_utf8_valid(const void *bytes, size_t size);

#endif
