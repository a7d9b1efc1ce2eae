// Every path that the daemon serves. Rows of one path stand together.
#include "routes.h"

#include "codec/json.h"
#include "handlers.h"

#define PARAMETERS(...) ((const char *const[]){__VA_ARGS__, NULL})

// Connect's GET, for calls without side effects.
static const char *const connect_parameters[] = {"connect", "encoding",    "message",
                                                 "base64",  "compression", NULL};

static const char *const head_parameters[] = {
    "worker", "epoch",   "sequence", "generation", "base_version", "weight", "layout_digest",
    "crc32c", "replace", "metric.",  NULL};

#define REST(verb, path, row, max, ...)                                                \
    {                                                                                  \
        .method = (verb), .pattern = (path), .handler = &call_handler, .call = &(row), \
        .body_max = (max), .parameters = __VA_ARGS__                                   \
    }
#define RPC(service, name, row)                                                     \
    {                                                                               \
        .method = "POST", .pattern = "/adamd.v1." service "/" name, .call = &(row), \
        .handler = &call_handler, .body_max = CODEC_JSON_MAX                        \
    }
#define RPC_READ(service, name, row)                                               \
    RPC(service, name, row), {                                                     \
        .method = "GET", .pattern = "/adamd.v1." service "/" name, .call = &(row), \
        .handler = &call_handler, .parameters = connect_parameters                 \
    }
#define STREAM(service, name)                                                                   \
    {                                                                                           \
        .method = "POST", .pattern = "/adamd.v1." service "/" name, .handler = &stream_handler, \
        .body_max = CODEC_JSON_MAX                                                              \
    }

