// Files of torch.save from strangers: what PyTorch writes is read; what an archive or a pickle must
// not be is refused, each by its own test; and nothing takes more time or memory than it should.
#include "pt_files.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct pt_built built;
static struct adamd_fault fault;
static struct adamd_pt_file *file;
static const float floats[] = {1, 2, 3, 4, 5, 6};

static enum adamd_status read_built(void) {
    const struct adamd_pt_limits limits = {.expanded_bytes_max = 64};

    adamd_pt_close(file);
    file = NULL;
    memset(&fault, 0, sizeof fault);
    // In memory of exactly its size, so that a sanitizer sees a read past the end.
    static unsigned char *copy;
    free(copy);
    copy = malloc(built.size);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, built.bytes, built.size);
    return adamd_pt_read(copy, built.size, &limits, &file, &fault);
}

static void finish(void) {
    adamd_pt_close(file);
    file = NULL;
}

#define BYTES(literal) literal, sizeof(literal) - 1
#define READ(literal) (pt_build_pickle(&built, BYTES(literal), floats, sizeof floats), read_built())

// Tokens, as torch.save writes them but for the memo.
#define GLOBAL(module, name) "c" module "\n" name "\n"
#define TEXT(size, text) "X" size "\0\0\0" text
#define ID(class, key, count) \
    "(" TEXT("\7", "storage") class TEXT("\1", key) TEXT("\3", "cpu") count "t"
#define FLOATS GLOBAL("torch", "FloatStorage")
#define STORAGE ID(FLOATS, "0", "K\6") "Q"
#define ORDERED GLOBAL("collections", "OrderedDict") ")R"
#define V2 GLOBAL("torch._utils", "_rebuild_tensor_v2")
#define V3 GLOBAL("torch._utils", "_rebuild_tensor_v3")
#define TENSOR_OF(storage, offset, size, stride) \
    V2 "(" storage offset size stride "\x89" ORDERED "tR"
#define TENSOR TENSOR_OF(STORAGE, "K\0", "K\2K\3\x86", "K\3K\1\x86")
#define START "\x80\x02"

START_TEST(every_kind_of_value_is_read)
{
    ck_assert_int_eq(
        READ(
            START
            "}(" TEXT("\1", "n") "N" TEXT("\1", "t") "\x88" TEXT("\1", "f") "\x89" TEXT("\1", "1") "K\xff" TEXT("\1", "2") "M\x34\x12" TEXT(
                "\1",
                "4") "J\xff\xff\xff\xff" TEXT("\1",
                                              "8") "\x8a\x05\0\0\0\0\x80" TEXT("\1",
                                                                               "0") "\x8a\0" TEXT("\1",
                                                                                                  "9") "\x8a\x09\0\0\0\0\0\0\0\0\1" TEXT("\1",
                                                                                                                                         "g") "G\x3f\xf8\0\0\0\0\0\0" TEXT("\1",
                                                                                                                                                                           "s")
                TEXT("\3", "a\xc3\xa4") TEXT("\1", "l") "](K\1K\2e" TEXT(
                    "\1", "u") "K\1K\2\x86" TEXT("\1", "e") ")" TEXT("\1", "d")
                    GLOBAL("torch", "float16") "K\7N" TEXT("\1", "o") ORDERED "u."),
        ADAMD_OK);
    const struct adamd_pt_value *root = adamd_pt_root(file);
    ck_assert_int_eq(root->kind, ADAMD_PT_DICT);
    ck_assert_int_eq(adamd_pt_get(root, "n")->kind, ADAMD_PT_NONE);
    ck_assert(adamd_pt_get(root, "t")->truth);
    ck_assert(!adamd_pt_get(root, "f")->truth);
    ck_assert_int_eq(adamd_pt_get(root, "1")->integer, 255);
    ck_assert_int_eq(adamd_pt_get(root, "2")->integer, 0x1234);
    ck_assert_int_eq(adamd_pt_get(root, "4")->integer, -1);
    ck_assert_int_eq(adamd_pt_get(root, "8")->integer, -549755813888);
    ck_assert_int_eq(adamd_pt_get(root, "0")->integer, 0);
    ck_assert_int_eq(adamd_pt_get(root, "9")->kind, ADAMD_PT_BIG_INT);
    ck_assert_uint_eq(adamd_pt_get(root, "9")->text.size, 9);
    ck_assert_double_eq(adamd_pt_get(root, "g")->number, 1.5);
    ck_assert(adamd_pt_text_is(adamd_pt_get(root, "s"), "a\xc3\xa4"));
    ck_assert_uint_eq(adamd_pt_get(root, "l")->list.count, 2);
    ck_assert_int_eq(adamd_pt_get(root, "l")->list.items[1]->integer, 2);
    ck_assert_int_eq(adamd_pt_get(root, "u")->kind, ADAMD_PT_TUPLE);
    ck_assert_uint_eq(adamd_pt_get(root, "e")->list.count, 0);
    ck_assert_int_eq(adamd_pt_get(root, "d")->dtype, ADAMD_PT_FLOAT16);
    ck_assert_int_eq(adamd_pt_get(root, "o")->kind, ADAMD_PT_DICT);
    ck_assert_int_eq(adamd_pt_get_int(root, 7)->kind, ADAMD_PT_NONE);
    ck_assert_ptr_null(adamd_pt_get(root, "x"));
    ck_assert_ptr_null(adamd_pt_get(adamd_pt_get(root, "l"), "x"));
    finish();
}
END_TEST

