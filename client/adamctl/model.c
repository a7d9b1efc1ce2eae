// model: list, get, create, update, initialize, pause, resume, delete.

#include "commands.h"
#include "file.h"
#include "settings.h"
#include "table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void print_models(const struct ctl *ctl, const cJSON *models) {
    struct table table;
    const cJSON *model = NULL;

    table_init(&table, "MODEL|STATE|POLICY|GEN|VERSION|PARAMETERS|WORKERS|APPLIED|STALE|REJECTED");
    cJSON_ArrayForEach(model, models) {
        const cJSON *policy = cJSON_GetObjectItemCaseSensitive(model, "stepPolicy");
        const cJSON *counts = cJSON_GetObjectItemCaseSensitive(model, "pushCounts");
        char buffer[32], state[32], trigger[32];
        table_add_row(&table);
        enum_text(member_text(model, "state", buffer), "STATE_", state);
        enum_text(member_text(policy, "trigger", buffer), "TRIGGER_", trigger);
        table_set(&table, 0, "%s", last_part(member_text(model, "name", buffer)));
        table_set(&table, 1, "%s", state);
        table_set(&table, 2, "%s", trigger[0] != '\0' ? trigger : "each-push");
        table_set(&table, 3, "%.0f", member_number(model, "generation"));
        table_set(&table, 4, "%.0f", member_number(model, "version"));
        table_set(&table, 5, "%.0f", member_number(model, "parameterCount"));
        table_set(&table, 6, "%.0f", member_number(model, "liveWorkers"));
        table_set(&table, 7, "%.0f", member_number(counts, "applied"));
        table_set(&table, 8, "%.0f", member_number(counts, "stale"));
        table_set(&table, 9, "%.0f", member_number(counts, "rejected"));
    }
    if (table.rows > 1) {
        table_print(&table, ctl->colour);
    } else {
        say(ctl, "no models");
    }
    table_finish(&table);
}

int run_model_list(const struct ctl *ctl) {
    struct reply reply;
    int code = ctl_call(ctl, &(struct request){.method = "GET", .target = "/v1/models"}, &reply);

    if (code != EXIT_OK) {
        return code;
    }
    if (ctl->json) {
        reply_print(&reply);
    } else {
        print_models(ctl, cJSON_GetObjectItemCaseSensitive(reply.json, "models"));
    }
    reply_finish(&reply);
    return EXIT_OK;
}

static void print_tensors(const struct ctl *ctl, const cJSON *tensors) {
    struct table table;
    const cJSON *tensor = NULL, *size = NULL;

    table_init(&table, "INDEX|TENSOR|SHAPE|GROUP|STEP");
    cJSON_ArrayForEach(tensor, tensors) {
        char buffer[32], shape[TABLE_CELL_MAX] = "";
        table_add_row(&table);
        cJSON_ArrayForEach(size, cJSON_GetObjectItemCaseSensitive(tensor, "shape")) {
            const char *text = cJSON_GetStringValue(size);
            append_format(shape, sizeof shape, "%s%s", shape[0] != '\0' ? " x " : "",
                          text != NULL ? text : "?");
        }
        table_set(&table, 0, "%.0f", member_number(tensor, "index"));
        table_set(&table, 1, "%s", member_text(tensor, "key", buffer));
        table_set(&table, 2, "%s", shape[0] != '\0' ? shape : "scalar");
        table_set(&table, 3, "%.0f", member_number(tensor, "group"));
        table_set(&table, 4, "%.0f", member_number(tensor, "step"));
    }
    table_print(&table, ctl->colour);
    table_finish(&table);
}

