// A plugin for the tests, as its author would write it: halves the gradient where its norm is above
// a limit, which is its text; behind the step it watches, and on "fail" it refuses.
#include "adamd/plugin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct half {
    double limit;
    int fails;
};

static void *make(const char *text, char *error, size_t error_size) {
    struct half *half = calloc(1, sizeof *half);
    char *end = NULL;

    if (half == NULL) {
        return NULL;
    }
    half->fails = strcmp(text, "fail") == 0;
    half->limit = strtod(text, &end);
    if (!half->fails && (end == text || *end != '\0')) {
        (void)snprintf(error, error_size, "the text must be a limit, or \"fail\"");
        free(half);
        return NULL;
    }
    return half;
}

static int run(void *state, const struct adamd_plugin_host *host, void *context) {
    const struct half *half = state;

    if (half->fails) {
        host->complain(context, "told to fail");
        return ADAMD_PLUGIN_FAIL;
    }
    if (strcmp(host->event(context), "step_pre") != 0) {
        return ADAMD_PLUGIN_DONE;
    }
    if (host->turn(context) == 0) {
        return host->norm(context) == 0 ? ADAMD_PLUGIN_WAIT : ADAMD_PLUGIN_FAIL;
    }
    if (sqrt(host->square_sum(context)) <= half->limit) {
        return ADAMD_PLUGIN_DONE;
    }
    return host->scale(context, 0.5) == 0 ? ADAMD_PLUGIN_DONE : ADAMD_PLUGIN_FAIL;
}

const struct adamd_plugin *adamd_plugin(uint32_t host_version) {
    static const struct adamd_plugin table = {
        .version = ADAMD_PLUGIN_VERSION,
        .size = sizeof table,
        .create = make,
        .run = run,
        .destroy = free,
    };

    return host_version == ADAMD_PLUGIN_VERSION ? &table : NULL;
}
