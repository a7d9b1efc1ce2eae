// One table of settings; everything else walks it.
#include "config.h"

#include "config_plugin.h"
#include "config_value.h"
#include "target.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { COUNT, SIZE, DURATION, TEXT, BOOL, CHOICE, LISTEN };

// Flags are the key with dashes; variables are ADAMD_ and the key in capitals; keys are unique over
// all sections.
struct setting {
    const char *section, *key;
    enum kind kind;
    size_t offset;
    const char *fallback;
    uint64_t min, max;
    const char *const *choices; // CHOICE: the value is the index
    const char *help;
};

static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const formats[] = {"text", "json", NULL};

#define AT(member) offsetof(struct config, member)
static const struct setting settings[] = {
    {"", "listen", LISTEN, AT(listens), "http=127.0.0.1:7440", 0, 0, NULL,
     "where to serve, ADDRESS:PORT or unix:/PATH; may be repeated"},
    {"", "port_file", TEXT, AT(port_file), "", 0, 0, NULL,
     "file that gets the TCP port which was bound, for port 0"},
    {"", "i_know_this_is_insecure", BOOL, AT(insecure_bind), "false", 0, 0, NULL,
     "allow an address that other hosts reach, though nobody has to prove who they are"},
    {"device", "device", TEXT, AT(device), "auto", 0, 0, NULL, "auto or cpu"},
    {"device", "cpu_variant", TEXT, AT(cpu_variant), "", 0, 0, NULL,
     "base, avx2, avx512 or neon instead of the fastest"},
    {"device", "threads", COUNT, AT(threads), "0", 0, 1024, NULL,
     "threads that step; 0: one for each CPU"},
    {"limits", "slots_max", COUNT, AT(slots_max), "8", 1, 4096, NULL,
     "gradients that a model holds at once"},
    {"limits", "published_max", COUNT, AT(published_max), "2", 2, 64, NULL,
     "versions that a model holds for readers"},
    {"limits", "models_max", COUNT, AT(models_max), "64", 1, 4096, NULL, "models in all"},
    {"limits", "memory_max", SIZE, AT(memory_max), "80%", UINT64_C(1) << 20, UINT64_MAX, NULL,
     "bytes of all models, with K, M, G, or % of the machine's"},
    {"limits", "connections_max", COUNT, AT(connections_max), "1024", 1, 65536, NULL,
     "connections in all"},
    {"limits", "connections_per_address_max", COUNT, AT(connections_per_address_max), "0", 0, 65536,
     NULL, "connections of one address; 0: 64, and this host's own as many as there are"},
    {"deadlines", "header_timeout", DURATION, AT(header_timeout_ms), "5s", 10, 3600000, NULL,
     "from a request's first byte to the end of its headers"},
    {"deadlines", "idle_timeout", DURATION, AT(idle_timeout_ms), "1m", 10, 86400000, NULL,
     "between two requests of a connection"},
    {"deadlines", "body_timeout", DURATION, AT(body_timeout_ms), "10s", 10, 3600000, NULL,
     "for a body; longer for one that min_rate allows more time"},
    {"deadlines", "response_timeout", DURATION, AT(response_timeout_ms), "10s", 10, 3600000, NULL,
     "for sending an answer; longer for one that min_rate allows more time"},
    {"deadlines", "min_rate", SIZE, AT(min_rate), "1M", 1, UINT64_MAX, NULL,
     "bytes a second that a peer must take or send at least"},
    {"deadlines", "wait_timeout", DURATION, AT(wait_timeout_ms), "10m", 10, 86400000, NULL,
     "for an answer that waits for something, such as a barrier"},
    {"deadlines", "connection_age", DURATION, AT(connection_age_ms), "1h", 10, 604800000, NULL,
     "after which a connection is closed with its next answer"},
    {"deadlines", "drain_limit", DURATION, AT(drain_limit_ms), "30s", 10, 3600000, NULL,
     "for ending in order after SIGTERM"},
    {"log", "log_level", CHOICE, AT(log_level), "info", 0, 0, levels, "debug, info, warn or error"},
    {"log", "log_format", CHOICE, AT(log_format), "text", 0, 0, formats, "text or json"},
};
#undef AT

enum { SETTING_COUNT = sizeof settings / sizeof settings[0] };
_Static_assert(sizeof settings / sizeof settings[0] <= CONFIG_SETTINGS_MAX,
               "origins has a place for each setting");

static const char *const origin_names[] = {"default", "file", "environment", "flag"};

static void *member(struct config *config, const struct setting *setting) {
    return (char *)config + setting->offset;
}

static const void *member_of(const struct config *config, const struct setting *setting) {
    return (const char *)config + setting->offset;
}

static const struct setting *find(const char *key) {
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(settings[i].key, key) == 0) {
            return &settings[i];
        }
    }
    return NULL;
}

static const char *nearest_setting(const char *key) {
    const char *names[SETTING_COUNT + 1] = {NULL};

    for (size_t i = 0; i < SETTING_COUNT; i++) {
        names[i] = settings[i].key;
    }
    return nearest_name(key, names);
}

