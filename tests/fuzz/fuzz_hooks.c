// Reaches adamd_restore_hooks's reader: actions_parse, actions_print, adamd_action_check.
// Oracle: what is accepted, printed and parsed again prints the same.
#include "fuzz.h"

#include "actions_impl.h"

#include <stdlib.h>
#include <string.h>

static void *create(const char *text, char *error, size_t error_size) {
    (void)error;
    (void)error_size;
    return strlen(text) <= ADAMD_PLUGIN_TEXT_MAX ? malloc(1) : NULL;
}

static int run(void *state, const struct adamd_plugin_host *host, void *context) {
    (void)state;
    (void)host;
    (void)context;
    return ADAMD_PLUGIN_DONE;
}

static void check_again(struct adamd_hook_registry *registry, const struct hook_lists *lists) {
    struct hook_lists again = {.count = 0};
    char *text = NULL;
    char *printed = NULL;

    ADAMD_ASSERT(actions_print(lists, &text) == ADAMD_OK);
    ADAMD_ASSERT((text != NULL) == (lists->count > 0));
    if (text == NULL) {
        return;
    }
    ADAMD_ASSERT(actions_parse(registry, &registry->last_id, text, &again, NULL) == ADAMD_OK);
    ADAMD_ASSERT(actions_print(&again, &printed) == ADAMD_OK);
    ADAMD_ASSERT(printed != NULL && strcmp(text, printed) == 0);
    hooks_finish(&again);
    free(text);
    free(printed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct adamd_plugin plugin = {ADAMD_PLUGIN_VERSION, sizeof plugin, create, run,
                                               free};
    struct adamd_hook_registry *registry = adamd_hook_registry_create();
    struct hook_lists lists = {.count = 0};
    struct adamd_fault fault = {0};
    char *text = malloc(size + 1);

    ADAMD_ASSERT(registry != NULL && text != NULL);
    ADAMD_ASSERT(adamd_hook_registry_add_plugin(registry, "p", &plugin, NULL) == ADAMD_OK);
    if (size > 0) {
        memcpy(text, data, size);
    }
    text[size] = '\0';
    if (actions_parse(registry, &registry->last_id, text, &lists, &fault) == ADAMD_OK) {
        check_again(registry, &lists);
    } else {
        ADAMD_ASSERT(fault.status != ADAMD_OK && fault.message[0] != '\0');
        ADAMD_ASSERT(lists.count == 0);
    }
    hooks_finish(&lists);
    adamd_hook_registry_destroy(registry);
    free(text);
    return 0;
}
