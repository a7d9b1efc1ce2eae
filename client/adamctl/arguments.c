// The command line.

#include "arguments.h"

#include <stdio.h>
#include <string.h>

enum kind { VALUE, SWITCH };

struct flag {
    const char *name;
    char letter;
    enum kind kind;
};

static const struct flag all_flags[] = {
    // every command
    {"endpoint", 0, VALUE},
    {"timeout", 0, VALUE},
    {"output", 'o', VALUE},
    {"model", 'm', VALUE},
    {"quiet", 'q', SWITCH},
    {"yes", 'y', SWITCH},
    {"no-input", 0, SWITCH},
    {"help", 'h', SWITCH},
    // options of the optimizer, by PyTorch's names
    {"lr", 0, VALUE},
    {"betas", 0, VALUE},
    {"eps", 0, VALUE},
    {"weight-decay", 0, VALUE},
    {"amsgrad", 0, SWITCH},
    {"maximize", 0, SWITCH},
    {"decoupled-weight-decay", 0, SWITCH},
    {"foreach", 0, SWITCH},
    {"capturable", 0, SWITCH},
    {"differentiable", 0, SWITCH},
    {"fused", 0, SWITCH},
    // how pushes become steps
    {"policy", 0, VALUE},
    {"nonfinite", 0, VALUE},
    {"quorum", 0, VALUE},
    {"min-workers", 0, VALUE},
    {"deadline", 0, VALUE},
    {"lease", 0, VALUE},
    {"max-staleness", 0, VALUE},
    // the rest
    {"extra", 0, VALUE},
    {"from", 0, VALUE},
    {"json", 0, VALUE},
    {"init", 0, SWITCH},
    {"zeros", 0, SWITCH},
    {"validate-only", 0, SWITCH},
    {"display-name", 0, VALUE},
    {"force", 0, SWITCH},
    {"worker", 'w', VALUE},
    {"base-version", 0, VALUE},
    {"weight", 0, VALUE},
    {"metric", 0, VALUE},
    {"replace", 0, SWITCH},
    {"epoch", 0, VALUE},
    {"sequence", 0, VALUE},
    {"min-version", 0, VALUE},
    {"wait", 0, VALUE},
    {"expected-version", 0, VALUE},
    {"set-to-none", 0, SWITCH},
    {"event", 0, VALUE},
    {"prepend", 0, SWITCH},
    {"follow", 'f', SWITCH},
    {"after", 0, VALUE},
    {"limit", 'n', VALUE},
    {"data", 'd', VALUE},
    {"file", 0, VALUE},
    {"content-type", 0, VALUE},
    {"accept", 0, VALUE},
};

// "weight_decay" is "weight-decay", as PyTorch's users write it.
static bool same_name(const char *known, const char *given, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (known[i] == '\0' || known[i] != (given[i] == '_' ? '-' : given[i])) {
            return false;
        }
    }
    return known[size] == '\0';
}

static const struct flag *find_long(const char *name, size_t size) {
    for (size_t i = 0; i < sizeof all_flags / sizeof all_flags[0]; i++) {
        if (same_name(all_flags[i].name, name, size)) {
            return &all_flags[i];
        }
    }
    return NULL;
}

static const struct flag *find_letter(char letter) {
    for (size_t i = 0; i < sizeof all_flags / sizeof all_flags[0]; i++) {
        if (letter != '\0' && all_flags[i].letter == letter) {
            return &all_flags[i];
        }
    }
    return NULL;
}

// One flag and what is attached to it: --name, --name=value, --no-name, -x, -xvalue.
static const struct flag *recognise(const char *text, const char **ret_value) {
    size_t size = strcspn(text, "=");
    const struct flag *flag = NULL;

    *ret_value = text[size] == '=' ? text + size + 1 : NULL;
    if (text[1] != '-') {
        flag = find_letter(text[1]);
        *ret_value = text[1] != '\0' && text[2] != '\0' ? text + 2 : NULL;
        return flag;
    }
    flag = find_long(text + 2, size - 2);
    if (flag == NULL && strncmp(text, "--no-", 5) == 0 && *ret_value == NULL) {
        flag = find_long(text + 5, size - 5);
        flag = flag != NULL && flag->kind == SWITCH ? flag : NULL;
        *ret_value = "false";
    }
    return flag;
}

static bool is_flag(const char *text) {
    return text[0] == '-' && text[1] != '\0';
}

// Takes the flag at argv[*i], and its value after it. NULL, or what is wrong with it.
static const char *take_flag(int argc, char **argv, int *i, struct arguments *arguments) {
    const char *value = NULL;
    const struct flag *flag = recognise(argv[*i], &value);

    if (flag == NULL) {
        return "there is no such flag";
    }
    if (value == NULL && flag->kind == SWITCH) {
        value = "true";
    }
    if (value == NULL && *i + 1 < argc) {
        value = argv[++*i];
    }
    if (value == NULL) {
        return "needs a value";
    }
    if (flag->kind == SWITCH && strcmp(value, "true") != 0 && strcmp(value, "false") != 0) {
        return "is true or false";
    }
    if (arguments->flag_count == FLAGS_MAX) {
        return "is one flag too many";
    }
    arguments->flags[arguments->flag_count].name = flag->name;
    arguments->flags[arguments->flag_count++].value = value;
    return NULL;
}

bool arguments_parse(int argc, char **argv, struct arguments *ret_arguments, char *message,
                     size_t message_size) {
    bool flags_ended = false;

    *ret_arguments = (struct arguments){.word_count = 0};
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i], *why = NULL;
        if (!flags_ended && strcmp(text, "--") == 0) {
            flags_ended = true;
        } else if (!flags_ended && is_flag(text)) {
            why = take_flag(argc, argv, &i, ret_arguments);
        } else if (ret_arguments->word_count == WORDS_MAX) {
            why = "is one word too many";
        } else {
            ret_arguments->words[ret_arguments->word_count++] = text;
        }
        if (why != NULL) {
            snprintf(message, message_size, "%s: %s", text, why);
            return false;
        }
    }
    return true;
}

const char *arguments_get(const struct arguments *arguments, const char *name) {
    for (size_t i = arguments->flag_count; i > 0; i--) {
        if (strcmp(arguments->flags[i - 1].name, name) == 0) {
            return arguments->flags[i - 1].value;
        }
    }
    return NULL;
}

bool arguments_has(const struct arguments *arguments, const char *name) {
    const char *value = arguments_get(arguments, name);

    return value != NULL && strcmp(value, "true") == 0;
}

static bool lists(const char *list, const char *name) {
    size_t size = strlen(name);

    for (const char *at = strstr(list, name); at != NULL; at = strstr(at + 1, name)) {
        if ((at == list || at[-1] == ' ') && (at[size] == ' ' || at[size] == '\0')) {
            return true;
        }
    }
    return false;
}

const char *arguments_stranger(const struct arguments *arguments, const char *known,
                               const char *known_too) {
    for (size_t i = 0; i < arguments->flag_count; i++) {
        const char *name = arguments->flags[i].name;
        if (!lists(known, name) && !lists(known_too, name)) {
            return name;
        }
    }
    return NULL;
}