static void print_groups(const struct ctl *ctl, const cJSON *groups) {
    struct table table;
    const cJSON *group = NULL;

    table_init(&table, "GROUP|TENSORS|LR|BETAS|EPS|WEIGHT_DECAY|AMSGRAD|MAXIMIZE|DECOUPLED");
    cJSON_ArrayForEach(group, groups) {
        const cJSON *options = cJSON_GetObjectItemCaseSensitive(group, "options");
        const cJSON *betas = cJSON_GetObjectItemCaseSensitive(options, "betas");
        const cJSON *beta2 = cJSON_GetArrayItem(betas, 1);
        char buffer[32];
        table_add_row(&table);
        table_set(&table, 0, "%zu", table.rows - 2);
        table_set(&table, 1, "%d",
                  cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(group, "params")));
        table_set(&table, 2, "%s", member_text(options, "lr", buffer));
        table_set(&table, 3, "%g %g", beta2 != NULL ? betas->child->valuedouble : 0,
                  beta2 != NULL ? beta2->valuedouble : 0);
        table_set(&table, 4, "%s", member_text(options, "eps", buffer));
        table_set(&table, 5, "%s", member_text(options, "weightDecay", buffer));
        table_set(&table, 6, "%s", member_text(options, "amsgrad", buffer));
        table_set(&table, 7, "%s", member_text(options, "maximize", buffer));
        table_set(&table, 8, "%s", member_text(options, "decoupledWeightDecay", buffer));
    }
    table_print(&table, ctl->colour);
    table_finish(&table);
}

static void print_model(const struct ctl *ctl, const struct reply *reply) {
    cJSON *list = NULL;

    if (ctl->json) {
        reply_print(reply);
        return;
    }
    list = must(cJSON_CreateArray());
    cJSON_AddItemReferenceToArray(list, reply->json);
    print_models(ctl, list);
    cJSON_Delete(list);
}

int run_model_get(const struct ctl *ctl) {
    char model[64], target[128] = "/v1/models/";
    struct reply reply;
    int code = ctl_model(ctl, 0, model);

    append_format(target, sizeof target, "%s", code == EXIT_OK ? model : "");
    if (code == EXIT_OK) {
        code = ctl_call(ctl, &(struct request){.method = "GET", .target = target}, &reply);
    }
    if (code != EXIT_OK) {
        return code;
    }
    print_model(ctl, &reply);
    if (!ctl->json) {
        putchar('\n');
        print_groups(ctl, cJSON_GetObjectItemCaseSensitive(reply.json, "paramGroups"));
        putchar('\n');
        print_tensors(ctl, cJSON_GetObjectItemCaseSensitive(reply.json, "tensors"));
    }
    reply_finish(&reply);
    return EXIT_OK;
}

// Whether `key` is a part of the state of a parameter that is in the file as well.
static bool is_state(const cJSON *header, const char *key) {
    static const char *const suffixes[] = {".exp_avg", ".exp_avg_sq", ".max_exp_avg_sq", ".step"};
    size_t length = strlen(key);

    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        size_t suffix = strlen(suffixes[i]);
        char base[512];
        if (length <= suffix || length - suffix >= sizeof base ||
            strcmp(key + length - suffix, suffixes[i]) != 0) {
            continue;
        }
        memcpy(base, key, length - suffix);
        base[length - suffix] = '\0';
        if (cJSON_GetObjectItemCaseSensitive(header, base) != NULL) {
            return true;
        }
    }
    return false;
}

static int add_tensor(const struct ctl *ctl, cJSON *tensors, const cJSON *entry) {
    const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(entry, "dtype"));
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape"), *size = NULL;
    cJSON *tensor = NULL, *sizes = NULL;

    if (type == NULL || strcmp(type, "F32") != 0) {
        return fail_here(ctl, "tensor %s is %s: only F32 is supported", entry->string,
                         type != NULL ? type : "of no type");
    }
    tensor = must(cJSON_CreateObject());
    cJSON_AddItemToArray(tensors, tensor);
    must(cJSON_AddStringToObject(tensor, "key", entry->string));
    sizes = must(cJSON_AddArrayToObject(tensor, "shape"));
    cJSON_ArrayForEach(size, shape) {
        char text[32];
        snprintf(text, sizeof text, "%.0f", size->valuedouble);
        cJSON_AddItemToArray(sizes, must(cJSON_CreateString(text)));
    }
    return EXIT_OK;
}

