// Files for torch.load: the layout byte by byte, values that come back, and nothing without memory.
#include "adamd/crc32.h"
#include "adamd/pt.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static unsigned char *bytes;
static size_t size;
static struct adamd_pt_file *file;
static struct adamd_fault fault;

static struct adamd_pt_writer *create(void) {
    struct adamd_pt_writer *writer = NULL;
    ck_assert_int_eq(adamd_pt_create("archive", &writer), ADAMD_OK);
    return writer;
}

// The whole file in one piece.
static void join(struct adamd_pt_writer *writer) {
    const struct adamd_pt_piece *pieces = NULL;
    size_t count = 0;

    ck_assert(adamd_pt_checksum(writer, UINT64_MAX));
    ck_assert_int_eq(adamd_pt_finish(writer, &pieces, &count), ADAMD_OK);
    free(bytes);
    size = 0;
    for (size_t i = 0; i < count; i++) {
        ck_assert_uint_gt(pieces[i].size, 0);
        size += pieces[i].size;
    }
    bytes = malloc(size);
    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0, at = 0; i < count; at += pieces[i++].size) {
        memcpy(bytes + at, pieces[i].bytes, pieces[i].size);
    }
}

static const struct adamd_pt_value *read_back(void) {
    const struct adamd_pt_limits limits = {0};

    adamd_pt_close(file);
    ck_assert_msg(adamd_pt_read(bytes, size, &limits, &file, &fault) == ADAMD_OK, "%s",
                  fault.message);
    return adamd_pt_root(file);
}

static void tear_down(void) {
    adamd_pt_close(file);
    file = NULL;
    free(bytes);
    bytes = NULL;
}

static const unsigned char *after(const unsigned char *at, const void *expected, size_t count) {
    ck_assert_mem_eq(at, expected, count);
    return at + count;
}
#define AFTER(at, literal) after(at, literal, sizeof(literal) - 1)

START_TEST(the_layout_is_pytorchs)
{
    static const float value = 1.5F;
    struct adamd_pt_writer *writer = create();
    const unsigned char *at;
    unsigned char crc[4];

    adamd_pt_put_small(writer, ADAMD_PT_FLOAT32, 0, NULL, &value);
    join(writer);
    at = AFTER(bytes, "PK\3\4\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\x12\0"
                      "archive/data.pkl"
                      "FB\x0e\0ZZZZZZZZZZZZZZ");
    ck_assert_int_eq(at - bytes, 64);
    at = AFTER(at, "\x80\x02"
                   "ctorch._utils\n_rebuild_tensor_v2\n"
                   "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
                   "0X\3\0\0\0cpuK\1tQK\0))\x89"
                   "ccollections\nOrderedDict\n)RtR.");
    const uint32_t check = adamd_crc32(0, bytes + 64, (size_t)(at - bytes - 64));
    for (int i = 0; i < 4; i++) {
        crc[i] = (unsigned char)(check >> (8 * i));
    }
    const size_t pickle = (size_t)(at - bytes - 64);
    at = AFTER(at, "PK\7\x08");
    at = after(at, crc, 4);
    ck_assert_uint_eq(at[0], pickle);
    ck_assert_uint_eq(at[4], pickle);
    at += 8;
    at = AFTER(at, "PK\3\4\0\0\x08\x08");
    // The last record, and the two end records with the locator between them.
    at = bytes + size - 98;
    at = AFTER(at, "PK\6\6\x2c\0\0\0\0\0\0\0\x1e\3\x2d\0\0\0\0\0\0\0\0\0\7\0\0\0\0\0\0\0"
                   "\7\0\0\0\0\0\0\0");
    at += 16;
    at = AFTER(at, "PK\6\7\0\0\0\0");
    at += 8;
    at = AFTER(at, "\1\0\0\0PK\5\6\0\0\0\0\7\0\7\0");
    adamd_pt_destroy(writer);
}
END_TEST

