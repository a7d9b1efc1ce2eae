// Timestamp and Duration as ProtoJSON writes them. Calendar arithmetic of its own: gmtime() and
// timegm() are either not in C or not in POSIX, and leap seconds are in neither.
#include "codec/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const int64_t SECONDS_FIRST = INT64_C(-62135596800); // 0001-01-01T00:00:00Z
static const int64_t SECONDS_LAST = INT64_C(253402300799);  // 9999-12-31T23:59:59Z
static const int64_t DURATION_MAX = INT64_C(315576000000);  // ten thousand years
enum { NANOS = 1000000000, DAY = 86400 };

// Appends ".5", ".500" and so on to the digits: nothing, or three, six or nine digits.
static void print_fraction(int32_t nanos, char text[12]) {
    if (nanos == 0) {
        text[0] = 0;
    } else if (nanos % 1000000 == 0) {
        (void)snprintf(text, 12, ".%03" PRId32, nanos / 1000000);
    } else if (nanos % 1000 == 0) {
        (void)snprintf(text, 12, ".%06" PRId32, nanos / 1000);
    } else {
        (void)snprintf(text, 12, ".%09" PRId32, nanos);
    }
}

struct date {
    int64_t year;
    unsigned month, day;
};

// Days since 1970-01-01, by counting years from March, so that a leap day ends one.
static int64_t days_of(struct date date) {
    const int64_t year = date.year - (date.month <= 2 ? 1 : 0);
    const int64_t era = (year >= 0 ? year : year - 399) / 400;
    const int64_t of_era = year - era * 400;
    const int64_t month = date.month > 2 ? date.month - 3 : date.month + 9;
    const int64_t of_year = (153 * month + 2) / 5 + date.day - 1;

    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static struct date date_of(int64_t days) {
    const int64_t shifted = days + 719468;
    const int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    const int64_t of_era = shifted - era * 146097;
    const int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    const int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    const int64_t month = (5 * of_year + 2) / 153;
    struct date date = {.year = year + era * 400,
                        .month = (unsigned)(month < 10 ? month + 3 : month - 9),
                        .day = (unsigned)(of_year - (153 * month + 2) / 5 + 1)};

    date.year += date.month <= 2 ? 1 : 0;
    return date;
}

bool codec_timestamp_print(int64_t seconds, int32_t nanos, char ret_text[CODEC_TIME_TEXT_MAX]) {
    char fraction[12];

    if (seconds < SECONDS_FIRST || seconds > SECONDS_LAST || nanos < 0 || nanos >= NANOS) {
        return false;
    }
    const int64_t days = (seconds >= 0 ? seconds : seconds - (DAY - 1)) / DAY;
    const int rest = (int)(seconds - days * DAY);
    const struct date date = date_of(days);
    print_fraction(nanos, fraction);
    (void)snprintf(ret_text, CODEC_TIME_TEXT_MAX, "%04d-%02u-%02uT%02d:%02d:%02d%sZ",
                   (int)date.year, date.month, date.day, rest / 3600, rest / 60 % 60, rest % 60,
                   fraction);
    return true;
}

// Exactly `count` digits; moves `at` behind them.
static bool read_digits(const char **at, unsigned count, unsigned *ret_value) {
    unsigned value = 0;

    for (unsigned i = 0; i < count; i++, ++*at) {
        if (**at < '0' || **at > '9') {
            return false;
        }
        value = value * 10 + (unsigned)(**at - '0');
    }
    *ret_value = value;
    return true;
}

static bool read_letter(const char **at, char wanted) {
    if (**at != wanted) {
        return false;
    }
    ++*at;
    return true;
}

// ".5" if there is one: up to nine digits.
static bool read_fraction(const char **at, int32_t *ret_nanos) {
    int32_t nanos = 0;
    int32_t unit = NANOS;

    if (!read_letter(at, '.')) {
        *ret_nanos = 0;
        return true;
    }
    while (**at >= '0' && **at <= '9') {
        unit /= 10;
        if (unit == 0) {
            return false;
        }
        nanos += (**at - '0') * unit;
        ++*at;
    }
    *ret_nanos = nanos;
    return unit < NANOS;
}

// "Z" or "+01:00", in seconds.
static bool read_zone(const char **at, int64_t *ret_seconds) {
    unsigned hours = 0;
    unsigned minutes = 0;
    const bool west = **at == '-';

    *ret_seconds = 0;
    if (read_letter(at, 'Z')) {
        return true;
    }
    if (!read_letter(at, '+') && !read_letter(at, '-')) {
        return false;
    }
    if (!read_digits(at, 2, &hours) || !read_letter(at, ':') || !read_digits(at, 2, &minutes) ||
        hours > 23 || minutes > 59) {
        return false;
    }
    *ret_seconds = ((int64_t)hours * 3600 + (int64_t)minutes * 60) * (west ? -1 : 1);
    return true;
}

static bool read_date(const char **at, struct date *ret_date) {
    unsigned year = 0;
    struct date date = {0};

    if (!read_digits(at, 4, &year) || !read_letter(at, '-') || !read_digits(at, 2, &date.month) ||
        !read_letter(at, '-') || !read_digits(at, 2, &date.day)) {
        return false;
    }
    date.year = year;
    if (date.year < 1 || date.month < 1 || date.month > 12 || date.day < 1) {
        return false;
    }
    // A day that its month lacks comes back as another one.
    const struct date back = date_of(days_of(date));
    *ret_date = date;
    return back.month == date.month && back.day == date.day;
}

bool codec_timestamp_parse(const char *text, int64_t *ret_seconds, int32_t *ret_nanos) {
    const char *at = text;
    struct date date = {0};
    unsigned hour = 0;
    unsigned minute = 0;
    unsigned second = 0;
    int64_t zone = 0;
    int32_t nanos = 0;

    if (!read_date(&at, &date) || !read_letter(&at, 'T') || !read_digits(&at, 2, &hour) ||
        !read_letter(&at, ':') || !read_digits(&at, 2, &minute) || !read_letter(&at, ':') ||
        !read_digits(&at, 2, &second) || !read_fraction(&at, &nanos) || !read_zone(&at, &zone)) {
        return false;
    }
    const int64_t seconds =
        days_of(date) * DAY + (int64_t)hour * 3600 + (int64_t)minute * 60 + second - zone;
    if (*at != 0 || hour > 23 || minute > 59 || second > 59 || seconds < SECONDS_FIRST ||
        seconds > SECONDS_LAST) {
        return false;
    }
    *ret_seconds = seconds;
    *ret_nanos = nanos;
    return true;
}

bool codec_duration_print(int64_t seconds, int32_t nanos, char ret_text[CODEC_TIME_TEXT_MAX]) {
    const bool negative = seconds < 0 || nanos < 0;
    char fraction[12];

    if (seconds < -DURATION_MAX || seconds > DURATION_MAX || nanos <= -NANOS || nanos >= NANOS ||
        (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0)) {
        return false;
    }
    print_fraction(nanos < 0 ? -nanos : nanos, fraction);
    (void)snprintf(ret_text, CODEC_TIME_TEXT_MAX, "%s%" PRId64 "%ss", negative ? "-" : "",
                   seconds < 0 ? -seconds : seconds, fraction);
    return true;
}

bool codec_duration_parse(const char *text, int64_t *ret_seconds, int32_t *ret_nanos) {
    const char *at = text;
    const bool negative = read_letter(&at, '-');
    const char *digits = at;
    int64_t seconds = 0;
    int32_t nanos = 0;

    while (*at >= '0' && *at <= '9') {
        if (seconds > DURATION_MAX) {
            return false;
        }
        seconds = seconds * 10 + (*at++ - '0');
    }
    if (at == digits || !read_fraction(&at, &nanos) || !read_letter(&at, 's') || *at != 0 ||
        seconds > DURATION_MAX) {
        return false;
    }
    *ret_seconds = negative ? -seconds : seconds;
    *ret_nanos = negative ? -nanos : nanos;
    return true;
}
