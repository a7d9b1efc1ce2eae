// Where settings come from: the command line, the environment, a file.
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 1 << 16 };

// "--slots-max" to "slots_max". False if it is no flag, or too long.
static bool flag_to_key(const char *flag, size_t size, char *key) {
    if (size < 3 || size - 2 >= CONFIG_TEXT_MAX || strncmp(flag, "--", 2) != 0) {
        return false;
    }
    for (size_t i = 2; i < size; i++) {
        key[i - 2] = (char)(flag[i] == '-' ? '_' : flag[i]);
    }
    key[size - 2] = '\0';
    return true;
}

static bool take_action(const char *flag, enum config_action *action) {
    static const struct {
        const char *flag;
        enum config_action action;
    } rows[] = {{"--check-config", CONFIG_CHECK},
                {"--print-config", CONFIG_PRINT},
                {"--version", CONFIG_VERSION},
                {"--help", CONFIG_HELP},
                {"-h", CONFIG_HELP}};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(flag, rows[i].flag) == 0) {
            *action = rows[i].action;
            return true;
        }
    }
    return false;
}

struct arguments {
    int argc;
    char *const *argv;
    const char *file;
    enum config_action action;
};

// One argument, and its value if that is the next one: `--key=value`, `--key value`, and
// `--i-know-this-is-insecure` alone. `config` NULL: only --config and the actions are looked for.
static enum adamd_status take_argument(struct config *config, struct arguments *arguments, int *at,
                                       struct adamd_fault *fault) {
    const char *flag = arguments->argv[*at];
    const size_t size = strcspn(flag, "=");
    char key[CONFIG_TEXT_MAX];

    if (take_action(flag, &arguments->action)) {
        return ADAMD_OK;
    }
    if (!flag_to_key(flag, size, key)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, flag, "'%.64s' is no flag", flag);
    }
    const char *value = flag[size] == '=' ? flag + size + 1 : NULL;
    if (value == NULL && strcmp(key, "i_know_this_is_insecure") == 0) {
        value = "true";
    }
    if (value == NULL && *at + 1 < arguments->argc) {
        value = arguments->argv[++*at];
    }
    if (strcmp(key, "config") == 0 && value != NULL) {
        arguments->file = value;
        return ADAMD_OK;
    }
    if (config == NULL) {
        return ADAMD_OK;
    }
    return config_set(config, key, value != NULL ? value : "", ORIGIN_FLAG, fault);
}

static enum adamd_status take_arguments(struct config *config, struct arguments *arguments,
                                        struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;

    for (int at = 1; status == ADAMD_OK && at < arguments->argc; at++) {
        status = take_argument(config, arguments, &at, fault);
    }
    return status;
}

// ADAMD_SLOTS_MAX=4. A typo is an error; a name that resembles no setting belongs to another
// program of the family.
static enum adamd_status take_variable(struct config *config, const char *entry,
                                       struct arguments *arguments, struct adamd_fault *fault) {
    static const char prefix[] = "ADAMD_";
    const size_t prefix_size = sizeof prefix - 1;
    const char *equals = strchr(entry, '=');
    char key[CONFIG_TEXT_MAX];
    size_t size = 0;

    if (strncmp(entry, prefix, prefix_size) != 0 || equals == NULL) {
        return ADAMD_OK;
    }
    for (const char *at = entry + prefix_size; at < equals && size + 1 < sizeof key; at++) {
        key[size++] = (char)tolower((unsigned char)*at);
    }
    key[size] = '\0';
    if (strcmp(key, "config") == 0) {
        arguments->file = arguments->file != NULL ? arguments->file : equals + 1;
        return ADAMD_OK;
    }
    if (config == NULL || !config_resembles(key)) {
        return ADAMD_OK;
    }
    return config_set(config, key, equals + 1, ORIGIN_ENVIRONMENT, fault);
}

static enum adamd_status take_environment(struct config *config, char *const *environment,
                                          struct arguments *arguments, struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;

    for (; status == ADAMD_OK && *environment != NULL; environment++) {
        status = take_variable(config, *environment, arguments, fault);
    }
    return status;
}

static enum adamd_status read_file(struct config *config, const char *path,
                                   struct adamd_fault *fault) {
    char *text = calloc(1, FILE_BYTES_MAX + 1);
    FILE *file = fopen(path, "re");
    enum adamd_status status = ADAMD_OK;

    if (file == NULL || text == NULL) {
        status = adamd_fail(fault, ADAMD_BAD_FIELD, "config", "%s: %s", path, strerror(errno));
    } else if (fread(text, 1, FILE_BYTES_MAX + 1, file) > FILE_BYTES_MAX) {
        status = adamd_fail(fault, ADAMD_TOO_LARGE, "config", "%s is too long", path);
    } else if (ferror(file)) {
        status = adamd_fail(fault, ADAMD_BAD_FIELD, "config", "%s cannot be read", path);
    } else {
        status = config_read(config, text, fault);
    }
    if (file != NULL) {
        (void)fclose(file); // nothing was written
    }
    free(text);
    return status;
}

enum adamd_status config_init(struct config *config, int argc, char *const *argv,
                              char *const *environment, enum config_action *ret_action,
                              struct adamd_fault *fault) {
    struct arguments arguments = {.argc = argc, .argv = argv, .action = CONFIG_RUN};
    enum adamd_status status;

    config_default(config);
    // Flags and environment may name the file, but win over it.
    status = take_arguments(NULL, &arguments, fault);
    *ret_action = status == ADAMD_OK ? CONFIG_RUN : CONFIG_USAGE;
    if (status == ADAMD_OK) {
        status = take_environment(NULL, environment, &arguments, fault);
    }
    if (status == ADAMD_OK && arguments.file != NULL) {
        status = read_file(config, arguments.file, fault);
    }
    if (status == ADAMD_OK) {
        status = take_environment(config, environment, &arguments, fault);
    }
    if (status == ADAMD_OK) {
        status = take_arguments(config, &arguments, fault);
        *ret_action = status == ADAMD_OK ? arguments.action : CONFIG_USAGE;
    }
    if (status != ADAMD_OK || arguments.action == CONFIG_HELP ||
        arguments.action == CONFIG_VERSION) {
        return status;
    }
    return config_check(config, fault);
}
