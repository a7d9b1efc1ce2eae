// adamctl: the command line of adamd. Finds the command, opens the way to the daemon, runs it.

#include "commands.h"
#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EVERYWHERE "endpoint timeout output model quiet yes no-input help"

struct command {
    const char *name;      // one word, or two
    const char *arguments; // for people
    const char *flags;     // beside those that every command knows
    const char *summary;
    int (*run)(const struct ctl *ctl);
    bool output_is_file; // -o names a file, not a format
};

static const struct command commands[] = {
    {"status", "", "", "the daemon and its models", run_status, false},
    {"health", "", "", "ok, or exit code 5", run_health, false},
    {"model list", "", "", "all models", run_model_list, false},
    {"model get", "[MODEL]", "", "one model with groups and tensors", run_model_get, false},
    {"model create", "NAME --from FILE | --json FILE",
     "from json init zeros validate-only display-name " OPTION_FLAGS " " POLICY_FLAGS,
     "a model with the tensors of a safetensors file (--init: and its values)", run_model_create,
     false},
    {"model update", "[MODEL]", "display-name " OPTION_FLAGS " " POLICY_FLAGS,
     "changes options and policy", run_model_update, false},
    {"model initialize", "[MODEL]", "", "zeros in all parameters of a new model",
     run_model_initialize, false},
    {"model pause", "[MODEL]", "", "refuses pushes from here on", run_model_pause, false},
    {"model resume", "[MODEL]", "", "takes pushes again", run_model_resume, false},
    {"model delete", "NAME", "force", "parameters, state and all", run_model_delete, false},
    {"group list", "[MODEL]", "", "the param groups with options and extra keys", run_group_list,
     false},
    {"group update", "INDEX [MODEL]", "extra " OPTION_FLAGS,
     "changes one group (--extra initial_lr=0.1)", run_group_update, false},
    {"group add", "FILE [MODEL]", "", "new parameters with their values, while it trains",
     run_group_add, false},
    {"worker list", "[MODEL]", "", "who pushes", run_worker_list, false},
    {"hook list", "[MODEL]", "", "what runs around the step", run_hook_list, false},
    {"hook add", "ACTION [NAME=VALUE...]", "event prepend",
     "unscale, clip_grad_norm, lr_schedule, ema and others", run_hook_add, false},
    {"hook remove", "HOOK [MODEL]", "", "the hook of that number", run_hook_remove, false},
    {"push", "FILE", "worker base-version weight metric replace epoch sequence",
     "a gradient from a safetensors file", run_push, false},
    {"pull", "[MODEL] [-o FILE]", "min-version wait", "the parameters as safetensors", run_pull,
     true},
    {"state save", "FILE [MODEL]", "", "parameters, moments and steps as safetensors",
     run_state_save, true},
    {"state load", "FILE [MODEL]", "force", "the same way back, or parameters only", run_state_load,
     false},
    {"differentiate", "FILE [MODEL] [-o FILE]", "expected-version",
     "the last step's vector-Jacobian product: cotangents in and out", run_differentiate, true},
    {"step", "[MODEL]", "expected-version " OPTION_FLAGS, "optimizer.step(), for policy manual",
     run_step, false},
    {"zero-grad", "[MODEL]", "set-to-none", "optimizer.zero_grad(), for policy manual",
     run_zero_grad, false},
    {"steps", "[MODEL]", "follow after limit", "how versions came about", run_steps, false},
    {"raw", "METHOD /PATH", "data file content-type accept", "any call of the API", run_raw, false},
};

enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static const char *const help_end =
    "  version                                   of adamctl\n"
    "  help [COMMAND]\n"
    "\n"
    "Flags of every command:\n"
    "  --endpoint URL     http://HOST:PORT or unix:/PATH; else ADAMD_ENDPOINT, else\n"
    "                     http://127.0.0.1:7440\n"
    "  -m, --model NAME   not needed while there is only one\n"
    "  -o table|json      json is exactly the API's\n"
    "  --timeout TIME     of the whole command, retries included (60s)\n"
    "  -q, --quiet        no messages; errors still\n"
    "  -y, --yes          do not ask; --no-input: never ask\n"
    "\n"
    "Options of the optimizer have PyTorch's names: --lr 1e-3 --betas 0.9,0.999 --eps 1e-8\n"
    "--weight-decay 0.01 --amsgrad --maximize --decoupled-weight-decay; --no-amsgrad turns off.\n"
    "Policy: --policy barrier|each-push|manual --quorum N --deadline TIME --min-workers N\n"
    "--max-staleness N --lease TIME --nonfinite reject|skip|allow.\n"
    "\n"
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 unavailable or timed out,\n"
    "6 not authorised.\n";

static void print_command(const struct command *command) {
    printf("  %-16s %-24s %s\n", command->name, command->arguments, command->summary);
}

static void print_help(void) {
    puts("adamctl: looks after adamd\n\nUsage: adamctl COMMAND [ARGUMENTS] [FLAGS]\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        print_command(&commands[i]);
    }
    fputs(help_end, stdout);
}

static void print_command_help(const struct command *command) {
    printf("adamctl %s %s\n\n  %s\n", command->name, command->arguments, command->summary);
    for (const char *at = command->flags; *at != '\0';) {
        size_t size = strcspn(at, " ");
        printf("  --%.*s\n", (int)size, at);
        at += size + (at[size] == ' ' ? 1 : 0);
    }
}

// How many of the words are the command's name: 2, 1, or 0.
static size_t matches(const struct command *command, const char *const *words, size_t count) {
    size_t size = count > 0 ? strlen(words[0]) : 0;

    if (count == 0 || strncmp(command->name, words[0], size) != 0) {
        return 0;
    }
    if (command->name[size] == '\0') {
        return 1;
    }
    return command->name[size] == ' ' && count > 1 &&
                   strcmp(command->name + size + 1, words[1]) == 0
               ? 2
               : 0;
}

