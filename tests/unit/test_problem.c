// Error bodies: every status of core has a reason of its name, every reason a body in both forms
// that is JSON whatever the texts hold, and what is packed says what is shown.
#include "problem.h"

#include "adamd/json.h"
#include "codec/arena.h"
#include "codec/message.h"
#include "codec/text.h"

#include <adamd/v1/adamd.pb-c.h>
#include <check.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(every_status_has_the_reason_of_its_name)
{
    for (int i = 1; i < ADAMD_STATUS_COUNT; i++) {
        const enum adamd_status status = (enum adamd_status)i;
        ck_assert_str_eq(reason_info(reason_of_status(status))->name, adamd_status_name(status));
    }
    ck_assert_int_eq(reason_of_status(ADAMD_OK), REASON_INTERNAL);
}
END_TEST

// Connect's codes with the HTTP status that its table gives each; RPC paths keep to it but where
// the request never came to be one.
static const struct {
    const char *code;
    unsigned http;
} codes[] = {{"canceled", 499},
             {"invalid_argument", 400},
             {"deadline_exceeded", 504},
             {"not_found", 404},
             {"already_exists", 409},
             {"resource_exhausted", 429},
             {"failed_precondition", 400},
             {"aborted", 409},
             {"out_of_range", 416},
             {"unimplemented", 501},
             {"internal", 500},
             {"unavailable", 503}};

static bool is_framing(unsigned http) {
    return http == 411 || http == 414 || http == 415 || http == 417 || http == 431;
}

