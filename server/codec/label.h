/** What a user hangs on a model: names and values that adamd only keeps. */
#ifndef ADAMD_CODEC_LABEL_H
#define ADAMD_CODEC_LABEL_H

enum {
    CODEC_LABELS_MAX = 32,
    CODEC_LABEL_KEY_MAX = 64,
    CODEC_LABEL_VALUE_MAX = 256,
    CODEC_DISPLAY_NAME_MAX = 127,
};

struct codec_label {
    char key[CODEC_LABEL_KEY_MAX + 1];
    char value[CODEC_LABEL_VALUE_MAX + 1];
};

#endif
