// Calls by message: protobuf in, protobuf out, as Connect's unary calls.

#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPLY_MAX = 64 << 20, ENVELOPE_HEAD = 5 };

struct rpc_reply {
    const struct rpc *rpc;
    ProtobufCMessage *message;
};

static struct adamd_error *unpack(const ProtobufCMessageDescriptor *descriptor, const void *bytes,
                                  size_t size, ProtobufCMessage **ret_message) {
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, NULL, size, bytes);

    if (message == NULL) {
        return error_new("BAD_ANSWER", "the answer is not a %s", descriptor->short_name);
    }
    *ret_message = message;
    return NULL;
}

static struct adamd_error *receive_reply(void *arg, const struct http_head *head,
                                         struct connection *connection) {
    struct rpc_reply *reply = arg;
    char *bytes = NULL;
    size_t size = 0;
    struct adamd_error *error = NULL;

    if (strcmp(head->content_type, "application/proto") != 0) {
        return error_new("BAD_ANSWER", "expected application/proto, got %s", head->content_type);
    }
    error = transport_collect(connection, REPLY_MAX, &bytes, &size);
    if (error == NULL) {
        error = unpack(reply->rpc->reply, bytes, size, &reply->message);
        free(bytes);
    }
    if (error == NULL && reply->rpc->ret_holds_from != NULL) {
        *reply->rpc->ret_holds_from = head->holds_from;
    }
    return error;
}

struct adamd_error *rpc_call(struct adamd_client *client, const struct rpc *rpc,
                             uint64_t deadline_ms, ProtobufCMessage **ret_reply) {
    struct rpc_reply reply = {.rpc = rpc};
    size_t size = protobuf_c_message_get_packed_size(rpc->request);
    struct iovec body = {.iov_base = malloc(size + 1), .iov_len = size};
    char target[96];
    struct call call = {
        .method = "POST",
        .target = target,
        .headers = "Content-Type: application/proto\r\n"
                   "Accept: application/proto\r\n"
                   "Connect-Protocol-Version: 1\r\n",
        .body = &body,
        .body_count = 1,
        .has_body = true,
        .once = rpc->once,
        .receive = receive_reply,
        .arg = &reply,
    };
    struct adamd_error *error = NULL;

    if (body.iov_base == NULL) {
        return error_no_memory();
    }
    (void)protobuf_c_message_pack(rpc->request, body.iov_base);
    snprintf(target, sizeof target, "/adamd.v1.%s", rpc->method);
    error = transport_call(client->transport, &call, deadline_ms, NULL);
    free(body.iov_base);
    if (error == NULL) {
        *ret_reply = reply.message;
    }
    return error;
}

struct adamd_error *read_envelope(struct connection *connection, size_t max,
                                  const ProtobufCMessageDescriptor *descriptor,
                                  ProtobufCMessage **ret_message) {
    unsigned char head[ENVELOPE_HEAD];
    enum io io = connection_read_all(connection, head, sizeof head);
    size_t size = ((size_t)head[1] << 24) | ((size_t)head[2] << 16) | ((size_t)head[3] << 8) |
                  (size_t)head[4];
    unsigned char *bytes = NULL;
    struct adamd_error *error = NULL;

    if (io != IO_OK) {
        return error_of_io(connection, io);
    }
    if (head[0] != 0 || size > max) {
        return error_new("BAD_ANSWER", "expected a %s in an envelope", descriptor->short_name);
    }
    bytes = malloc(size + 1);
    if (bytes == NULL) {
        return error_no_memory();
    }
    io = connection_read_all(connection, bytes, size);
    error =
        io == IO_OK ? unpack(descriptor, bytes, size, ret_message) : error_of_io(connection, io);
    free(bytes);
    return error;
}
