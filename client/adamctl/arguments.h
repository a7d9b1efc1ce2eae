/**
 * The command line: words, and flags by their long names. Which flags a command knows is its own
 * table's business; here stands what each flag looks like.
 */
#ifndef ADAMCTL_ARGUMENTS_H
#define ADAMCTL_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>

enum { WORDS_MAX = 16, FLAGS_MAX = 64 };

/** Points into argv, or to static text. */
struct arguments {
    const char *words[WORDS_MAX];
    size_t word_count;
    struct {
        const char *name;  // "lr"
        const char *value; // "true" of a bare switch
    } flags[FLAGS_MAX];
    size_t flag_count;
};

/** Flags may stand anywhere; "--" ends them; "_" means "-". False, and why in `message`. */
bool arguments_parse(int argc, char **argv, struct arguments *ret_arguments, char *message,
                     size_t message_size);

/** The value of the last flag of that name, or NULL. */
const char *arguments_get(const struct arguments *arguments, const char *name);
bool arguments_has(const struct arguments *arguments, const char *name);

/** The first flag that is in none of the two lists ("lr betas eps"), or NULL. */
const char *arguments_stranger(const struct arguments *arguments, const char *known,
                               const char *known_too);

#endif