START_TEST(a_dict_keeps_its_order_and_the_last_value_of_a_key)
{
    ck_assert_int_eq(READ(START "}(K\3K\1K\1K\2K\3K\4\x88K\5u" TEXT("\1", "z") "K\6s."), ADAMD_OK);
    const struct adamd_pt_value *root = adamd_pt_root(file);
    ck_assert_uint_eq(root->dict.count, 3);
    ck_assert_int_eq(root->dict.pairs[0].key->integer, 3);
    ck_assert_int_eq(root->dict.pairs[0].value->integer, 4);
    ck_assert_int_eq(root->dict.pairs[1].key->integer, 1);
    ck_assert_int_eq(root->dict.pairs[1].value->integer, 5); // True is 1
    ck_assert(adamd_pt_text_is(root->dict.pairs[2].key, "z"));
    finish();
}
END_TEST

START_TEST(the_memo_shares_objects_and_single_items_are_added)
{
    ck_assert_int_eq(READ(START "](]q\1r\2\0\0\0K\1ah\1j\2\0\0\0e."), ADAMD_OK);
    const struct adamd_pt_value *root = adamd_pt_root(file);
    ck_assert_uint_eq(root->list.count, 3);
    ck_assert_ptr_eq(root->list.items[0], root->list.items[1]);
    ck_assert_ptr_eq(root->list.items[0], root->list.items[2]);
    ck_assert_int_eq(root->list.items[0]->list.items[0]->integer, 1);
    finish();
}
END_TEST

START_TEST(tensors_parameters_and_models_are_read)
{
    float values[6];

    ck_assert_int_eq(
        READ(START ORDERED "(" TEXT("\1", "w") TENSOR TEXT("\1", "t")
                 TENSOR_OF(STORAGE, "K\0", "K\3K\2\x86", "K\1K\3\x86") TEXT("\1", "p")
                     GLOBAL("torch._utils", "_rebuild_parameter") TENSOR
             "\x88" ORDERED "\x87R" TEXT("\1", "s") GLOBAL(
                 "torch._utils",
                 "_rebuild_parameter_with_state") "(" TENSOR "\x88" ORDERED "}tR" TEXT("\1", "0")
                 TENSOR_OF(STORAGE, "K\6", GLOBAL("torch", "Size") "K\0\x85\x85R",
                           "K\1\x85") "u}" TEXT("\x9", "_metadata") ORDERED "sb."),
        ADAMD_OK);
    const struct adamd_pt_value *root = adamd_pt_root(file);
    ck_assert_uint_eq(root->dict.count, 5);
    const struct adamd_pt_tensor *w = adamd_pt_get(root, "w")->tensor;
    ck_assert_int_eq(w->dtype, ADAMD_PT_FLOAT32);
    ck_assert_uint_eq(w->rank, 2);
    ck_assert_uint_eq(w->count, 6);
    ck_assert_uint_eq(w->storage->tensor_count, 5);
    adamd_pt_copy(w, 0, 6, ADAMD_PT_FLOAT32, values);
    ck_assert_mem_eq(values, floats, sizeof values);
    adamd_pt_copy(adamd_pt_get(root, "t")->tensor, 0, 6, ADAMD_PT_FLOAT32, values);
    ck_assert_mem_eq(values, ((float[]){1, 4, 2, 5, 3, 6}), sizeof values);
    adamd_pt_copy(adamd_pt_get(root, "t")->tensor, 3, 2, ADAMD_PT_FLOAT32, values);
    ck_assert_mem_eq(values, ((float[]){5, 3}), 2 * sizeof(float));
    ck_assert_int_eq(adamd_pt_get(root, "p")->kind, ADAMD_PT_TENSOR);
    ck_assert_int_eq(adamd_pt_get(root, "s")->kind, ADAMD_PT_TENSOR);
    ck_assert_uint_eq(adamd_pt_get(root, "0")->tensor->count, 0);
    finish();
}
END_TEST

START_TEST(dtypes_without_a_storage_class_have_bytes)
{
    ck_assert_int_eq(
        READ(START V3
             "(" ID(GLOBAL("torch.storage", "UntypedStorage"), "0",
                    "K\x18") "QK\0K\x0c\x85K\1\x85\x89" ORDERED GLOBAL("torch", "uint16") "}tR."),
        ADAMD_OK);
    ck_assert_int_eq(adamd_pt_root(file)->tensor->dtype, ADAMD_PT_UINT16);
    ck_assert_uint_eq(adamd_pt_root(file)->tensor->count, 12);
    finish();
}
END_TEST

START_TEST(expanded_tensors_are_read_up_to_a_limit)
{
    float values[12];

    ck_assert_int_eq(READ(START TENSOR_OF(STORAGE, "K\2", "K\4K\3\x86", "K\0K\1\x86") "."),
                     ADAMD_OK);
    adamd_pt_copy(adamd_pt_root(file)->tensor, 0, 12, ADAMD_PT_FLOAT32, values);
    for (int i = 0; i < 12; i++) {
        ck_assert_float_eq(values[i], floats[2 + i % 3]);
    }
    ck_assert_int_eq(READ(START TENSOR_OF(STORAGE, "K\2", "K\6K\3\x86", "K\0K\1\x86") "."),
                     ADAMD_TOO_LARGE);
    finish();
}
END_TEST

