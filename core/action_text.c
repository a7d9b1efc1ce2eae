// The actions of a model as the JSON text in its state: parameters and state by name, 17
// significant digits. Written here and read here; everyone else passes it on.
#include "actions_impl.h"
#include "adamd/json.h"
#include "adamd/layout.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 4, VALUES_MAX = 16384, NAME_MAX_BYTES = 64, NUMBER_BYTES = 64 };

// --------------------------------------------------------------------------------------------- out

struct text {
    char *bytes;
    size_t size, capacity;
    bool failed;
};

static bool reserve(struct text *text, size_t more) {
    const size_t wanted = text->size + more + 1;
    char *bytes;

    if (text->failed || wanted <= text->capacity) {
        return !text->failed;
    }
    bytes = realloc(text->bytes, 2 * wanted);
    if (bytes == NULL) {
        text->failed = true;
        return false;
    }
    text->bytes = bytes;
    text->capacity = 2 * wanted;
    return true;
}

static void put(struct text *text, const char *format, ...) ADAMD_PRINTF(2, 3);

static void put(struct text *text, const char *format, ...) {
    char piece[256];
    va_list arguments;

    va_start(arguments, format);
    const int size = vsnprintf(piece, sizeof piece, format, arguments);
    va_end(arguments);
    ADAMD_ASSERT(size >= 0 && (size_t)size < sizeof piece);
    if (reserve(text, (size_t)size)) {
        memcpy(text->bytes + text->size, piece, (size_t)size + 1);
        text->size += (size_t)size;
    }
}

static void put_quoted(struct text *text, const char *value) {
    put(text, "\"");
    for (const char *c = value; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') {
            put(text, "\\%c", *c);
        } else if ((unsigned char)*c < 0x20) {
            put(text, "\\u%04x", (unsigned)(unsigned char)*c);
        } else {
            put(text, "%c", *c);
        }
    }
    put(text, "\"");
}

static void put_double(struct text *text, double value) {
    if (isinf(value)) { // norm_type
        put(text, "\"Infinity\"");
    } else {
        put(text, "%.17g", value);
    }
}

static void put_parameter(struct text *text, const struct adamd_action *action,
                          const struct adamd_parameter *parameter) {
    const void *at = (const char *)action + parameter->offset;

    put(text, ",\"%s\":", parameter->name);
    switch (parameter->type) {
    case ADAMD_PARAMETER_DOUBLE:
        put_double(text, *(const double *)at);
        return;
    case ADAMD_PARAMETER_COUNT_TYPE:
        put(text, "%" PRIu64, *(const uint64_t *)at);
        return;
    case ADAMD_PARAMETER_BOOL:
        put(text, "%s", *(const bool *)at ? "true" : "false");
        return;
    case ADAMD_PARAMETER_SCHEDULE:
        put_quoted(text, adamd_schedule_name((enum adamd_schedule_kind) * (const uint64_t *)at));
        return;
    case ADAMD_PARAMETER_TEXT:
        put_quoted(text, at);
        return;
    }
}

static void put_action(struct text *text, enum adamd_hook_event event,
                       const struct action_hook *hook) {
    const struct adamd_action *action = &hook->action;
    size_t count = 0;
    const struct adamd_parameter *parameters = adamd_action_parameters(action->kind, &count);

    put(text, "{\"action\":");
    if (action->kind == ADAMD_PLUGIN) {
        char name[ADAMD_PLUGIN_NAME_MAX + 8];
        (void)snprintf(name, sizeof name, "plugin:%s", action->plugin.plugin);
        put_quoted(text, name);
    } else {
        put_quoted(text, adamd_action_name(action->kind));
    }
    put(text, ",\"event\":\"%s\"", adamd_hook_event_name(event));
    for (size_t i = 0; i < count; i++) {
        put_parameter(text, action, &parameters[i]);
    }
    for (uint32_t i = 0; i < hook->base_count; i++) {
        put(text, i == 0 ? ",\"base_lrs\":[" : ",");
        put_double(text, hook->base_lrs[i]);
    }
    put(text, hook->base_count > 0 ? "]}" : "}");
}

enum adamd_status actions_print(const struct hook_lists *lists, char **ret_text) {
    struct action_cursor cursor = {.event = 0};
    struct text text = {0};
    const struct action_hook *hook;

    *ret_text = NULL;
    while ((hook = action_next(lists, &cursor)) != NULL) {
        put(&text, text.size == 0 ? "[" : ",");
        put_action(&text, (enum adamd_hook_event)cursor.event, hook);
    }
    if (text.size > 0) {
        put(&text, "]");
    }
    if (text.failed) {
        free(text.bytes);
        return ADAMD_NO_MEMORY;
    }
    *ret_text = text.bytes;
    return ADAMD_OK;
}

