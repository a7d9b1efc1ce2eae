/**
 * A client, its session and the fake daemon that they talk to; and answers for its script.
 */
#ifndef ADAMD_TESTS_CLIENT_FIXTURE_H
#define ADAMD_TESTS_CLIENT_FIXTURE_H

#include "adamd/client.h"
#include "fake_daemon.h"

#include "adamd/v1/adamd.pb-c.h"

#include <check.h>

struct client_fixture {
    struct fake_daemon daemon;
    adamd_client_t *client;
    adamd_session_t *session;
};

/** An answer, in a buffer of its own that lives until fixture_finish(). */
struct fake_line answer_message(const char *status, const ProtobufCMessage *message);
struct fake_line answer_registered(uint64_t epoch, uint64_t byte_size);
struct fake_line answer_pushed(uint64_t sequence, uint64_t version, bool duplicate);
/** Push and pull: both heads, then `size` bytes. */
struct fake_line answer_both(uint64_t sequence, uint64_t version, const void *bytes, size_t size);
/** A refusal as adamd words it. `headers`: more lines, each with its CRLF. */
struct fake_line answer_refused(int status, const char *reason, const char *headers);
/** Parameters of version 7. */
struct fake_line answer_parameters(const void *bytes, size_t size, size_t announced);

/** Starts the daemon and a client with `timeout_ms` and short pauses. No session yet. */
void fixture_start(struct client_fixture *fixture, const struct fake_line *lines, size_t count,
                   uint32_t timeout_ms);
/** Registers; the script's next line has to be answer_registered(). */
void fixture_register(struct client_fixture *fixture);
/** Closes the client and stops the daemon: what it received may be looked at. */
void fixture_stop(struct client_fixture *fixture);
void fixture_finish(struct client_fixture *fixture);

/** Pushes `count` floats as one flat gradient. */
adamd_error_t *fixture_push(struct client_fixture *fixture, const float *values, size_t count,
                            adamd_push_result_t *result);

/** Fails the test unless `error` has this reason; frees it. */
void expect_reason(adamd_error_t *error, const char *reason);
void expect_success(adamd_error_t *error);

/** The head of the push that the i-th request carried; to be freed with ..._free_unpacked(). */
Adamd__V1__PushHeader *push_of(const struct client_fixture *fixture, size_t i);

#endif
