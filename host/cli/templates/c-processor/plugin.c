/* A processor: counts the records of each batch by their `type`, and emits one record with the counts. */
#include "tailweir.h"

#include <stdlib.h>
#include <string.h>

const tw_description tw_plugin = {
    .name = "{{name}}",
    .version = "0.1.0",
    .config_schema =
        "{\"type\":[\"object\",\"null\"],\"properties\":{\"name\":{\"type\":\"string\",\"default\":\"summary\","
        "\"description\":\"The `type` of the records that are emitted.\"}},\"additionalProperties\":false}",
};

static tw_text name;

bool tw_init(tw_text config) {
    tw_text value = tw_json_find(config, "/name");
    name = value.bytes == NULL ? TW_TEXT("summary") : tw_json_string(value);
    return name.bytes != NULL || tw_fail(TW_TEXT("`name` in the configuration must be a string"));
}

/* By the texts' bytes. */
static int compare(const void *left, const void *right) {
    const tw_text *a = left, *b = right;
    int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
    return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

/* Is called once per batch. What it emits is written to the consumer's sink, and then the batch is done; it may also ask for the
 * batch again, or have records put in quarantine: see `tw_retry` and `tw_reject`. A batch can come more than once, with the
 * same id. */
tw_answer tw_process(const tw_batch *batch, size_t count) {
    const tw_text *column = tw_strings(batch, "/type");
    tw_text *types = tw_alloc(count * sizeof *types);
    for (size_t i = 0; i < count; i++) types[i] = column[i].bytes == NULL ? TW_TEXT("none") : column[i];
    qsort(types, count, sizeof *types, compare);

    tw_buffer summary = { 0 };
    tw_append(&summary, TW_TEXT("{\"counts\":{"));
    for (size_t first = 0, next; first < count; first = next) {
        for (next = first + 1; next < count && tw_equal(types[next], types[first]);) next++;
        if (first != 0) tw_append(&summary, TW_TEXT(","));
        tw_append_string(&summary, types[first]);
        tw_append(&summary, TW_TEXT(":"));
        tw_append_integer(&summary, (int64_t)(next - first));
    }
    tw_append(&summary, TW_TEXT("},\"type\":"));
    tw_append_string(&summary, name);
    tw_append(&summary, TW_TEXT("}"));

    tw_text *record = tw_alloc(sizeof *record);
    *record = tw_buffer_text(&summary);
    return tw_emit(record, 1);
}