START_TEST(a_path_finds_a_part_whose_keys_may_have_points)
{
    const struct adamd_pt_value *found = NULL;

    ck_assert_int_eq(
        READ(START "}(" TEXT("\1", "a") "}" TEXT("\3", "b.c") "}" TEXT(
            "\1", "d") "K\1s"
                       "s" TEXT("\3", "a.b") "}" TEXT("\1", "c") "K\2s" TEXT("\1", "n") "K\3u."),
        ADAMD_OK);
    const struct adamd_pt_value *root = adamd_pt_root(file);
    ck_assert_int_eq(adamd_pt_find(root, "", &found, &fault), ADAMD_OK);
    ck_assert_ptr_eq(found, root);
    ck_assert_int_eq(adamd_pt_find(root, "a.b.c", &found, &fault), ADAMD_OK);
    ck_assert_int_eq(found->integer, 2);
    ck_assert_int_eq(adamd_pt_find(root, "n", &found, &fault), ADAMD_OK);
    ck_assert_int_eq(adamd_pt_find(root, "a.x", &found, &fault), ADAMD_NOT_FOUND);
    ck_assert_ptr_nonnull(strstr(fault.message, "\"x\", only \"b.c\""));
    ck_assert_int_eq(adamd_pt_find(root, "n.x", &found, &fault), ADAMD_NOT_FOUND);
    finish();
}
END_TEST

// ------------------------------------------------------------------------------- refused pickles

