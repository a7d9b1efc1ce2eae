// Goal: what the client takes in is read strictly (configuration, heads of answers, chunk sizes),
// and its checksum is the one that others compute.

#include "adamd/client.h"
#include "conf.h"
#include "crc32c.h"
#include "http.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *key, *value;
    int result;
} settings[] = {
    {"endpoint", "http://127.0.0.1:7440", 0},
    {"endpoint", "http://daemon.example:1/", 0},
    {"endpoint", "http://[::1]:7440", 0},
    {"endpoint", "http://localhost", 0},
    {"endpoint", "unix:/run/adamd/admin.sock", 0},
    {"endpoint", "https://127.0.0.1:7440", -1},
    {"endpoint", "http://", -1},
    {"endpoint", "http://:7440", -1},
    {"endpoint", "http://h:0", -1},
    {"endpoint", "http://h:65536", -1},
    {"endpoint", "http://h:7440/path", -1},
    {"endpoint", "http://h:7440//", -1},
    {"endpoint", "http://[::1", -1},
    {"endpoint", "http://[::1].x", -1},
    {"endpoint", "http://user@h:7440", -1},
    {"endpoint", "unix:relative", -1},
    {"endpoint", "127.0.0.1:7440", -1},
    {"model", "gpt2-small", 0},
    {"model", "Gpt2", -1},
    {"model", "a-", -1},
    {"model", "", -1},
    {"model", "a/b", -1},
    {"worker", "w.0_A-1", 0},
    {"worker", "w 0", -1},
    {"worker", "", -1},
    {"timeout_ms", "1", 0},
    {"timeout_ms", "600000", 0},
    {"timeout_ms", "600001", -1},
    {"timeout_ms", "0", -1},
    {"timeout_ms", "1s", -1},
    {"timeout_ms", "-1", -1},
    {"timeout_ms", "99999999999999999999", -1},
    {"retry_backoff_ms", "5", 0},
    {"crc", "on", 0},
    {"crc", "off", 0},
    {"crc", "yes", -1},
    {"nothing", "1", -1},
};

START_TEST(settings_are_checked)
{
    adamd_conf_t *conf = adamd_conf_new();
    char message[256] = "";
    int result =
        adamd_conf_set(conf, settings[_i].key, settings[_i].value, message, sizeof message);

    ck_assert_msg(result == settings[_i].result, "%s=%s", settings[_i].key, settings[_i].value);
    ck_assert_int_eq(message[0] != '\0', result != 0);
    if (result != 0) {
        ck_assert_ptr_nonnull(strstr(message, settings[_i].key));
    }
    adamd_conf_destroy(conf);
}
END_TEST

START_TEST(a_bad_setting_leaves_the_old_one)
{
    adamd_conf_t *conf = adamd_conf_new();

    ck_assert_int_eq(adamd_conf_set(conf, "model", "m", NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "model", "M", NULL, 0), -1);
    ck_assert_str_eq(conf->model, "m");
    ck_assert_int_eq(adamd_conf_set(conf, "endpoint", "http://h:1", NULL, 0), 0);
    ck_assert_int_eq(adamd_conf_set(conf, "endpoint", "http://h:99999", NULL, 0), -1);
    ck_assert_str_eq(conf->endpoint.authority, "h:1");
    adamd_conf_destroy(conf);
}
END_TEST

START_TEST(a_path_that_is_too_long_for_a_socket_is_refused)
{
    adamd_conf_t *conf = adamd_conf_new();
    char path[256] = "unix:/";

    memset(path + 6, 'x', 200);
    path[206] = '\0';
    ck_assert_int_eq(adamd_conf_set(conf, "endpoint", path, NULL, 0), -1);
    adamd_conf_destroy(conf);
}
END_TEST