static const char *const record_names[] = {
    "data.pkl", ".format_version", ".storage_alignment",    "byteorder", "data/0",
    "data/1",   "version",         ".data/serialization_id"};

START_TEST(records_stand_in_pytorchs_order_each_at_64_bytes)
{
    static const double values[] = {1, 2};
    const uint64_t shape[] = {2};
    const uint64_t none[] = {0, 3};
    struct adamd_pt_writer *writer = create();
    size_t found = 0;

    adamd_pt_begin_list(writer);
    adamd_pt_put_tensor(writer, ADAMD_PT_FLOAT64, 1, shape, values);
    adamd_pt_put_tensor(writer, ADAMD_PT_BFLOAT16, 2, none, values);
    adamd_pt_end_list(writer);
    join(writer);
    for (size_t at = 0; at + 4 < size; at++) {
        if (memcmp(bytes + at, "PK\3\4", 4) != 0) {
            continue;
        }
        const size_t name_size = bytes[at + 26];
        const size_t data = at + 30 + name_size + bytes[at + 28];
        ck_assert_uint_lt(found, 8);
        ck_assert_uint_eq(name_size, 8 + strlen(record_names[found]));
        ck_assert_mem_eq(bytes + at + 38, record_names[found], name_size - 8);
        ck_assert_uint_eq(data % 64, 0);
        ck_assert_uint_eq(bytes[at + 6], found == 5 ? 0 : 8); // an empty one has no descriptor
        found++;
    }
    ck_assert_uint_eq(found, 8);
    ck_assert_uint_eq(read_back()->list.items[1]->tensor->rank, 2);
    ck_assert_uint_eq(read_back()->list.items[1]->tensor->strides[0], 3);
    adamd_pt_destroy(writer);
}
END_TEST

START_TEST(every_kind_of_value_comes_back)
{
    static const int64_t ints[] = {0,         255,       256,       65535,       65536,
                                   INT32_MAX, -1,        INT32_MIN, 2147483648,  -2147483649,
                                   INT64_MAX, INT64_MIN, 1LL << 39, -(1LL << 39)};
    const size_t count = sizeof ints / sizeof ints[0];
    struct adamd_pt_writer *writer = create();

    adamd_pt_begin_dict(writer);
    adamd_pt_put_text(writer, "ints");
    adamd_pt_begin_list(writer);
    for (size_t i = 0; i < count; i++) {
        adamd_pt_put_int(writer, ints[i]);
    }
    adamd_pt_end_list(writer);
    adamd_pt_put_int(writer, 3);
    adamd_pt_begin_tuple(writer);
    adamd_pt_put_float(writer, 0.9);
    adamd_pt_put_float(writer, (double)INFINITY);
    adamd_pt_put_bool(writer, true);
    adamd_pt_put_bool(writer, false);
    adamd_pt_put_none(writer);
    adamd_pt_begin_tuple(writer);
    adamd_pt_end_tuple(writer);
    adamd_pt_begin_dict(writer);
    adamd_pt_end_dict(writer);
    adamd_pt_begin_list(writer);
    adamd_pt_end_list(writer);
    adamd_pt_end_tuple(writer);
    adamd_pt_end_dict(writer);
    join(writer);
    const struct adamd_pt_value *root = read_back();
    for (size_t i = 0; i < count; i++) {
        ck_assert_int_eq(adamd_pt_get(root, "ints")->list.items[i]->integer, ints[i]);
    }
    const struct adamd_pt_value *tuple = adamd_pt_get_int(root, 3);
    ck_assert_int_eq(tuple->kind, ADAMD_PT_TUPLE);
    ck_assert_uint_eq(tuple->list.count, 8);
    ck_assert_double_eq(tuple->list.items[0]->number, 0.9);
    ck_assert(isinf(tuple->list.items[1]->number));
    ck_assert(tuple->list.items[2]->truth && !tuple->list.items[3]->truth);
    ck_assert_int_eq(tuple->list.items[4]->kind, ADAMD_PT_NONE);
    ck_assert_uint_eq(tuple->list.items[5]->list.count, 0);
    ck_assert_int_eq(tuple->list.items[6]->kind, ADAMD_PT_DICT);
    ck_assert_int_eq(tuple->list.items[7]->kind, ADAMD_PT_LIST);
    adamd_pt_destroy(writer);
}
END_TEST

