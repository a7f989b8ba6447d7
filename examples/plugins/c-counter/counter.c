/* A processor that counts records by type, and emits after each batch what it has counted so far. The counts are in its state,
 * so they are exact: no record is counted twice, whatever crashes. What it has done since it was started, batches that came
 * again included, it tells in metrics. */
#include "tailweir.h"

#include <stdlib.h>
#include <string.h>

const tw_description tw_plugin = {
    .name = "c-counter",
    .version = "0.1.0",
    .config_schema =
        "{\"type\":[\"object\",\"null\"],\"properties\":{\"field\":{\"type\":\"string\",\"default\":\"/type\","
        "\"pattern\":\"^/([^~]|~[01])*$\",\"description\":\"JSON pointer to the text that records are counted by.\"}},"
        "\"additionalProperties\":false}",
};

/* The key of the number of all records, and what the keys of the other numbers begin with. */
#define RECORDS TW_TEXT("records")
#define BY TW_TEXT("by/")

/* Bytes of a type that count: a key of state has a limit. */
enum { MAX_TYPE = 200 };

static const char *field;
static tw_series different_types;

bool tw_init(tw_text config) {
    static const double bounds[] = { 1, 2, 5, 10, 20, 50 };
    different_types =
        tw_metric_histogram("batch_types", "How many different types a batch had", NULL, 0, bounds, sizeof bounds / sizeof *bounds);
    tw_text value = tw_json_find(config, "/field"), pointer = tw_json_string(value);
    if (value.bytes == NULL) {
        field = "/type";
    } else if (pointer.length == 0 || *pointer.bytes != '/') {
        return tw_fail(TW_TEXT("`field` in the configuration must be a JSON pointer such as \"/type\""));
    } else {
        char *terminated = tw_alloc(pointer.length + 1);
        memcpy(terminated, pointer.bytes, pointer.length);
        terminated[pointer.length] = '\0';
        field = terminated;
    }
    return true;
}

/* What is left of a type: whole characters only. */
static tw_text clip(tw_text type) {
    if (type.length <= MAX_TYPE) return type;
    type.length = MAX_TYPE;
    while (type.length > 0 && ((unsigned char)type.bytes[type.length] & 0xc0) == 0x80) type.length--;
    return type;
}

static tw_text join(tw_text first, tw_text second, tw_text third) {
    tw_buffer joined = { 0 };
    tw_append(&joined, first);
    tw_append(&joined, second);
    tw_append(&joined, third);
    return tw_buffer_text(&joined);
}

/* The number under a key. Returns no text, or why there is none. */
static tw_text count_of(tw_text key, int64_t *count) {
    tw_text value = tw_state_get(key);
    *count = 0;
    if (value.bytes == NULL || tw_json_integer(value, count)) return (tw_text){ NULL, 0 };
    return join(TW_TEXT("the state has no number under `"), key, TW_TEXT("`: another program wrote it"));
}

/* Adds to the number under a key. Returns no text, or why that cannot be. */
static tw_text add(tw_text key, size_t more) {
    int64_t count;
    tw_text wrong = count_of(key, &count);
    if (wrong.bytes != NULL) return wrong;
    tw_buffer digits = { 0 };
    tw_append_integer(&digits, count + (int64_t)more);
    return tw_state_set(key, tw_buffer_text(&digits));
}

/* By the texts' bytes; no text comes last. */
static int compare(const void *left, const void *right) {
    const tw_text *a = left, *b = right;
    if (a->bytes == NULL || b->bytes == NULL) return (a->bytes == NULL) - (b->bytes == NULL);
    int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
    return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

/* Emits what the state has. */
static tw_answer emit_summary(void) {
    int64_t count;
    tw_text wrong = count_of(RECORDS, &count);
    if (wrong.bytes != NULL) return tw_stop(wrong);
    tw_buffer summary = { 0 };
    tw_append(&summary, TW_TEXT("{\"records\":"));
    tw_append_integer(&summary, count);
    tw_append(&summary, TW_TEXT(",\"by\":{"));
    size_t key_count;
    const tw_text *keys = tw_state_list(BY, &key_count);
    for (size_t i = 0; i < key_count; i++) {
        wrong = count_of(keys[i], &count);
        if (wrong.bytes != NULL) return tw_stop(wrong);
        if (i != 0) tw_append(&summary, TW_TEXT(","));
        tw_append_string(&summary, (tw_text){ keys[i].bytes + BY.length, keys[i].length - BY.length });
        tw_append(&summary, TW_TEXT(":"));
        tw_append_integer(&summary, count);
    }
    tw_append(&summary, TW_TEXT("}}"));
    tw_text *record = tw_alloc(sizeof *record);
    *record = tw_buffer_text(&summary);
    return tw_emit(record, 1);
}

tw_answer tw_process(const tw_batch *batch, size_t count) {
    tw_text *types = tw_alloc(count * sizeof *types);
    const tw_text *column = tw_strings(batch, field);
    for (size_t i = 0; i < count; i++) types[i] = clip(column[i]);
    qsort(types, count, sizeof *types, compare);

    tw_text wrong = add(RECORDS, count);
    if (wrong.bytes != NULL) return tw_stop(wrong);
    double different = 0;
    for (size_t first = 0, next; first < count && types[first].bytes != NULL; first = next) {
        for (next = first + 1; next < count && tw_equal(types[next], types[first]);) next++;
        wrong = add(join(BY, types[first], TW_TEXT("")), next - first);
        if (wrong.bytes != NULL) return tw_stop(wrong);
        const tw_label label = { "type", types[first] };
        tw_metric_add(tw_metric_counter("counted_total", "Records counted, by type", &label, 1), next - first);
        different++;
    }
    tw_metric_observe(different_types, &different, 1);
    return emit_summary();
}
