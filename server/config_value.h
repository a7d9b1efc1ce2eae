/** Texts of settings: sizes, durations, addresses. Pure. */
#ifndef ADAMD_SERVER_CONFIG_VALUE_H
#define ADAMD_SERVER_CONFIG_VALUE_H

#include "config.h"

/** "123". False if it is nothing else, or too large. */
bool value_count(const char *text, uint64_t *ret_count);

/** "4096", "64K", "16M", "2G", or "80%" of this machine's memory. */
bool value_size(const char *text, uint64_t *ret_bytes);

/** "500ms", "10s", "5m", "1h". */
bool value_duration(const char *text, uint64_t *ret_ms);

/** "true", "false". */
bool value_bool(const char *text, bool *ret_value);

/** "http=127.0.0.1:7440", "http=[::1]:0", "http=unix:/run/adamd/http.sock"; "http=" may be missing.
 */
bool value_listen(const char *text, struct config_listen *ret_listen);

void print_size(uint64_t bytes, char *to, size_t size);
void print_duration(uint64_t ms, char *to, size_t size);
void print_listen(const struct config_listen *listen, char *to, size_t size);

#endif
