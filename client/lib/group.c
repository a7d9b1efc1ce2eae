// add_param_group: a safetensors file of the new parameters' values that exists only on the wire;
// the one group of its metadata has their order, options and extra keys.

#include "internal.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPLY_MAX = 64 << 20 };

// A float, as Python writes one: an int would be something else in a group.
static bool add_number(cJSON *object, const char *name, double value, bool is_tensor) {
    char number[40], text[64];

    if (isfinite(value)) {
        snprintf(number, sizeof number, "%.17g", value);
        if (strpbrk(number, ".e") == NULL) {
            snprintf(number + strlen(number), sizeof number - strlen(number), ".0");
        }
    } else { // JSON has no infinity; NaN is for the daemon to refuse
        snprintf(number, sizeof number, "\"%s\"", isnan(value) ? "NaN" : "Infinity");
    }
    snprintf(text, sizeof text, is_tensor ? "{\"tensor\":%s}" : "%s", number);
    return name != NULL ? cJSON_AddRawToObject(object, name, text) != NULL
                        : cJSON_AddItemToArray(object, cJSON_CreateRaw(text));
}

static bool add_tristate(cJSON *object, const char *name, adamd_tristate_t value) {
    return value == ADAMD_TRISTATE_NONE
               ? cJSON_AddNullToObject(object, name) != NULL
               : cJSON_AddBoolToObject(object, name, value == ADAMD_TRISTATE_TRUE) != NULL;
}

static bool add_options(cJSON *object, const struct adamd_adam_options *options) {
    const bool tensor_betas = options->tensor_betas != 0;
    cJSON *betas = cJSON_AddArrayToObject(object, "betas");

    return add_number(object, "lr", options->lr, options->tensor_lr != 0) &&
           add_number(betas, NULL, options->beta1, tensor_betas) &&
           add_number(betas, NULL, options->beta2, tensor_betas) &&
           add_number(object, "eps", options->eps, false) &&
           add_number(object, "weight_decay", options->weight_decay, false) &&
           cJSON_AddBoolToObject(object, "amsgrad", options->amsgrad != 0) &&
           cJSON_AddBoolToObject(object, "maximize", options->maximize != 0) &&
           add_tristate(object, "foreach", options->foreach) &&
           cJSON_AddBoolToObject(object, "capturable", options->capturable != 0) &&
           cJSON_AddBoolToObject(object, "differentiable", options->differentiable != 0) &&
           add_tristate(object, "fused", options->fused) &&
           cJSON_AddBoolToObject(object, "decoupled_weight_decay",
                                 options->decoupled_weight_decay != 0);
}

static bool add_params(cJSON *object, const struct adamd_add_group_options *options) {
    cJSON *params = cJSON_AddArrayToObject(object, "params");
    bool whole = params != NULL;

    for (size_t i = 0; i < options->tensor_count && whole; i++) {
        whole = cJSON_AddItemToArray(params, cJSON_CreateString(options->tensors[i].key));
    }
    return whole;
}

// The JSON text of adamd.param_groups; to be freed with cJSON_free(). NULL: out of memory.
static char *describe_group(const struct adamd_add_group_options *options,
                            const struct adamd_adam_options *adam) {
    cJSON *groups = cJSON_CreateArray();
    cJSON *group = cJSON_CreateObject();
    bool whole = cJSON_AddItemToArray(groups, group);
    char *text = NULL;

    if (!whole) {
        cJSON_Delete(group);
    }
    whole = whole && (options->options == NULL || add_options(group, adam));
    for (size_t i = 0; i < options->extra_count && whole; i++) {
        whole =
            cJSON_AddRawToObject(group, options->extras[i].key, options->extras[i].json) != NULL;
    }
    whole = whole && add_params(group, options);
    text = whole ? cJSON_PrintUnformatted(groups) : NULL;
    cJSON_Delete(groups);
    return text;
}

// False: more than a machine has.
static bool bytes_of(const struct adamd_tensor *tensor, uint64_t *ret_bytes) {
    uint64_t bytes = adamd_dtype_size(tensor->dtype);

    for (size_t i = 0; i < tensor->rank; i++) {
        if (__builtin_mul_overflow(bytes, tensor->shape[i], &bytes)) {
            return false;
        }
    }
    *ret_bytes = bytes;
    return true;
}

static struct adamd_error *check_tensors(const struct adamd_add_group_options *options) {
    uint64_t wanted = 0, given = 0;

    for (size_t i = 0; i < options->tensor_count; i++) {
        const struct adamd_tensor *tensor = &options->tensors[i];
        uint64_t bytes = 0;
        if (tensor->key == NULL || adamd_dtype_size(tensor->dtype) == 0 ||
            (tensor->rank > 0 && tensor->shape == NULL)) {
            return error_argument("tensors", "tensor %zu needs a key, a type and a shape", i);
        }
        if (tensor->dtype == ADAMD_DTYPE_COMPLEX128) { // its file would say F64, in pairs
            return error_argument("tensors",
                                  "tensor %zu is complex128, which only a new model takes", i);
        }
        if (!bytes_of(tensor, &bytes) || !add_bytes(&wanted, bytes)) {
            return error_argument("tensors", "tensor %zu is too large", i);
        }
    }
    for (size_t i = 0; i < options->piece_count; i++) {
        if ((options->pieces[i].data == NULL && options->pieces[i].byte_size > 0) ||
            !add_bytes(&given, options->pieces[i].byte_size)) {
            return error_argument("pieces", "piece %zu is no memory", i);
        }
    }
    return wanted == given
               ? NULL
               : error_new("LAYOUT_MISMATCH",
                           "the parameters take %" PRIu64 " bytes, the pieces are %" PRIu64, wanted,
                           given);
}