const struct route routes[] = {
    {.method = "GET",
     .pattern = "/livez",
     .handler = &live_handler,
     .parameters = PARAMETERS("verbose")},
    {.method = "GET",
     .pattern = "/readyz",
     .handler = &ready_handler,
     .parameters = PARAMETERS("verbose")},
    {.method = "GET",
     .pattern = "/v1/health/live",
     .handler = &live_handler,
     .parameters = PARAMETERS("verbose")},
    {.method = "GET",
     .pattern = "/v1/health/ready",
     .handler = &ready_handler,
     .parameters = PARAMETERS("verbose")},
    {.method = "GET", .pattern = "/v1", .handler = &index_handler},

    REST("GET", "/v1/server", call_get_server, 0, NULL),
    REST("POST", "/v1/server:drain", call_drain_server, CODEC_JSON_MAX, NULL),

    REST("GET", "/v1/models", call_list_models, 0, PARAMETERS("page_size", "page_token")),
    REST("POST", "/v1/models", call_create_model, CODEC_JSON_CREATE_MAX,
         PARAMETERS("model_id", "validate_only")),
    REST("GET", "/v1/models/{m}", call_get_model, 0, NULL),
    REST("PATCH", "/v1/models/{m}", call_update_model, CODEC_JSON_MAX,
         PARAMETERS("update_mask", "etag")),
    REST("DELETE", "/v1/models/{m}", call_delete_model, 0, PARAMETERS("force", "etag")),
    REST("POST", "/v1/models/{m}:initialize", call_initialize_model, CODEC_JSON_MAX, NULL),
    REST("POST", "/v1/models/{m}:pause", call_pause_model, CODEC_JSON_MAX, NULL),
    REST("POST", "/v1/models/{m}:resume", call_resume_model, CODEC_JSON_MAX, NULL),
    {.method = "POST",
     .pattern = "/v1/models/{m}:step",
     .handler = &step_handler,
     .call = &call_optim_step,
     .body_max = CODEC_JSON_MAX,
     .parameters = PARAMETERS("expected_version")},
    REST("POST", "/v1/models/{m}:zeroGrad", call_zero_grad, CODEC_JSON_MAX,
         PARAMETERS("set_to_none")),
    {.method = "POST",
     .pattern = "/v1/models/{m}:differentiate",
     .handler = &differentiate_handler,
     .parameters = PARAMETERS("version"),
     .body_max = SIZE_MAX, // the handlers know what may come
     .streams = true},
    REST("GET", "/v1/models/{m}/tensors", call_list_tensors, 0,
         PARAMETERS("page_size", "page_token")),

    REST("GET", "/v1/models/{m}/groups", call_list_param_groups, 0, NULL),
    {.method = "POST",
     .pattern = "/v1/models/{m}/groups",
     .handler = &add_group_handler,
     .body_max = SIZE_MAX, // the handlers know what may come
     .streams = true},
    REST("GET", "/v1/models/{m}/groups/{i}", call_get_param_group, 0, NULL),
    REST("PATCH", "/v1/models/{m}/groups/{i}", call_update_param_group, CODEC_JSON_MAX,
         PARAMETERS("update_mask")),
    REST("GET", "/v1/models/{m}/hooks", call_list_hooks, 0, NULL),
    REST("POST", "/v1/models/{m}/hooks", call_create_hook, CODEC_JSON_MAX, NULL),
    REST("GET", "/v1/models/{m}/hooks/{h}", call_get_hook, 0, NULL),
    REST("DELETE", "/v1/models/{m}/hooks/{h}", call_delete_hook, 0, NULL),

    REST("GET", "/v1/models/{m}/workers", call_list_workers, 0,
         PARAMETERS("page_size", "page_token")),
    REST("POST", "/v1/models/{m}/workers", call_register_worker, CODEC_JSON_MAX,
         PARAMETERS("worker_id", "nonce", "rank", "generation", "acknowledged_version")),
    REST("GET", "/v1/models/{m}/workers/{w}", call_get_worker, 0, NULL),
    REST("DELETE", "/v1/models/{m}/workers/{w}", call_deregister_worker, 0, PARAMETERS("epoch")),
    REST("POST", "/v1/models/{m}/workers/{w}:renew", call_renew_lease, CODEC_JSON_MAX,
         PARAMETERS("epoch")),

    {.method = "POST",
     .pattern = "/v1/models/{m}/gradients",
     .handler = &push_handler,
     .parameters = head_parameters,
     .body_max = SIZE_MAX, // the handlers know what may come
     .streams = true},
    {.method = "GET",
     .pattern = "/v1/models/{m}/parameters",
     .handler = &pull_handler,
     .parameters = PARAMETERS("format", "min_version", "wait", "source")},
    {.method = "GET",
     .pattern = "/v1/models/{m}/state",
     .handler = &state_handler,
     .parameters = PARAMETERS("format", "content")},
    {.method = "PUT",
     .pattern = "/v1/models/{m}/state",
     .handler = &restore_handler,
     .parameters = PARAMETERS("force", "load", "path"),
     .body_max = SIZE_MAX, // the handlers know what may come
     .streams = true},
    {.method = "GET",
     .pattern = "/v1/models/{m}/steps",
     .handler = &records_handler,
     .parameters = PARAMETERS("after_version", "follow", "page_size")},

    RPC_READ("ServerService", "GetServer", call_get_server),
    RPC("ServerService", "DrainServer", call_drain_server),
    {.method = "POST",
     .pattern = "/adamd.v1.ModelService/CreateModel",
     .handler = &call_handler,
     .call = &call_create_model,
     .body_max = CODEC_JSON_CREATE_MAX},
    RPC_READ("ModelService", "GetModel", call_get_model),
    RPC_READ("ModelService", "ListModels", call_list_models),
    RPC("ModelService", "UpdateModel", call_update_model),
    RPC("ModelService", "DeleteModel", call_delete_model),
    RPC("ModelService", "InitializeModel", call_initialize_model),
    RPC("ModelService", "PauseModel", call_pause_model),
    RPC("ModelService", "ResumeModel", call_resume_model),
    RPC_READ("ModelService", "GetParamGroup", call_get_param_group),
    RPC_READ("ModelService", "ListParamGroups", call_list_param_groups),
    {.method = "POST",
     .pattern = "/adamd.v1.ModelService/AddParamGroup",
     .handler = &add_group_call_handler,
     .call = &call_add_param_group,
     .body_max = CODEC_JSON_CREATE_MAX},
    RPC("ModelService", "UpdateParamGroup", call_update_param_group),
    RPC_READ("ModelService", "ListTensors", call_list_tensors),
    RPC("ModelService", "CreateHook", call_create_hook),
    RPC_READ("ModelService", "GetHook", call_get_hook),
    RPC_READ("ModelService", "ListHooks", call_list_hooks),
    RPC("ModelService", "DeleteHook", call_delete_hook),
    RPC("TrainingService", "RegisterWorker", call_register_worker),
    RPC("TrainingService", "RenewLease", call_renew_lease),
    RPC("TrainingService", "DeregisterWorker", call_deregister_worker),
    RPC_READ("TrainingService", "GetWorker", call_get_worker),
    RPC_READ("TrainingService", "ListWorkers", call_list_workers),
    {.method = "POST",
     .pattern = "/adamd.v1.TrainingService/OptimStep",
     .handler = &step_handler,
     .call = &call_optim_step,
     .body_max = CODEC_JSON_MAX},
    RPC("TrainingService", "ZeroGrad", call_zero_grad),
    RPC_READ("TrainingService", "ListSteps", call_list_steps),
    STREAM("TrainingService", "PushGradients"),
    STREAM("TrainingService", "PullParameters"),
    STREAM("TrainingService", "Differentiate"),
};

const size_t route_count = sizeof routes / sizeof routes[0];