bool config_resembles(const char *key) {
    return nearest_setting(key) != NULL;
}

static enum adamd_status fail_unknown(const char *key, struct adamd_fault *fault) {
    const char *nearest = nearest_setting(key);

    if (nearest != NULL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, key,
                          "There is no setting '%.64s'; did you mean '%s'?", key, nearest);
    }
    return adamd_fail(fault, ADAMD_BAD_FIELD, key, "There is no setting '%.64s'", key);
}

static bool set_choice(const char *const *choices, const char *value, uint64_t *ret_index) {
    for (uint64_t i = 0; choices[i] != NULL; i++) {
        if (strcmp(choices[i], value) == 0) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

static bool set_text(const char *value, char *to) {
    if (strlen(value) >= CONFIG_TEXT_MAX) {
        return false;
    }
    memcpy(to, value, strlen(value) + 1);
    return true;
}

static bool set_number(bool parse(const char *, uint64_t *), const char *value,
                       const struct setting *setting, uint64_t *to) {
    uint64_t number;

    if (!parse(value, &number) || number < setting->min || number > setting->max) {
        return false;
    }
    *to = number;
    return true;
}

// The first address from a higher origin replaces those of lower ones; more of the same add up.
static bool add_listen(struct config *config, const char *value, bool replace) {
    struct config_listen listen;

    if (!value_listen(value, &listen)) {
        return false;
    }
    if (replace) {
        config->listen_count = 0;
    }
    if (config->listen_count == CONFIG_LISTEN_MAX) {
        return false;
    }
    config->listens[config->listen_count++] = listen;
    return true;
}

static bool apply(struct config *config, const struct setting *setting, const char *value,
                  enum config_origin origin) {
    const bool is_higher = origin > config->origins[setting - settings];
    void *to = member(config, setting);

    switch (setting->kind) {
    case COUNT:
        return set_number(value_count, value, setting, to);
    case SIZE:
        return set_number(value_size, value, setting, to);
    case DURATION:
        return set_number(value_duration, value, setting, to);
    case TEXT:
        return set_text(value, to);
    case BOOL:
        return value_bool(value, to);
    case CHOICE:
        return set_choice(setting->choices, value, to);
    case LISTEN:
        return add_listen(config, value, is_higher || origin == ORIGIN_DEFAULT);
    }
    return false;
}

enum adamd_status config_set(struct config *config, const char *name, const char *value,
                             enum config_origin origin, struct adamd_fault *fault) {
    const char *dot = strchr(name, '.');
    const struct setting *setting = find(dot != NULL ? dot + 1 : name);
    const char *plugin = config_plugin_of(name);

    if (plugin != NULL) {
        return config_plugin_set(config, plugin, value, origin, fault);
    }
    if (setting == NULL) {
        return fail_unknown(dot != NULL ? dot + 1 : name, fault);
    }
    if (dot != NULL && strncmp(name, setting->section, (size_t)(dot - name)) != 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, setting->key,
                          "The setting '%s' belongs to the section [%s]", setting->key,
                          setting->section);
    }
    if (origin < config->origins[setting - settings]) {
        return ADAMD_OK;
    }
    if (!apply(config, setting, value, origin)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, setting->key, "'%.64s' is no value for '%s': %s",
                          value, setting->key, setting->help);
    }
    config->origins[setting - settings] = origin;
    return ADAMD_OK;
}

void config_default(struct config *config) {
    *config = (struct config){.listen_count = 0};
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const bool is_valid = apply(config, &settings[i], settings[i].fallback, ORIGIN_DEFAULT);
        ADAMD_ASSERT(is_valid);
    }
}

// Without the blanks at both ends; cuts `text`.
static char *trim(char *text) {
    static const char blanks[] = " \t\r";
    size_t size;

    text += strspn(text, blanks);
    size = strlen(text);
    while (size > 0 && strchr(blanks, text[size - 1]) != NULL) {
        size--;
    }
    text[size] = '\0';
    return text;
}

static bool has_section(const char *name) {
    if (strcmp(name, "plugin") == 0) {
        return true;
    }
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(settings[i].section, name) == 0) {
            return true;
        }
    }
    return false;
}

// One line of a file. `section` is kept between lines.
static enum adamd_status read_line(struct config *config, char *line, char *section,
                                   struct adamd_fault *fault) {
    char name[CONFIG_TEXT_MAX];
    char *text = trim(line);
    const size_t size = strlen(text);

    if (size == 0 || text[0] == '#' || text[0] == ';') {
        return ADAMD_OK;
    }
    if (text[0] == '[') {
        if (text[size - 1] != ']' || size > 32) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, "section", "A section is [name]");
        }
        text[size - 1] = '\0';
        memcpy(section, text + 1, size - 1);
        return has_section(section) ? ADAMD_OK
                                    : adamd_fail(fault, ADAMD_BAD_FIELD, section,
                                                 "There is no section [%s]", section);
    }
    char *equals = strchr(text, '=');
    if (equals == NULL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, text, "A setting is key = value");
    }
    *equals = '\0';
    snprintf(name, sizeof name, "%s.%s", section, trim(text));
    return config_set(config, name, trim(equals + 1), ORIGIN_FILE, fault);
}