static int add_tensors(const struct ctl *ctl, cJSON *model, const cJSON *header) {
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(header, "__metadata__");
    bool is_whole_state = cJSON_GetObjectItemCaseSensitive(metadata, "adamd.format") != NULL;
    cJSON *tensors = must(cJSON_AddArrayToObject(model, "tensors"));
    const cJSON *entry = NULL;

    cJSON_ArrayForEach(entry, header) {
        bool skip = entry == metadata || (is_whole_state && is_state(header, entry->string));
        int code = skip ? EXIT_OK : add_tensor(ctl, tensors, entry);
        if (code != EXIT_OK) {
            return code;
        }
    }
    return EXIT_OK;
}

// The model as the flags describe it: --json's document, or --from's table; options on top.
static int describe(const struct ctl *ctl, const struct file *from, cJSON **ret_model) {
    const char *json = ctl_flag(ctl, "json");
    struct file document = {.size = 0};
    cJSON *header = NULL, *model = NULL;
    int code = EXIT_OK;

    if (json != NULL) {
        code = file_open(ctl, json, &document);
        model = code == EXIT_OK ? cJSON_ParseWithLength(document.bytes, document.size) : NULL;
        file_close(&document);
        if (code == EXIT_OK && !cJSON_IsObject(model)) {
            code = fail_here(ctl, "%s: not a JSON object", json);
        }
    } else {
        model = must(cJSON_CreateObject());
        code = file_header(ctl, ctl_flag(ctl, "from"), from, &header);
        if (code == EXIT_OK) {
            code = add_tensors(ctl, model, header);
        }
        cJSON_Delete(header);
    }
    if (code == EXIT_OK) {
        code = settings_add(ctl, model, NULL, 0);
    }
    if (code == EXIT_OK && ctl_flag(ctl, "display-name") != NULL) {
        must(cJSON_AddStringToObject(model, "displayName", ctl_flag(ctl, "display-name")));
    }
    *ret_model = model;
    return code;
}

static int initialize(const struct ctl *ctl, const char *model, const struct file *from) {
    char target[128] = "";
    const struct iovec body = {.iov_base = from->bytes, .iov_len = from->size};
    const struct call call = {.method = "PUT",
                              .target = target,
                              .headers = "Content-Type: application/x-safetensors\r\n",
                              .body = &body,
                              .body_count = 1,
                              .has_body = true};
    struct adamd_error *error = NULL;
    struct reply reply;
    int code = EXIT_OK;

    append_format(target, sizeof target, "/v1/models/%s%s", model,
                  from->size > 0 ? "/state" : ":initialize");
    if (from->size > 0) {
        error = transport_call(ctl->transport, &call, ctl_deadline(ctl), NULL);
        return error != NULL ? fail(ctl, error) : EXIT_OK;
    }
    code = ctl_call(ctl, &(struct request){.method = "POST", .target = target}, &reply);
    if (code == EXIT_OK) {
        reply_finish(&reply);
    }
    return code;
}

static int create(const struct ctl *ctl, const char *id, const cJSON *model,
                  const struct file *from) {
    char target[160] = "";
    bool only_validate = ctl_has(ctl, "validate-only");
    struct reply reply;
    int code = EXIT_OK;

    append_format(target, sizeof target, "/v1/models?model_id=%s%s", id,
                  only_validate ? "&validate_only=true" : "");
    code = ctl_call(
        ctl, &(struct request){.method = "POST", .target = target, .body = model, .once = true},
        &reply);
    if (code != EXIT_OK) {
        return code;
    }
    if (!only_validate && (ctl_has(ctl, "init") || ctl_has(ctl, "zeros"))) {
        const struct file none = {.size = 0};
        struct reply fresh;
        code = initialize(ctl, id, ctl_has(ctl, "init") ? from : &none);
        snprintf(target, sizeof target, "/v1/models/%s", id);
        if (code == EXIT_OK) {
            code = ctl_call(ctl, &(struct request){.method = "GET", .target = target}, &fresh);
        }
        if (code == EXIT_OK) {
            reply_finish(&reply);
            reply = fresh;
        }
    }
    if (code == EXIT_OK) {
        print_model(ctl, &reply);
    }
    reply_finish(&reply);
    return code;
}

