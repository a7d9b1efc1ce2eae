// A program outside the tree: compiled as C99 and as C++ against an installed adamd. Without a
// daemon it gets an error object, not a crash; so it links and runs.
#include <adamd/client.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    char reason[128] = "";
    adamd_conf_t *conf = adamd_conf_new();
    adamd_model_t *model = NULL;

    if (adamd_version() != ADAMD_CLIENT_VERSION) {
        return 1;
    }
    /* Port 1 is nobody's. */
    if (adamd_conf_set(conf, "endpoint", "http://127.0.0.1:1", reason, sizeof reason) != 0 ||
        adamd_conf_set(conf, "timeout_ms", "100", reason, sizeof reason) != 0) {
        return 2;
    }
    adamd_client_t *client = adamd_client_new(conf, reason, sizeof reason);
    if (client == NULL) {
        return 3;
    }
    adamd_error_t *error = adamd_model_get(client, "digits", &model);
    if (error == NULL || model != NULL || !adamd_error_is_retriable(error)) {
        return 4;
    }
    printf("%s %s\n", adamd_version_string(), adamd_error_reason(error));
    adamd_error_destroy(error);
    adamd_client_destroy(client);
    return 0;
}
