// Answers of unknown length: what the handler writes waits in a buffer, and the connection sleeps
// while that is empty.
#include "exchange_impl.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 32 << 10 };

static ssize_t on_read(void *arg, uint64_t position, char *to, size_t room) {
    struct exchange *exchange = arg;
    struct exchange_stream *stream = &exchange->stream;
    const size_t waiting = stream->size - stream->start;
    const size_t size = waiting < room ? waiting : room;

    (void)position;
    if (exchange->state == EXCHANGE_ABANDONED) {
        return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    if (size == 0 && stream->has_ended) {
        return MHD_CONTENT_READER_END_OF_STREAM;
    }
    if (size == 0) {
        connection_enter(&exchange->intake->connections, exchange->connection, PHASE_WAIT, 0, 0);
        exchange_sleep(exchange);
        return 0;
    }
    // The last block was taken: what waits has its time from now.
    connection_enter(&exchange->intake->connections, exchange->connection, PHASE_ANSWER, waiting,
                     server_now_ms(exchange->intake->server));
    memcpy(to, stream->bytes + stream->start, size);
    stream->start += size;
    exchange->answer_bytes += size;
    return (ssize_t)size;
}

void exchange_stream_start(struct exchange *exchange, const char *content_type) {
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, on_read, exchange, NULL);

    exchange->is_stream = true;
    exchange_add_header(exchange, "Content-Type", "%s", content_type);
    exchange_answer(exchange, 200, response, 0);
}

static bool reserve(struct exchange_stream *stream, size_t size) {
    if (stream->start > 0) {
        stream->size -= stream->start;
        memmove(stream->bytes, stream->bytes + stream->start, stream->size);
        stream->start = 0;
    }
    if (size > EXCHANGE_STREAM_MAX - stream->size) {
        return false;
    }
    if (stream->size + size > stream->capacity) {
        const size_t capacity = (stream->size + size) * 2;
        char *bytes = realloc(stream->bytes, capacity);
        if (bytes == NULL) {
            return false;
        }
        stream->bytes = bytes;
        stream->capacity = capacity;
    }
    return true;
}

// A peer that sleeps gets the time that any answer gets, from when there is something to send.
static void go_on(struct exchange *exchange) {
    struct intake *intake = exchange->intake;

    if (exchange->is_suspended) {
        connection_enter(&intake->connections, exchange->connection, PHASE_ANSWER,
                         exchange->stream.size - exchange->stream.start,
                         server_now_ms(intake->server));
        exchange_wake(exchange);
    }
}

bool exchange_stream_write(struct exchange *exchange, const char *text, size_t size) {
    struct exchange_stream *stream = &exchange->stream;

    ADAMD_ASSERT(exchange->is_stream && !stream->has_ended);
    if (!reserve(stream, size)) {
        return false;
    }
    memcpy(stream->bytes + stream->size, text, size);
    stream->size += size;
    go_on(exchange);
    return true;
}

void exchange_stream_end(struct exchange *exchange) {
    exchange->stream.has_ended = true;
    go_on(exchange);
}
