// The options of param groups: as a message, and changed while a model trains.

#include "internal.h"

#include <stdlib.h>

// A message for each group, in one piece of memory each.
struct draft {
    Adamd__V1__UpdateModelRequest request;
    Adamd__V1__Model model;
    Adamd__V1__AdamOptions all;
    double all_betas[2];
    struct draft_group {
        Adamd__V1__ParamGroup group;
        Adamd__V1__AdamOptions options;
        double betas[2];
        struct extras extras;
    } * groups;
    size_t group_count;
    Adamd__V1__ParamGroup **list;
};

struct adamd_error *extras_draft(struct extras *extras, const struct adamd_extra *given,
                                 size_t count, Adamd__V1__ParamGroup *group) {
    if (count == 0) {
        return NULL;
    }
    extras->messages = calloc(count, sizeof *extras->messages);
    extras->list = calloc(count, sizeof(void *));
    if (extras->messages == NULL || extras->list == NULL) {
        return error_no_memory();
    }
    for (size_t i = 0; i < count; i++) {
        if (given == NULL || given[i].key == NULL || given[i].json == NULL) {
            return error_argument("extras", "extra %zu has no key or no value", i);
        }
        extras->messages[i] = (Adamd__V1__ParamGroupExtra)ADAMD__V1__PARAM_GROUP_EXTRA__INIT;
        extras->messages[i].key = (char *)given[i].key;
        extras->messages[i].json = (char *)given[i].json;
        extras->list[i] = &extras->messages[i];
    }
    group->extra = extras->list;
    group->n_extra = count;
    return NULL;
}

void extras_finish(struct extras *extras) {
    free(extras->messages);
    free(extras->list);
}

void fill_adam_options(Adamd__V1__AdamOptions *message, double betas[2],
                       const struct adamd_adam_options *options) {
    static const protobuf_c_boolean tensor_betas[] = {false, true}; // one for both

    betas[0] = options->beta1;
    betas[1] = options->beta2;
    message->betas = betas;
    message->n_betas = 2;
#define SET(name, NAME, value)                                                   \
    message->name##_oneof_case = ADAMD__V1__ADAM_OPTIONS__##NAME##_ONEOF_##NAME; \
    message->name = (value);
    SET(lr, LR, options->lr)
    SET(eps, EPS, options->eps)
    SET(weight_decay, WEIGHT_DECAY, options->weight_decay)
    SET(amsgrad, AMSGRAD, options->amsgrad != 0)
    SET(maximize, MAXIMIZE, options->maximize != 0)
    SET(decoupled_weight_decay, DECOUPLED_WEIGHT_DECAY, options->decoupled_weight_decay != 0)
    SET(capturable, CAPTURABLE, options->capturable != 0)
    SET(differentiable, DIFFERENTIABLE, options->differentiable != 0)
    SET(tensor_lr, TENSOR_LR, options->tensor_lr != 0)
    if (options->foreach != ADAMD_TRISTATE_NONE) {
        SET(foreach, FOREACH, options->foreach == ADAMD_TRISTATE_TRUE)
    }
    if (options->fused != ADAMD_TRISTATE_NONE) {
        SET(fused, FUSED, options->fused == ADAMD_TRISTATE_TRUE)
    }
#undef SET
    message->tensor_betas = (protobuf_c_boolean *)&tensor_betas[options->tensor_betas != 0];
    message->n_tensor_betas = 1;
}

static void finish(struct draft *draft) {
    for (size_t i = 0; i < draft->group_count; i++) {
        extras_finish(&draft->groups[i].extras);
    }
    free(draft->groups);
    free(draft->list);
}

// What is not set would stay as it is: None has no other form in an update.
static void none_as_false(struct adamd_adam_options *options) {
    if (options->foreach == ADAMD_TRISTATE_NONE) {
        options->foreach = ADAMD_TRISTATE_FALSE;
    }
    if (options->fused == ADAMD_TRISTATE_NONE) {
        options->fused = ADAMD_TRISTATE_FALSE;
    }
}

static struct adamd_error *draft_options(Adamd__V1__AdamOptions *message, double betas[2],
                                         const struct adamd_adam_options *given) {
    struct adamd_adam_options adam = ADAMD_ADAM_OPTIONS_INIT;
    struct adamd_error *error = take_options(&adam, given);

    none_as_false(&adam);
    *message = (Adamd__V1__AdamOptions)ADAMD__V1__ADAM_OPTIONS__INIT;
    fill_adam_options(message, betas, &adam);
    return error;
}

static struct adamd_error *draft_groups(struct draft *draft,
                                        const struct adamd_set_options *options) {
    struct adamd_error *error = NULL;

    draft->groups = calloc(options->group_count, sizeof *draft->groups);
    draft->list = calloc(options->group_count, sizeof(void *));
    if (draft->groups == NULL || draft->list == NULL) {
        return error_no_memory();
    }
    draft->group_count = options->group_count;
    for (size_t i = 0; i < options->group_count && error == NULL; i++) {
        struct draft_group *group = &draft->groups[i];
        const struct adamd_group_update *given = &options->groups[i];
        group->group = (Adamd__V1__ParamGroup)ADAMD__V1__PARAM_GROUP__INIT;
        draft->list[i] = &group->group;
        error = extras_draft(&group->extras, given->extras, given->extra_count, &group->group);
        if (error == NULL && given->options != NULL) {
            group->group.options = &group->options;
            error = draft_options(&group->options, group->betas, given->options);
        }
    }
    draft->model.param_groups = draft->list;
    draft->model.n_param_groups = options->group_count;
    return error;
}

static struct adamd_error *draft_update(struct draft *draft,
                                        const struct adamd_set_options *options) {
    const int has_groups = options->groups != NULL && options->group_count > 0;

    if (has_groups == (options->all != NULL)) {
        return error_argument("groups", "expected either groups or all");
    }
    draft->request = (Adamd__V1__UpdateModelRequest)ADAMD__V1__UPDATE_MODEL_REQUEST__INIT;
    draft->model = (Adamd__V1__Model)ADAMD__V1__MODEL__INIT;
    draft->request.model = &draft->model;
    if (has_groups) {
        draft->request.update_mask = "param_groups";
        return draft_groups(draft, options);
    }
    draft->request.update_mask = "defaults";
    draft->model.defaults = &draft->all;
    return draft_options(&draft->all, draft->all_betas, options->all);
}

adamd_error_t *adamd_set_options(adamd_client_t *client, const adamd_set_options_t *options,
                                 uint64_t *ret_version) {
    struct adamd_set_options local = ADAMD_SET_OPTIONS_INIT;
    struct draft draft = {.groups = NULL};
    uint64_t holds_from = 0;
    const struct rpc rpc = {.method = "ModelService/UpdateModel",
                            .request = &draft.request.base,
                            .reply = &adamd__v1__model__descriptor,
                            .ret_holds_from = &holds_from};
    struct resource_name name;
    const char *model = NULL;
    ProtobufCMessage *reply = NULL;
    struct adamd_error *error = take_options(&local, options);

    if (error == NULL) {
        error = take_model(client, local.model, &model);
    }
    if (error == NULL) {
        error = draft_update(&draft, &local);
    }
    if (error == NULL) {
        name = name_of_model(model);
        draft.request.name = name.text;
        error =
            rpc_call(client, &rpc, transport_deadline(client->transport, local.timeout_ms), &reply);
    }
    if (error == NULL) {
        protobuf_c_message_free_unpacked(reply, NULL);
        if (ret_version != NULL) {
            *ret_version = holds_from;
        }
    }
    finish(&draft);
    return error;
}
