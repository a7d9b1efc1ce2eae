// Patterns are few and short: each is compared with the target, segment by segment.
#include "router.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Where one segment of a pattern ends: at '/' or at the end.
static size_t pattern_segment_size(const char *pattern) {
    return strcspn(pattern, "/");
}

// Takes one segment "{m}", "{m}:verb" or "literal" of `size` bytes. `ret_variable` gets what stands
// for the {…}; its size is 0 for a literal.
static bool fits(const char *pattern, size_t size, const char *segment, size_t *ret_variable_size) {
    *ret_variable_size = 0;
    if (pattern[0] != '{') {
        return strlen(segment) == size && memcmp(pattern, segment, size) == 0;
    }
    const char *close = memchr(pattern, '}', size);
    ADAMD_ASSERT(close != NULL);
    const size_t verb_size = size - (size_t)(close + 1 - pattern);
    const size_t variable_size = strcspn(segment, ":");
    *ret_variable_size = variable_size;
    return variable_size > 0 && strlen(segment + variable_size) == verb_size &&
           memcmp(segment + variable_size, close + 1, verb_size) == 0;
}

static bool pattern_fits(const char *pattern, const struct target *target) {
    size_t index = 0;
    size_t ignored;

    while (*pattern == '/') {
        const size_t size = pattern_segment_size(++pattern);
        if (index == target->segment_count ||
            !fits(pattern, size, target->segments[index], &ignored)) {
            return size == 0 && target->segment_count == 0;
        }
        index++;
        pattern += size;
    }
    return index == target->segment_count;
}

static enum adamd_status take_variables(const struct target *target, struct routing *routing) {
    const char *pattern = routing->route->pattern;
    size_t count = 0;

    for (size_t i = 0; i < target->segment_count; i++) {
        size_t variable_size;
        const size_t size = pattern_segment_size(++pattern);
        (void)fits(pattern, size, target->segments[i], &variable_size);
        pattern += size;
        if (variable_size == 0) {
            continue;
        }
        ADAMD_ASSERT(count < ROUTE_VARIABLES_MAX);
        routing->variables[count] = strndup(target->segments[i], variable_size);
        if (routing->variables[count++] == NULL) {
            routing_finish(routing);
            return ADAMD_NO_MEMORY;
        }
    }
    return ADAMD_OK;
}

static void allow(struct routing *routing, const char *method) {
    const size_t used = strlen(routing->allow);
    const char *head = strcmp(method, "GET") == 0 ? ", HEAD" : "";

    snprintf(routing->allow + used, sizeof routing->allow - used, "%s%s%s", used > 0 ? ", " : "",
             method, head);
}

enum adamd_status router_find(const struct route *routes, size_t count, const char *method,
                              const struct target *target, struct routing *ret_routing) {
    const char *served = strcmp(method, "HEAD") == 0 ? "GET" : method;

    *ret_routing = (struct routing){.route = NULL};
    for (size_t i = 0; i < count; i++) {
        if (!pattern_fits(routes[i].pattern, target)) {
            continue;
        }
        if (strcmp(routes[i].method, served) == 0) {
            ret_routing->route = &routes[i];
            return take_variables(target, ret_routing);
        }
        allow(ret_routing, routes[i].method);
    }
    return ADAMD_OK;
}

void routing_finish(struct routing *routing) {
    for (size_t i = 0; i < ROUTE_VARIABLES_MAX; i++) {
        free(routing->variables[i]);
    }
    *routing = (struct routing){.route = NULL};
}
