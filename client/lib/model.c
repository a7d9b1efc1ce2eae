// Models: made from a table of tensors, and looked at.

#include "internal.h"

#include <stdlib.h>
#include <string.h>

enum { RANK_MAX = 8 };

struct adamd_model {
    Adamd__V1__Model *message; // owns what the rest points to
    struct adamd_tensor *tensors;
};

// The message of a model to be made: its parts, in one piece of memory each.
struct draft {
    Adamd__V1__CreateModelRequest request;
    Adamd__V1__Model model;
    Adamd__V1__AdamOptions defaults;
    double default_betas[2];
    Adamd__V1__StepPolicy policy;
    Google__Protobuf__Duration deadline, lease;
    Adamd__V1__Tensor *tensors, **tensor_list;
    struct draft_group {
        Adamd__V1__ParamGroup group;
        Adamd__V1__AdamOptions options;
        double betas[2];
        struct extras extras;
    } * groups;
    size_t group_count;
    Adamd__V1__ParamGroup **group_list;
};

static void finish(struct draft *draft) {
    for (size_t i = 0; i < draft->group_count; i++) {
        extras_finish(&draft->groups[i].extras);
    }
    free(draft->tensors);
    free(draft->tensor_list);
    free(draft->groups);
    free(draft->group_list);
}

static struct adamd_error *draft_tensors(struct draft *draft,
                                         const struct adamd_model_options *options) {
    size_t count = options->tensor_count;

    if (options->tensors == NULL || count == 0) {
        return error_argument("tensors", "a model has at least one tensor");
    }
    draft->tensors = calloc(count, sizeof *draft->tensors);
    draft->tensor_list = calloc(count, sizeof(void *));
    if (draft->tensors == NULL || draft->tensor_list == NULL) {
        return error_no_memory();
    }
    for (size_t i = 0; i < count; i++) {
        const struct adamd_tensor *tensor = &options->tensors[i];
        if (tensor->rank > RANK_MAX || (tensor->rank > 0 && tensor->shape == NULL)) {
            return error_argument("tensors", "tensor %zu needs a shape of at most %d dimensions", i,
                                  RANK_MAX);
        }
        if (adamd_dtype_size(tensor->dtype) == 0) {
            return error_argument("tensors", "tensor %zu has no type that there is", i);
        }
        draft->tensors[i] = (Adamd__V1__Tensor)ADAMD__V1__TENSOR__INIT;
        draft->tensors[i].key = (char *)(tensor->key != NULL ? tensor->key : "");
        draft->tensors[i].data_type = (Adamd__V1__DataType)dtype_of(tensor->dtype);
        draft->tensors[i].shape = (uint64_t *)tensor->shape;
        draft->tensors[i].n_shape = tensor->rank;
        draft->tensor_list[i] = &draft->tensors[i];
    }
    draft->model.tensors = draft->tensor_list;
    draft->model.n_tensors = count;
    return NULL;
}

static struct adamd_error *draft_group(struct draft_group *group,
                                       const struct adamd_param_group *given) {
    struct adamd_adam_options adam = ADAMD_ADAM_OPTIONS_INIT;
    struct adamd_error *error = take_options(&adam, given->options);

    if (error != NULL) {
        return error;
    }
    group->group = (Adamd__V1__ParamGroup)ADAMD__V1__PARAM_GROUP__INIT;
    group->group.params = (char **)given->params;
    group->group.n_params = given->param_count;
    if (given->options != NULL) {
        group->options = (Adamd__V1__AdamOptions)ADAMD__V1__ADAM_OPTIONS__INIT;
        fill_adam_options(&group->options, group->betas, &adam);
        group->group.options = &group->options;
    }
    return extras_draft(&group->extras, given->extras, given->extra_count, &group->group);
}

