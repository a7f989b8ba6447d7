/* Metrics without a host: all that is recorded is kept. */
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { COUNTER, GAUGE, HISTOGRAM } kind;

typedef struct {
    kind kind;
    /* Its name and labels, apart from each other by bytes that are in no text. */
    char *identity;
    size_t identity_length;
    double *values;
    size_t count;
} recorded;

static recorded *all;
static size_t all_count;

static void *checked(void *memory) {
    if (memory == NULL) abort();
    return memory;
}

_Noreturn static void wrong(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

void tw_test_empty_metrics(void) {
    for (size_t i = 0; i < all_count; i++) all[i].count = 0;
}

/* Of a series that is of this kind. */
static recorded *series_of(tw_series series, kind kind) {
    if (series == 0 || series > all_count) wrong("a series of no metric");
    recorded *found = &all[series - 1];
    if (found->kind != kind) wrong("a counter is added to, a gauge set, and a histogram observes");
    return found;
}

double tw_test_metric(tw_series series) {
    if (series == 0 || series > all_count) wrong("a series of no metric");
    const recorded *found = &all[series - 1];
    if (found->kind == GAUGE) return found->count == 0 ? 0.0 : found->values[found->count - 1];
    double sum = 0.0;
    for (size_t i = 0; i < found->count; i++) sum += found->values[i];
    return sum;
}

const double *tw_test_observed(tw_series histogram, size_t *count) {
    const recorded *found = series_of(histogram, HISTOGRAM);
    *count = found->count;
    return found->values;
}

static int by_name(const void *left, const void *right) {
    const tailweir_plugin_metrics_label_t *a = left, *b = right;
    int order = memcmp(a->name.ptr, b->name.ptr, a->name.len < b->name.len ? a->name.len : b->name.len);
    return order != 0 ? order : (a->name.len > b->name.len) - (a->name.len < b->name.len);
}

static void append(recorded *to, const plugin_string_t *text) {
    to->identity = checked(realloc(to->identity, to->identity_length + text->len + 1));
    if (text->len != 0) memcpy(to->identity + to->identity_length, text->ptr, text->len);
    to->identity_length += text->len;
    to->identity[to->identity_length++] = '\xff';
}

static tw_series series(kind kind, plugin_string_t *name, tailweir_plugin_metrics_list_label_t *labels) {
    recorded asked = { .kind = kind };
    append(&asked, name);
    if (labels->len != 0) qsort(labels->ptr, labels->len, sizeof *labels->ptr, by_name);
    for (size_t i = 0; i < labels->len; i++) {
        append(&asked, &labels->ptr[i].name);
        append(&asked, &labels->ptr[i].value);
    }
    for (size_t i = 0; i < all_count; i++) {
        if (all[i].identity_length != asked.identity_length) continue;
        if (memcmp(all[i].identity, asked.identity, asked.identity_length) != 0) continue;
        free(asked.identity);
        if (all[i].kind != kind) wrong("a metric is a counter, a gauge or a histogram, and stays what it is");
        return (tw_series)(i + 1);
    }
    all = checked(realloc(all, (all_count + 1) * sizeof *all));
    all[all_count++] = asked;
    return (tw_series)all_count;
}

static void record(recorded *to, const double *values, size_t count) {
    if (count == 0) return;
    to->values = checked(realloc(to->values, (to->count + count) * sizeof *values));
    memcpy(to->values + to->count, values, count * sizeof *values);
    to->count += count;
}

tailweir_plugin_metrics_series_t tailweir_plugin_metrics_counter(
    plugin_string_t *name,
    plugin_string_t *help,
    tailweir_plugin_metrics_list_label_t *labels
) {
    (void)help;
    return series(COUNTER, name, labels);
}

tailweir_plugin_metrics_series_t tailweir_plugin_metrics_gauge(
    plugin_string_t *name,
    plugin_string_t *help,
    tailweir_plugin_metrics_list_label_t *labels
) {
    (void)help;
    return series(GAUGE, name, labels);
}

tailweir_plugin_metrics_series_t tailweir_plugin_metrics_histogram(
    plugin_string_t *name,
    plugin_string_t *help,
    tailweir_plugin_metrics_list_label_t *labels,
    plugin_list_f64_t *bounds
) {
    (void)help, (void)bounds;
    return series(HISTOGRAM, name, labels);
}

void tailweir_plugin_metrics_add(tailweir_plugin_metrics_series_t counter, uint64_t amount) {
    double value = (double)amount;
    record(series_of(counter, COUNTER), &value, 1);
}

void tailweir_plugin_metrics_set(tailweir_plugin_metrics_series_t gauge, double value) {
    record(series_of(gauge, GAUGE), &value, 1);
}

void tailweir_plugin_metrics_observe(tailweir_plugin_metrics_series_t histogram, plugin_list_f64_t *values) {
    record(series_of(histogram, HISTOGRAM), values->ptr, values->len);
}
