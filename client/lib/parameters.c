// The first parameters of a model, as a safetensors file that exists only on the wire: its header
// is made here, its data is the caller's.

#include "internal.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8 };

static cJSON *entry_of(const struct adamd_tensor *tensor, uint64_t begin, uint64_t *ret_end) {
    cJSON *entry = cJSON_CreateObject();
    cJSON *shape = cJSON_AddArrayToObject(entry, "shape");
    char text[64];
    uint64_t elements = 1;

    for (size_t i = 0; i < tensor->rank; i++) {
        snprintf(text, sizeof text, "%" PRIu64, tensor->shape[i]);
        cJSON_AddItemToArray(shape, cJSON_CreateRaw(text));
        elements *= tensor->shape[i];
    }
    if (tensor->dtype == ADAMD_DTYPE_COMPLEX128) { // files hold it as pairs
        cJSON_AddItemToArray(shape, cJSON_CreateRaw("2"));
    }
    *ret_end = begin + elements * adamd_dtype_size(tensor->dtype);
    snprintf(text, sizeof text, "[%" PRIu64 ",%" PRIu64 "]", begin, *ret_end);
    cJSON_AddStringToObject(entry, "dtype", dtype_file_name(tensor->dtype));
    cJSON_AddRawToObject(entry, "data_offsets", text);
    return entry;
}

unsigned char *write_file_header(const struct adamd_tensor *tensors, size_t count,
                                 const char *groups, size_t *ret_size) {
    cJSON *header = cJSON_CreateObject();
    char *json = NULL;
    unsigned char *bytes = NULL;
    uint64_t end = 0;
    size_t length = 0, padded = 0;
    bool whole = true;

    if (groups != NULL) {
        cJSON *metadata = cJSON_AddObjectToObject(header, "__metadata__");
        whole = cJSON_AddStringToObject(metadata, "adamd.param_groups", groups) != NULL;
    }
    for (size_t i = 0; i < count && whole; i++) {
        whole = cJSON_AddItemToObject(header, tensors[i].key, entry_of(&tensors[i], end, &end));
    }
    json = whole ? cJSON_PrintUnformatted(header) : NULL;
    cJSON_Delete(header);
    if (json == NULL) {
        return NULL;
    }
    length = strlen(json);
    padded = (length + 7) / 8 * 8;
    bytes = malloc(LENGTH_BYTES + padded);
    if (bytes != NULL) {
        for (unsigned i = 0; i < LENGTH_BYTES; i++) {
            bytes[i] = (unsigned char)((uint64_t)padded >> (8 * i));
        }
        memset(bytes + LENGTH_BYTES, ' ', padded);
        memcpy(bytes + LENGTH_BYTES, json, length);
        *ret_size = LENGTH_BYTES + padded;
    }
    cJSON_free(json);
    return bytes;
}

static struct adamd_error *check_pieces(const struct adamd_model *model, const adamd_data_t *pieces,
                                        size_t count) {
    uint64_t bytes = 0;

    for (size_t i = 0; i < count; i++) {
        if ((pieces[i].data == NULL && pieces[i].byte_size > 0) ||
            !add_bytes(&bytes, pieces[i].byte_size)) {
            return error_argument("pieces", "piece %zu is no memory", i);
        }
    }
    if (bytes != adamd_model_byte_size(model)) {
        return error_new("LAYOUT_MISMATCH",
                         "the parameters take %" PRIu64 " bytes, the pieces are %" PRIu64,
                         adamd_model_byte_size(model), bytes);
    }
    return NULL;
}

adamd_error_t *adamd_put_parameters(adamd_client_t *client, const adamd_model_t *model,
                                    const adamd_data_t *pieces, size_t piece_count, int force,
                                    uint32_t timeout_ms) {
    struct iovec *body = NULL;
    char target[128];
    struct call call = {.method = "PUT",
                        .target = target,
                        .headers = "Content-Type: application/x-safetensors\r\n",
                        .body_count = piece_count + 1,
                        .has_body = true};
    struct adamd_error *error = check_pieces(model, pieces, piece_count);

    if (error != NULL) {
        return error;
    }
    body = calloc(piece_count + 1, sizeof *body);
    if (body != NULL) {
        body[0].iov_base = write_file_header(
            adamd_model_tensor(model, 0), adamd_model_tensor_count(model), NULL, &body[0].iov_len);
    }
    if (body == NULL || body[0].iov_base == NULL) {
        free(body);
        return error_no_memory();
    }
    for (size_t i = 0; i < piece_count; i++) {
        body[i + 1] =
            (struct iovec){.iov_base = (void *)pieces[i].data, .iov_len = pieces[i].byte_size};
    }
    snprintf(target, sizeof target, "/v1/models/%s/state%s", adamd_model_id(model),
             force ? "?force=true" : "");
    call.body = body;
    error = transport_call(client->transport, &call,
                           transport_deadline(client->transport, timeout_ms), NULL);
    free(body[0].iov_base);
    free(body);
    return error;
}