START_TEST(a_head_is_found_at_its_blank_line)
{
    const char *text = "HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody";
    size_t whole = strlen(text) - 4;

    for (size_t size = 0; size < whole; size++) {
        ck_assert_uint_eq(http_head_length(text, size), 0);
    }
    ck_assert_uint_eq(http_head_length(text, strlen(text)), whole);
    ck_assert_uint_eq(http_head_length("\r\r\n\r\n", 5), 5);
}
END_TEST

START_TEST(a_head_is_read)
{
    const char *text = "HTTP/1.1 503 Service Unavailable\r\ncontent-length:  12 \r\n"
                       "Retry-After: 3\r\nCONNECTION: Close\r\nETag: \"g1.v2.raw\"\r\n"
                       "Adamd-Generation: 1\r\nAdamd-Version: 2\r\nContent-Type: a/b\r\n\r\n";
    struct http_head head;

    ck_assert(http_head_parse(text, strlen(text), &head));
    ck_assert_int_eq(head.status, 503);
    ck_assert(head.has_length && head.close && !head.chunked);
    ck_assert_uint_eq(head.length, 12);
    ck_assert_uint_eq(head.retry_after_s, 3);
    ck_assert_uint_eq(head.generation, 1);
    ck_assert_uint_eq(head.version, 2);
    ck_assert_str_eq(head.etag, "\"g1.v2.raw\"");
    ck_assert_str_eq(head.content_type, "a/b");
}
END_TEST

START_TEST(no_prefix_of_a_head_is_one)
{
    const char *text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    struct http_head head;

    for (size_t size = 0; size < strlen(text); size++) {
        char *copy = malloc(size + 1); // so that reading past the end shows
        memcpy(copy, text, size);
        ck_assert(!http_head_parse(copy, size, &head));
        free(copy);
    }
}
END_TEST

static const struct {
    const char *line;
    bool fits;
    uint64_t size;
} chunks[] = {{"0", true, 0},
              {"1aF", true, 0x1af},
              {"5;name=value", true, 5},
              {"", false, 0},
              {";", false, 0},
              {"x", false, 0},
              {"5 ", false, 0},
              {"-1", false, 0},
              {"fffffffffffffff", true, 0xfffffffffffffff},
              {"10000000000000000", false, 0}};

START_TEST(chunk_sizes_are_hexadecimal)
{
    uint64_t size = 0;

    ck_assert_int_eq(http_chunk_size(chunks[_i].line, strlen(chunks[_i].line), &size),
                     chunks[_i].fits);
    ck_assert_uint_eq(size, chunks[_i].size);
}
END_TEST

START_TEST(the_checksum_is_castagnolis)
{
    unsigned char zeros[32] = {0};

    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283u);
    ck_assert_uint_eq(crc32c(0, zeros, sizeof zeros), 0x8a9136aau);
    ck_assert_uint_eq(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
    ck_assert_uint_eq(crc32c(0, "", 0), 0);
}
END_TEST

START_TEST(the_version_is_told_twice_alike)
{
    ck_assert_uint_eq(adamd_version(), ADAMD_CLIENT_VERSION);
    ck_assert_str_eq(adamd_version_string(), "0.1.0");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("client_http");
    TCase *tests = tcase_create("http");
    SRunner *runner = srunner_create(suite);
    int failed = 0;

    tcase_add_loop_test(tests, settings_are_checked, 0, sizeof settings / sizeof settings[0]);
    tcase_add_test(tests, a_bad_setting_leaves_the_old_one);
    tcase_add_test(tests, a_path_that_is_too_long_for_a_socket_is_refused);
    tcase_add_test(tests, a_head_is_found_at_its_blank_line);
    tcase_add_test(tests, a_head_is_read);
    tcase_add_test(tests, no_prefix_of_a_head_is_one);
    tcase_add_loop_test(tests, chunk_sizes_are_hexadecimal, 0, sizeof chunks / sizeof chunks[0]);
    tcase_add_test(tests, the_checksum_is_castagnolis);
    tcase_add_test(tests, the_version_is_told_twice_alike);
    suite_add_tcase(suite, tests);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