int run_model_create(const struct ctl *ctl) {
    struct file from = {.size = 0};
    cJSON *model = NULL;
    int code = EXIT_OK;

    if (ctl->word_count != 1 || !is_model_id(ctl->words[0])) {
        return fail_usage(ctl, "expected: adamctl model create NAME --from FILE; for NAME %s",
                          MODEL_ID_RULE);
    }
    if ((ctl_flag(ctl, "from") != NULL) == (ctl_flag(ctl, "json") != NULL)) {
        return fail_usage(ctl, "expected either --from FILE.safetensors or --json FILE");
    }
    if (ctl_has(ctl, "init") && (ctl_flag(ctl, "from") == NULL || ctl_has(ctl, "zeros"))) {
        return fail_usage(ctl, "--init takes the parameters from --from, and excludes --zeros");
    }
    if (ctl_flag(ctl, "from") != NULL) {
        code = file_open(ctl, ctl_flag(ctl, "from"), &from);
    }
    if (code == EXIT_OK) {
        code = describe(ctl, &from, &model);
    }
    if (code == EXIT_OK) {
        code = create(ctl, ctl->words[0], model, &from);
    }
    cJSON_Delete(model);
    file_close(&from);
    return code;
}

int run_model_update(const struct ctl *ctl) {
    char id[64], mask[512] = "", target[768] = "";
    cJSON *model = must(cJSON_CreateObject());
    struct reply reply;
    int code = settings_add(ctl, model, mask, sizeof mask);

    if (code == EXIT_OK && ctl_flag(ctl, "display-name") != NULL) {
        must(cJSON_AddStringToObject(model, "displayName", ctl_flag(ctl, "display-name")));
        append_format(mask, sizeof mask, "%sdisplay_name", mask[0] != '\0' ? "," : "");
    }
    if (code == EXIT_OK && mask[0] == '\0') {
        code = fail_usage(ctl, "nothing to change: give --lr, --quorum or another setting");
    }
    if (code == EXIT_OK) {
        code = ctl_model(ctl, 0, id);
    }
    if (code == EXIT_OK) {
        append_format(target, sizeof target, "/v1/models/%s?update_mask=%s", id, mask);
        code = ctl_call(ctl, &(struct request){.method = "PATCH", .target = target, .body = model},
                        &reply);
    }
    cJSON_Delete(model);
    if (code == EXIT_OK) {
        print_model(ctl, &reply);
        reply_finish(&reply);
    }
    return code;
}

// A verb without a body, whose answer is the model.
static int run_verb(const struct ctl *ctl, const char *verb) {
    char id[64], target[128];
    struct reply reply;
    int code = ctl_model(ctl, 0, id);

    if (code == EXIT_OK) {
        snprintf(target, sizeof target, "/v1/models/%s:%s", id, verb);
        code = ctl_call(ctl, &(struct request){.method = "POST", .target = target}, &reply);
    }
    if (code == EXIT_OK) {
        print_model(ctl, &reply);
        reply_finish(&reply);
    }
    return code;
}

int run_model_initialize(const struct ctl *ctl) {
    return run_verb(ctl, "initialize");
}

int run_model_pause(const struct ctl *ctl) {
    return run_verb(ctl, "pause");
}

int run_model_resume(const struct ctl *ctl) {
    return run_verb(ctl, "resume");
}

int run_model_delete(const struct ctl *ctl) {
    char target[128] = "";
    struct reply reply;
    int code = EXIT_OK;

    if (ctl->word_count != 1 || !is_model_id(ctl->words[0])) {
        return fail_usage(ctl, "expected: adamctl model delete NAME");
    }
    append_format(target, sizeof target, "/v1/models/%s%s", ctl->words[0],
                  ctl_has(ctl, "force") ? "?force=true" : "");
    code = ctl_confirm(ctl, "Delete model %s, its parameters and its state?", ctl->words[0]);
    if (code == EXIT_OK) {
        code =
            ctl_call(ctl,
                     &(struct request){
                         .method = "DELETE", .target = target, .once = true, .may_be_empty = true},
                     &reply);
    }
    if (code == EXIT_OK) {
        if (ctl->json) {
            reply_print(&reply);
        }
        say(ctl, "deleted %s", ctl->words[0]);
        reply_finish(&reply);
    }
    return code;
}
