/**
 * ProtoJSON for every message of the schema, by its descriptor: lowerCamelCase names out,
 * snake_case taken too, 64-bit integers as strings, enums by name, doubles as the shortest text
 * that reads back, Timestamp and Duration as text. Input is taken strictly: unknown and repeated
 * names, and whatever is not JSON by the letter, are refused and named.
 */
#ifndef ADAMD_CODEC_JSON_H
#define ADAMD_CODEC_JSON_H

#include "codec/arena.h"

enum {
    CODEC_JSON_MAX = 1 << 20,         // the usual limit of a document
    CODEC_JSON_CREATE_MAX = 16 << 20, // that of CreateModel
    CODEC_JSON_DEPTH_MAX = 16,
    CODEC_JSON_VALUES_MAX = 1 << 20, // in one document, of every kind
    CODEC_JSON_BYTES_MAX = 64 << 10, // of one `bytes` field, decoded
};

enum codec_json_flags {
    CODEC_JSON_DEFAULTS = 1, // print fields without presence even where they are zero or empty
};

/** `ret_text` is malloc'ed and ends with a NUL that `ret_size` does not count. NO_MEMORY. */
ADAMD_MUST_USE enum adamd_status codec_json_print(const ProtobufCMessage *message, unsigned flags,
                                                  char **ret_text, size_t *ret_size);

/**
 * Parses a document of at most `size_max` bytes into a message in `arena`. An empty document is an
 * empty message. BAD_FIELD (field is a path such as "stepPolicy.quorum", as it was written),
 * TOO_LARGE, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status codec_json_parse(const ProtobufCMessageDescriptor *type,
                                                  const char *text, size_t size, size_t size_max,
                                                  struct codec_arena *arena,
                                                  ProtobufCMessage **ret_message,
                                                  struct adamd_fault *fault);

/**
 * Sets one scalar field (number, bool, string, enum, Duration, Timestamp) from the text of a query
 * parameter: by its snake_case name, without quotes. "" is true for a bool. BAD_FIELD, NO_MEMORY.
 */
ADAMD_MUST_USE enum adamd_status codec_json_set(ProtobufCMessage *message, const char *name,
                                                const char *text, struct codec_arena *arena,
                                                struct adamd_fault *fault);

#endif