static struct adamd_error *draft_groups(struct draft *draft,
                                        const struct adamd_model_options *options) {
    size_t count = options->groups != NULL ? options->group_count : 0;

    if (count == 0) {
        return NULL;
    }
    draft->groups = calloc(count, sizeof *draft->groups);
    draft->group_list = calloc(count, sizeof(void *));
    if (draft->groups == NULL || draft->group_list == NULL) {
        return error_no_memory();
    }
    draft->group_count = count;
    for (size_t i = 0; i < count; i++) {
        struct adamd_error *error = draft_group(&draft->groups[i], &options->groups[i]);
        if (error != NULL) {
            return error;
        }
        draft->group_list[i] = &draft->groups[i].group;
    }
    draft->model.param_groups = draft->group_list;
    draft->model.n_param_groups = count;
    return NULL;
}

static Google__Protobuf__Duration *draft_duration(Google__Protobuf__Duration *message,
                                                  uint32_t ms) {
    *message = (Google__Protobuf__Duration)GOOGLE__PROTOBUF__DURATION__INIT;
    message->seconds = ms / 1000;
    message->nanos = (int32_t)(ms % 1000) * 1000000;
    return ms != 0 ? message : NULL;
}

static struct adamd_error *draft_policy(struct draft *draft, const struct adamd_policy *given) {
    struct adamd_policy policy = ADAMD_POLICY_INIT;
    struct adamd_error *error = take_options(&policy, given);

    if (error != NULL) {
        return error;
    }
    draft->policy = (Adamd__V1__StepPolicy)ADAMD__V1__STEP_POLICY__INIT;
    draft->policy.trigger = (Adamd__V1__StepPolicy__Trigger)policy.trigger;
    draft->policy.nonfinite = (Adamd__V1__StepPolicy__Nonfinite)policy.nonfinite;
    draft->policy.quorum = policy.quorum;
    draft->policy.min_workers = policy.min_workers;
    draft->policy.deadline = draft_duration(&draft->deadline, policy.deadline_ms);
    draft->policy.lease = draft_duration(&draft->lease, policy.lease_ms);
    if (policy.max_staleness != ADAMD_ANY) {
        draft->policy.max_staleness_oneof_case =
            ADAMD__V1__STEP_POLICY__MAX_STALENESS_ONEOF_MAX_STALENESS;
        draft->policy.max_staleness = policy.max_staleness;
    }
    draft->model.step_policy = &draft->policy;
    return NULL;
}

static struct adamd_error *draft_model(struct draft *draft,
                                       const struct adamd_model_options *options) {
    struct adamd_adam_options adam = ADAMD_ADAM_OPTIONS_INIT;
    struct adamd_error *error = take_options(&adam, options->options);

    draft->request = (Adamd__V1__CreateModelRequest)ADAMD__V1__CREATE_MODEL_REQUEST__INIT;
    draft->model = (Adamd__V1__Model)ADAMD__V1__MODEL__INIT;
    draft->request.model = &draft->model;
    if (error == NULL && options->options != NULL) {
        draft->defaults = (Adamd__V1__AdamOptions)ADAMD__V1__ADAM_OPTIONS__INIT;
        fill_adam_options(&draft->defaults, draft->default_betas, &adam);
        draft->model.defaults = &draft->defaults;
    }
    if (error == NULL) {
        error = draft_tensors(draft, options);
    }
    if (error == NULL) {
        error = draft_groups(draft, options);
    }
    if (error == NULL && options->policy != NULL) {
        error = draft_policy(draft, options->policy);
    }
    return error;
}

