// MANUAL stepping: optimizer.step() and optimizer.zero_grad(), by their PyTorch names.

#include "internal.h"

static void tell(const Adamd__V1__OptimStepResponse *reply, adamd_step_result_t *result) {
    struct adamd_step_result local = ADAMD_STEP_RESULT_INIT;

    if (reply->record != NULL) {
        local.generation = reply->record->generation;
        local.version = reply->record->version;
        local.grad_norm = reply->record->grad_norm;
        local.lr = reply->record->lr;
    }
    local.duplicate = reply->duplicate;
    give_result(&local, result);
}

adamd_error_t *adamd_optim_step(adamd_session_t *session, const adamd_step_options_t *options,
                                adamd_step_result_t *result) {
    struct adamd_step_options local = ADAMD_STEP_OPTIONS_INIT;
    struct adamd_adam_options adam = ADAMD_ADAM_OPTIONS_INIT;
    struct resource_name name = name_of_model(session->model);
    Adamd__V1__OptimStepRequest request = ADAMD__V1__OPTIM_STEP_REQUEST__INIT;
    Adamd__V1__AdamOptions message = ADAMD__V1__ADAM_OPTIONS__INIT;
    double betas[2];
    struct rpc rpc = {.method = "TrainingService/OptimStep",
                      .request = &request.base,
                      .reply = &adamd__v1__optim_step_response__descriptor};
    ProtobufCMessage *reply = NULL;
    struct adamd_error *error = take_options(&local, options);

    if (error == NULL) {
        error = take_options(&adam, local.options);
    }
    if (error != NULL) {
        return error;
    }
    request.name = name.text;
    rpc.once = local.expected_version == ADAMD_ANY;
    if (!rpc.once) {
        request.expected_version_oneof_case =
            ADAMD__V1__OPTIM_STEP_REQUEST__EXPECTED_VERSION_ONEOF_EXPECTED_VERSION;
        request.expected_version = local.expected_version;
    }
    if (local.options != NULL) {
        fill_adam_options(&message, betas, &adam);
        request.options = &message;
    }
    error = rpc_call(session->client, &rpc,
                     transport_deadline(session->client->transport, local.timeout_ms), &reply);
    if (error == NULL) {
        tell((const Adamd__V1__OptimStepResponse *)reply, result);
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    return error;
}

adamd_error_t *adamd_zero_grad(adamd_session_t *session, int set_to_none, uint32_t timeout_ms) {
    struct resource_name name = name_of_model(session->model);
    Adamd__V1__ZeroGradRequest request = ADAMD__V1__ZERO_GRAD_REQUEST__INIT;
    const struct rpc rpc = {.method = "TrainingService/ZeroGrad",
                            .request = &request.base,
                            .reply = &adamd__v1__zero_grad_response__descriptor};
    ProtobufCMessage *reply = NULL;
    struct adamd_error *error = NULL;

    request.name = name.text;
    request.set_to_none_oneof_case = ADAMD__V1__ZERO_GRAD_REQUEST__SET_TO_NONE_ONEOF_SET_TO_NONE;
    request.set_to_none = set_to_none != 0;
    error = rpc_call(session->client, &rpc,
                     transport_deadline(session->client->transport, timeout_ms), &reply);
    if (error == NULL) {
        protobuf_c_message_free_unpacked(reply, NULL);
    }
    return error;
}
