/** `plugin.NAME = /PATH.so`: the one setting whose name is the operator's. */
#ifndef ADAMD_SERVER_CONFIG_PLUGIN_H
#define ADAMD_SERVER_CONFIG_PLUGIN_H

#include "config.h"

/** The NAME in "plugin.NAME", with or without a section before it; NULL: it is another setting. */
const char *config_plugin_of(const char *name);

/** BAD_FIELD: the name, the path, or one more than there may be. */
enum adamd_status config_plugin_set(struct config *config, const char *plugin, const char *path,
                                    enum config_origin origin, struct adamd_fault *fault);

#endif
