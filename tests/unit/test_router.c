// Paths find their row, and methods that a path does not know are told from paths that do not
// exist.
#include "router.h"

#include <check.h>
#include <stdlib.h>

static const struct route table[] = {
    {.method = "GET", .pattern = "/"},
    {.method = "GET", .pattern = "/v1/models"},
    {.method = "POST", .pattern = "/v1/models"},
    {.method = "GET", .pattern = "/v1/models/{m}"},
    {.method = "DELETE", .pattern = "/v1/models/{m}"},
    {.method = "POST", .pattern = "/v1/models/{m}:step"},
    {.method = "POST", .pattern = "/v1/models/{m}/workers/{w}:renew"},
    {.method = "POST", .pattern = "/v1/server:drain"},
};

enum { ROWS = sizeof table / sizeof table[0], NONE = -1 };

static struct routing find(const char *method, const char *path) {
    struct target target;
    struct routing routing;

    ck_assert_int_eq(target_init(&target, path, NULL), ADAMD_OK);
    ck_assert_int_eq(router_find(table, ROWS, method, &target, &routing), ADAMD_OK);
    target_finish(&target);
    return routing;
}

static const struct {
    const char *method, *path;
    int row;
    const char *allow;
} cases[] = {
    {"GET", "/", 0, ""},
    {"GET", "/v1/models", 1, ""},
    {"HEAD", "/v1/models", 1, ""},
    {"POST", "/v1/models", 2, ""},
    {"GET", "/v1/models/m", 3, ""},
    {"POST", "/v1/models/m:step", 5, ""},
    {"POST", "/v1/models/m/workers/w0:renew", 6, ""},
    {"POST", "/v1/server:drain", 7, ""},
    {"PUT", "/v1/models", NONE, "GET, HEAD, POST"},
    {"GET", "/v1/models/m:step", NONE, "POST"},
    {"FROB", "/v1/models/m", NONE, "GET, HEAD, DELETE"},
    {"GET", "/v1", NONE, ""},
    {"GET", "/v2/models", NONE, ""},
    {"GET", "/v1/Models", NONE, ""},
    {"GET", "/v1/models/m/workers", NONE, ""},
    {"GET", "/v1/models/m:steps", NONE, ""},
    {"POST", "/v1/models/:step", NONE, ""},
    {"POST", "/v1/server:drains", NONE, ""},
};

START_TEST(each_path_finds_its_row)
{
    struct routing routing = find(cases[_i].method, cases[_i].path);
    const int row = routing.route == NULL ? NONE : (int)(routing.route - table);

    ck_assert_msg(row == cases[_i].row, "%s %s: row %d", cases[_i].method, cases[_i].path, row);
    ck_assert_str_eq(routing.allow, row == NONE ? cases[_i].allow : routing.allow);
    routing_finish(&routing);
}
END_TEST

START_TEST(variables_are_what_stands_before_the_verb)
{
    struct routing routing = find("POST", "/v1/models/gpt-2/workers/w%200:renew");

    ck_assert_str_eq(routing.variables[0], "gpt-2");
    ck_assert_str_eq(routing.variables[1], "w 0");
    ck_assert_ptr_null(routing.variables[2]);
    routing_finish(&routing);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("router");
    TCase *tcase = tcase_create("router");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tcase, each_path_finds_its_row, 0, sizeof cases / sizeof cases[0]);
    tcase_add_test(tcase, variables_are_what_stands_before_the_verb);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
