/** The shared objects that the operator named, for the action `plugin:NAME`. */
#ifndef ADAMD_SERVER_PLUGINS_H
#define ADAMD_SERVER_PLUGINS_H

#include "server.h"

/** Makes server->hooks and loads all plugins into it. BAD_FIELD names `plugin.NAME` and says what
 * is wrong with the object; what was loaded until then is plugins_unload()'s. */
ADAMD_MUST_USE enum adamd_status plugins_load(struct server *server, struct adamd_fault *fault);

/** When no model is left. */
void plugins_unload(struct server *server);

#endif