// ---------------------------------------------------------------------------------------------- in

struct reader {
    struct adamd_json json;
    const struct adamd_hook_registry *registry;
    uint64_t *last_id;
    struct hook_lists *lists;
    struct adamd_fault *fault;
    // Of the action that is being read.
    bool known;
    enum adamd_hook_event event;
    struct adamd_action action;
    double *base_lrs;
    uint32_t base_count;
};

static bool refuse(struct reader *reader, const char *text, const char *what) {
    (void)adamd_fail(reader->fault, ADAMD_BAD_FIELD, "adamd.hooks", "adamd.hooks: %s%.60s", text,
                     what);
    return false;
}

static bool complain(struct reader *reader) {
    return refuse(reader, "no JSON of this kind: ",
                  reader->json.complaint != NULL ? reader->json.complaint : "another value is due");
}

static bool read_text(struct reader *reader, char *to, size_t room) {
    struct adamd_json_slice slice;

    if (!adamd_json_string(&reader->json, &slice)) {
        return complain(reader);
    }
    if (slice.size >= room) { // decoding makes nothing longer
        return refuse(reader, "a text is too long", "");
    }
    to[adamd_json_decode(slice, to)] = '\0';
    return true;
}

static bool read_double(struct reader *reader, double *to) {
    struct adamd_json_slice slice;
    char digits[NUMBER_BYTES];

    if (adamd_json_peek(&reader->json) == '"') {
        *to = (double)INFINITY;
        return read_text(reader, digits, sizeof digits) &&
               (strcmp(digits, "Infinity") == 0 || refuse(reader, "no number: ", digits));
    }
    if (!adamd_json_number(&reader->json, &slice) || slice.size >= sizeof digits) {
        return complain(reader);
    }
    memcpy(digits, slice.text, slice.size);
    digits[slice.size] = '\0';
    *to = strtod(digits, NULL);
    return isfinite(*to) || refuse(reader, "a number is too large: ", digits);
}

static bool read_bool(struct reader *reader, bool *to) {
    static const char *const words[] = {"false", "true"};
    const char *at;

    *to = adamd_json_peek(&reader->json) == 't';
    at = reader->json.at;
    if (!adamd_json_skip(&reader->json)) {
        return complain(reader);
    }
    return strncmp(at, words[*to ? 1 : 0], strlen(words[*to ? 1 : 0])) == 0 ||
           refuse(reader, "true or false is due", "");
}

static bool read_schedule(struct reader *reader, uint64_t *to) {
    char name[NAME_MAX_BYTES];
    enum adamd_schedule_kind kind;

    if (!read_text(reader, name, sizeof name)) {
        return false;
    }
    if (!adamd_schedule_of(name, &kind)) {
        return refuse(reader, "no schedule: ", name);
    }
    *to = kind;
    return true;
}

static bool read_parameter(struct reader *reader, const struct adamd_parameter *parameter) {
    void *at = (char *)&reader->action + parameter->offset;

    switch (parameter->type) {
    case ADAMD_PARAMETER_DOUBLE:
        return read_double(reader, at);
    case ADAMD_PARAMETER_COUNT_TYPE:
        return adamd_json_uint(&reader->json, at) || complain(reader);
    case ADAMD_PARAMETER_BOOL:
        return read_bool(reader, at);
    case ADAMD_PARAMETER_SCHEDULE:
        return read_schedule(reader, at);
    case ADAMD_PARAMETER_TEXT:
        return read_text(reader, at, ADAMD_PLUGIN_TEXT_MAX + 1);
    }
    return false;
}

static bool read_event(struct reader *reader) {
    char name[NAME_MAX_BYTES];

    if (!read_text(reader, name, sizeof name)) {
        return false;
    }
    for (int event = 0; event < ADAMD_HOOK_EVENT_COUNT; event++) {
        if (strcmp(name, adamd_hook_event_name((enum adamd_hook_event)event)) == 0) {
            reader->event = (enum adamd_hook_event)event;
            return true;
        }
    }
    return refuse(reader, "no event: ", name);
}

static bool read_base_lrs(struct reader *reader) {
    free(reader->base_lrs);
    reader->base_count = 0;
    reader->base_lrs = calloc(ADAMD_GROUPS_MAX, sizeof reader->base_lrs[0]);
    if (reader->base_lrs == NULL) {
        (void)adamd_fail_plain(reader->fault, ADAMD_NO_MEMORY);
        return false;
    }
    if (!adamd_json_expect(&reader->json, '[')) {
        return complain(reader);
    }
    do {
        if (reader->base_count == ADAMD_GROUPS_MAX) {
            return refuse(reader, "too many base_lrs", "");
        }
        if (!read_double(reader, &reader->base_lrs[reader->base_count++])) {
            return false;
        }
    } while (adamd_json_take(&reader->json, ','));
    return adamd_json_expect(&reader->json, ']') || complain(reader);
}

