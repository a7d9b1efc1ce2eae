/**
 * The head of an HTTP/1.1 answer, read strictly: what is ambiguous is refused. Bytes in, values
 * out.
 */
#ifndef ADAMD_CLIENT_HTTP_H
#define ADAMD_CLIENT_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_head {
    int status;
    bool has_length, chunked, close;
    uint64_t length;
    bool has_retry_after;
    uint32_t retry_after_s;
    uint64_t generation, version; // of Adamd-Generation, Adamd-Version; 0: none
    uint64_t holds_from;          // of Adamd-Holds-From-Version
    char etag[96];
    char content_type[96];
};

enum { HTTP_HEAD_MAX = 32768, HTTP_LINES_MAX = 100 };

/** The length of the head at the start of `bytes`, its blank line included; 0: not complete yet. */
size_t http_head_length(const char *bytes, size_t size);

/** `bytes` is a whole head. False if it is none that adamd could have sent. */
bool http_head_parse(const char *bytes, size_t size, struct http_head *ret_head);

/** A line of chunked framing without its CRLF: hexadecimal digits, then perhaps ";...". */
bool http_chunk_size(const char *line, size_t size, uint64_t *ret_size);

#endif
