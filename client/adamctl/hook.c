// hook list, add, remove

#include "commands.h"
#include "table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// -------------------------------------------------------------------------------------------- list

// "max_norm=1 norm_type=2": parameters, then what the action keeps.
static void put_members(const cJSON *object, char text[TABLE_CELL_MAX]) {
    const cJSON *member = NULL;
    char value[32];

    cJSON_ArrayForEach(member, object) {
        const char *shown = cJSON_IsBool(member) ? (cJSON_IsTrue(member) ? "true" : "false")
                                                 : member_text(object, member->string, value);
        if (strcmp(shown, "0") != 0 && shown[0] != '\0') {
            append_format(text, TABLE_CELL_MAX, "%s%s=%s", text[0] != '\0' ? " " : "",
                          member->string, shown);
        }
    }
}

static void print_hooks(const struct ctl *ctl, const cJSON *hooks) {
    struct table table;
    const cJSON *hook = NULL;

    table_init(&table, "HOOK|EVENT|ACTION|PARAMETERS");
    cJSON_ArrayForEach(hook, hooks) {
        char event[32], buffer[32], members[TABLE_CELL_MAX] = "";
        table_add_row(&table);
        enum_text(member_text(hook, "event", buffer), "EVENT_", event);
        put_members(cJSON_GetObjectItemCaseSensitive(hook, "parameters"), members);
        put_members(cJSON_GetObjectItemCaseSensitive(hook, "state"), members);
        table_set(&table, 0, "%s", last_part(member_text(hook, "name", buffer)));
        table_set(&table, 1, "%s", event);
        table_set(&table, 2, "%s", member_text(hook, "action", buffer));
        table_set(&table, 3, "%s", members);
    }
    if (table.rows > 1) {
        table_print(&table, ctl->colour);
    } else {
        say(ctl, "no hooks");
    }
    table_finish(&table);
}

int run_hook_list(const struct ctl *ctl) {
    return ctl_list(ctl, "hooks", "hooks", print_hooks);
}

// --------------------------------------------------------------------------------------------- add

// What a parameter's text is in JSON: a number, a truth, or the text itself.
static cJSON *parse_value(const char *name, const char *text) {
    char *end = NULL;
    const double number = strtod(text, &end);

    if (strcmp(name, "text") == 0 || strcmp(name, "schedule") == 0 || text[0] == '\0') {
        return cJSON_CreateString(text);
    }
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        return cJSON_CreateBool(text[0] == 't');
    }
    if (*end != '\0') {
        return cJSON_CreateString(text); // the daemon says what it thinks of it
    }
    if (isinf(number)) {
        return cJSON_CreateString(number > 0 ? "Infinity" : "-Infinity");
    }
    return cJSON_CreateNumber(number);
}

static int add_parameter(const struct ctl *ctl, const char *word, cJSON *parameters) {
    const char *equals = strchr(word, '=');
    char name[64];

    if (equals == NULL || equals == word || (size_t)(equals - word) >= sizeof name) {
        return fail_usage(ctl, "%s: a parameter is NAME=VALUE, as max_norm=1.0", word);
    }
    memcpy(name, word, (size_t)(equals - word));
    name[equals - word] = '\0';
    cJSON_AddItemToObject(parameters, name, must(parse_value(name, equals + 1)));
    return EXIT_OK;
}

static int add_event(const struct ctl *ctl, cJSON *hook) {
    static const char *const names[] = {
        "step-pre",        "step-post",           "state-dict-pre",
        "state-dict-post", "load-state-dict-pre", "load-state-dict-post"};
    const char *given = ctl_flag(ctl, "event");

    if (given == NULL) {
        return EXIT_OK;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(given, names[i]) == 0) {
            must(cJSON_AddNumberToObject(hook, "event", (double)(i + 1)));
            return EXIT_OK;
        }
    }
    return fail_usage(ctl,
                      "--event %s: expected step-pre, step-post, state-dict-pre, "
                      "state-dict-post, load-state-dict-pre or load-state-dict-post",
                      given);
}

static int make_hook(const struct ctl *ctl, cJSON *hook) {
    cJSON *parameters = must(cJSON_AddObjectToObject(hook, "parameters"));
    int code = add_event(ctl, hook);

    must(cJSON_AddStringToObject(hook, "action", ctl->words[0]));
    if (ctl_has(ctl, "prepend")) {
        must(cJSON_AddBoolToObject(hook, "prepend", true));
    }
    for (size_t i = 1; i < ctl->word_count && code == EXIT_OK; i++) {
        code = add_parameter(ctl, ctl->words[i], parameters);
    }
    return code;
}

int run_hook_add(const struct ctl *ctl) {
    char id[64], target[128], name[32];
    struct reply reply;
    cJSON *hook;
    int code;

    if (ctl->word_count == 0) {
        return fail_usage(ctl, "expected: adamctl hook add ACTION [NAME=VALUE...] [-m MODEL]");
    }
    hook = must(cJSON_CreateObject());
    code = make_hook(ctl, hook);
    if (code == EXIT_OK) {
        code = ctl_model(ctl, WORDS_MAX, id);
    }
    if (code == EXIT_OK) {
        snprintf(target, sizeof target, "/v1/models/%s/hooks", id);
        code = ctl_call(
            ctl, &(struct request){.method = "POST", .target = target, .body = hook, .once = true},
            &reply);
    }
    cJSON_Delete(hook);
    if (code == EXIT_OK) {
        if (ctl->json) {
            reply_print(&reply);
        }
        say(ctl, "added %s as hook %s of %s", ctl->words[0],
            last_part(member_text(reply.json, "name", name)), id);
        reply_finish(&reply);
    }
    return code;
}

// ------------------------------------------------------------------------------------------ remove

int run_hook_remove(const struct ctl *ctl) {
    char id[64], target[192] = "";
    struct reply reply;
    int code = ctl_model(ctl, 1, id);

    if (ctl->word_count == 0) {
        return fail_usage(ctl, "expected: adamctl hook remove HOOK [MODEL]");
    }
    if (code == EXIT_OK) {
        append_format(target, sizeof target, "/v1/models/%s/hooks/", id);
        append_encoded(target, sizeof target, ctl->words[0]);
        code = ctl_call(ctl, &(struct request){.method = "DELETE", .target = target}, &reply);
    }
    if (code == EXIT_OK) {
        if (ctl->json) {
            reply_print(&reply);
        }
        say(ctl,
            cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(reply.json, "removed"))
                ? "removed hook %s of %s"
                : "hook %s of %s was gone already",
            ctl->words[0], id);
        reply_finish(&reply);
    }
    return code;
}