#define BAD(literal, status, text) \
    { BYTES(literal), ADAMD_##status, text }
static const struct {
    const char *bytes;
    size_t size;
    enum adamd_status status;
    const char *text; // in the message
} bad_pickles[] = {
    // 1. globals
    BAD(START GLOBAL("os", "system") "K\1\x85R.", UNSUPPORTED, "os.system"),
    BAD(START GLOBAL("builtins", "eval") "N\x85R.", UNSUPPORTED, "builtins.eval"),
    BAD(START GLOBAL("torch", "OrderedDict") ")R.", UNSUPPORTED, "torch.OrderedDict"),
    BAD(START GLOBAL("torch", "") ".", UNSUPPORTED, "torch."),
    BAD(START GLOBAL("__main__", "Net") ".", UNSUPPORTED, "state_dict()"),
    BAD(START GLOBAL("torch", "QInt8Storage") ".", UNSUPPORTED, "dequantize()"),
    BAD(START GLOBAL("torch._utils", "_rebuild_sparse_tensor") ".", UNSUPPORTED, "to_dense()"),
    BAD(START "ctorch", BAD_FIELD, "no end"),
    BAD(START FLOATS ".", BAD_FIELD, "a class"),
    BAD(START STORAGE ".", BAD_FIELD, "bare storage"),
    // 2. calls
    BAD(START "K\1)R.", BAD_FIELD, "no function"),
    BAD(START FLOATS ")R.", BAD_FIELD, "storage class is called"),
    BAD(START GLOBAL("collections", "OrderedDict") "K\1\x85R.", BAD_FIELD, "with arguments"),
    BAD(START GLOBAL("collections", "OrderedDict") "]R.", BAD_FIELD, "without a tuple"),
    BAD(START GLOBAL("torch", "Size") ")R.", BAD_FIELD, "torch.Size"),
    BAD(START V2 ")R.", BAD_FIELD, "other arguments"),
    BAD(START V2 "(" STORAGE "K\0K\6\x85K\1\x85\x89tR.", BAD_FIELD, "other arguments"),
    BAD(START V2 "(" STORAGE "K\0K\6\x85K\1\x85\x89" ORDERED "NNtR.", BAD_FIELD, "other arguments"),
    BAD(START V2 "(" STORAGE "K\0K\6\x85K\1\x85N" ORDERED "tR.", BAD_FIELD, "other arguments"),
    BAD(START V2 "(" STORAGE "K\0K\6\x85K\1\x85\x89}tR.", BAD_FIELD, "other arguments"),
    BAD(START V2 "(K\1K\0K\6\x85K\1\x85\x89" ORDERED "tR.", BAD_FIELD, "other arguments"),
    BAD(START V2 "(" STORAGE "K\0K\6\x85K\1\x85\x89" ORDERED "}" TEXT("\4", "conj") "\x88stR.",
        UNSUPPORTED, "clone()"),
    BAD(START V2 "(" STORAGE "K\0K\6\x85K\1\x85\x89" ORDERED "K\1tR.", BAD_FIELD, "metadata"),
    BAD(START V3 "(" STORAGE "K\0K\6\x85K\1\x85\x89" ORDERED GLOBAL("torch", "float32") "tR.",
        BAD_FIELD, "do not fit"),
    BAD(START V2 "(" ID(GLOBAL("torch.storage", "UntypedStorage"), "0", "K\x18") "QK\0K\6\x85K\1"
                                                                                 "\x85\x89" ORDERED
                                                                                 "tR.",
        BAD_FIELD, "do not fit"),
    BAD(START V3 "(" ID(GLOBAL("torch.storage", "UntypedStorage"), "0", "K\x18") "QK\0K\6\x85K\1"
                                                                                 "\x85\x89" ORDERED
                                                                                 "K\1tR.",
        BAD_FIELD, "no dtype"),
    BAD(START GLOBAL("torch._utils", "_rebuild_parameter") "K\1\x88" ORDERED "\x87R.", BAD_FIELD,
        "parameter"),
    BAD(START GLOBAL("torch._utils", "_rebuild_parameter") TENSOR "\x88\x86R.", BAD_FIELD,
        "parameter"),
    BAD(START "}}b.", BAD_FIELD, "attributes"),
    BAD(START ORDERED "K\1b.", BAD_FIELD, "attributes"),
    BAD(START "]}b.", BAD_FIELD, "attributes"),
    BAD(START GLOBAL("collections", "OrderedDict") ")\x81.", BAD_FIELD, "opcode 0x81"),
    BAD(START "U\1a.", BAD_FIELD, "opcode 0x55"),
    BAD(START "i.", BAD_FIELD, "opcode 0x69"),
    BAD(START "0.", BAD_FIELD, "opcode 0x30"),
    // 3. persistent ids
    BAD(START "K\1Q.", BAD_FIELD, "tuple of five"),
    BAD(START ")Q.", BAD_FIELD, "tuple of five"),
    BAD(START "(" TEXT("\7", "storagf") FLOATS TEXT("\1", "0") TEXT("\3", "cpu") "K\6tQ.",
        BAD_FIELD, "no storage"),
    BAD(START "(" TEXT("\7", "storage") ORDERED TEXT("\1", "0") TEXT("\3", "cpu") "K\6tQ.",
        BAD_FIELD, "no storage"),
    BAD(START "(" TEXT("\7", "storage") FLOATS "K\0" TEXT("\3", "cpu") "K\6tQ.", BAD_FIELD,
        "no storage"),
    BAD(START "(" TEXT("\7", "storage") FLOATS TEXT("\1", "0") "NK\6tQ.", BAD_FIELD, "no storage"),
    BAD(START ID(FLOATS, "0", "G\0\0\0\0\0\0\0\0") "Q.", BAD_FIELD, "no storage"),
    BAD(START ID(FLOATS, "a", "K\6") "Q.", BAD_FIELD, "no number"),
    BAD(START "(" TEXT("\7", "storage") FLOATS TEXT("\0", "") TEXT("\3", "cpu") "K\6tQ.", BAD_FIELD,
        "no number"),
    BAD(START "(" TEXT("\7", "storage") FLOATS TEXT("\4", "../0") TEXT("\3", "cpu") "K\6tQ.",
        BAD_FIELD, "no number"),
    BAD(START ID(FLOATS, "0", "J\xff\xff\xff\xff") "Q.", BAD_FIELD, "length of its record"),
    BAD(START ID(FLOATS, "0", "\x8a\x08\0\0\0\0\0\0\0\x7f") "Q.", BAD_FIELD,
        "length of its record"),
    // 4. records
    BAD(START ID(FLOATS, "1", "K\6") "Q.", BAD_FIELD, "no record data/1"),
    BAD(START ID(FLOATS, "0", "K\5") "Q.", BAD_FIELD, "length of its record"),
    BAD(START ID(FLOATS, "0", "K\7") "Q.", BAD_FIELD, "length of its record"),
    BAD(START "](" TENSOR TENSOR_OF(ID(GLOBAL("torch", "IntStorage"), "0", "K\6") "Q", "K\0", ")",
                                    ")") "e.",
        BAD_FIELD, "two dtypes"),
    // 5. geometry
    BAD(START TENSOR_OF(STORAGE, "K\0", "K\7\x85", "K\1\x85") ".", BAD_FIELD, "outside"),
    BAD(START TENSOR_OF(STORAGE, "K\1", "K\6\x85", "K\1\x85") ".", BAD_FIELD, "outside"),
    BAD(START TENSOR_OF(STORAGE, "K\6", ")", ")") ".", BAD_FIELD, "outside"),
    BAD(START TENSOR_OF(STORAGE, "K\7", "K\0\x85", "K\1\x85") ".", BAD_FIELD, "outside"),
    BAD(START TENSOR_OF(STORAGE, "K\0", "K\2K\3\x86", "K\4K\1\x86") ".", BAD_FIELD, "outside"),
    BAD(START TENSOR_OF(STORAGE, "K\0", "K\2K\3\x86", "K\1\x85") ".", BAD_FIELD, "do not fit"),
    BAD(START TENSOR_OF(STORAGE, "K\0", "](K\6e", "K\1\x85") ".", BAD_FIELD, "do not fit"),
    BAD(START TENSOR_OF(STORAGE, "J\xff\xff\xff\xff", "K\1\x85", "K\1\x85") ".", BAD_FIELD,
        "do not fit"),
    BAD(START TENSOR_OF(STORAGE, "K\0", "J\xff\xff\xff\xff\x85", "K\1\x85") ".", BAD_FIELD,
        "at least 0"),
    BAD(START TENSOR_OF(STORAGE, "K\0", "K\1\x85", "J\xff\xff\xff\xff\x85") ".", BAD_FIELD,
        "at least 0"),
    BAD(START TENSOR_OF(STORAGE, "K\0", "\x88\x85", "K\1\x85") ".", BAD_FIELD, "at least 0"),
    BAD(START TENSOR_OF(STORAGE, "K\0", "\x8a\x08\0\0\0\0\0\0\0\x40K\5\x86", "K\0K\1\x86") ".",
        BAD_FIELD, "outside"),
    BAD(START TENSOR_OF(STORAGE, "K\0", "\x8a\x08\0\0\0\0\0\0\0\x20\x85", "K\0\x85") ".", TOO_LARGE,
        "contiguous()"),
    // 6. containers
    BAD(START "]q\1h\1a.", BAD_FIELD, "holds itself"),
    BAD(START "}q\1K\1h\1s.", BAD_FIELD, "holds itself"),
    BAD(START "]q\1(h\1t\x85q\2h\1h\2a.", BAD_FIELD, "more or less"),
    BAD(START "]q\1(K\1h\1tah\1.", BAD_FIELD, "more or less"),
    BAD(START "}]K\1s.", BAD_FIELD, "neither a text nor a whole number"),
    BAD(START "}}K\1s.", BAD_FIELD, "neither a text nor a whole number"),
    BAD(START "})K\1s.", BAD_FIELD, "neither a text nor a whole number"),
    BAD(START "}(K\1u.", BAD_FIELD, "a value is missing"),
    BAD(START "](K\1K\2u.", BAD_FIELD, "no dict"),
    BAD(START "}(K\1e.", BAD_FIELD, "no list"),
    BAD(START "X\1\0\x20\0a.", TOO_LARGE, "1 MiB"),
    BAD(START "Kar\xff\xff\xff\xff.", TOO_LARGE, "memo"),
    // 8. the machine's edges
    BAD("", BAD_FIELD, "cut off"),
    BAD("N.", BAD_FIELD, "begin with its protocol"),
    BAD(START, BAD_FIELD, "cut off"),
    BAD(START "N", BAD_FIELD, "cut off"),
    BAD(START "N.N", BAD_FIELD, "behind its end"),
    BAD(START "NN.", BAD_FIELD, "more or less"),
    BAD(START ".", BAD_FIELD, "more or less"),
    BAD(START "N(.", BAD_FIELD, "more or less"),
    BAD(START "h\1.", BAD_FIELD, "never set"),
    BAD(START "j\1\0\0\0.", BAD_FIELD, "never set"),
    BAD(START "q\1.", BAD_FIELD, "operands"),
    BAD(START "](q\1.", BAD_FIELD, "operands"),
    BAD(START "a.", BAD_FIELD, "operands"),
    BAD(START "](K\1a.", BAD_FIELD, "operands"),
    BAD(START "e.", BAD_FIELD, "MARK"),
    BAD(START "u.", BAD_FIELD, "MARK"),
    BAD(START "t.", BAD_FIELD, "MARK"),
    BAD(START "(e.", BAD_FIELD, "operands"),
    BAD(START "\x86.", BAD_FIELD, "operands"),
    BAD(START "R.", BAD_FIELD, "operands"),
    BAD(START "Q.", BAD_FIELD, "operands"),
    BAD(START "b.", BAD_FIELD, "operands"),
    BAD(START "X\4\0\0\0abc.", BAD_FIELD, "cut off"),
    BAD(START "J\1\2", BAD_FIELD, "cut off"),
    BAD(START "\x8a\x08\1.", BAD_FIELD, "cut off"),
    BAD(START START "N.", BAD_FIELD, "named twice"),
    BAD("\x80\x03N.", UNSUPPORTED, "pickle_protocol=2"),
    BAD("\x80\x04\x95\0\0\0\0\0\0\0\0N.", UNSUPPORTED, "pickle_protocol=2"),
    BAD(START "\x8c\1a\x94.", UNSUPPORTED, "pickle_protocol=2"),
};

START_TEST(a_bad_pickle_is_refused)
{
    pt_build_pickle(&built, bad_pickles[_i].bytes, bad_pickles[_i].size, floats, sizeof floats);
    ck_assert_msg(read_built() == bad_pickles[_i].status &&
                      strstr(fault.message, bad_pickles[_i].text) != NULL,
                  "row %d: %s: %s", _i, adamd_status_name(fault.status), fault.message);
    ck_assert_ptr_null(file);
    ck_assert_int_eq(fault.status, bad_pickles[_i].status);
}
END_TEST

START_TEST(deep_nesting_is_refused_also_when_the_memo_makes_it)
{
    char pickle[4096] = START;
    size_t size = 2;

    for (int i = 0; i < ADAMD_PT_DEPTH_MAX; i++) { // the last one closes at the limit
        memcpy(pickle + size, i == 0 ? ")" : "\x85", 1);
        size++;
    }
    pickle[size++] = '.';
    pt_build_pickle(&built, pickle, size, "", 0);
    ck_assert_int_eq(read_built(), ADAMD_OK);
    pickle[size - 1] = (char)0x85;
    pickle[size++] = '.';
    pt_build_pickle(&built, pickle, size, "", 0);
    ck_assert_int_eq(read_built(), ADAMD_TOO_LARGE);
    // A list that is closed early and then hangs deep: [t, ((..t..))], t itself high.
    size = 2;
    pickle[size++] = ']';
    pickle[size++] = '(';
    pickle[size++] = ')';
    for (int i = 0; i < 40; i++) {
        pickle[size++] = (char)0x85;
    }
    memcpy(pickle + size, "q\1h\1", 4);
    size += 4;
    for (int i = 0; i < 30; i++) {
        pickle[size++] = (char)0x85;
    }
    pickle[size++] = 'e';
    pickle[size++] = '.';
    pt_build_pickle(&built, pickle, size, "", 0);
    ck_assert_int_eq(read_built(), ADAMD_TOO_LARGE);
    finish();
}
END_TEST

START_TEST(shared_objects_are_walked_once)
{
    char pickle[4096] = START "]";
    size_t size = 3;
    struct timespec begin;
    struct timespec end;

    for (int i = 0; i < 60; i++) { // 2^60 paths to the innermost list
        pickle[size++] = 'q';
        pickle[size++] = (char)i;
        pickle[size++] = 'h';
        pickle[size++] = (char)i;
        pickle[size++] = (char)0x86;
    }
    pickle[size++] = '.';
    pt_build_pickle(&built, pickle, size, "", 0);
    (void)clock_gettime(CLOCK_MONOTONIC, &begin);
    ck_assert_int_eq(read_built(), ADAMD_OK);
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    ck_assert_int_lt(end.tv_sec - begin.tv_sec, 5);
    finish();
}
END_TEST

START_TEST(a_pickle_that_makes_too_many_objects_is_refused)
{
    static unsigned char pickle[PT_FILE_MAX / 2];
    size_t size = 2;

    memcpy(pickle, START, 2);
    while (size + 2 < sizeof pickle) {
        pickle[size++] = ')'; // each is an object of its own
    }
    pickle[size++] = '.';
    pt_build_pickle(&built, pickle, size, "", 0);
    ck_assert_int_ne(read_built(), ADAMD_OK);
    ck_assert_ptr_null(file);
}
END_TEST

// ------------------------------------------------------------------------------ refused archives

static const struct pt_part good_parts[] = {
    {"x/data.pkl", BYTES(START TENSOR ".")},
    {"x/byteorder", "little", 6},
    {"x/data/0", floats, sizeof floats},
    {"x/version", "3\n", 2},
};

static const struct {
    struct pt_flaws flaws;
    enum adamd_status status;
    const char *text;
} bad_archives[] = {
    {{.at = 2, .method = 8}, ADAMD_BAD_FIELD, "compressed"},
    {{.at = 2, .local_method = 8}, ADAMD_BAD_FIELD, "differs"},
    {{.at = 2, .flags = 1}, ADAMD_BAD_FIELD, "encrypted"},
    {{.at = 2, .flags = 1 << 6}, ADAMD_BAD_FIELD, "encrypted"},
    {{.at = 2, .flags = 8}, ADAMD_BAD_FIELD, "differs"},
    {{.at = 2, .disk = 1}, ADAMD_BAD_FIELD, "another disk"},
    {{.at = 2, .extra_bytes = 3}, ADAMD_BAD_FIELD, "extra field"},
    {{.at = 2, .extra_bytes = 5}, ADAMD_BAD_FIELD, "extra field"},
    {{.at = 2, .local_name = "x/data/1"}, ADAMD_BAD_FIELD, "differs"},
    {{.at = 2, .local_name = "x/data/00"}, ADAMD_BAD_FIELD, "differs"},
    {{.at = 2, .crc_add = 1}, ADAMD_BAD_FIELD, "differs"},
    {{.at = 2, .size_add = 1}, ADAMD_BAD_FIELD, "differs"},
    {{.at = 2, .local_size_add = 1}, ADAMD_BAD_FIELD, "differs"},
    {{.at = 2, .size_add = 4, .local_size_add = 4}, ADAMD_BAD_FIELD, "overlaps"},
    {{.at = 2, .size_add = -4, .local_size_add = -4}, ADAMD_BAD_FIELD, "stray bytes"},
    {{.at = 2, .size_add = 1 << 20, .local_size_add = 1 << 20}, ADAMD_BAD_FIELD, "behind the"},
    {{.at = 2, .offset_add = 1}, ADAMD_BAD_FIELD, "no header"},
    {{.at = 2, .offset_add = 1 << 20}, ADAMD_BAD_FIELD, "offset lies behind"},
    {{.at = 2, .gap = true}, ADAMD_BAD_FIELD, "stray bytes"},
    {{.at = 3, .gap = true}, ADAMD_BAD_FIELD, "stray bytes"},
    {{.in_front = true}, ADAMD_BAD_FIELD, "before the first"},
    {{.behind = true}, ADAMD_BAD_FIELD, "end record"},
    {{.comment = true}, ADAMD_BAD_FIELD, "end record"},
    {{.count_add = 1}, ADAMD_BAD_FIELD, "fewer entries"},
    {{.count_add = -1}, ADAMD_BAD_FIELD, "more entries"},
    {{.count_add = -4}, ADAMD_BAD_FIELD, "fewer entries"},
    {{.directory_add = 1}, ADAMD_BAD_FIELD, "directory does not end"},
    {{.directory_add = -1}, ADAMD_BAD_FIELD, "directory does not end"},
    {{.disks_add = 1}, ADAMD_BAD_FIELD, "several disks"},
    {{.wide = true, .disks_add = 1}, ADAMD_BAD_FIELD, "several disks"},
    {{.wide = true, .wide_count_add = 1}, ADAMD_BAD_FIELD, "differ"},
    {{.wide = true, .locator_add = 1}, ADAMD_BAD_FIELD, "locator"},
    {{.wide = true, .locator_add = -1}, ADAMD_BAD_FIELD, "locator"},
    {{.wide = true, .count_add = 1}, ADAMD_BAD_FIELD, "differ"},
    {{.at = 2, .described = true, .descriptor_add = 1}, ADAMD_BAD_FIELD, "descriptor"},
    {{.at = 2, .described = true, .crc_add = 1, .descriptor_add = 1},
     ADAMD_CRC_MISMATCH,
     "checksum"},
};

START_TEST(a_bad_archive_is_refused)
{
    pt_build(&built, good_parts, 4, &bad_archives[_i].flaws);
    ck_assert_msg(read_built() == bad_archives[_i].status &&
                      strstr(fault.message, bad_archives[_i].text) != NULL,
                  "row %d: %s: %s", _i, adamd_status_name(fault.status), fault.message);
}
END_TEST

START_TEST(good_archives_of_all_forms_are_read)
{
    const struct pt_flaws forms[] = {
        {0}, {.wide = true}, {.described = true}, {.wide = true, .described = true}};

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        pt_build(&built, good_parts, 4, &forms[i]);
        ck_assert_int_eq(read_built(), ADAMD_OK);
    }
    ck_assert(adamd_pt_begins(built.bytes, 4) && !adamd_pt_begins(built.bytes, 3));
    finish();
}
END_TEST

