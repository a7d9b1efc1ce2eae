// Registrations: how a worker gets an epoch, keeps it, and leaves.

#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What a new registration replaces: the rest of the session is who it is.
static void start_epoch(struct adamd_session *session,
                        const Adamd__V1__RegisterWorkerResponse *reply) {
    if (session->generation != reply->generation) { // what was pulled is of another history
        session->pulled_version = ADAMD_ANY;
        session->etag[0] = '\0';
    }
    session->generation = reply->generation;
    session->epoch = reply->epoch;
    session->byte_size = reply->byte_size;
    session->next_sequence = 1;
    session->in_doubt = false;
    snprintf(session->layout_digest, sizeof session->layout_digest, "%s", reply->layout_digest);
}

static uint32_t milliseconds_of(const Google__Protobuf__Duration *duration) {
    if (duration == NULL || duration->seconds < 0 || duration->nanos < 0) {
        return 0;
    }
    if (duration->seconds > UINT32_MAX / 1000 - 1) {
        return UINT32_MAX;
    }
    return (uint32_t)duration->seconds * 1000 + (uint32_t)duration->nanos / 1000000;
}

static void tell(const Adamd__V1__RegisterWorkerResponse *reply, adamd_register_result_t *result) {
    struct adamd_register_result local = ADAMD_REGISTER_RESULT_INIT;

    local.generation = reply->generation;
    local.version = reply->version;
    local.epoch = reply->epoch;
    local.lease_ms = milliseconds_of(reply->lease);
    local.byte_size = reply->byte_size;
    snprintf(local.layout_digest, sizeof local.layout_digest, "%s", reply->layout_digest);
    if (reply->worker != NULL) {
        local.rank = reply->worker->rank;
        local.last_sequence = reply->worker->last_sequence;
        local.last_version = reply->worker->last_version;
        local.last_outcome = (adamd_outcome_t)reply->worker->last_outcome;
    }
    give_result(&local, result);
}

