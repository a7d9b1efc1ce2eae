// Plugins: loaded once, at the start, from paths that only the operator can name.
#include "plugins.h"

#include "adamd/plugin.h"
#include "log.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static enum adamd_status fail_plugin(const struct config_plugin *plugin, const char *what,
                                     struct adamd_fault *fault) {
    char field[CONFIG_PLUGIN_NAME_MAX + 8];

    (void)snprintf(field, sizeof field, "plugin.%s", plugin->name);
    return adamd_fail(fault, ADAMD_BAD_FIELD, field, "%s", what);
}

static enum adamd_status load(struct server *server, size_t i, struct adamd_fault *fault) {
    const struct config_plugin *plugin = &server->config->plugins[i];
    adamd_plugin_fn *entry = NULL;
    const struct adamd_plugin *table = NULL;
    void *symbol;

    server->plugins[i] = dlopen(plugin->path, RTLD_NOW | RTLD_LOCAL);
    if (server->plugins[i] == NULL) {
        return fail_plugin(plugin, dlerror(), fault);
    }
    symbol = dlsym(server->plugins[i], "adamd_plugin");
    if (symbol == NULL) {
        return fail_plugin(plugin, "the object exports no adamd_plugin()", fault);
    }
    memcpy(&entry, &symbol, sizeof entry); // ISO C has no cast between the two
    table = entry(ADAMD_PLUGIN_VERSION);
    if (table == NULL) {
        return fail_plugin(plugin, "the plugin does not work with this version of adamd", fault);
    }
    log_event(LEVEL_INFO, "server", "plugin", log_text("name", plugin->name),
              log_text("path", plugin->path));
    return adamd_hook_registry_add_plugin(server->hooks, plugin->name, table, fault);
}

enum adamd_status plugins_load(struct server *server, struct adamd_fault *fault) {
    enum adamd_status status = ADAMD_OK;

    server->hooks = adamd_hook_registry_create();
    if (server->hooks == NULL) {
        return adamd_fail_plain(fault, ADAMD_NO_MEMORY);
    }
    for (size_t i = 0; i < server->config->plugin_count && status == ADAMD_OK; i++) {
        status = load(server, i, fault);
    }
    return status;
}

void plugins_unload(struct server *server) {
    adamd_hook_registry_destroy(server->hooks);
    for (size_t i = 0; i < CONFIG_PLUGINS_MAX; i++) {
        if (server->plugins[i] != NULL) {
            (void)dlclose(server->plugins[i]);
        }
    }
}