static const struct command *find_command(const char *const *words, size_t count,
                                          size_t *ret_words) {
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        *ret_words = matches(&commands[i], words, count);
        if (*ret_words > 0) {
            return &commands[i];
        }
    }
    return NULL;
}

// The verbs of a noun that stands alone, or the message that there is no such command.
static int tell_unknown(const struct ctl *ctl) {
    const char *noun = ctl->arguments.words[0];
    bool is_noun = false;

    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        size_t size = strlen(noun);
        if (strncmp(commands[i].name, noun, size) == 0 && commands[i].name[size] == ' ') {
            fprintf(stderr, "  adamctl %s %s\n", commands[i].name, commands[i].arguments);
            is_noun = true;
        }
    }
    return is_noun ? fail_usage(ctl, "%s needs one of these verbs", noun)
                   : fail_usage(ctl, "there is no command %s", noun);
}

static int take_timeout(struct ctl *ctl) {
    const char *text = ctl_flag(ctl, "timeout");
    char duration[48];
    double ms = 0;

    if (text == NULL) {
        return EXIT_OK;
    }
    if (!parse_duration(text, duration, sizeof duration)) {
        return fail_usage(ctl, "--timeout %s: expected a time: 500ms, 5s, 2m", text);
    }
    ms = strtod(duration, NULL) * 1000;
    if (ms < 1 || ms > TIMEOUT_MAX_MS) {
        return fail_usage(ctl, "--timeout %s: expected 1ms to 10m", text);
    }
    ctl->timeout_ms = (uint32_t)ms;
    return EXIT_OK;
}

static int take_format(struct ctl *ctl, const struct command *command) {
    const char *text = ctl_flag(ctl, "output");

    if (text == NULL || command->output_is_file || strcmp(text, "table") == 0) {
        return EXIT_OK;
    }
    ctl->json = strcmp(text, "json") == 0;
    return ctl->json ? EXIT_OK : fail_usage(ctl, "-o %s: expected table or json", text);
}

static int open_transport(struct ctl *ctl) {
    struct adamd_conf *conf = must(adamd_conf_new());
    const char *endpoint = ctl_flag(ctl, "endpoint"), *environment = getenv("ADAMD_ENDPOINT");
    char message[256];

    if (endpoint == NULL && environment != NULL && environment[0] != '\0') {
        endpoint = environment;
    }
    if (endpoint != NULL &&
        adamd_conf_set(conf, "endpoint", endpoint, message, sizeof message) != 0) {
        adamd_conf_destroy(conf);
        return fail_usage(ctl, "%s", message);
    }
    ctl->transport = must(transport_create(conf));
    transport_be_impatient(ctl->transport);
    adamd_conf_destroy(conf);
    return EXIT_OK;
}

static int run_command(struct ctl *ctl, const struct command *command, size_t words) {
    const char *stranger = arguments_stranger(&ctl->arguments, EVERYWHERE, command->flags);
    int code = EXIT_OK;

    if (ctl_has(ctl, "help")) {
        print_command_help(command);
        return EXIT_OK;
    }
    if (stranger != NULL) {
        return fail_usage(ctl, "adamctl %s does not know --%s", command->name, stranger);
    }
    ctl->words = ctl->arguments.words + words;
    ctl->word_count = ctl->arguments.word_count - words;
    code = take_timeout(ctl);
    if (code == EXIT_OK) {
        code = take_format(ctl, command);
    }
    if (code == EXIT_OK) {
        code = open_transport(ctl);
    }
    if (code == EXIT_OK) {
        code = command->run(ctl);
        transport_destroy(ctl->transport);
    }
    return code;
}

static int run_help(const struct ctl *ctl) {
    size_t words = 0;
    const struct command *command =
        find_command(ctl->arguments.words + 1, ctl->arguments.word_count - 1, &words);

    if (command != NULL) {
        print_command_help(command);
    } else {
        print_help();
    }
    return EXIT_OK;
}

static int dispatch(struct ctl *ctl) {
    size_t words = 0;
    const char *first = ctl->arguments.word_count > 0 ? ctl->arguments.words[0] : NULL;
    const struct command *command =
        find_command(ctl->arguments.words, ctl->arguments.word_count, &words);

    if (command != NULL) {
        return run_command(ctl, command, words);
    }
    if (first != NULL && strcmp(first, "help") == 0) {
        return run_help(ctl);
    }
    if (first != NULL && strcmp(first, "version") == 0) {
        printf("adamctl %s\n", adamd_version_string());
        return EXIT_OK;
    }
    if (first == NULL && ctl_has(ctl, "help")) {
        print_help();
        return EXIT_OK;
    }
    return first != NULL ? tell_unknown(ctl) : fail_usage(ctl, "expected a command");
}

int main(int argc, char **argv) {
    const char *no_colour = getenv("NO_COLOR");
    bool colour = no_colour == NULL || no_colour[0] == '\0';
    struct ctl ctl = {.colour = colour && isatty(STDOUT_FILENO),
                      .colour_stderr = colour && isatty(STDERR_FILENO)};
    char message[256];
    int code = EXIT_OK;

    if (!arguments_parse(argc, argv, &ctl.arguments, message, sizeof message)) {
        return fail_usage(&ctl, "%s", message);
    }
    ctl.quiet = ctl_has(&ctl, "quiet");
    code = dispatch(&ctl);
    if (fflush(stdout) != 0 && code == EXIT_OK) {
        code = fail_here(&ctl, "writing to stdout failed");
    }
    return code;
}