enum adamd_status config_read(struct config *config, char *text, struct adamd_fault *fault) {
    char section[32] = "";
    unsigned number = 0;

    for (char *line = text; line != NULL;) {
        char *end = strchr(line, '\n');
        if (end != NULL) {
            *end = '\0';
        }
        number++;
        const enum adamd_status status = read_line(config, line, section, fault);
        if (status != ADAMD_OK) {
            adamd_fault_tell(fault, "line", "%u", number);
            return status;
        }
        line = end != NULL ? end + 1 : NULL;
    }
    return ADAMD_OK;
}

enum adamd_status config_check(const struct config *config, struct adamd_fault *fault) {
    static const char *const variants[] = {"", "base", "avx2", "avx512", "neon", NULL};
    uint64_t ignored;

    for (size_t i = 0; i < config->listen_count; i++) {
        if (!config->listens[i].is_loopback && !config->insecure_bind) {
            return adamd_fail(fault, ADAMD_BAD_FIELD, "listen",
                              "%s can be reached from other hosts, and there are no tokens yet: "
                              "use a loopback address or a Unix socket, or say "
                              "--i-know-this-is-insecure",
                              config->listens[i].address);
        }
    }
    if (strncmp(config->device, "cuda", 4) == 0) {
        return adamd_fail(fault, ADAMD_UNSUPPORTED, "device",
                          "This build has no CUDA: use --device cpu, or auto");
    }
    if (strcmp(config->device, "auto") != 0 && strcmp(config->device, "cpu") != 0) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "device", "A device is auto or cpu");
    }
    if (!set_choice(variants, config->cpu_variant, &ignored)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "cpu_variant",
                          "A variant is base, avx2, avx512 or neon");
    }
    return ADAMD_OK;
}

static void print_value(const struct config *config, const struct setting *setting, char *to,
                        size_t size) {
    const void *from = member_of(config, setting);
    const uint64_t *number = from;

    switch (setting->kind) {
    case COUNT:
        snprintf(to, size, "%" PRIu64, *number);
        break;
    case SIZE:
        print_size(*number, to, size);
        break;
    case DURATION:
        print_duration(*number, to, size);
        break;
    case TEXT:
        snprintf(to, size, "%s", (const char *)from);
        break;
    case BOOL:
        snprintf(to, size, "%s", *(const bool *)from ? "true" : "false");
        break;
    case CHOICE:
        snprintf(to, size, "%s", setting->choices[*number]);
        break;
    case LISTEN:
        break; // printed line by line
    }
}

static void print_line(const char *key, const char *value, enum config_origin origin, FILE *to) {
    char line[2 * CONFIG_TEXT_MAX];

    snprintf(line, sizeof line, "%s = %s", key, value);
    fprintf(to, "%-44s # %s\n", line, origin_names[origin]);
}

void config_print(const struct config *config, FILE *to) {
    const char *section = "";
    char value[CONFIG_TEXT_MAX + 16];

    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(section, settings[i].section) != 0) {
            section = settings[i].section;
            fprintf(to, "\n[%s]\n", section);
        }
        for (size_t k = 0; settings[i].kind == LISTEN && k < config->listen_count; k++) {
            print_listen(&config->listens[k], value, sizeof value);
            print_line(settings[i].key, value, config->origins[i], to);
        }
        if (settings[i].kind != LISTEN) {
            print_value(config, &settings[i], value, sizeof value);
            print_line(settings[i].key, value, config->origins[i], to);
        }
    }
    for (size_t i = 0; i < config->plugin_count; i++) {
        fputs(i == 0 ? "\n[plugin]\n" : "", to);
        print_line(config->plugins[i].name, config->plugins[i].path, config->plugins[i].origin, to);
    }
}

static void print_flag(const char *key, FILE *to) {
    char flag[CONFIG_TEXT_MAX] = "--";

    for (size_t i = 0; key[i] != '\0' && i + 3 < sizeof flag; i++) {
        flag[i + 2] = (char)(key[i] == '_' ? '-' : key[i]);
    }
    fprintf(to, "  %-32s", flag);
}

void config_help(FILE *to) {
    fputs("adamd: keeps models' parameters and Adam state, and serves them over HTTP\n\n"
          "usage: adamd [--config FILE] [--SETTING VALUE]...\n\n"
          "  --config FILE                   settings as `key = value` lines with [sections]\n"
          "  --check-config                  check the settings, then end\n"
          "  --print-config                  print each setting with its origin, then end\n"
          "  --version, --help\n\nsettings, also as ADAMD_SETTING in the environment:\n",
          to);
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        print_flag(settings[i].key, to);
        fprintf(to, "%s [%s]\n", settings[i].help, settings[i].fallback);
    }
    fputs("  --plugin.NAME PATH.so           a hook from a shared object: the action plugin:NAME\n",
          to);
}