START_TEST(a_record_in_a_bad_place_is_refused)
{
    static const struct {
        const char *name, *text;
    } names[] = {
        {"y/data/1", "outside the folder"},
        {"x", "outside the folder"},
        {"/x/data/1", "outside the folder"},
        {"x/../y", "'..'"},
        {"x/a\\b", "backslash"},
        {"x/a\nb", "control character"},
        {"x/data/0", "two of this name"},
        {"", "empty"},
    };
    const struct pt_part front = {"/x", "", 0};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct pt_part parts[5];
        memcpy(parts, good_parts, sizeof good_parts);
        parts[4] = (struct pt_part){names[i].name, "", 0};
        pt_build(&built, parts, 5, NULL);
        ck_assert_msg(read_built() == ADAMD_BAD_FIELD &&
                          strstr(fault.message, names[i].text) != NULL,
                      "%s: %s", names[i].name, fault.message);
    }
    pt_build(&built, &front, 1, NULL);
    ck_assert_int_eq(read_built(), ADAMD_BAD_FIELD);
    ck_assert_ptr_nonnull(strstr(fault.message, "in a folder"));
}
END_TEST

START_TEST(checksums_can_be_left_out)
{
    const struct pt_flaws flaws = {.at = 2, .described = true, .crc_add = 1, .descriptor_add = 1};
    const struct adamd_pt_limits limits = {.skip_crc = true};

    pt_build(&built, good_parts, 4, &flaws);
    ck_assert_int_eq(adamd_pt_read(built.bytes, built.size, &limits, &file, &fault), ADAMD_OK);
    finish();
}
END_TEST

