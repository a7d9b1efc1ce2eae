// Reaches deframer_take, deframer_at_boundary, deframer_finish, envelope_head.
// Oracle: the same bytes, split anyhow, give the same messages, the same end and the same fault.
#include "fuzz.h"

#include "codec/envelope.h"

#include <string.h>

enum { MESSAGE_MAX = 4096 };

// What a stream came to: a digest over its messages, and how it ended.
struct course {
    uint64_t digest;
    size_t messages, taken;
    enum adamd_status status;
    bool at_boundary;
};

static uint64_t fold(uint64_t digest, const uint8_t *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) {
        digest = (digest ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    return (digest ^ size) * UINT64_C(0x100000001b3);
}

// `seed` decides how the bytes are split; 0 does not split.
static struct course run(const uint8_t *data, size_t size, uint32_t seed) {
    struct deframer deframer = {.message_max = MESSAGE_MAX};
    struct course course = {0};

    while (course.taken < size) {
        const size_t left = size - course.taken;
        size_t piece = left;
        size_t used = 0;
        size_t message_size = 0;
        const unsigned char *message = NULL;
        if (seed != 0) {
            seed = seed * 1664525 + 1013904223;
            piece = 1 + (seed >> 16) % 9;
            piece = piece < left ? piece : left;
        }
        course.status = deframer_take(&deframer, data + course.taken, piece, &used, &message,
                                      &message_size, NULL);
        if (course.status != ADAMD_OK) {
            break;
        }
        ADAMD_ASSERT(used <= piece && (message != NULL || used == piece));
        course.taken += used;
        if (message != NULL) {
            unsigned char head[ENVELOPE_HEAD_SIZE];
            ADAMD_ASSERT(message_size <= MESSAGE_MAX && deframer_at_boundary(&deframer));
            envelope_head(head, (uint32_t)message_size);
            ADAMD_ASSERT(memcmp(head, deframer.head, sizeof head) == 0);
            course.digest = fold(course.digest, message, message_size);
            course.messages++;
        }
    }
    course.at_boundary = deframer_at_boundary(&deframer);
    deframer_finish(&deframer);
    return course;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct course whole = run(data, size, 0);

    for (uint32_t seed = 1; seed <= 3; seed++) {
        const struct course split = run(data, size, seed * 77);
        ADAMD_ASSERT(split.status == whole.status);
        ADAMD_ASSERT(split.messages == whole.messages && split.digest == whole.digest);
        ADAMD_ASSERT(whole.status != ADAMD_OK ||
                     (split.taken == whole.taken && split.at_boundary == whole.at_boundary));
    }
    return 0;
}
