/**
 * What the commands of adamctl share: the connection, how to print, how to fail.
 *
 * Data goes to stdout, everything else to stderr. A command returns an exit code; what went wrong
 * is then already told.
 */
#ifndef ADAMCTL_CTL_H
#define ADAMCTL_CTL_H

#include "arguments.h"
#include "transport.h"

#include <cjson/cJSON.h>

enum exit_code {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_NOT_FOUND = 3,
    EXIT_CONFLICT = 4,
    EXIT_UNAVAILABLE = 5,
    EXIT_UNAUTHORISED = 6,
};

struct ctl {
    struct arguments arguments;
    const char *const *words; // after those of the command
    size_t word_count;
    struct transport *transport;
    uint32_t timeout_ms; // 0: the default
    bool json;           // -o json
    bool quiet, colour, colour_stderr;
};

/** What a command answers with a body of JSON. `json` is the parsed `text`. */
struct reply {
    char *text;
    size_t size;
    cJSON *json;
    struct http_head head;
};

struct request {
    const char *method;
    const char *target;
    const cJSON *body;        // NULL: none
    const struct iovec *file; // instead: a safetensors file as it is
    bool once;                // a repeat would do it twice
    bool may_be_empty;        // the answer need not be JSON
};

/** Prints the error with a hint, frees it, and gives its exit code. */
int fail(const struct ctl *ctl, struct adamd_error *error);
/** A mistake in the command line. */
int fail_usage(const struct ctl *ctl, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/** Anything else that is not the daemon's. */
int fail_here(const struct ctl *ctl, const char *format, ...) __attribute__((format(printf, 2, 3)));
/** To stderr, unless --quiet. */
void say(const struct ctl *ctl, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t ctl_deadline(const struct ctl *ctl);
/** The call, as it is told by `ctl`: EXIT_OK, and the reply is to be finished. */
int ctl_call(const struct ctl *ctl, const struct request *request, struct reply *ret_reply);
void reply_finish(struct reply *reply);
/** The answer as it came, with a line end. */
void reply_print(const struct reply *reply);

/** A flag's value, or NULL. */
const char *ctl_flag(const struct ctl *ctl, const char *name);
bool ctl_has(const struct ctl *ctl, const char *name);

/** The model that is meant: the word of that index, --model, or the only one there is. */
int ctl_model(const struct ctl *ctl, size_t word, char ret_model[64]);

/** What the model of word 0 has under "/v1/models/{model}/<path>": the answer's `member` by
 * `print`, or the answer as it came. */
typedef void ctl_print_fn(const struct ctl *ctl, const cJSON *list);
int ctl_list(const struct ctl *ctl, const char *path, const char *member, ctl_print_fn *print);

/** Asks, or looks for --yes. */
int ctl_confirm(const struct ctl *ctl, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/** snprintf for targets: %s of `value` percent-encoded, appended. */
void append_encoded(char *target, size_t size, const char *value);
void append_format(char *target, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** "5s", "1.5", "200ms", "2m" as JSON has durations ("1.5s"). False if it is none. */
bool parse_duration(const char *text, char *ret_text, size_t size);

/** Never NULL: ends the program if there is no memory. */
void *must(void *memory);

#endif
