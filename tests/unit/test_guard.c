// Framing that two parsers could read differently never gets past the guard, and ordinary requests
// do.
#include "guard.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { HEADERS_MAX = 8, PASSES = REASON_COUNT };

struct row {
    const char *method, *version, *target;
    struct {
        const char *name, *value;
    } headers[HEADERS_MAX];
    unsigned wanted; // a reason, or PASSES
};

static struct guard_result check_row(const struct row *row) {
    struct guard_header headers[HEADERS_MAX];
    struct guard_request request = {
        .method = row->method, .version = row->version, .target = row->target, .headers = headers};
    struct guard_result result;

    for (size_t i = 0; i < HEADERS_MAX && row->headers[i].name != NULL; i++) {
        headers[i] = (struct guard_header){
            .name = row->headers[i].name,
            .value = row->headers[i].value,
            .name_size = strlen(row->headers[i].name),
            .value_size = strlen(row->headers[i].value),
        };
        request.header_count++;
    }
    guard_check(&request, &result);
    return result;
}

#define HOST \
    { "Host", "h" }
static const struct row rows[] = {
    {"GET", "HTTP/1.1", "/livez", {HOST}, PASSES},
    {"GET", "HTTP/1.0", "/livez", {{"Accept", "*/*"}}, PASSES},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "010"}}, PASSES},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Transfer-Encoding", "ChUnKeD"}}, PASSES},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Expect", "100-Continue"}}, PASSES},
    {"GET", "HTTP/1.1", "/v1", {HOST, {"Upgrade", "h2c"}}, PASSES},
    {"GET", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "0"}}, PASSES},
    // framing
    {"POST",
     "HTTP/1.1",
     "/v1",
     {HOST, {"Content-Length", "3"}, {"Transfer-Encoding", "chunked"}},
     REASON_BAD_FRAMING},
    {"POST",
     "HTTP/1.1",
     "/v1",
     {HOST, {"Content-Length", "3"}, {"content-length", "4"}},
     REASON_BAD_FRAMING},
    {"POST",
     "HTTP/1.1",
     "/v1",
     {HOST, {"Content-Length", "3"}, {"Content-Length", "3"}},
     REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "5, 5"}}, REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "+5"}}, REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "-1"}}, REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "0x5"}}, REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length", ""}}, REASON_BAD_FRAMING},
    {"POST",
     "HTTP/1.1",
     "/v1",
     {HOST, {"Content-Length", "9223372036854775808"}},
     REASON_TOO_LARGE},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "1000000000000"}}, REASON_TOO_LARGE},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "999999999999"}}, PASSES},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Transfer-Encoding", "xchunked"}}, REASON_UNSUPPORTED},
    {"POST",
     "HTTP/1.1",
     "/v1",
     {HOST, {"Transfer-Encoding", "identity, chunked"}},
     REASON_UNSUPPORTED},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Transfer-Encoding", ",chunked"}}, REASON_UNSUPPORTED},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Transfer-Encoding", "\vchunked"}}, REASON_BAD_FRAMING},
    {"POST",
     "HTTP/1.1",
     "/v1",
     {HOST, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}},
     REASON_BAD_FRAMING},
    {"POST", "HTTP/1.0", "/v1", {{"Transfer-Encoding", "chunked"}}, REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Transfer-Encoding ", "chunked"}}, REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length\x85", "3"}}, REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Content-Length-", "3"}}, REASON_BAD_FRAMING},
    {"GET", "HTTP/1.1", "/v1", {{"Host", "a"}, {"host", "a"}}, REASON_BAD_FRAMING},
    {"GET", "HTTP/1.1", "/v1", {{"Accept", "*/*"}}, REASON_BAD_FRAMING},
    {"GET", "HTTP/1.1", "/v1", {HOST, {"", "x"}}, REASON_BAD_FRAMING},
    {"GET", "HTTP/1.1", "/v1", {HOST, {"X-A", "a\rb"}}, REASON_BAD_FRAMING},
    {"GET", "HTTP/1.1", "/v1", {HOST, {"X-A", "a\x7f"}}, REASON_BAD_FRAMING},
    {"GET", "HTTP/1.1", "/v1", {HOST, {"X-A", "a\tb"}}, PASSES},
    {"GET", "HTTP/1.1", "/v1", {HOST, {"Content-Length", "5"}}, REASON_BAD_FRAMING},
    {"HEAD", "HTTP/1.1", "/v1", {HOST, {"Transfer-Encoding", "chunked"}}, REASON_BAD_FRAMING},
    {"POST", "HTTP/1.1", "/v1", {HOST, {"Expect", "a-miracle"}}, REASON_EXPECTATION_FAILED},
    {"GET", "HTTP/1.32", "/v1", {HOST}, REASON_BAD_FRAMING},
    // targets
    {"GET", "HTTP/1.1", "http://other/v1", {HOST}, REASON_BAD_FIELD},
    {"CONNECT", "HTTP/1.1", "other:443", {HOST}, REASON_BAD_FIELD},
    {"OPTIONS", "HTTP/1.1", "*", {HOST}, REASON_METHOD_NOT_ALLOWED},
    {"GET", "HTTP/1.1", "/v1/../etc", {HOST}, REASON_BAD_FIELD},
    {"GET", "HTTP/1.1", "/v1/%2e%2e%2fetc", {HOST}, REASON_BAD_FIELD},
    {"GET", "HTTP/1.1", "/v1/%00", {HOST}, REASON_BAD_FIELD},
    {"GET", "HTTP/1.1", "/v1/%zz", {HOST}, REASON_BAD_FIELD},
};

