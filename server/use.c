// Holds on models, and the end of a model.
#include "use.h"

#include "codec/tensors.h"

#include <stdlib.h>

void use_begin(struct use *use, struct served_model *served, void (*on_deleted)(void *arg),
               void *arg) {
    *use = (struct use){.served = served,
                        .next = served->uses,
                        .link = &served->uses,
                        .on_deleted = on_deleted,
                        .arg = arg};
    if (use->next != NULL) {
        use->next->link = &use->next;
    }
    served->uses = use;
}

void use_end(struct use *use) {
    struct served_model *served = use->served;

    if (served == NULL) {
        return;
    }
    *use->link = use->next;
    if (use->next != NULL) {
        use->next->link = use->link;
    }
    *use = (struct use){0};
    if (served->deleted && served->uses == NULL) {
        served_free(served);
    }
}

void served_free(struct served_model *served) {
    // It lives on until its operations in flight are done, and must not tell us then.
    adamd_model_listen(served->model, NULL, NULL);
    adamd_model_destroy(served->model);
    codec_plan_destroy(served->plan);
    free(served);
}

static struct use *find_untold(const struct served_model *served) {
    struct use *use = served->uses;

    while (use != NULL && use->told) {
        use = use->next;
    }
    return use;
}

void served_delete(struct served_model *served) {
    struct served_model **link = &served->server->models;
    struct use own;

    while (*link != served) {
        link = &(*link)->next;
    }
    *link = served->next;
    served->server->model_count--;
    served->deleted = true;

    // An answer may end other uses, so the list is searched again after each; our own use keeps the
    // model until all are told.
    use_begin(&own, served, NULL, NULL);
    for (struct use *use = find_untold(served); use != NULL; use = find_untold(served)) {
        use->told = true;
        if (use->on_deleted != NULL) {
            use->on_deleted(use->arg);
        }
    }
    use_end(&own);
}