adamd_error_t *adamd_model_create(adamd_client_t *client, const adamd_model_options_t *options) {
    struct adamd_model_options local = ADAMD_MODEL_OPTIONS_INIT;
    struct draft draft = {.groups = NULL};
    const struct rpc rpc = {.method = "ModelService/CreateModel",
                            .request = &draft.request.base,
                            .reply = &adamd__v1__model__descriptor};
    const char *model = NULL;
    ProtobufCMessage *reply = NULL;
    struct adamd_error *error = take_options(&local, options);

    if (error == NULL) {
        error = take_model(client, local.model, &model);
    }
    if (error == NULL) {
        error = draft_model(&draft, &local);
    }
    if (error == NULL) {
        draft.request.model_id = (char *)model;
        error =
            rpc_call(client, &rpc, transport_deadline(client->transport, local.timeout_ms), &reply);
    }
    if (error == NULL) {
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    finish(&draft);
    return error;
}

static struct adamd_error *take_message(ProtobufCMessage *reply, adamd_model_t **ret_model) {
    struct adamd_model *model = calloc(1, sizeof *model);

    if (model == NULL) {
        protobuf_c_message_free_unpacked(reply, NULL);
        return error_no_memory();
    }
    model->message = (Adamd__V1__Model *)reply;
    model->tensors = calloc(model->message->n_tensors + 1, sizeof *model->tensors);
    if (model->tensors == NULL) {
        adamd_model_destroy(model);
        return error_no_memory();
    }
    for (size_t i = 0; i < model->message->n_tensors; i++) {
        const Adamd__V1__Tensor *tensor = model->message->tensors[i];
        model->tensors[i] = (struct adamd_tensor){
            .key = tensor->key,
            .shape = tensor->shape,
            .rank = tensor->n_shape,
            .dtype = dtype_of((adamd_dtype_t)tensor->data_type),
        };
        if (adamd_dtype_size(model->tensors[i].dtype) == 0) {
            struct adamd_error *error = error_new(
                "BAD_ANSWER", "%s has a type that this library does not know", tensor->key);
            adamd_model_destroy(model);
            return error;
        }
    }
    *ret_model = model;
    return NULL;
}

adamd_error_t *adamd_model_get(adamd_client_t *client, const char *model,
                               adamd_model_t **ret_model) {
    Adamd__V1__GetModelRequest request = ADAMD__V1__GET_MODEL_REQUEST__INIT;
    const struct rpc rpc = {.method = "ModelService/GetModel",
                            .request = &request.base,
                            .reply = &adamd__v1__model__descriptor};
    struct resource_name name;
    const char *id = NULL;
    ProtobufCMessage *reply = NULL;
    struct adamd_error *error = take_model(client, model, &id);

    if (error != NULL) {
        return error;
    }
    name = name_of_model(id);
    request.name = name.text;
    error = rpc_call(client, &rpc, transport_deadline(client->transport, 0), &reply);
    return error != NULL ? error : take_message(reply, ret_model);
}

void adamd_model_destroy(adamd_model_t *model) {
    if (model != NULL) {
        adamd__v1__model__free_unpacked(model->message, NULL);
        free(model->tensors);
        free(model);
    }
}

const char *adamd_model_id(const adamd_model_t *model) {
    const char *slash = strrchr(model->message->name, '/');

    return slash != NULL ? slash + 1 : model->message->name;
}

const char *adamd_model_state(const adamd_model_t *model) {
    static const char *const names[] = {"UNSPECIFIED", "INITIALIZING", "ACTIVE",  "PAUSED",
                                        "RESTORING",   "FAILED",       "DELETING"};
    size_t state = (size_t)model->message->state;

    return names[state < sizeof names / sizeof names[0] ? state : 0];
}

uint64_t adamd_model_version(const adamd_model_t *model) {
    return model->message->version;
}

uint64_t adamd_model_generation(const adamd_model_t *model) {
    return model->message->generation;
}

uint64_t adamd_model_byte_size(const adamd_model_t *model) {
    return model->message->byte_size;
}

const char *adamd_model_layout_digest(const adamd_model_t *model) {
    return model->message->layout_digest;
}

size_t adamd_model_tensor_count(const adamd_model_t *model) {
    return model->message->n_tensors;
}

const adamd_tensor_t *adamd_model_tensor(const adamd_model_t *model, size_t index) {
    return index < model->message->n_tensors ? &model->tensors[index] : NULL;
}

size_t adamd_model_tensor_group(const adamd_model_t *model, size_t index) {
    return index < model->message->n_tensors ? model->message->tensors[index]->group : SIZE_MAX;
}

size_t adamd_model_group_count(const adamd_model_t *model) {
    return model->message->n_param_groups;
}
