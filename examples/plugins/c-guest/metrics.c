/* Figures of a plug-in's own: the import `metrics`. */
#include "tailweir.h"

static tailweir_plugin_metrics_list_label_t show_labels(const tw_label *labels, size_t count) {
    tailweir_plugin_metrics_label_t *shown = tw_alloc(count * sizeof *shown);
    for (size_t i = 0; i < count; i++) {
        shown[i].name = tw_show(tw_of(labels[i].name));
        shown[i].value = tw_show(labels[i].value);
    }
    return (tailweir_plugin_metrics_list_label_t){ shown, count };
}

tw_series tw_metric_counter(const char *name, const char *help, const tw_label *labels, size_t count) {
    plugin_string_t shown = tw_show(tw_of(name)), about = tw_show(tw_of(help));
    tailweir_plugin_metrics_list_label_t list = show_labels(labels, count);
    return tailweir_plugin_metrics_counter(&shown, &about, &list);
}

tw_series tw_metric_gauge(const char *name, const char *help, const tw_label *labels, size_t count) {
    plugin_string_t shown = tw_show(tw_of(name)), about = tw_show(tw_of(help));
    tailweir_plugin_metrics_list_label_t list = show_labels(labels, count);
    return tailweir_plugin_metrics_gauge(&shown, &about, &list);
}

tw_series tw_metric_histogram(
    const char *name, const char *help, const tw_label *labels, size_t count, const double *bounds, size_t bound_count
) {
    plugin_string_t shown = tw_show(tw_of(name)), about = tw_show(tw_of(help));
    tailweir_plugin_metrics_list_label_t list = show_labels(labels, count);
    plugin_list_f64_t bound_list = { (double *)bounds, bound_count };
    return tailweir_plugin_metrics_histogram(&shown, &about, &list, &bound_list);
}

void tw_metric_add(tw_series counter, uint64_t amount) {
    if (amount > INT64_MAX) tw_panic("tw_metric_add was given a number below 0: a counter only grows");
    tailweir_plugin_metrics_add(counter, amount);
}

void tw_metric_set(tw_series gauge, double value) {
    tailweir_plugin_metrics_set(gauge, value);
}

void tw_metric_observe(tw_series histogram, const double *values, size_t count) {
    plugin_list_f64_t list = { (double *)values, count };
    tailweir_plugin_metrics_observe(histogram, &list);
}
