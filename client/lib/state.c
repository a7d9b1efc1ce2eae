// A model's whole state as a file: to and from memory, pieces of it, and open files.

#include "internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPY_BYTES = 1 << 16 };

struct adamd_state_dict {
    unsigned char *data;
    size_t byte_size;
    uint64_t version, generation;
};

// ------------------------------------------------------------------------------------- in memory

static adamd_state_dict_t *dict_create(size_t byte_size) {
    adamd_state_dict_t *dict = calloc(1, sizeof *dict);

    if (dict == NULL) {
        return NULL;
    }
    dict->data = malloc(byte_size + 1); // so that empty is not NULL
    dict->byte_size = byte_size;
    if (dict->data == NULL) {
        free(dict);
        return NULL;
    }
    return dict;
}

adamd_state_dict_t *adamd_state_dict_new(const void *data, size_t byte_size) {
    adamd_state_dict_t *dict = byte_size < SIZE_MAX ? dict_create(byte_size) : NULL;

    if (dict != NULL && byte_size > 0) {
        memcpy(dict->data, data, byte_size);
    }
    return dict;
}

void adamd_state_dict_destroy(adamd_state_dict_t *dict) {
    if (dict != NULL) {
        free(dict->data);
        free(dict);
    }
}

const void *adamd_state_dict_data(const adamd_state_dict_t *dict) {
    return dict->data;
}

size_t adamd_state_dict_byte_size(const adamd_state_dict_t *dict) {
    return dict->byte_size;
}

uint64_t adamd_state_dict_version(const adamd_state_dict_t *dict) {
    return dict->version;
}

// ------------------------------------------------------------------------------------------ read

// One of `words`, or NULL, as the value of a query parameter.
static struct adamd_error *check_word(const char *field, const char *word,
                                      const char *const *words) {
    if (word == NULL) {
        return NULL;
    }
    for (; *words != NULL; words++) {
        if (strcmp(word, *words) == 0) {
            return NULL;
        }
    }
    return error_argument(field, "there is no %s \"%.40s\"", field, word);
}

struct read_call {
    adamd_state_dict_t *dict; // where it goes: here ...
    int fd;                   // ... or here, from `offset` on
    off_t offset;
    struct adamd_pull_result result;
};

static struct adamd_error *receive_dict(void *arg, const struct http_head *head,
                                        struct connection *connection) {
    struct read_call *call = arg;
    enum io io = IO_OK;

    if (head->status != 200 || !head->has_length || head->generation == 0) {
        return error_new("BAD_ANSWER", "the answer does not tell length and version");
    }
    adamd_state_dict_destroy(call->dict); // of an attempt that broke off
    call->dict = head->length < SIZE_MAX ? dict_create((size_t)head->length) : NULL;
    if (call->dict == NULL) {
        return error_no_memory();
    }
    call->dict->version = head->version;
    call->dict->generation = head->generation;
    io = connection_read_all(connection, call->dict->data, call->dict->byte_size);
    return error_of_io(connection, io);
}

static struct adamd_error *write_at(int fd, const char *bytes, size_t size, off_t *offset) {
    while (size > 0) {
        ssize_t written = pwrite(fd, bytes, size, *offset);
        if (written < 0 && errno != EINTR) {
            return error_argument("fd", "%s", strerror(errno));
        }
        if (written > 0) {
            bytes += written;
            size -= (size_t)written;
            *offset += written;
        }
    }
    return NULL;
}

// Each attempt writes the whole from the beginning.
static struct adamd_error *receive_file(void *arg, const struct http_head *head,
                                        struct connection *connection) {
    struct read_call *call = arg;
    off_t offset = call->offset;
    size_t got = 1;
    char bytes[COPY_BYTES];
    struct adamd_error *error = NULL;

    if (head->status != 200 || !head->has_length || head->generation == 0) {
        return error_new("BAD_ANSWER", "the answer does not tell length and version");
    }
    while (error == NULL && got > 0) {
        error = error_of_io(connection, connection_read(connection, bytes, sizeof bytes, &got));
        if (error == NULL) {
            error = write_at(call->fd, bytes, got, &offset);
        }
    }
    call->result.version = head->version;
    call->result.generation = head->generation;
    return error;
}