START_TEST(every_reason_is_well_formed)
{
    const struct reason_info *info = reason_info((enum reason)_i);
    const size_t length = strlen(info->name);
    bool known = false;

    ck_assert(length > 0 && length <= 63);
    ck_assert_uint_eq(strspn(info->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"), length);
    ck_assert(info->text[0] != 0 && info->text[strlen(info->text) - 1] != '.');
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (strcmp(codes[i].code, info->code) == 0) {
            known = true;
            ck_assert_msg(info->rpc_http == codes[i].http || is_framing(info->rpc_http), "%s",
                          info->name);
        }
    }
    ck_assert_msg(known, "%s", info->code);
    ck_assert(info->rest_http >= 400 && info->rest_http < 600);
    if (info->rest_http == 503 || info->rest_http == 429) {
        ck_assert(info->retry_later);
    }
    for (int i = 0; i < _i; i++) {
        ck_assert_str_ne(info->name, reason_info((enum reason)i)->name);
    }
}
END_TEST

static struct adamd_fault make_fault(void) {
    struct adamd_fault fault = {0};
    (void)adamd_fail(&fault, ADAMD_STALE, "base_version", "gradient is for version %d, \"q\"\n",
                     40);
    adamd_fault_tell(&fault, "current_version", "%d", 44);
    adamd_fault_tell(&fault, "limit", "%d", 2);
    return fault;
}

static cJSON *parse(char *body) {
    struct adamd_json json;

    ck_assert_ptr_nonnull(body);
    adamd_json_init(&json, body, strlen(body), 16, UINT64_MAX);
    ck_assert_msg(adamd_json_skip(&json) && adamd_json_finish(&json), "%s", body);
    cJSON *tree = cJSON_Parse(body);
    ck_assert_ptr_nonnull(tree);
    free(body);
    return tree;
}

static const char *text_of(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    ck_assert_msg(cJSON_IsString(item), "%s", name);
    return item->valuestring;
}

START_TEST(connect_body_has_code_message_and_details)
{
    const struct adamd_fault fault = make_fault();
    struct codec_arena arena = {0};
    cJSON *body = parse(problem_body(REASON_STALE, &fault, false, "r1"));
    const cJSON *detail = cJSON_GetObjectItemCaseSensitive(body, "details")->child;
    const cJSON *debug = cJSON_GetObjectItemCaseSensitive(detail, "debug");

    ck_assert_str_eq(text_of(body, "code"), "aborted");
    ck_assert_str_eq(text_of(body, "message"), "gradient is for version 40, \"q\"\n");
    ck_assert_str_eq(text_of(detail, "type"), "adamd.v1.ErrorInfo");
    ck_assert_str_eq(text_of(debug, "reason"), "STALE");
    ck_assert_str_eq(text_of(debug, "domain"), "adamd");
    const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(debug, "metadata");
    ck_assert_int_eq(cJSON_GetArraySize(metadata), 2);
    ck_assert_str_eq(text_of(metadata->child, "key"), "current_version");
    ck_assert_str_eq(text_of(metadata->child, "value"), "44");
    const cJSON *violations = cJSON_GetObjectItemCaseSensitive(debug, "fieldViolations");
    ck_assert_str_eq(text_of(violations->child, "field"), "base_version");

    // The packed form, without padding, says the same.
    const char *packed = text_of(detail, "value");
    unsigned char bytes[1024];
    size_t size = 0;
    ProtobufCMessage *message = NULL;
    ck_assert_ptr_null(strchr(packed, '='));
    ck_assert(codec_base64_decode(packed, strlen(packed), bytes, &size));
    ck_assert_int_eq(
        codec_unpack(&adamd__v1__error_info__descriptor, bytes, size, &arena, &message, NULL),
        ADAMD_OK);
    const Adamd__V1__ErrorInfo *info = (const void *)message;
    ck_assert_str_eq(info->reason, "STALE");
    ck_assert_str_eq(info->domain, "adamd");
    ck_assert_uint_eq(info->n_metadata, 2);
    ck_assert_str_eq(info->metadata[1]->key, "limit");
    ck_assert_str_eq(info->metadata[1]->value, "2");
    ck_assert_uint_eq(info->n_field_violations, 1);
    ck_assert_ptr_null(info->retry_delay);
    codec_arena_finish(&arena);
    cJSON_Delete(body);
}
END_TEST

START_TEST(a_list_of_fields_is_told_up_to_its_limit)
{
    struct adamd_fault fault = {0};
    static struct problem_list list;

    (void)adamd_fail(&fault, ADAMD_LAYOUT_MISMATCH, "a", "the first");
    for (list.count = 0; list.count < PROBLEM_ENTRIES_MAX + 5; list.count++) {
        if (list.count < PROBLEM_ENTRIES_MAX) {
            (void)snprintf(list.entries[list.count].field, 16, "f%zu", list.count);
            (void)snprintf(list.entries[list.count].text, 16, "t%zu", list.count);
        }
    }
    for (int as_problem = 0; as_problem < 2; as_problem++) {
        cJSON *body = parse(
            problem_body_listing(REASON_LAYOUT_MISMATCH, &fault, &list, as_problem != 0, NULL));
        cJSON *debug = cJSON_GetArrayItem(cJSON_GetObjectItem(body, "details"), 0);
        debug = as_problem != 0 ? body : cJSON_GetObjectItem(debug, "debug");
        cJSON *told = cJSON_GetObjectItem(debug, "fieldViolations");
        ck_assert_int_eq(cJSON_GetArraySize(told), PROBLEM_ENTRIES_MAX);
        cJSON *last = cJSON_GetArrayItem(told, PROBLEM_ENTRIES_MAX - 1);
        ck_assert_str_eq(cJSON_GetObjectItem(last, "field")->valuestring, "f31");
        ck_assert_str_eq(cJSON_GetObjectItem(last, "description")->valuestring, "t31");
        cJSON_Delete(body);
    }
}
END_TEST

START_TEST(problem_body_is_that_of_rfc_9457)
{
    const struct adamd_fault fault = make_fault();
    cJSON *body = parse(problem_body(REASON_STALE, &fault, true, "r\"1"));

    ck_assert_str_eq(text_of(body, "type"), "urn:adamd:reason:STALE");
    ck_assert_str_eq(text_of(body, "title"), reason_info(REASON_STALE)->text);
    ck_assert_int_eq(cJSON_GetObjectItemCaseSensitive(body, "status")->valueint, 409);
    ck_assert_str_eq(text_of(body, "detail"), "gradient is for version 40, \"q\"\n");
    ck_assert_str_eq(text_of(body, "instance"), "r\"1");
    ck_assert_str_eq(text_of(body, "reason"), "STALE");
    cJSON_Delete(body);
}
END_TEST

START_TEST(every_reason_has_both_bodies)
{
    const struct reason_info *info = reason_info((enum reason)_i);
    struct adamd_fault cut = {0};

    // A text that was cut inside a character, as a fault's may be.
    (void)adamd_fail(&cut, ADAMD_BAD_FIELD, "a\xc3", "x\xe2\x82");
    for (int as_problem = 0; as_problem < 2; as_problem++) {
        cJSON *body = parse(problem_body((enum reason)_i, NULL, as_problem != 0, NULL));
        ck_assert_str_eq(text_of(body, as_problem ? "detail" : "message"), info->text);
        cJSON_Delete(body);
        body = parse(problem_body((enum reason)_i, &cut, as_problem != 0, NULL));
        ck_assert_str_eq(text_of(body, as_problem ? "detail" : "message"),
                         "x\xef\xbf\xbd\xef\xbf\xbd");
        cJSON_Delete(body);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("problem");
    TCase *cases = tcase_create("problem");

    tcase_add_test(cases, every_status_has_the_reason_of_its_name);
    tcase_add_loop_test(cases, every_reason_is_well_formed, 0, REASON_COUNT);
    tcase_add_test(cases, connect_body_has_code_message_and_details);
    tcase_add_test(cases, a_list_of_fields_is_told_up_to_its_limit);
    tcase_add_test(cases, problem_body_is_that_of_rfc_9457);
    tcase_add_loop_test(cases, every_reason_has_both_bodies, 0, REASON_COUNT);
    suite_add_tcase(suite, cases);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