START_TEST(long_containers_go_in_batches)
{
    struct adamd_pt_writer *writer = create();

    adamd_pt_begin_ordered(writer);
    for (int i = 0; i < 2500; i++) {
        adamd_pt_put_int(writer, i);
        adamd_pt_put_int(writer, -i);
    }
    adamd_pt_put_text(writer, "list");
    adamd_pt_begin_list(writer);
    for (int i = 0; i < 2000; i++) {
        adamd_pt_put_int(writer, i);
    }
    adamd_pt_end_list(writer);
    adamd_pt_end_dict(writer);
    adamd_pt_begin_attributes(writer);
    adamd_pt_put_text(writer, "_metadata");
    adamd_pt_begin_ordered(writer);
    adamd_pt_end_dict(writer);
    adamd_pt_end_attributes(writer);
    join(writer);
    const struct adamd_pt_value *root = read_back();
    ck_assert_uint_eq(root->dict.count, 2501);
    ck_assert_int_eq(adamd_pt_get_int(root, 2499)->integer, -2499);
    ck_assert_uint_eq(adamd_pt_get(root, "list")->list.count, 2000);
    size_t batches = 0;
    for (size_t i = 64; i < size; i++) {
        batches += bytes[i] == 'u' && bytes[i + 1] == '(' ? 1 : 0;
    }
    ck_assert_uint_ge(batches, 2);
    adamd_pt_destroy(writer);
}
END_TEST

START_TEST(checksums_are_made_in_slices)
{
    static unsigned char data[1000];
    const uint64_t shape[] = {1000};
    struct adamd_pt_writer *writer = create();
    int slices = 0;

    adamd_pt_begin_list(writer);
    for (int i = 0; i < 3; i++) {
        adamd_pt_put_tensor(writer, ADAMD_PT_UINT8, 1, shape, data);
    }
    adamd_pt_end_list(writer);
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)(i * 7);
    }
    while (!adamd_pt_checksum(writer, 333)) {
        slices++;
    }
    ck_assert_int_eq(slices, 9);
    join(writer);
    ck_assert_mem_eq(read_back()->list.items[2]->tensor->storage->bytes, data, sizeof data);
    adamd_pt_destroy(writer);
}
END_TEST

START_TEST(crc32_has_the_known_check_value)
{
    ck_assert_uint_eq(adamd_crc32(0, "123456789", 9), 0xCBF43926);
    ck_assert_uint_eq(adamd_crc32(adamd_crc32(0, "1234", 4), "56789", 5), 0xCBF43926);
    ck_assert_uint_eq(adamd_crc32(0, "0123456789abcdef0123456789abcdefx", 33),
                      adamd_crc32(adamd_crc32(0, "0123456789abcdef0", 17), "123456789abcdefx", 16));
    ck_assert_uint_eq(adamd_crc32(7, NULL, 0), 7);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pt_write");
    TCase *tcase = tcase_create("all");

    tcase_add_checked_fixture(tcase, NULL, tear_down);
    tcase_add_test(tcase, the_layout_is_pytorchs);
    tcase_add_test(tcase, records_stand_in_pytorchs_order_each_at_64_bytes);
    tcase_add_test(tcase, every_kind_of_value_comes_back);
    tcase_add_test(tcase, long_containers_go_in_batches);
    tcase_add_test(tcase, checksums_are_made_in_slices);
    tcase_add_test(tcase, crc32_has_the_known_check_value);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