static struct adamd_error *register_once(struct adamd_session *session,
                                         const struct adamd_register_options *options,
                                         adamd_register_result_t *result) {
    char random[33] = "";
    struct resource_name parent = name_of_model(session->model);
    Adamd__V1__RegisterWorkerRequest request = ADAMD__V1__REGISTER_WORKER_REQUEST__INIT;
    const struct rpc rpc = {.method = "TrainingService/RegisterWorker",
                            .request = &request.base,
                            .reply = &adamd__v1__register_worker_response__descriptor};
    ProtobufCMessage *reply = NULL;
    struct adamd_error *error = NULL;

    if (options->nonce == NULL && !random_text(random)) {
        return error_new("INTERNAL", "the system has no random numbers");
    }
    request.parent = parent.text;
    request.worker_id = session->worker;
    request.nonce = options->nonce != NULL ? (char *)options->nonce : random;
    request.generation = options->acknowledged_generation;
    request.acknowledged_version = options->acknowledged_version;
    if (options->rank >= 0) {
        request.rank_oneof_case = ADAMD__V1__REGISTER_WORKER_REQUEST__RANK_ONEOF_RANK;
        request.rank = (uint32_t)options->rank;
    }
    error = rpc_call(session->client, &rpc,
                     transport_deadline(session->client->transport, options->timeout_ms), &reply);
    if (error == NULL) {
        start_epoch(session, (const Adamd__V1__RegisterWorkerResponse *)reply);
        tell((const Adamd__V1__RegisterWorkerResponse *)reply, result);
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    return error;
}

static struct adamd_error *check_options(const struct adamd_register_options *options) {
    if (options->rank < -1 || options->rank >= (int64_t)UINT32_MAX) {
        return error_argument("rank", "the rank is -1, or a number below 2^32 - 1");
    }
    if (options->nonce != NULL && (options->nonce[0] == '\0' || strlen(options->nonce) > 64)) {
        return error_argument("nonce", "a nonce has 1 to 64 bytes");
    }
    return NULL;
}

static struct adamd_error *name_session(struct adamd_session *session,
                                        const struct adamd_register_options *options) {
    const struct adamd_client *client = session->client;
    const char *worker = options->worker != NULL ? options->worker : client->conf.worker;
    const char *model = NULL;
    struct adamd_error *error = take_model(client, options->model, &model);

    if (error != NULL) {
        return error;
    }
    if (!is_worker_id(worker)) {
        return error_argument("worker", "%s",
                              worker[0] != '\0'
                                  ? WORKER_ID_RULE
                                  : "no worker: name one, or set it in the configuration");
    }
    snprintf(session->model, sizeof session->model, "%s", model);
    snprintf(session->worker, sizeof session->worker, "%s", worker);
    session->pulled_version = ADAMD_ANY;
    return NULL;
}

adamd_error_t *adamd_register(adamd_client_t *client, const adamd_register_options_t *options,
                              adamd_session_t **ret_session, adamd_register_result_t *result) {
    struct adamd_register_options local = ADAMD_REGISTER_OPTIONS_INIT;
    struct adamd_session *session = calloc(1, sizeof *session);
    struct adamd_error *error = NULL;

    if (session == NULL) {
        return error_no_memory();
    }
    session->client = client;
    error = take_options(&local, options);
    if (error == NULL) {
        error = check_options(&local);
    }
    if (error == NULL) {
        error = name_session(session, &local);
    }
    if (error == NULL) {
        error = register_once(session, &local, result);
    }
    if (error != NULL) {
        free(session);
        return error;
    }
    *ret_session = session;
    return NULL;
}

adamd_error_t *adamd_reregister(adamd_session_t *session, const adamd_register_options_t *options,
                                adamd_register_result_t *result) {
    struct adamd_register_options local = ADAMD_REGISTER_OPTIONS_INIT;
    struct adamd_error *error = take_options(&local, options);

    local.nonce = NULL;
    if (error == NULL) {
        error = check_options(&local);
    }
    return error != NULL ? error : register_once(session, &local, result);
}

adamd_error_t *adamd_renew(adamd_session_t *session, uint32_t timeout_ms) {
    struct resource_name name = name_of_worker(session);
    Adamd__V1__RenewLeaseRequest request = ADAMD__V1__RENEW_LEASE_REQUEST__INIT;
    const struct rpc rpc = {.method = "TrainingService/RenewLease",
                            .request = &request.base,
                            .reply = &adamd__v1__worker__descriptor};
    ProtobufCMessage *reply = NULL;
    struct adamd_error *error = NULL;

    request.name = name.text;
    request.epoch = session->epoch;
    error = rpc_call(session->client, &rpc,
                     transport_deadline(session->client->transport, timeout_ms), &reply);
    if (error == NULL) {
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    return error;
}

adamd_error_t *adamd_deregister(adamd_session_t *session, uint32_t timeout_ms) {
    struct resource_name name = name_of_worker(session);
    Adamd__V1__DeregisterWorkerRequest request = ADAMD__V1__DEREGISTER_WORKER_REQUEST__INIT;
    const struct rpc rpc = {.method = "TrainingService/DeregisterWorker",
                            .request = &request.base,
                            .reply = &adamd__v1__deregister_worker_response__descriptor};
    ProtobufCMessage *reply = NULL;
    struct adamd_error *error = NULL;

    request.name = name.text;
    request.epoch = session->epoch;
    error = rpc_call(session->client, &rpc,
                     transport_deadline(session->client->transport, timeout_ms), &reply);
    if (error == NULL) {
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    return error;
}

void adamd_session_destroy(adamd_session_t *session) {
    if (session != NULL) {
        hooks_finish(&session->hooks);
        free(session);
    }
}

uint64_t adamd_session_epoch(const adamd_session_t *session) {
    return session->epoch;
}

uint64_t adamd_session_generation(const adamd_session_t *session) {
    return session->generation;
}

uint64_t adamd_session_version(const adamd_session_t *session) {
    return session->pulled_version;
}

uint64_t adamd_session_sequence(const adamd_session_t *session) {
    return session->next_sequence;
}
