/**
 * The daemon's state, owned by the loop's thread: the loop, the backend, the models by name. No
 * global variables: everything is reached from here.
 */
#ifndef ADAMD_SERVER_SERVER_H
#define ADAMD_SERVER_SERVER_H

#include "adamd/hooks.h"
#include "adamd/model.h"
#include "codec/label.h"
#include "config.h"

#include <uv.h>

/** A model and what the daemon knows of it beyond core. Stays at its address until it is deleted.
 */
struct served_model {
    char id[64];
    char uid[33];
    char display_name[CODEC_DISPLAY_NAME_MAX + 1];
    struct codec_label labels[CODEC_LABELS_MAX];
    size_t label_count;
    struct adamd_options defaults; // for groups that are added
    struct adamd_model *model;
    uint64_t create_time_ns, update_time_ns; // since 1970
    struct server *server;
    uint64_t meta_count;        // changes of labels and display name: a part of the ETag
    struct use *uses;           // exchanges that hold the model, see use.h
    struct follower *followers; // exchanges that follow the steps
    struct codec_plan *plan;    // of parameter files, made at the first pull
    uint64_t plan_layout_count; // of the layout that it is of
    bool deleted;               // out of the list; freed with its last use
    struct served_model *next;
};

struct server {
    uv_loop_t *loop;
    const struct config *config;
    struct adamd_backend *backend;
    struct adamd_queue *queue;
    struct adamd_hook_registry *hooks; // of all models
    void *plugins[CONFIG_PLUGINS_MAX]; // dlopen()ed, as config has them
    struct served_model *models;       // in order of creation
    uint32_t model_count;
    uint64_t start_time_ns;
    bool draining;
    struct reactor *reactor;
    uv_timer_t due; // of the models, see server_rearm()
};

/**
 * Backend, queue, loop and sockets, as `config` (borrowed) says. DEVICE_LOST or UNSUPPORTED: there
 * is no such backend here. What failed half-way is taken down by server_finish().
 */
ADAMD_MUST_USE enum adamd_status server_init(struct server *server, const struct config *config,
                                             struct adamd_fault *fault);
void server_finish(struct server *server);

struct served_model *server_find(const struct server *server, const char *id);

/** Loop time in milliseconds. */
uint64_t server_now_ms(const struct server *server);

/** Something changed that may be due earlier than the timer is set: arms it again. */
void server_rearm(struct server *server);

/** Takes in what the backend completed. */
void server_poll(struct server *server);

/** Stops taking work; ends the loop when everything accepted is answered. */
void server_drain(struct server *server);

#endif
