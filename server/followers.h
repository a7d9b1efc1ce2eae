/** Exchanges that follow the steps of a model, as `tail -f` follows a file. Loop thread only. */
#ifndef ADAMD_SERVER_FOLLOWERS_H
#define ADAMD_SERVER_FOLLOWERS_H

/** The model's listener: `arg` is the struct served_model. */
void followers_wake(void *arg);

#endif
