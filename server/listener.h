/** Listening sockets, and telling others where they are. */
#ifndef ADAMD_SERVER_LISTENER_H
#define ADAMD_SERVER_LISTENER_H

#include "config.h"

/** A bound, listening, non-blocking socket; `listen->port` becomes the one that was bound. A Unix
 *  socket that nobody answers is replaced. BAD_FIELD names "listen". */
ADAMD_MUST_USE enum adamd_status listener_open(struct config_listen *listen, int *ret_fd,
                                               struct adamd_fault *fault);

/** Closes it and removes a Unix socket's file. */
void listener_close(const struct config_listen *listen, int fd);

/** Writes the port to a file, so that whoever sees the file sees all of it. BAD_FIELD. */
ADAMD_MUST_USE enum adamd_status port_file_write(const char *path, uint16_t port,
                                                 struct adamd_fault *fault);

#endif