static struct adamd_error *check_read(const struct adamd_state_options *options) {
    static const char *const formats[] = {"safetensors", "pt", NULL};
    static const char *const contents[] = {"optimizer", "model", "all", NULL};
    struct adamd_error *error = check_word("format", options->format, formats);

    return error != NULL ? error : check_word("content", options->content, contents);
}

static struct adamd_error *get_state(adamd_client_t *client,
                                     const struct adamd_state_options *options, receive_fn *receive,
                                     struct read_call *read) {
    char target[128];
    const char *model = NULL;
    const struct call call = {.method = "GET", .target = target, .receive = receive, .arg = read};
    struct adamd_error *error = take_model(client, options->model, &model);

    if (error == NULL) {
        error = check_read(options);
    }
    if (error != NULL) {
        return error;
    }
    snprintf(target, sizeof target, "/v1/models/%s/state?format=%s%s%s", model,
             options->format != NULL ? options->format : "safetensors",
             options->content != NULL ? "&content=" : "",
             options->content != NULL ? options->content : "");
    return transport_call(client->transport, &call,
                          transport_deadline(client->transport, options->timeout_ms), NULL);
}

adamd_error_t *adamd_read_state(adamd_client_t *client, const adamd_state_options_t *options,
                                adamd_state_dict_t **ret_dict) {
    struct adamd_state_options local = ADAMD_STATE_OPTIONS_INIT;
    struct read_call read = {.dict = NULL};
    struct adamd_error *error = take_options(&local, options);

    if (error == NULL) {
        error = get_state(client, &local, receive_dict, &read);
    }
    if (error != NULL) {
        adamd_state_dict_destroy(read.dict);
        return error;
    }
    *ret_dict = read.dict;
    return NULL;
}

// The offset of a regular file; and how long the file is.
static struct adamd_error *look_at_file(int fd, off_t *ret_offset, off_t *ret_size) {
    struct stat status;
    off_t offset = 0;

    if (fstat(fd, &status) != 0) {
        return error_argument("fd", "%s", strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return error_argument("fd", "this is no regular file");
    }
    offset = lseek(fd, 0, SEEK_CUR);
    if (offset < 0) {
        return error_argument("fd", "%s", strerror(errno));
    }
    *ret_offset = offset;
    *ret_size = status.st_size;
    return NULL;
}

adamd_error_t *adamd_save_state(adamd_client_t *client, const adamd_state_options_t *options,
                                int fd, adamd_pull_result_t *result) {
    struct adamd_state_options local = ADAMD_STATE_OPTIONS_INIT;
    struct read_call read = {.fd = fd, .result = ADAMD_PULL_RESULT_INIT};
    off_t size = 0;
    struct adamd_error *error = take_options(&local, options);

    if (error == NULL) {
        error = look_at_file(fd, &read.offset, &size);
    }
    if (error == NULL) {
        error = get_state(client, &local, receive_file, &read);
    }
    if (error == NULL) {
        give_result(&read.result, result);
    }
    return error;
}

// ----------------------------------------------------------------------------------------- write

static struct adamd_error *check_pieces(const adamd_data_t *pieces, size_t count) {
    uint64_t bytes = 0;

