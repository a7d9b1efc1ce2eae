/**
 * A backend around another one: fails the n-th call that can fail, and counts what is alive. A loop
 * over n tries every place where the world can say no.
 */
#ifndef BACKEND_FAULTY_H
#define BACKEND_FAULTY_H

#include "adamd/backend_impl.h"

struct backend_faulty {
    struct adamd_backend base;
    struct adamd_backend *inner;
    uint64_t calls_left;      // of alloc and submit, until one fails; UINT64_MAX: none
    enum adamd_status answer; // of the failing alloc or submit; afterwards calls succeed again,
                              // except after DEVICE_LOST, which stays
    size_t live;              // buffers
    uint64_t calls;           // of alloc and submit so far
};

/** Takes `inner` over: destroyed with adamd_backend_destroy(&faulty->base). */
void backend_faulty_init(struct backend_faulty *faulty, struct adamd_backend *inner);

/** Arms it: `calls` more calls succeed, then one is answered `answer`. */
void backend_faulty_arm(struct backend_faulty *faulty, uint64_t calls, enum adamd_status answer);

#endif
