/**
 * What the files of the library share: the objects behind the handles, and calls by message.
 */
#ifndef ADAMD_CLIENT_INTERNAL_H
#define ADAMD_CLIENT_INTERNAL_H

#include "hooks.h"
#include "transport.h"

#include "adamd/v1/adamd.pb-c.h"

struct adamd_client {
    struct transport *transport;
    struct adamd_conf conf;
};

struct adamd_session {
    struct adamd_client *client; // borrowed
    char model[64], worker[65], layout_digest[72];
    uint64_t generation, epoch, byte_size;
    uint64_t next_sequence;
    uint64_t pulled_version; // ADAMD_ANY: none
    char etag[96];           // of what was pulled last
    bool in_doubt;           // next_sequence was sent, and nobody knows what became of it ...
    uint32_t doubt_crc32c;   // ... of these bytes
    struct hook_lists hooks;
};

/** models/{id}, models/{id}/workers/{id} */
struct resource_name {
    char text[160];
};
struct resource_name name_of_model(const char *model);
struct resource_name name_of_worker(const struct adamd_session *session);

/**
 * Options that the caller gave, over the defaults in `local`; `given` NULL leaves these. Both start
 * with their size. Fails if the caller's says nothing.
 */
struct adamd_error *take_options(void *local, const void *given);
/** As much of `local` as the caller's struct has room for; `result` NULL: nothing. */
void give_result(const void *local, void *result);

/** `given`, or the configuration's, if it is an id. */
struct adamd_error *take_model(const struct adamd_client *client, const char *given,
                               const char **ret_model);

/**
 * A unary call. `method` is "TrainingService/RegisterWorker". The reply is to be freed with
 * protobuf_c_message_free_unpacked(). `once`: as in struct call.
 */
struct rpc {
    const char *method;
    const ProtobufCMessage *request;
    const ProtobufCMessageDescriptor *reply;
    bool once;
    uint64_t *ret_holds_from; // Adamd-Holds-From-Version of the answer; NULL: does not matter
};
struct adamd_error *rpc_call(struct adamd_client *client, const struct rpc *rpc,
                             uint64_t deadline_ms, ProtobufCMessage **ret_reply);

/** AdamOptions of `options`; `betas` is its memory. */
void fill_adam_options(Adamd__V1__AdamOptions *message, double betas[2],
                       const struct adamd_adam_options *options);

/** Never ADAMD_DTYPE_DEFAULT. */
adamd_dtype_t dtype_of(adamd_dtype_t dtype);
/** As safetensors calls a type that there is. */
const char *dtype_file_name(adamd_dtype_t dtype);

/** Extra keys as messages; zeroed means none. */
struct extras {
    Adamd__V1__ParamGroupExtra *messages, **list;
};
/** Into `group`, which points to `extras` then. finish takes what a failure left, too. */
struct adamd_error *extras_draft(struct extras *extras, const struct adamd_extra *given,
                                 size_t count, Adamd__V1__ParamGroup *group);
void extras_finish(struct extras *extras);

/** Length and header of a safetensors file of these tensors, padded to 8; malloc'ed. `groups`: the
 * text of adamd.param_groups; NULL: none. NULL: out of memory. */
unsigned char *write_file_header(const struct adamd_tensor *tensors, size_t count,
                                 const char *groups, size_t *ret_size);

/** Total and overflow of pieces. False: too long for this machine. */
bool add_bytes(uint64_t *total, uint64_t bytes);

/** Bytes of an answer into the caller's buffers, which they must fill exactly. */
struct adamd_error *read_into(struct connection *connection, uint64_t byte_size,
                              const adamd_buffer_t *buffers, size_t count);
struct adamd_error *check_buffers(const adamd_buffer_t *buffers, size_t count, uint64_t *ret_bytes);

/** An envelope's message of at most `max` bytes. */
struct adamd_error *read_envelope(struct connection *connection, size_t max,
                                  const ProtobufCMessageDescriptor *descriptor,
                                  ProtobufCMessage **ret_message);

#endif
