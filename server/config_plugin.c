// Plugins in the configuration.
#include "config_plugin.h"

#include <string.h>

const char *config_plugin_of(const char *name) {
    static const char prefix[] = "plugin.";
    const char *dot = strchr(name, '.');

    if (strncmp(name, prefix, sizeof prefix - 1) == 0) {
        return name + sizeof prefix - 1;
    }
    if (dot != NULL && strncmp(dot + 1, prefix, sizeof prefix - 1) == 0) {
        return dot + sizeof prefix;
    }
    return NULL;
}

static bool is_name(const char *name) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    const size_t size = strlen(name);

    return size >= 1 && size <= CONFIG_PLUGIN_NAME_MAX && strspn(name, letters) == size;
}

// That of this name, or a new one; NULL: there are too many.
static struct config_plugin *find_plugin(struct config *config, const char *name) {
    for (size_t i = 0; i < config->plugin_count; i++) {
        if (strcmp(config->plugins[i].name, name) == 0) {
            return &config->plugins[i];
        }
    }
    if (config->plugin_count == CONFIG_PLUGINS_MAX) {
        return NULL;
    }
    struct config_plugin *plugin = &config->plugins[config->plugin_count++];
    *plugin = (struct config_plugin){.origin = ORIGIN_DEFAULT};
    memcpy(plugin->name, name, strlen(name) + 1);
    return plugin;
}

enum adamd_status config_plugin_set(struct config *config, const char *plugin, const char *path,
                                    enum config_origin origin, struct adamd_fault *fault) {
    struct config_plugin *entry;

    if (!is_name(plugin)) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "plugin",
                          "A plugin's name has 1 to %d of a-z, 0-9 and _, unlike '%.40s'",
                          CONFIG_PLUGIN_NAME_MAX, plugin);
    }
    if (path[0] != '/' || strlen(path) >= CONFIG_TEXT_MAX) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "plugin",
                          "plugin.%s must be the absolute path of a shared object, not '%.64s'",
                          plugin, path);
    }
    entry = find_plugin(config, plugin);
    if (entry == NULL) {
        return adamd_fail(fault, ADAMD_BAD_FIELD, "plugin", "There may be at most %d plugins",
                          CONFIG_PLUGINS_MAX);
    }
    if (origin >= entry->origin) {
        memcpy(entry->path, path, strlen(path) + 1);
        entry->origin = origin;
    }
    return ADAMD_OK;
}