START_TEST(each_request_passes_or_is_refused_for_its_reason)
{
    const struct row *row = &rows[_i];
    const struct guard_result result = check_row(row);

    if (row->wanted == PASSES) {
        ck_assert_msg(result.ok, "row %d: %s", _i, result.fault.message);
        return;
    }
    ck_assert_msg(!result.ok, "row %d passed", _i);
    ck_assert_msg(result.reason == row->wanted, "row %d: %s", _i, reason_info(result.reason)->name);
    ck_assert_msg(result.fault.message[0] != '\0', "row %d says nothing", _i);
}
END_TEST

START_TEST(the_length_is_decimal_and_expect_is_seen)
{
    const struct row row = {"POST",
                            "HTTP/1.1",
                            "/v1",
                            {HOST, {"Content-Length", "010"}, {"Expect", "100-continue"}},
                            PASSES};
    const struct guard_result result = check_row(&row);

    ck_assert(result.ok && result.has_length && result.expects_continue && !result.chunked);
    ck_assert_uint_eq(result.content_length, 10);
    ck_assert(guard_has_body(&result));
}
END_TEST

START_TEST(the_hundred_and_first_header_is_too_much)
{
    struct guard_header headers[GUARD_HEADERS_MAX];
    struct guard_request request = {
        .method = "GET", .version = "HTTP/1.0", .target = "/", .headers = headers};
    struct guard_result result;

    for (size_t i = 0; i < GUARD_HEADERS_MAX; i++) {
        headers[i] =
            (struct guard_header){.name = "A", .name_size = 1, .value = "b", .value_size = 1};
    }
    request.header_count = GUARD_HEADERS_MAX;
    guard_check(&request, &result);
    ck_assert(result.ok);
    request.header_count++;
    guard_check(&request, &result);
    ck_assert(!result.ok);
    ck_assert_int_eq(result.reason, REASON_HEADERS_TOO_LARGE);
}
END_TEST

START_TEST(a_nul_in_a_value_is_seen_by_its_length)
{
    const struct guard_header headers[] = {
        {.name = "Host", .name_size = 4, .value = "a\0b", .value_size = 3}};
    const struct guard_request request = {.method = "GET",
                                          .version = "HTTP/1.1",
                                          .target = "/",
                                          .headers = headers,
                                          .header_count = 1};
    struct guard_result result;

    guard_check(&request, &result);
    ck_assert(!result.ok);
    ck_assert_int_eq(result.reason, REASON_BAD_FRAMING);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("guard");
    TCase *tcase = tcase_create("guard");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tcase, each_request_passes_or_is_refused_for_its_reason, 0,
                        sizeof rows / sizeof rows[0]);
    tcase_add_test(tcase, the_length_is_decimal_and_expect_is_seen);
    tcase_add_test(tcase, the_hundred_and_first_header_is_too_much);
    tcase_add_test(tcase, a_nul_in_a_value_is_seen_by_its_length);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