START_TEST(other_forms_are_refused_with_what_to_do)
{
    static const struct pt_part script[] = {{"x/data.pkl", "\x80\x02N.", 4},
                                            {"x/constants.pkl", "\x80\x02).", 4},
                                            {"x/version", "3\n", 2}};
    static const struct pt_part versions[] = {{"x/data.pkl", "\x80\x02N.", 4},
                                              {"x/version", "11\n", 3}};

    pt_build(&built, script, 3, NULL);
    ck_assert_int_eq(read_built(), ADAMD_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(fault.message, "TorchScript"));
    pt_build(&built, versions, 2, NULL);
    ck_assert_int_eq(read_built(), ADAMD_UNSUPPORTED);
    pt_build(&built, versions, 1, NULL);
    ck_assert_int_eq(read_built(), ADAMD_BAD_FIELD);
    ck_assert_ptr_nonnull(strstr(fault.message, "version"));
    pt_build(&built, versions + 1, 1, NULL);
    ck_assert_int_eq(read_built(), ADAMD_UNSUPPORTED);
    memcpy(built.bytes, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    built.size = 15;
    ck_assert(adamd_pt_begins(built.bytes, built.size));
    ck_assert_int_eq(read_built(), ADAMD_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(fault.message, "before PyTorch 1.6"));
    memset(built.bytes, 0, 512);
    memcpy(built.bytes + 257, "ustar", 5);
    built.size = 512;
    ck_assert_int_eq(read_built(), ADAMD_UNSUPPORTED);
    built.size = 100;
    ck_assert_int_eq(read_built(), ADAMD_BAD_FIELD);
    ck_assert(!adamd_pt_begins(built.bytes, built.size));
}
END_TEST

START_TEST(big_endian_files_are_read)
{
    static const unsigned char big[] = {0x3f, 0xc0, 0, 0, 0xc0, 0, 0, 0};
    struct pt_part parts[4];
    float values[2];

    memcpy(parts, good_parts, sizeof parts);
    parts[0] = (struct pt_part){
        "x/data.pkl",
        BYTES(START TENSOR_OF(ID(FLOATS, "0", "K\2") "Q", "K\0", "K\2\x85", "K\1\x85") ".")};
    parts[1] = (struct pt_part){"x/byteorder", "big", 3};
    parts[2] = (struct pt_part){"x/data/0", big, sizeof big};
    pt_build(&built, parts, 4, NULL);
    ck_assert_int_eq(read_built(), ADAMD_OK);
    adamd_pt_copy(adamd_pt_root(file)->tensor, 0, 2, ADAMD_PT_FLOAT32, values);
    ck_assert_float_eq(values[0], 1.5F);
    ck_assert_float_eq(values[1], -2.0F);
    parts[1] = (struct pt_part){"x/byteorder", "middle", 6};
    pt_build(&built, parts, 4, NULL);
    ck_assert_int_eq(read_built(), ADAMD_BAD_FIELD);
    finish();
}
END_TEST

// ----------------------------------------------------------------------------------------- casts

static const struct {
    double value;
    uint16_t half, brain;
} casts[] = {
    {0.0, 0x0000, 0x0000},
    {-0.0, 0x8000, 0x8000},
    {1.0, 0x3c00, 0x3f80},
    {-2.5, 0xc100, 0xc020},
    {65504.0, 0x7bff, 0x4780},
    {65519.0, 0x7bff, 0x4780},
    {65520.0, 0x7c00, 0x4780},
    {1e39, 0x7c00, 0x7f80},
    {0x1.ffp127, 0x7c00, 0x7f80},             // half above bfloat16's largest
    {0x1.fefffffffffffp127, 0x7c00, 0x7f7f},  // just below that
    {5.960464477539063e-08, 0x0001, 0x3380},  // float16's smallest
    {2.9802322387695312e-08, 0x0000, 0x3300}, // half of it: to even
    {2.980232238769532e-08, 0x0001, 0x3300},  // and a little more
    {6.097555160522461e-05, 0x03ff, 0x3880},  // the largest subnormal
    {0x1.ffcp-15, 0x0400, 0x3880},            // rounds up to the first normal
    {1.00390625, 0x3c04, 0x3f80},             // bfloat16: a tie, to even
    {1.01171875, 0x3c0c, 0x3f82},             // a tie, to even, upwards
    {1.0039062500000002, 0x3c04, 0x3f81},     // a float would have hidden what is above
    {9.183549615799121e-41, 0x0000, 0x0001},  // bfloat16's smallest
    {4.6e-41, 0x0000, 0x0001},
    {4.5e-41, 0x0000, 0x0000},
    {5e-324, 0x0000, 0x0000},
};

static uint16_t cast_one(double value, enum adamd_pt_dtype dtype) {
    const struct adamd_pt_storage storage = {(const unsigned char *)&value, sizeof value, 1};
    const struct adamd_pt_tensor tensor = {
        .dtype = ADAMD_PT_FLOAT64, .count = 1, .storage = &storage};
    uint16_t bits = 0;

    adamd_pt_copy(&tensor, 0, 1, dtype, &bits);
    return bits;
}

static double back(uint16_t bits, enum adamd_pt_dtype dtype) {
    const struct adamd_pt_storage storage = {(const unsigned char *)&bits, sizeof bits, 1};
    const struct adamd_pt_tensor tensor = {.dtype = dtype, .count = 1, .storage = &storage};
    double value = 0;

    adamd_pt_copy(&tensor, 0, 1, ADAMD_PT_FLOAT64, &value);
    return value;
}

START_TEST(casts_round_once_to_nearest_even)
{
    ck_assert_uint_eq(cast_one(casts[_i].value, ADAMD_PT_FLOAT16), casts[_i].half);
    ck_assert_uint_eq(cast_one(casts[_i].value, ADAMD_PT_BFLOAT16), casts[_i].brain);
}
END_TEST

START_TEST(every_half_comes_back_from_a_double)
{
    for (uint32_t bits = 0; bits <= UINT16_MAX; bits++) {
        for (int k = 0; k < 2; k++) {
            const enum adamd_pt_dtype dtype = k == 0 ? ADAMD_PT_FLOAT16 : ADAMD_PT_BFLOAT16;
            const double value = back((uint16_t)bits, dtype);
            if (isnan(value)) {
                ck_assert(isnan(back(cast_one(value, dtype), dtype)));
            } else {
                ck_assert_uint_eq(cast_one(value, dtype), bits);
            }
        }
    }
}
END_TEST

START_TEST(complex_numbers_are_cast_by_their_parts)
{
    const float parts[] = {1, -2, 3, 4};
    const struct adamd_pt_storage storage = {(const unsigned char *)parts, sizeof parts, 1};
    const uint64_t extents[] = {2, 0};
    const uint64_t strides[] = {0};
    struct adamd_pt_tensor tensor = {.dtype = ADAMD_PT_COMPLEX64,
                                     .rank = 1,
                                     .shape = extents,
                                     .strides = strides,
                                     .offset = 1,
                                     .count = 2,
                                     .storage = &storage};
    double wide[4];

    adamd_pt_copy(&tensor, 0, 2, ADAMD_PT_COMPLEX128, wide);
    ck_assert_mem_eq(wide, ((double[]){3, 4, 3, 4}), sizeof wide);
}
END_TEST

START_TEST(numbers_come_from_numbers_and_tensors_of_one_element)
{
    double number = 0;

    ck_assert_int_eq(READ(START "](K\7G\x3f\xf8\0\0\0\0\0\0\x88N" TENSOR_OF(
                         STORAGE, "K\2", "K\1\x85", "K\1\x85") TENSOR "e."),
                     ADAMD_OK);
    const struct adamd_pt_value *const *items = adamd_pt_root(file)->list.items;
    ck_assert(adamd_pt_number(items[0], &number) && number == 7);
    ck_assert(adamd_pt_number(items[1], &number) && number == 1.5);
    ck_assert(!adamd_pt_number(items[2], &number));
    ck_assert(!adamd_pt_number(items[3], &number));
    ck_assert(adamd_pt_number(items[4], &number) && number == 3);
    ck_assert(!adamd_pt_number(items[5], &number));
    finish();
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pt_read");
    TCase *tcase = tcase_create("all");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_kind_of_value_is_read);
    tcase_add_test(tcase, a_dict_keeps_its_order_and_the_last_value_of_a_key);
    tcase_add_test(tcase, the_memo_shares_objects_and_single_items_are_added);
    tcase_add_test(tcase, tensors_parameters_and_models_are_read);
    tcase_add_test(tcase, dtypes_without_a_storage_class_have_bytes);
    tcase_add_test(tcase, expanded_tensors_are_read_up_to_a_limit);
    tcase_add_test(tcase, a_path_finds_a_part_whose_keys_may_have_points);
    tcase_add_loop_test(tcase, a_bad_pickle_is_refused, 0,
                        (int)(sizeof bad_pickles / sizeof bad_pickles[0]));
    tcase_add_test(tcase, deep_nesting_is_refused_also_when_the_memo_makes_it);
    tcase_add_test(tcase, shared_objects_are_walked_once);
    tcase_add_test(tcase, a_pickle_that_makes_too_many_objects_is_refused);
    tcase_add_loop_test(tcase, a_bad_archive_is_refused, 0,
                        (int)(sizeof bad_archives / sizeof bad_archives[0]));
    tcase_add_test(tcase, good_archives_of_all_forms_are_read);
    tcase_add_test(tcase, a_record_in_a_bad_place_is_refused);
    tcase_add_test(tcase, checksums_can_be_left_out);
    tcase_add_test(tcase, other_forms_are_refused_with_what_to_do);
    tcase_add_test(tcase, big_endian_files_are_read);
    tcase_add_loop_test(tcase, casts_round_once_to_nearest_even, 0,
                        (int)(sizeof casts / sizeof casts[0]));
    tcase_add_test(tcase, every_half_comes_back_from_a_double);
    tcase_add_test(tcase, complex_numbers_are_cast_by_their_parts);
    tcase_add_test(tcase, numbers_come_from_numbers_and_tensors_of_one_element);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