static struct adamd_error *check_options(const struct adamd_add_group_options *options) {
    if (options->tensors == NULL && options->tensor_count > 0) {
        return error_argument("tensors", "there are none");
    }
    if (options->pieces == NULL && options->piece_count > 0) {
        return error_argument("pieces", "there are none");
    }
    for (size_t i = 0; i < options->extra_count; i++) {
        if (options->extras == NULL || options->extras[i].key == NULL ||
            options->extras[i].json == NULL) {
            return error_argument("extras", "extra %zu has no key or no value", i);
        }
    }
    return check_tensors(options);
}

static struct adamd_error *receive_added(void *arg, const struct http_head *head,
                                         struct connection *connection) {
    Adamd__V1__AddParamGroupResponse **reply = arg;
    char *bytes = NULL;
    size_t size = 0;
    struct adamd_error *error = NULL;

    if (strcmp(head->content_type, "application/proto") != 0) {
        return error_new("BAD_ANSWER", "expected application/proto, got %s", head->content_type);
    }
    error = transport_collect(connection, REPLY_MAX, &bytes, &size);
    if (error != NULL) {
        return error;
    }
    *reply = adamd__v1__add_param_group_response__unpack(NULL, size, (const uint8_t *)bytes);
    free(bytes);
    return *reply != NULL ? NULL
                          : error_new("BAD_ANSWER", "the answer is not an AddParamGroupResponse");
}

static void tell(const Adamd__V1__AddParamGroupResponse *reply, adamd_add_group_result_t *result) {
    struct adamd_add_group_result local = ADAMD_ADD_GROUP_RESULT_INIT;

    local.version = reply->version;
    local.generation = reply->generation;
    local.byte_size = reply->byte_size;
    local.group = reply->param_group != NULL ? reply->param_group->index : 0;
    local.first_tensor = reply->n_tensors > 0 ? reply->tensors[0]->index : 0;
    give_result(&local, result);
}

// What the session's pushes name from here on.
static void take_layout(struct adamd_session *session,
                        const Adamd__V1__AddParamGroupResponse *reply) {
    snprintf(session->layout_digest, sizeof session->layout_digest, "%s", reply->layout_digest);
    session->byte_size = reply->byte_size;
    session->etag[0] = '\0';
}

static struct adamd_error *send_group(struct adamd_session *session,
                                      const struct adamd_add_group_options *options,
                                      struct iovec *body, adamd_add_group_result_t *result) {
    Adamd__V1__AddParamGroupResponse *reply = NULL;
    char target[128];
    const struct call call = {
        .method = "POST",
        .target = target,
        .headers = "Content-Type: application/x-safetensors\r\n"
                   "Accept: application/proto\r\n",
        .body = body,
        .body_count = options->piece_count + 1,
        .has_body = true,
        .once = true,
        .receive = receive_added,
        .arg = &reply,
    };
    struct adamd_error *error = NULL;

    snprintf(target, sizeof target, "/v1/models/%s/groups", session->model);
    for (size_t i = 0; i < options->piece_count; i++) {
        body[i + 1] = (struct iovec){.iov_base = (void *)options->pieces[i].data,
                                     .iov_len = options->pieces[i].byte_size};
    }
    error =
        transport_call(session->client->transport, &call,
                       transport_deadline(session->client->transport, options->timeout_ms), NULL);
    if (error == NULL) {
        take_layout(session, reply);
        tell(reply, result);
        adamd__v1__add_param_group_response__free_unpacked(reply, NULL);
    }
    return error;
}

adamd_error_t *adamd_add_param_group(adamd_session_t *session,
                                     const adamd_add_group_options_t *options,
                                     adamd_add_group_result_t *result) {
    struct adamd_add_group_options local = ADAMD_ADD_GROUP_OPTIONS_INIT;
    struct adamd_adam_options adam = ADAMD_ADAM_OPTIONS_INIT;
    struct iovec *body = NULL;
    char *group = NULL;
    struct adamd_error *error = take_options(&local, options);

    if (error == NULL) {
        error = take_options(&adam, local.options);
    }
    if (error == NULL) {
        error = check_options(&local);
    }
    if (error == NULL && session->in_doubt) { // its repeat would name another layout
        error = error_new("IN_DOUBT",
                          "push %" PRIu64 " may have counted: push it again to know, or "
                          "register again to drop it",
                          session->next_sequence);
    }
    if (error != NULL) {
        return error;
    }
    body = calloc(local.piece_count + 1, sizeof *body);
    group = describe_group(&local, &adam);
    if (body != NULL && group != NULL) {
        body[0].iov_base =
            write_file_header(local.tensors, local.tensor_count, group, &body[0].iov_len);
    }
    error = body != NULL && body[0].iov_base != NULL ? send_group(session, &local, body, result)
                                                     : error_no_memory();
    if (body != NULL) {
        free(body[0].iov_base);
    }
    free(body);
    cJSON_free(group);
    return error;
}
