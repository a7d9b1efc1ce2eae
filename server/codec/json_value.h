/** One scalar of a message from its text: what JSON strings and query parameters have in common. */
#ifndef ADAMD_CODEC_JSON_VALUE_H
#define ADAMD_CODEC_JSON_VALUE_H

#include "codec/arena.h"
#include "codec/text.h"

struct json_reader {
    struct codec_arena *arena;
    struct adamd_fault *fault; // never NULL
    struct codec_path path;
};

/** Fills the fault with the reader's path; false, to be returned. */
bool json_refuse(struct json_reader *reader, enum adamd_status status, const char *format, ...)
    ADAMD_PRINTF(3, 4);

/** The field called `name`, in either spelling, or NULL. */
const ProtobufCFieldDescriptor *json_find_field(const ProtobufCMessageDescriptor *type,
                                                const char *name);

/** Refuses `name`, with the nearest field that there is. */
bool json_refuse_name(struct json_reader *reader, const ProtobufCMessageDescriptor *type,
                      const char *name);

/** How large a value of this type is in a message or an array. */
size_t json_value_size(ProtobufCType type);

/** Writes an integer of any width to `to`, if it fits. */
bool json_store_integer(struct json_reader *reader, ProtobufCType type, bool negative,
                        uint64_t magnitude, void *to);
bool json_store_real(struct json_reader *reader, ProtobufCType type, double value, void *to);
bool json_store_enum(struct json_reader *reader, const ProtobufCEnumDescriptor *type, double value,
                     void *to);

/** A number, string, enum name, bytes, Timestamp or Duration from a string; a bool is none. */
bool json_read_text(struct json_reader *reader, const ProtobufCFieldDescriptor *field,
                    const char *string, void *to);

/** Marks a member of a oneof as set; refuses a second one. Does nothing for other fields. */
bool json_claim(struct json_reader *reader, ProtobufCMessage *message,
                const ProtobufCFieldDescriptor *field);

#endif
