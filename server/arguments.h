/**
 * What a request says in its query and headers, as numbers: each reader names the field in its
 * fault and takes nothing but the whole text.
 */
#ifndef ADAMD_SERVER_ARGUMENTS_H
#define ADAMD_SERVER_ARGUMENTS_H

#include "exchange.h"

enum { ADAMD_SHOWN_MAX = 64 };

/** Text of a client's as a message may repeat it: at most 64 characters, all printable. */
struct shown {
    char text[ADAMD_SHOWN_MAX + 4];
};
struct shown show(const char *text);

/** Decimal digits only, at least one. */
bool parse_u64(const char *text, uint64_t *ret_value);
/** The same in a resource's name: without leading zeros, so that it has one name only. */
bool parse_ordinal(const char *text, uint64_t *ret_value);
/** A finite or non-finite number, whole text. */
bool parse_double(const char *text, double *ret_value);
/** "true", "false", "1", "0" or, as curl users write a flag, nothing. */
bool parse_bool(const char *text, bool *ret_value);
/** "10s", "1.5s" or "250ms". */
bool parse_duration_ms(const char *text, uint64_t *ret_ms);

/** The query parameter `name`; what it does not say keeps `*value`. BAD_FIELD names it. */
ADAMD_MUST_USE enum adamd_status argument_u64(const struct exchange *exchange, const char *name,
                                              uint64_t *value, struct adamd_fault *fault);
ADAMD_MUST_USE enum adamd_status argument_bool(const struct exchange *exchange, const char *name,
                                               bool *value, struct adamd_fault *fault);

/** True if the Content-Type is `type`, parameters after ';' left aside. NULL is no type. */
bool content_type_is(const char *content_type, const char *type);

/** True if an Accept header names exactly this type. */
bool accepts(const struct exchange *exchange, const char *type);

#endif
