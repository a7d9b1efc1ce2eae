// Bytes that stay where they are: whole, in part, or not at all if the client has them.
#include "exchange_impl.h"
#include "range.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// A system call takes 1,024 pieces. The library sends no more at once either, but then waits for
// the socket to become writable, which it has been all along: longer vectors go through a buffer.
enum { PIECES_MAX = 1024, GATHER_BLOCK_BYTES = 128 << 10 };

static const char *own_header(const struct exchange *exchange, const char *name) {
    for (size_t i = 0; i < exchange->header_count; i++) {
        if (strcmp(exchange->headers[i].name, name) == 0) {
            return exchange->headers[i].value;
        }
    }
    return NULL;
}

// The vector goes to the library as it is.
_Static_assert(sizeof(struct iovec) == sizeof(struct MHD_IoVec) &&
                   offsetof(struct iovec, iov_len) == offsetof(struct MHD_IoVec, iov_len),
               "both are the system's iovec");

struct gather {
    size_t count, at;
    struct iovec vector[]; // the first piece that is not done is cut down to what is left of it
};

static ssize_t on_gather(void *arg, uint64_t position, char *to, size_t room) {
    struct gather *gather = arg;
    size_t done = 0;

    (void)position; // ascends without gaps
    while (done < room && gather->at < gather->count) {
        struct iovec *piece = &gather->vector[gather->at];
        const size_t size = piece->iov_len < room - done ? piece->iov_len : room - done;
        memcpy(to + done, piece->iov_base, size);
        piece->iov_base = (char *)piece->iov_base + size;
        piece->iov_len -= size;
        gather->at += piece->iov_len == 0 ? 1 : 0;
        done += size;
    }
    return done > 0 ? (ssize_t)done : (ssize_t)MHD_CONTENT_READER_END_WITH_ERROR;
}

static struct MHD_Response *make_gathered(const struct iovec *vector, size_t count, uint64_t size) {
    struct gather *gather = malloc(sizeof *gather + count * sizeof gather->vector[0]);

    if (gather == NULL) {
        return NULL;
    }
    gather->count = count;
    gather->at = 0;
    memcpy(gather->vector, vector, count * sizeof gather->vector[0]);
    struct MHD_Response *response =
        MHD_create_response_from_callback(size, GATHER_BLOCK_BYTES, on_gather, gather, free);
    if (response == NULL) {
        free(gather);
    }
    return response;
}

static void answer_vector(struct exchange *exchange, unsigned http_status,
                          const struct iovec *vector, size_t count) {
    const uint64_t size = vector_size(vector, count);
    struct MHD_Response *response;

    if (size == 0) {
        static char nothing[1];
        response = MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT);
    } else if (count > PIECES_MAX) {
        response = make_gathered(vector, count, size);
    } else {
        response = MHD_create_response_from_iovec((const struct MHD_IoVec *)(const void *)vector,
                                                  (unsigned)count, NULL, NULL);
    }
    exchange_answer(exchange, http_status, response, exchange->is_head ? 0 : size);
}

static enum range_verdict find_range(const struct exchange *exchange, unsigned http_status,
                                     uint64_t total, uint64_t *ret_first, uint64_t *ret_size) {
    const char *if_range = exchange_header(exchange, "If-Range");
    const char *tag = own_header(exchange, "ETag");

    if (http_status != 200 || exchange->is_head ||
        (if_range != NULL && (tag == NULL || strcmp(if_range, tag) != 0))) {
        return RANGE_WHOLE;
    }
    return range_parse(exchange_header(exchange, "Range"), total, ret_first, ret_size);
}

static void answer_part(struct exchange *exchange, const struct iovec *vector, size_t count,
                        uint64_t first, uint64_t size) {
    struct iovec *copy = malloc((count > 0 ? count : 1) * sizeof *copy);

    if (copy == NULL) {
        exchange_answer_problem(exchange, REASON_NO_MEMORY, NULL);
        return;
    }
    memcpy(copy, vector, count * sizeof *copy);
    exchange_add_header(exchange, "Content-Range", "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, first,
                        first + size - 1, vector_size(vector, count));
    answer_vector(exchange, 206, copy, vector_slice(copy, count, first, size));
    free(copy);
}

void exchange_answer_bytes(struct exchange *exchange, unsigned http_status,
                           const char *content_type, const struct iovec *vector, size_t count) {
    const uint64_t total = vector_size(vector, count);
    const char *tag = own_header(exchange, "ETag");
    uint64_t first = 0;
    uint64_t size = 0;

    if (http_status == 200 && tag != NULL &&
        tag_listed(exchange_header(exchange, "If-None-Match"), tag)) {
        answer_vector(exchange, 304, vector, count); // the length alone is told
        return;
    }
    switch (find_range(exchange, http_status, total, &first, &size)) {
    case RANGE_OUTSIDE:
        exchange->header_count = 0;
        exchange_add_header(exchange, "Content-Range", "bytes */%" PRIu64, total);
        exchange_answer_problem(exchange, REASON_RANGE_OUTSIDE, NULL);
        return;
    case RANGE_PART:
        exchange_add_header(exchange, "Content-Type", "%s", content_type);
        answer_part(exchange, vector, count, first, size);
        return;
    case RANGE_WHOLE:
        exchange_add_header(exchange, "Content-Type", "%s", content_type);
        exchange_add_header(exchange, "Accept-Ranges", "bytes");
        answer_vector(exchange, http_status, vector, count);
        return;
    }
}