    if (pieces == NULL || count == 0) {
        return error_argument("pieces", "there is no state");
    }
    for (size_t i = 0; i < count; i++) {
        if ((pieces[i].data == NULL && pieces[i].byte_size > 0) ||
            !add_bytes(&bytes, pieces[i].byte_size)) {
            return error_argument("pieces", "piece %zu is no memory", i);
        }
    }
    return NULL;
}

adamd_error_t *adamd_write_state(adamd_client_t *client, const adamd_state_options_t *options,
                                 const adamd_data_t *pieces, size_t piece_count) {
    struct adamd_state_options local = ADAMD_STATE_OPTIONS_INIT;
    static const char *const loads[] = {"weights", "moments", "reset", NULL};
    char target[128];
    struct iovec *body = NULL;
    const char *model = NULL;
    struct call call = {.method = "PUT",
                        .target = target,
                        .headers = "Content-Type: application/octet-stream\r\n",
                        .body_count = piece_count,
                        .has_body = true};
    struct adamd_error *error = take_options(&local, options);

    if (error == NULL) {
        error = check_pieces(pieces, piece_count);
    }
    if (error == NULL) {
        error = check_word("load", local.load, loads);
    }
    if (error == NULL) {
        error = take_model(client, local.model, &model);
    }
    if (error != NULL) {
        return error;
    }
    body = calloc(piece_count, sizeof *body);
    if (body == NULL) {
        return error_no_memory();
    }
    for (size_t i = 0; i < piece_count; i++) {
        body[i] =
            (struct iovec){.iov_base = (void *)pieces[i].data, .iov_len = pieces[i].byte_size};
    }
    snprintf(target, sizeof target, "/v1/models/%s/state?force=true%s%s", model,
             local.load != NULL ? "&load=" : "", local.load != NULL ? local.load : "");
    call.body = body;
    error = transport_call(client->transport, &call,
                           transport_deadline(client->transport, local.timeout_ms), NULL);
    free(body);
    return error;
}

adamd_error_t *adamd_restore_state(adamd_client_t *client, const adamd_state_options_t *options,
                                   int fd) {
    off_t offset = 0, size = 0;
    void *map = NULL;
    struct adamd_error *error = look_at_file(fd, &offset, &size);

    if (error != NULL) {
        return error;
    }
    if (offset >= size) {
        return error_argument("fd", "the file ends at its offset");
    }
    // The kernel reads it, for the socket: a file that shrinks fails the call, without a signal.
    map = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        return error_argument("fd", "%s", strerror(errno));
    }
    const adamd_data_t piece = {(const char *)map + offset, (size_t)(size - offset)};
    error = adamd_write_state(client, options, &piece, 1);
    (void)munmap(map, (size_t)size);
    return error;
}

// ------------------------------------------------------------------------------------- with hooks

// The options, for the session's model unless they name another.
static struct adamd_error *take_state_options(const struct adamd_session *session,
                                              const struct adamd_state_options *given,
                                              struct adamd_state_options *local) {
    struct adamd_error *error = take_options(local, given);

    local->model = session->model;
    return error;
}

static void new_call(struct hook_call *call, adamd_session_t *session, adamd_hook_event_t event) {
    *call =
        (struct hook_call){.call = {.size = sizeof call->call, .event = event, .session = session}};
}

adamd_error_t *adamd_state_dict(adamd_session_t *session, const adamd_state_options_t *options,
                                adamd_state_dict_t **ret_dict) {
    struct adamd_state_options local = ADAMD_STATE_OPTIONS_INIT;
    struct hook_call call;
    struct adamd_error *error = take_state_options(session, options, &local);

    new_call(&call, session, ADAMD_STATE_DICT_PRE);
    if (error == NULL) {
        error = hooks_run(&call);
    }
    new_call(&call, session, ADAMD_STATE_DICT_POST);
    if (error == NULL) {
        error = adamd_read_state(session->client, &local, &call.own);
    }
    if (error == NULL) {
        call.call.dict = call.own;
        error = hooks_run(&call);
    }
    if (error != NULL) {
        adamd_state_dict_destroy(call.own);
        return error;
    }
    *ret_dict = call.own;
    return NULL;
}

static struct adamd_error *load(adamd_session_t *session, const struct adamd_state_options *options,
                                const adamd_state_dict_t *dict, adamd_register_result_t *result) {
    const adamd_data_t piece = {dict->data, dict->byte_size};
    struct adamd_register_options registration = ADAMD_REGISTER_OPTIONS_INIT;
    struct hook_call call;
    struct adamd_error *error = adamd_write_state(session->client, options, &piece, 1);

    if (error == NULL) {
        registration.timeout_ms = options->timeout_ms;
        error = adamd_reregister(session, &registration, result);
    }
    if (error == NULL) {
        new_call(&call, session, ADAMD_LOAD_STATE_DICT_POST);
        error = hooks_run(&call);
    }
    return error;
}

adamd_error_t *adamd_load_state_dict(adamd_session_t *session, const adamd_state_options_t *options,
                                     const adamd_state_dict_t *dict,
                                     adamd_register_result_t *result) {
    struct adamd_state_options local = ADAMD_STATE_OPTIONS_INIT;
    struct hook_call call;
    struct adamd_error *error = take_state_options(session, options, &local);

    new_call(&call, session, ADAMD_LOAD_STATE_DICT_PRE);
    call.call.dict = dict;
    if (error == NULL) {
        error = hooks_run(&call);
    }
    if (error == NULL) {
        error = load(session, &local, call.call.dict, result);
    }
    adamd_state_dict_destroy(call.own);
    return error;
}
