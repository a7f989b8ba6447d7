/* The host's part of the interface, over records that a test has made up. It takes the place of the bindings. */
#include "testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const *all;
static size_t all_count;
static tw_batch the_batch;

const tw_batch *tw_test_batch(size_t count, const char *const *records) {
    all = records;
    all_count = count;
    return &the_batch;
}

void tw_test_that(bool is_so, const char *what, const char *file, int line) {
    if (is_so) return;
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    exit(1);
}

bool tw_test_is(tw_text text, const char *expected) {
    return tw_equal(text, tw_of(expected));
}

void plugin_string_dup_n(plugin_string_t *ret, const char *s, size_t len) {
    ret->ptr = malloc(len == 0 ? 1 : len);
    ret->len = len;
    if (ret->ptr != NULL) memcpy(ret->ptr, s, len);
}

void tailweir_plugin_log_write(tailweir_plugin_log_level_t level, plugin_string_t *message) {
    static const char *const names[] = { "trace", "debug", "info", "warn", "error" };
    fprintf(stderr, "%s: %.*s\n", names[level], (int)message->len, (const char *)message->ptr);
}

static void give(tw_text text, plugin_string_t *to) {
    plugin_string_dup_n(to, text.bytes, text.length);
    /* As from a host: what is empty is nowhere, and cannot be freed. */
    if (text.length == 0) {
        free(to->ptr);
        to->ptr = (uint8_t *)1;
    }
}

static void *array(size_t count, size_t size) {
    void *memory = calloc(count == 0 ? 1 : count, size);
    if (memory == NULL) abort();
    return memory;
}

static tw_text record(size_t index) {
    if (index >= all_count) {
        fprintf(stderr, "record %zu of a batch of %zu\n", index, all_count);
        exit(1);
    }
    return tw_of(all[index]);
}

/* The value under a pointer in a record; none where it is null. */
static tw_text value(size_t index, const plugin_string_t *pointer) {
    char *terminated = tw_alloc(pointer->len + 1);
    memcpy(terminated, pointer->ptr, pointer->len);
    terminated[pointer->len] = '\0';
    if (pointer->len != 0 && *terminated != '/') {
        fprintf(stderr, "`%s` is no JSON pointer (RFC 6901)\n", terminated);
        exit(1);
    }
    tw_text found = tw_json_find(record(index), terminated);
    return tw_test_is(found, "null") ? (tw_text){ NULL, 0 } : found;
}

typedef tailweir_plugin_records_borrow_batch_t borrowed;

uint32_t tailweir_plugin_records_method_batch_len(borrowed self) {
    (void)self;
    return (uint32_t)all_count;
}

void tailweir_plugin_records_method_batch_id(borrowed self, plugin_string_t *ret) {
    (void)self;
    give(TW_TEXT("test:segment:1"), ret);
}

void tailweir_plugin_records_method_batch_json(borrowed self, uint32_t index, plugin_string_t *ret) {
    (void)self;
    give(record(index), ret);
}

void tailweir_plugin_records_method_batch_position(
    borrowed self,
    uint32_t index,
    tailweir_plugin_records_position_t *ret
) {
    (void)self;
    record(index);
    give(TW_TEXT("segment"), &ret->segment);
    ret->line = (uint64_t)index + 1;
    ret->offset = 0;
    for (size_t i = 0; i < index; i++) ret->offset += record(i).length + 1;
}

void tailweir_plugin_records_method_batch_text(borrowed self, tailweir_plugin_records_joined_t *ret) {
    (void)self;
    tw_buffer buffer = { 0 };
    ret->ends.ptr = array(all_count, sizeof *ret->ends.ptr);
    ret->ends.len = all_count;
    for (size_t i = 0; i < all_count; i++) {
        tw_append(&buffer, record(i));
        ret->ends.ptr[i] = (uint32_t)buffer.length;
    }
    plugin_string_t bytes;
    give(tw_buffer_text(&buffer), &bytes);
    ret->bytes.ptr = bytes.ptr;
    ret->bytes.len = bytes.len;
}

void tailweir_plugin_records_method_batch_strings_joined(
    borrowed self,
    plugin_string_t *pointer,
    tailweir_plugin_records_joined_entries_t *ret
) {
    (void)self;
    tw_buffer buffer = { 0 };
    ret->lengths.ptr = array(all_count, sizeof *ret->lengths.ptr);
    ret->lengths.len = all_count;
    for (size_t i = 0; i < all_count; i++) {
        tw_text string = tw_json_string(value(i, pointer));
        ret->lengths.ptr[i] = string.bytes == NULL ? -1 : (int32_t)string.length;
        tw_append(&buffer, string);
    }
    plugin_string_t bytes;
    give(tw_buffer_text(&buffer), &bytes);
    ret->bytes.ptr = bytes.ptr;
    ret->bytes.len = bytes.len;
}

void tailweir_plugin_records_method_batch_integers(
    borrowed self,
    plugin_string_t *pointer,
    plugin_list_option_s64_t *ret
) {
    (void)self;
    ret->ptr = array(all_count, sizeof *ret->ptr);
    ret->len = all_count;
    for (size_t i = 0; i < all_count; i++) {
        ret->ptr[i].is_some = tw_json_integer(value(i, pointer), &ret->ptr[i].val);
    }
}

void tailweir_plugin_records_method_batch_numbers(
    borrowed self,
    plugin_string_t *pointer,
    plugin_list_option_f64_t *ret
) {
    (void)self;
    ret->ptr = array(all_count, sizeof *ret->ptr);
    ret->len = all_count;
    for (size_t i = 0; i < all_count; i++) {
        tw_text number = value(i, pointer);
        ret->ptr[i].is_some = number.length != 0 && strchr("-0123456789", *number.bytes) != NULL;
        /* A number in a record is followed by a byte that is no part of one. */
        if (ret->ptr[i].is_some) ret->ptr[i].val = strtod(number.bytes, NULL);
    }
}

void tailweir_plugin_records_method_batch_booleans(
    borrowed self,
    plugin_string_t *pointer,
    plugin_list_option_bool_t *ret
) {
    (void)self;
    ret->ptr = array(all_count, sizeof *ret->ptr);
    ret->len = all_count;
    for (size_t i = 0; i < all_count; i++) {
        tw_text boolean = value(i, pointer);
        ret->ptr[i].val = tw_test_is(boolean, "true");
        ret->ptr[i].is_some = ret->ptr[i].val || tw_test_is(boolean, "false");
    }
}

void tailweir_plugin_records_method_batch_values(
    borrowed self,
    plugin_string_t *pointer,
    plugin_list_option_string_t *ret
) {
    (void)self;
    ret->ptr = array(all_count, sizeof *ret->ptr);
    ret->len = all_count;
    for (size_t i = 0; i < all_count; i++) {
        tw_text found = value(i, pointer);
        ret->ptr[i].is_some = found.bytes != NULL;
        if (found.bytes != NULL) give(found, &ret->ptr[i].val);
    }
}
