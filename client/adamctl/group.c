// group: list, update, add.

#include "commands.h"
#include "file.h"
#include "settings.h"
#include "table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_flags(const cJSON *options, char *text, size_t size) {
    static const struct {
        const char *member, *name;
    } flags[] = {{"amsgrad", "amsgrad"},
                 {"maximize", "maximize"},
                 {"foreach", "foreach"},
                 {"capturable", "capturable"},
                 {"differentiable", "differentiable"},
                 {"fused", "fused"},
                 {"decoupledWeightDecay", "decoupled"}};

    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        const cJSON *flag = cJSON_GetObjectItemCaseSensitive(options, flags[i].member);
        if (cJSON_IsTrue(flag)) {
            append_format(text, size, "%s%s", text[0] != '\0' ? " " : "", flags[i].name);
        }
    }
}

static void print_extra(const cJSON *group, struct table *table, size_t column) {
    char text[TABLE_CELL_MAX] = "";
    const cJSON *extra = NULL;

    cJSON_ArrayForEach(extra, cJSON_GetObjectItemCaseSensitive(group, "extra")) {
        char key[32], json[32];
        append_format(text, sizeof text, "%s%s=%s", text[0] != '\0' ? " " : "",
                      member_text(extra, "key", key), member_text(extra, "json", json));
    }
    table_set(table, column, "%s", text);
}

static void print_groups(const struct ctl *ctl, const cJSON *groups) {
    struct table table;
    const cJSON *group = NULL;

    table_init(&table, "GROUP|TENSORS|SINCE|LR|BETAS|EPS|WEIGHT_DECAY|FLAGS|EXTRA");
    cJSON_ArrayForEach(group, groups) {
        const cJSON *options = cJSON_GetObjectItemCaseSensitive(group, "options");
        const cJSON *betas = cJSON_GetObjectItemCaseSensitive(options, "betas");
        const cJSON *beta2 = cJSON_GetArrayItem(betas, 1);
        char buffer[32], flags[TABLE_CELL_MAX] = "";
        table_add_row(&table);
        add_flags(options, flags, sizeof flags);
        table_set(&table, 0, "%.0f", member_number(group, "index"));
        table_set(&table, 1, "%d",
                  cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(group, "params")));
        table_set(&table, 2, "%.0f", member_number(group, "sinceVersion"));
        table_set(&table, 3, "%s", member_text(options, "lr", buffer));
        table_set(&table, 4, "%g %g", beta2 != NULL ? betas->child->valuedouble : 0,
                  beta2 != NULL ? beta2->valuedouble : 0);
        table_set(&table, 5, "%s", member_text(options, "eps", buffer));
        table_set(&table, 6, "%s", member_text(options, "weightDecay", buffer));
        table_set(&table, 7, "%s", flags);
        print_extra(group, &table, 8);
    }
    table_print(&table, ctl->colour);
    table_finish(&table);
}

static void print_group(const struct ctl *ctl, const struct reply *reply, const cJSON *group) {
    cJSON *list = NULL;

    if (ctl->json) {
        reply_print(reply);
        return;
    }
    list = must(cJSON_CreateArray());
    cJSON_AddItemReferenceToArray(list, (cJSON *)group);
    print_groups(ctl, list);
    cJSON_Delete(list);
}

int run_group_list(const struct ctl *ctl) {
    return ctl_list(ctl, "groups", "paramGroups", print_groups);
}

// --extra KEY=JSON.
static int add_extra(const struct ctl *ctl, cJSON *group) {
    const char *text = ctl_flag(ctl, "extra");
    const char *equals = text != NULL ? strchr(text, '=') : NULL;
    char key[160] = "";

    if (text == NULL) {
        return EXIT_OK;
    }
    if (equals == NULL || equals == text || (size_t)(equals - text) >= sizeof key) {
        return fail_usage(ctl, "expected --extra KEY=JSON, for example --extra initial_lr=0.1");
    }
    memcpy(key, text, (size_t)(equals - text));
    cJSON *extra = must(cJSON_CreateObject());
    cJSON_AddItemToArray(must(cJSON_AddArrayToObject(group, "extra")), extra);
    must(cJSON_AddStringToObject(extra, "key", key));
    must(cJSON_AddStringToObject(extra, "json", equals + 1));
    return EXIT_OK;
}

int run_group_update(const struct ctl *ctl) {
    char model[64], target[192];
    cJSON *options = NULL, *group = must(cJSON_CreateObject());
    struct reply reply;
    int code = EXIT_OK;

    if (ctl->word_count < 1 || ctl->words[0][strspn(ctl->words[0], "0123456789")] != '\0') {
        code = fail_usage(ctl, "expected: adamctl group update INDEX [MODEL] --lr 1e-3 …");
    }
    code = code == EXIT_OK ? settings_options(ctl, &options) : code;
    if (options != NULL) {
        cJSON_AddItemToObject(group, "options", options);
    }
    code = code == EXIT_OK ? add_extra(ctl, group) : code;
    if (code == EXIT_OK && group->child == NULL) {
        code = fail_usage(ctl, "nothing to change: give --lr or another option, or --extra");
    }
    code = code == EXIT_OK ? ctl_model(ctl, 1, model) : code;
    if (code == EXIT_OK) {
        snprintf(target, sizeof target, "/v1/models/%s/groups/%s", model, ctl->words[0]);
        code = ctl_call(ctl, &(struct request){.method = "PATCH", .target = target, .body = group},
                        &reply);
    }
    cJSON_Delete(group);
    if (code == EXIT_OK) {
        print_group(ctl, &reply, reply.json);
        reply_finish(&reply);
    }
    return code;
}

// The new parameters with their values; options may stand in the file's metadata.
int run_group_add(const struct ctl *ctl) {
    char model[64], target[128];
    struct file from = {.size = 0};
    struct reply reply;
    int code = EXIT_OK;

    if (ctl->word_count < 1) {
        return fail_usage(ctl, "expected: adamctl group add FILE.safetensors [MODEL]");
    }
    code = file_open(ctl, ctl->words[0], &from);
    code = code == EXIT_OK ? ctl_model(ctl, 1, model) : code;
    if (code == EXIT_OK) {
        const struct iovec body = {.iov_base = from.bytes, .iov_len = from.size};
        snprintf(target, sizeof target, "/v1/models/%s/groups", model);
        code = ctl_call(
            ctl, &(struct request){.method = "POST", .target = target, .file = &body, .once = true},
            &reply);
    }
    file_close(&from);
    if (code == EXIT_OK) {
        print_group(ctl, &reply, cJSON_GetObjectItemCaseSensitive(reply.json, "paramGroup"));
        reply_finish(&reply);
    }
    return code;
}
