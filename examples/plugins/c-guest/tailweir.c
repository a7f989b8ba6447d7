/* The part of the helper that all plug-ins need: memory, the exports of `lifecycle`, batches and the log. */
#include "tailweir.h"

#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

/* What was handed out during a call; freed when it ends. */
typedef struct owned {
    struct owned *next;
    void *memory;
} owned;

static owned *call_owns;

static void *checked(void *memory) {
    if (memory == NULL) tw_panic("out of memory");
    return memory;
}

/* Has `memory` freed when the call ends. */
static void own(void *memory) {
    owned *entry = checked(malloc(sizeof *entry));
    *entry = (owned){ call_owns, memory };
    call_owns = entry;
}

/* The same with a list of the host's: an empty one is nowhere, and must not be freed. */
static void own_list(void *memory, size_t length) {
    if (length != 0) own(memory);
}

void *tw_alloc(size_t size) {
    void *memory = checked(malloc(size == 0 ? 1 : size));
    own(memory);
    return memory;
}

static void *alloc_array(size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size) tw_panic("out of memory");
    return tw_alloc(count * size);
}

void tw_call_ends(void) {
    while (call_owns != NULL) {
        owned *entry = call_owns;
        call_owns = entry->next;
        free(entry->memory);
        free(entry);
    }
}

/* ---- texts ---- */

bool tw_equal(tw_text a, tw_text b) {
    return a.bytes != NULL && b.bytes != NULL && a.length == b.length && memcmp(a.bytes, b.bytes, a.length) == 0;
}

tw_text tw_of(const char *string) {
    return (tw_text){ string, strlen(string) };
}

tw_text tw_take(plugin_string_t string) {
    own_list(string.ptr, string.len);
    return (tw_text){ string.len == 0 ? "" : (const char *)string.ptr, string.len };
}

plugin_string_t tw_show(tw_text text) {
    return (plugin_string_t){ (uint8_t *)text.bytes, text.length };
}

void tw_copy(tw_text text, plugin_string_t *to) {
    plugin_string_dup_n(to, text.bytes == NULL ? "" : text.bytes, text.length);
    if (text.length != 0) checked(to->ptr);
}

/* ---- lifecycle ---- */

static tw_text failure;

bool tw_fail(tw_text reason) {
    failure = reason;
    return false;
}

void tw_take_reason(plugin_string_t *reason) {
    tw_copy(failure.bytes == NULL ? TW_TEXT("it failed without a reason") : failure, reason);
    failure = (tw_text){ NULL, 0 };
}

void exports_tailweir_plugin_lifecycle_describe(exports_tailweir_plugin_lifecycle_description_t *description) {
    tw_copy(tw_of(tw_plugin.name), &description->name);
    tw_copy(tw_of(tw_plugin.version), &description->version);
    description->needs.ptr = NULL;
    description->needs.len = 0;
    tw_copy(tw_of(tw_plugin.config_schema == NULL ? "" : tw_plugin.config_schema), &description->config_schema);
}

bool exports_tailweir_plugin_lifecycle_init(plugin_string_t *config, plugin_string_t *reason) {
    bool is_set_up = tw_init(tw_take(*config));
    /* What `tw_init` has obtained is kept for ever: it is no longer the call's. */
    call_owns = NULL;
    if (!is_set_up) tw_take_reason(reason);
    return is_set_up;
}

/* ---- log ---- */

void tw_log(tw_level level, tw_text message) {
    plugin_string_t shown = tw_show(message);
    tailweir_plugin_log_write((tailweir_plugin_log_level_t)level, &shown);
}

_Noreturn void tw_panic(const char *message) {
    tw_log(TW_ERROR, tw_of(message));
    abort();
}

/* ---- batches ---- */

tw_text tw_batch_id(const tw_batch *batch) {
    plugin_string_t id;
    tailweir_plugin_records_method_batch_id(batch->handle, &id);
    return tw_take(id);
}

tw_text tw_json(const tw_batch *batch, size_t index) {
    plugin_string_t json;
    tailweir_plugin_records_method_batch_json(batch->handle, (uint32_t)index, &json);
    return tw_take(json);
}

const tw_text *tw_texts(const tw_batch *batch) {
    tailweir_plugin_records_joined_t joined;
    tailweir_plugin_records_method_batch_text(batch->handle, &joined);
    own_list(joined.bytes.ptr, joined.bytes.len);
    tw_text *texts = alloc_array(joined.ends.len, sizeof *texts);
    size_t start = 0;
    for (size_t i = 0; i < joined.ends.len; i++) {
        size_t end = joined.ends.ptr[i];
        texts[i] = (tw_text){ (const char *)joined.bytes.ptr + start, end - start };
        start = end;
    }
    if (joined.ends.len != 0) free(joined.ends.ptr);
    return texts;
}

tw_position tw_position_of(const tw_batch *batch, size_t index) {
    tailweir_plugin_records_position_t position;
    tailweir_plugin_records_method_batch_position(batch->handle, (uint32_t)index, &position);
    return (tw_position){ tw_take(position.segment), position.line, position.offset };
}

const tw_text *tw_strings(const tw_batch *batch, const char *pointer) {
    plugin_string_t shown = tw_show(tw_of(pointer));
    tailweir_plugin_records_joined_entries_t joined;
    tailweir_plugin_records_method_batch_strings_joined(batch->handle, &shown, &joined);
    own_list(joined.bytes.ptr, joined.bytes.len);
    tw_text *texts = alloc_array(joined.lengths.len, sizeof *texts);
    const char *next = joined.bytes.len == 0 ? "" : (const char *)joined.bytes.ptr;
    for (size_t i = 0; i < joined.lengths.len; i++) {
        int32_t length = joined.lengths.ptr[i];
        texts[i] = length < 0 ? (tw_text){ NULL, 0 } : (tw_text){ next, (size_t)length };
        next += texts[i].length;
    }
    if (joined.lengths.len != 0) free(joined.lengths.ptr);
    return texts;
}

const tw_integer *tw_integers(const tw_batch *batch, const char *pointer) {
    plugin_string_t shown = tw_show(tw_of(pointer));
    plugin_list_option_s64_t column;
    tailweir_plugin_records_method_batch_integers(batch->handle, &shown, &column);
    own_list(column.ptr, column.len);
    return column.ptr;
}

const tw_number *tw_numbers(const tw_batch *batch, const char *pointer) {
    plugin_string_t shown = tw_show(tw_of(pointer));
    plugin_list_option_f64_t column;
    tailweir_plugin_records_method_batch_numbers(batch->handle, &shown, &column);
    own_list(column.ptr, column.len);
    return column.ptr;
}

const tw_boolean *tw_booleans(const tw_batch *batch, const char *pointer) {
    plugin_string_t shown = tw_show(tw_of(pointer));
    plugin_list_option_bool_t column;
    tailweir_plugin_records_method_batch_booleans(batch->handle, &shown, &column);
    own_list(column.ptr, column.len);
    return column.ptr;
}

const tw_text *tw_values(const tw_batch *batch, const char *pointer) {
    plugin_string_t shown = tw_show(tw_of(pointer));
    plugin_list_option_string_t column;
    tailweir_plugin_records_method_batch_values(batch->handle, &shown, &column);
    tw_text *texts = alloc_array(column.len, sizeof *texts);
    for (size_t i = 0; i < column.len; i++) {
        texts[i] = column.ptr[i].is_some ? tw_take(column.ptr[i].val) : (tw_text){ NULL, 0 };
    }
    if (column.len != 0) free(column.ptr);
    return texts;
}
