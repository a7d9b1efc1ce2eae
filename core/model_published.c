// Copies of versions for readers. A copy is never written while somebody holds it; a reader that is
// slow keeps its copy, and steps go on with another buffer or with none.
#include "model_impl.h"

#include <stdlib.h>

static bool is_free(const struct adamd_model *model, const struct published *published) {
    return published->refs == 0 && !published->busy &&
           published->layout_count == model->layout_count;
}

static struct published *create_published(struct adamd_model *model) {
    struct published *published;

    if (model->published_count == model->published_max) {
        return NULL;
    }
    published = calloc(1, sizeof *published);
    if (published == NULL) {
        return NULL;
    }
    if (model_alloc(model, ADAMD_STAGING, true, &published->buffer) != ADAMD_OK) {
        free(published);
        return NULL;
    }
    published->view.host = adamd_buffer_host(published->buffer);
    published->layout_count = model->layout_count;
    model->published[model->published_count++] = published;
    return published;
}

// The visible version's own copy is given up only if nobody is about to read it.
struct published *published_find(struct adamd_model *model) {
    for (uint32_t i = 0; i < model->published_count; i++) {
        struct published *published = model->published[i];
        if (published != model->current && is_free(model, published) &&
            (published != model->ema_current || model->ema_pulls == NULL)) {
            model->ema_current = published == model->ema_current ? NULL : model->ema_current;
            return published;
        }
    }
    if (model->current != NULL && is_free(model, model->current) && model->pulls_ready == NULL) {
        struct published *published = model->current;
        model->current = NULL;
        return published;
    }
    return create_published(model);
}

struct published *published_for_step(struct adamd_model *model, bool wanted) {
    struct published *published;

    for (const struct adamd_wait *wait = model->pulls; wait != NULL; wait = wait->next) {
        wanted = wanted || wait->min_version <= model->version + 1;
    }
    if (!wanted && !model->current_wanted) {
        return NULL;
    }
    published = published_find(model);
    if (published != NULL) {
        published->busy = true;
    }
    return published;
}

void published_turn(struct adamd_model *model, struct published *made) {
    if (made != NULL) {
        made->busy = false;
        made->view.generation = model->generation;
        made->view.version = model->version;
    }
    model->current = made;
    model->current_wanted = false;
}

// ------------------------------------------------------------------------------- copying on demand

bool published_copied(const struct adamd_model *model, struct published *published,
                      enum adamd_status status) {
    published->busy = false;
    return status == ADAMD_OK && published->view.version == model->version &&
           published->view.generation == model->generation;
}

// Goes to the backend before the next step does, so it is of the version that is visible now.
bool published_copy(struct adamd_model *model, enum adamd_array array, job_done_fn *on_done) {
    struct published *published = published_find(model);
    struct job *job = published == NULL ? NULL : job_create(model, 1, on_done, published);

    if (job == NULL) {
        return false; // tried again when a reader releases one
    }
    published->busy = true;
    published->view.generation = model->generation;
    published->view.version = model->version;
    job->ops[0] = (struct adamd_op){
        .kind = ADAMD_OP_COPY,
        .copy = {published->buffer, model->arrays[array], 0, 0, model->arena_bytes}};
    job_submit(model, job);
    return true;
}

static void on_copied(struct adamd_model *model, struct job *job, enum adamd_status status) {
    model->copying = false;
    if (published_copied(model, job->arg, status)) {
        model->current = job->arg;
    }
}

static bool is_quiet(const struct adamd_model *model) {
    return !model->step.active && model->receiving.first == NULL &&
           model->committed.first == NULL && model->commands == NULL;
}

// The first wait that the visible version satisfies, or that nothing can satisfy any more.
static struct adamd_wait *find_wait(const struct adamd_model *model, bool satisfied) {
    struct adamd_wait *wait = model->pulls;

    while (wait != NULL && (wait->min_version <= model->version) != satisfied) {
        wait = wait->next;
    }
    return wait;
}

static void move_wait(struct adamd_wait *wait, struct adamd_wait **list, enum adamd_status status) {
    wait_remove(wait);
    wait->status = status;
    wait_add(list, wait);
}

void published_advance(struct adamd_model *model) {
    struct adamd_wait *wait;

    if (model->state != ADAMD_MODEL_ACTIVE && model->state != ADAMD_MODEL_PAUSED) {
        return;
    }
    if (model->current != NULL) {
        while ((wait = find_wait(model, true)) != NULL) {
            move_wait(wait, &model->pulls_ready, ADAMD_OK);
        }
    } else if (!model->step.active && !model->copying &&
               (model->pulls_ready != NULL || find_wait(model, true) != NULL)) {
        model->copying = published_copy(model, ADAMD_PARAM, on_copied);
    }
    if (model->draining && is_quiet(model)) {
        while ((wait = find_wait(model, false)) != NULL) {
            move_wait(wait, &model->ended, ADAMD_DRAINING);
        }
    }
}

// ----------------------------------------------------------------------------------------- readers

enum adamd_status published_check_pull(const struct adamd_model *model,
                                       const struct adamd_wait *list) {
    uint32_t count = 0;

    if (model->state == ADAMD_MODEL_INITIALIZING) {
        return ADAMD_INITIALIZING;
    }
    if (model->state == ADAMD_MODEL_FAILED) {
        return ADAMD_DEVICE_LOST;
    }
    for (const struct adamd_wait *wait = list; wait != NULL; wait = wait->next) {
        count++;
    }
    return count < MODEL_PULLS_MAX ? ADAMD_OK : ADAMD_BUSY;
}

void adamd_model_pull(struct adamd_model *model, uint64_t min_version, struct adamd_wait *wait,
                      void (*on_ready)(void *arg, enum adamd_status status, const void *what),
                      void *arg) {
    const enum adamd_status status = published_check_pull(model, model->pulls);

    *wait = (struct adamd_wait){
        .on_ready = on_ready, .arg = arg, .min_version = min_version, .status = status};
    wait_add(status == ADAMD_OK ? &model->pulls : &model->ended, wait);
    model_advance(model);
}

static void remove_published(struct adamd_model *model, struct published *published) {
    uint32_t i = 0;

    while (model->published[i] != published) {
        i++;
    }
    model->published[i] = model->published[--model->published_count];
    model_release(model, published->buffer);
    free(published);
}

void published_outgrow(struct adamd_model *model) {
    model->current = NULL;
    model->current_wanted = false;
    model->ema_current = NULL;
    for (uint32_t i = model->published_count; i > 0; i--) {
        if (model->published[i - 1]->refs == 0) {
            remove_published(model, model->published[i - 1]);
        }
    }
}

void adamd_published_release(struct adamd_model *model, const struct adamd_published *published) {
    struct published *held = NULL;

    for (uint32_t i = 0; i < model->published_count; i++) {
        held = &model->published[i]->view == published ? model->published[i] : held;
    }
    ADAMD_ASSERT(held != NULL && held->refs > 0);
    held->refs--;
    const bool is_last = held->refs == 0;
    if (is_last && held->layout_count != model->layout_count) {
        remove_published(model, held);
    }
    if (model->destroyed) {
        model_free_if_done(model);
    } else if (is_last) {
        model_advance(model);
    }
}

void published_finish(struct adamd_model *model) {
    for (uint32_t i = 0; i < model->published_count; i++) {
        model_release(model, model->published[i]->buffer);
        free(model->published[i]);
    }
    free((void *)model->published);
}
