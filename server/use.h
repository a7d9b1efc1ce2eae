/**
 * Which exchanges hold a model. A model that is deleted leaves the list of names at once, and its
 * memory stays until the last exchange that reads it is done: a slow reader of a published copy, a
 * digest on another thread. Loop thread only.
 */
#ifndef ADAMD_SERVER_USE_H
#define ADAMD_SERVER_USE_H

#include "server.h"

/** In the exchange's own state. Zeroed means: holds nothing. */
struct use {
    struct served_model *served;
    struct use *next, **link;
    /** The model was deleted: whoever waits or sends answers and gives up. NULL for those who only
     *  read what they already hold. */
    void (*on_deleted)(void *arg);
    void *arg;
    bool told;
};

void use_begin(struct use *use, struct served_model *served, void (*on_deleted)(void *arg),
               void *arg);

/** The last use of a deleted model frees it. Harmless on what is zeroed. */
void use_end(struct use *use);

/** Takes the model out of the server, tells its users, and frees it as soon as none is left. */
void served_delete(struct served_model *served);

/** Frees a model that no exchange knows yet, or none knows any more. */
void served_free(struct served_model *served);

#endif
