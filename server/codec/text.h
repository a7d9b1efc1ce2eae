/** Text that the codec's files build and read: a growing buffer, paths, numbers, times. */
#ifndef ADAMD_CODEC_TEXT_H
#define ADAMD_CODEC_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** A growing text. After a failed allocation it takes no more, and codec_text_end() says so. */
struct codec_text {
    char *bytes;
    size_t size, capacity;
    bool failed;
};

void codec_text_add(struct codec_text *text, const void *bytes, size_t size);
void codec_text_put(struct codec_text *text, const char *string);
/** As a JSON string, with quotes. */
void codec_text_quote(struct codec_text *text, const char *string);
void codec_text_uint(struct codec_text *text, uint64_t value);
/** The shortest decimal that reads back as the same double; NaN and Infinity as JSON strings. */
void codec_text_double(struct codec_text *text, double value);
/** As above, for a float. */
void codec_text_float(struct codec_text *text, float value);
/** Standard alphabet; `padded` with '='. */
void codec_text_base64(struct codec_text *text, const void *bytes, size_t size, bool padded);

/** The text, malloc'ed and NUL-terminated, and the caller's; NULL if memory ran out. */
char *codec_text_end(struct codec_text *text, size_t *ret_size);

/** Both alphabets, with or without '='. `to` has room for 3/4 of size, rounded up. */
bool codec_base64_decode(const char *text, size_t size, unsigned char *to, size_t *ret_size);

enum { CODEC_TIME_TEXT_MAX = 40 };

/** RFC 3339 in UTC, with 0, 3, 6 or 9 digits of the second's fraction. False out of years 1 to
 * 9999. */
bool codec_timestamp_print(int64_t seconds, int32_t nanos, char ret_text[CODEC_TIME_TEXT_MAX]);
bool codec_timestamp_parse(const char *text, int64_t *ret_seconds, int32_t *ret_nanos);
/** "1.5s". False where signs differ or it is longer than 10,000 years. */
bool codec_duration_print(int64_t seconds, int32_t nanos, char ret_text[CODEC_TIME_TEXT_MAX]);
bool codec_duration_parse(const char *text, int64_t *ret_seconds, int32_t *ret_nanos);

/** "step_policy" to "stepPolicy"; cut at `size`, which counts the NUL. */
void codec_camel(const char *snake, char *to, size_t size);

/** True if `name` is `snake` or its lowerCamelCase. */
bool codec_name_is(const char *name, const char *snake);

/** How many letters must change to make one of the other; at most `max` + 1. */
size_t codec_distance(const char *a, const char *b, size_t max);

/** Where in a message: "param_groups[1].options.eps". Too long ones are cut. */
struct codec_path {
    char text[96];
    size_t size;
};

void codec_path_add(struct codec_path *path, const char *name);
void codec_path_index(struct codec_path *path, size_t index);
void codec_path_cut(struct codec_path *path, size_t size);

#endif
