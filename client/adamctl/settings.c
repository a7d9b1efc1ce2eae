// Flags that set options of the optimizer and of the policy.

#include "settings.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { REAL, BETAS, SWITCH, COUNT, BIG_COUNT, DURATION, TRIGGER, NONFINITE };

struct setting {
    const char *flag, *field, *path;
    enum kind kind;
};

static const struct setting options[] = {
    {"lr", "lr", "lr", REAL},
    {"betas", "betas", "betas", BETAS},
    {"eps", "eps", "eps", REAL},
    {"weight-decay", "weightDecay", "weight_decay", REAL},
    {"amsgrad", "amsgrad", "amsgrad", SWITCH},
    {"maximize", "maximize", "maximize", SWITCH},
    {"decoupled-weight-decay", "decoupledWeightDecay", "decoupled_weight_decay", SWITCH},
    {"foreach", "foreach", "foreach", SWITCH},
    {"capturable", "capturable", "capturable", SWITCH},
    {"differentiable", "differentiable", "differentiable", SWITCH},
    {"fused", "fused", "fused", SWITCH},
};

static const struct setting policy[] = {
    {"policy", "trigger", "trigger", TRIGGER},
    {"nonfinite", "nonfinite", "nonfinite", NONFINITE},
    {"quorum", "quorum", "quorum", COUNT},
    {"min-workers", "minWorkers", "min_workers", COUNT},
    {"deadline", "deadline", "deadline", DURATION},
    {"lease", "lease", "lease", DURATION},
    {"max-staleness", "maxStaleness", "max_staleness", BIG_COUNT},
};

// A number as JSON has it. NaN and infinity are texts there; the daemon says what it thinks of
// them.
static cJSON *parse_real(const char *text) {
    char *end = NULL;
    double value = strtod(text, &end);

    if (end == text || *end != '\0') {
        return NULL;
    }
    if (isnan(value)) {
        return cJSON_CreateString("NaN");
    }
    return isinf(value) ? cJSON_CreateString(value > 0 ? "Infinity" : "-Infinity")
                        : cJSON_CreateNumber(value);
}

// "0.9,0.999", also as Python prints it: "(0.9, 0.999)".
static cJSON *parse_betas(const char *text) {
    char *end = NULL;
    double betas[2] = {0, 0};
    bool bracketed = *text == '(';

    text += bracketed;
    betas[0] = strtod(text, &end);
    if (end == text || (*end != ',' && *end != ':')) {
        return NULL;
    }
    text = end + 1;
    betas[1] = strtod(text, &end);
    if (end == text || strcmp(end, bracketed ? ")" : "") != 0) {
        return NULL;
    }
    return cJSON_CreateDoubleArray(betas, 2);
}

static cJSON *parse_count(const char *text, enum kind kind) {
    size_t length = strspn(text, "0123456789");

    if (length == 0 || length > 20 || text[length] != '\0') {
        return NULL;
    }
    return kind == BIG_COUNT ? cJSON_CreateString(text) : cJSON_CreateNumber(strtod(text, NULL));
}

// The value of an enum as the schema says it: "each-push" is EACH_PUSH, behind the enum's prefix.
static cJSON *parse_enum(const char *text, const char *prefix, const char *const *known) {
    char value[48];

    for (; *known != NULL && strcmp(text, *known) != 0; known++) {
    }
    if (*known == NULL) {
        return NULL;
    }
    snprintf(value, sizeof value, "%s%s", prefix, text);
    for (char *at = value; *at != '\0'; at++) {
        int upper = toupper((unsigned char)*at);
        *at = (char)(upper == '-' ? '_' : upper);
    }
    return cJSON_CreateString(value);
}

static cJSON *parse_setting(const struct setting *setting, const char *text) {
    static const char *const triggers[] = {"barrier", "each-push", "manual", NULL};
    static const char *const nonfinites[] = {"reject", "skip", "allow", NULL};
    char duration[48];

    switch (setting->kind) {
    case REAL:
        return parse_real(text);
    case BETAS:
        return parse_betas(text);
    case SWITCH:
        return cJSON_CreateBool(strcmp(text, "true") == 0);
    case DURATION:
        return parse_duration(text, duration, sizeof duration) ? cJSON_CreateString(duration)
                                                               : NULL;
    case TRIGGER:
        return parse_enum(text, "TRIGGER_", triggers);
    case NONFINITE:
        return parse_enum(text, "NONFINITE_", nonfinites);
    default:
        return parse_count(text, setting->kind);
    }
}

static const char *expected(enum kind kind) {
    static const char *const texts[] = {
        [REAL] = "a number",
        [BETAS] = "two numbers: 0.9,0.999",
        [SWITCH] = "true or false",
        [COUNT] = "a whole number",
        [BIG_COUNT] = "a whole number",
        [DURATION] = "a time: 500ms, 5s, 2m",
        [TRIGGER] = "barrier, each-push or manual",
        [NONFINITE] = "reject, skip or allow",
    };

    return texts[kind];
}

static int add_list(const struct ctl *ctl, const struct setting *list, size_t count, cJSON *object,
                    const char *path, char *mask, size_t mask_size) {
    for (size_t i = 0; i < count; i++) {
        const char *text = ctl_flag(ctl, list[i].flag);
        cJSON *value = text != NULL ? parse_setting(&list[i], text) : NULL;
        if (text == NULL) {
            continue;
        }
        if (value == NULL) {
            return fail_usage(ctl, "--%s %s: expected %s", list[i].flag, text,
                              expected(list[i].kind));
        }
        cJSON_AddItemToObject(object, list[i].field, value);
        if (mask != NULL) {
            append_format(mask, mask_size, "%s%s.%s", mask[0] != '\0' ? "," : "", path,
                          list[i].path);
        }
    }
    return EXIT_OK;
}

// As a member, if anything is in it.
static void attach(cJSON *model, const char *name, cJSON *object) {
    if (object->child != NULL) {
        cJSON_AddItemToObject(model, name, object);
    } else {
        cJSON_Delete(object);
    }
}

int settings_add(const struct ctl *ctl, cJSON *model, char *mask, size_t mask_size) {
    cJSON *defaults = must(cJSON_CreateObject()), *step_policy = must(cJSON_CreateObject());
    int code = add_list(ctl, options, sizeof options / sizeof options[0], defaults, "defaults",
                        mask, mask_size);

    if (code == EXIT_OK) {
        code = add_list(ctl, policy, sizeof policy / sizeof policy[0], step_policy, "step_policy",
                        mask, mask_size);
    }
    attach(model, "defaults", defaults);
    attach(model, "stepPolicy", step_policy);
    return code;
}

int settings_options(const struct ctl *ctl, cJSON **ret_options) {
    cJSON *object = must(cJSON_CreateObject());
    int code = add_list(ctl, options, sizeof options / sizeof options[0], object, "", NULL, 0);

    if (code != EXIT_OK || object->child == NULL) {
        cJSON_Delete(object);
        object = NULL;
    }
    *ret_options = object;
    return code;
}