// The first member says what the others may be.
static bool read_kind(struct reader *reader, const char *name) {
    char action[NAME_MAX_BYTES];

    if (strcmp(name, "action") != 0) {
        return refuse(reader, "action must come first, not ", name);
    }
    reader->known = read_text(reader, action, sizeof action) &&
                    adamd_action_default(action, &reader->action, reader->fault) == ADAMD_OK;
    return reader->known;
}

static bool read_member(struct reader *reader) {
    char name[NAME_MAX_BYTES];
    size_t count = 0;
    const struct adamd_parameter *parameters;

    if (!read_text(reader, name, sizeof name)) {
        return false;
    }
    if (!adamd_json_expect(&reader->json, ':')) {
        return complain(reader);
    }
    if (!reader->known) {
        return read_kind(reader, name);
    }
    if (strcmp(name, "event") == 0) {
        return read_event(reader);
    }
    if (strcmp(name, "base_lrs") == 0 && reader->action.kind == ADAMD_LR_SCHEDULE) {
        return read_base_lrs(reader);
    }
    parameters = adamd_action_parameters(reader->action.kind, &count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, parameters[i].name) == 0) {
            return read_parameter(reader, &parameters[i]);
        }
    }
    return refuse(reader, "no parameter of this action: ", name);
}

static bool keep_action(struct reader *reader) {
    const enum adamd_hook_event wanted = adamd_action_event(reader->action.kind);
    struct action_hook *hook = NULL;
    uint64_t id = 0;

    if (reader->event == ADAMD_HOOK_EVENT_COUNT ||
        (wanted != ADAMD_HOOK_EVENT_COUNT && wanted != reader->event)) {
        return refuse(reader, "an action has no event of its kind", "");
    }
    if ((reader->action.kind == ADAMD_LR_SCHEDULE || reader->action.kind == ADAMD_EMA_ACTION) &&
        action_find(reader->lists, reader->action.kind) != NULL) {
        return refuse(reader, "there can be only one ", adamd_action_name(reader->action.kind));
    }
    if (adamd_action_check(&reader->action, reader->fault) != ADAMD_OK ||
        action_create(reader->registry, &reader->action, &hook, reader->fault) != ADAMD_OK) {
        return false;
    }
    hook->base_lrs = reader->base_lrs;
    hook->base_count = reader->base_count;
    reader->base_lrs = NULL;
    reader->base_count = 0;
    if (action_add(reader->lists, reader->last_id, reader->event, hook, false, &id,
                   reader->fault) != ADAMD_OK) {
        action_destroy(hook);
        return false;
    }
    return true;
}

static bool read_action(struct reader *reader) {
    reader->known = false;
    reader->event = ADAMD_HOOK_EVENT_COUNT;
    if (!adamd_json_expect(&reader->json, '{')) {
        return complain(reader);
    }
    do {
        if (!read_member(reader)) {
            return false;
        }
    } while (adamd_json_take(&reader->json, ','));
    return adamd_json_expect(&reader->json, '}') ? keep_action(reader) : complain(reader);
}

static bool read_actions(struct reader *reader) {
    if (!adamd_json_expect(&reader->json, '[')) {
        return complain(reader);
    }
    if (adamd_json_take(&reader->json, ']')) {
        return adamd_json_finish(&reader->json) || complain(reader);
    }
    do {
        if (!read_action(reader)) {
            return false;
        }
    } while (adamd_json_take(&reader->json, ','));
    return (adamd_json_expect(&reader->json, ']') && adamd_json_finish(&reader->json)) ||
           complain(reader);
}

enum adamd_status actions_parse(const struct adamd_hook_registry *registry, uint64_t *last_id,
                                const char *text, struct hook_lists *lists,
                                struct adamd_fault *fault) {
    const size_t size = strlen(text);
    struct adamd_fault own = {0};
    struct reader reader = {.registry = registry,
                            .last_id = last_id,
                            .lists = lists,
                            .fault = fault != NULL ? fault : &own};

    if (size > HOOKS_TEXT_MAX) {
        return adamd_fail(fault, ADAMD_TOO_LARGE, "adamd.hooks", "adamd.hooks has more than 1 MiB");
    }
    adamd_json_init(&reader.json, text, size, DEPTH_MAX, VALUES_MAX);
    const bool good = read_actions(&reader);
    free(reader.base_lrs);
    if (!good) {
        hooks_finish(lists);
        return reader.fault->status;
    }
    return ADAMD_OK;
}
