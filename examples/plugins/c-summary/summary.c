/* A processor that turns each batch into one record: how many records it has, and how many of each type. */
#include "tailweir.h"

#include <stdlib.h>
#include <string.h>

const tw_description tw_plugin = {
    .name = "c-summary",
    .version = "0.1.0",
    .config_schema =
        "{\"type\":[\"object\",\"null\"],\"properties\":{\"field\":{\"type\":\"string\",\"default\":\"/type\","
        "\"pattern\":\"^/([^~]|~[01])*$\",\"description\":\"The field whose values are counted, as a JSON pointer.\"}},"
        "\"additionalProperties\":false}",
};

static const char *field;

bool tw_init(tw_text config) {
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

/* By the texts' bytes; no text comes last. */
static int compare(const void *left, const void *right) {
    const tw_text *a = left, *b = right;
    if (a->bytes == NULL || b->bytes == NULL) return (a->bytes == NULL) - (b->bytes == NULL);
    int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
    return order != 0 ? order : (a->length > b->length) - (a->length < b->length);
}

tw_answer tw_process(const tw_batch *batch, size_t count) {
    tw_text *types = tw_alloc(count * sizeof *types);
    memcpy(types, tw_strings(batch, field), count * sizeof *types);
    qsort(types, count, sizeof *types, compare);

    tw_buffer summary = { 0 };
    tw_append(&summary, TW_TEXT("{\"batch\":"));
    tw_append_string(&summary, tw_batch_id(batch));
    tw_append(&summary, TW_TEXT(",\"records\":"));
    tw_append_integer(&summary, (int64_t)count);
    tw_append(&summary, TW_TEXT(",\"types\":{"));
    for (size_t first = 0, next; first < count && types[first].bytes != NULL; first = next) {
        for (next = first + 1; next < count && tw_equal(types[next], types[first]);) next++;
        if (first != 0) tw_append(&summary, TW_TEXT(","));
        tw_append_string(&summary, types[first]);
        tw_append(&summary, TW_TEXT(":"));
        tw_append_integer(&summary, (int64_t)(next - first));
    }
    tw_append(&summary, TW_TEXT("}}"));

    tw_text *record = tw_alloc(sizeof *record);
    *record = tw_buffer_text(&summary);
    return tw_emit(record, 1);
}
