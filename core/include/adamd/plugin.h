/**
 * A hook from a shared object: what its author includes, and nothing else of adamd. The operator
 * names the object in the configuration (`plugin.NAME = /path.so`); no code comes over the wire.
 *
 * The object exports one function, adamd_plugin(), which answers a table. Everything is called on
 * the daemon's loop thread, so a call must return within a millisecond; what works on the gradient
 * is submitted through the host and waited for with ADAMD_PLUGIN_WAIT.
 */
#ifndef ADAMD_PLUGIN_H
#define ADAMD_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

/** Grows when a table below changes otherwise than at its end. */
#define ADAMD_PLUGIN_VERSION 1

/** What run() answers: the next hook's turn; call me again when what I submitted has completed; no
 *  step of this gradient; refuse the step, with the message that complain() was given. */
enum adamd_plugin_answer {
    ADAMD_PLUGIN_DONE = 0,
    ADAMD_PLUGIN_WAIT = 1,
    ADAMD_PLUGIN_SKIP = 2,
    ADAMD_PLUGIN_FAIL = 3,
};

/** The daemon, as a call sees it. Functions take the call's `context`. */
struct adamd_plugin_host {
    uint32_t version; // ADAMD_PLUGIN_VERSION
    uint32_t size;    // of this table
    /** "step_pre", "step_post", "state_dict_pre" and so on. */
    const char *(*event)(void *context);
    /** 0, then 1, 2, ... behind each WAIT. */
    uint32_t (*turn)(void *context);

    // Step events only.
    uint64_t (*version_made)(void *context); // the version that the step makes
    uint32_t (*group_count)(void *context);
    double (*lr)(void *context, uint32_t group);
    void (*set_lr)(void *context, uint32_t group, double lr); // step_pre: of this step alone

    // step_pre only: operations on the gradient. 0, or -1 for want of memory.
    int (*scale)(void *context, double factor);
    int (*clamp)(void *context, double limit);
    int (*norm)(void *context); // at the next turn the three below hold
    double (*square_sum)(void *context);
    double (*max_abs)(void *context);
    uint64_t (*nonfinite)(void *context);

    /** Says why; then answer FAIL. The text is copied. */
    void (*complain)(void *context, const char *message);
};

struct adamd_plugin {
    uint32_t version; // ADAMD_PLUGIN_VERSION, as it was compiled
    uint32_t size;    // of this table
    /** A hook was added with this text (at most 1,023 bytes). NULL refuses it: `error` says why. */
    void *(*create)(const char *text, char *error, size_t error_size);
    /** enum adamd_plugin_answer. */
    int (*run)(void *state, const struct adamd_plugin_host *host, void *context);
    void (*destroy)(void *state);
};

typedef const struct adamd_plugin *adamd_plugin_fn(uint32_t host_version);

/** What a shared object exports. NULL if it cannot work with a host of that version. */
__attribute__((visibility("default"))) const struct adamd_plugin *
adamd_plugin(uint32_t host_version);

#endif
