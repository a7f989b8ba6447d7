/* State without a host: in memory, with the limits of a key and a value that the host has if nobody changes them. */
#include "testing.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 512, VALUE_BYTES = 1 << 20 };

typedef struct {
    plugin_string_t key;
    plugin_list_u8_t value;
} entry;

/* In the order of their keys' bytes. */
static entry *entries;
static size_t entry_count;

void tw_test_empty_state(void) {
    for (size_t i = 0; i < entry_count; i++) {
        free(entries[i].key.ptr);
        free(entries[i].value.ptr);
    }
    entry_count = 0;
}

static uint8_t *copy(const uint8_t *bytes, size_t length) {
    uint8_t *copied = malloc(length == 0 ? 1 : length);
    if (copied == NULL) abort();
    if (length != 0) memcpy(copied, bytes, length);
    return copied;
}

static int compare(const plugin_string_t *a, const plugin_string_t *b) {
    size_t shorter = a->len < b->len ? a->len : b->len;
    int order = shorter == 0 ? 0 : memcmp(a->ptr, b->ptr, shorter);
    return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

/* Where a key is, or belongs. */
static size_t place_of(const plugin_string_t *key, bool *is_there) {
    size_t at = 0;
    while (at < entry_count && compare(&entries[at].key, key) < 0) at++;
    *is_there = at < entry_count && compare(&entries[at].key, key) == 0;
    return at;
}

bool tailweir_plugin_state_get(plugin_string_t *key, plugin_list_u8_t *ret) {
    bool is_there;
    size_t at = place_of(key, &is_there);
    if (!is_there) return false;
    /* As from a host: what is empty is nowhere, and cannot be freed. */
    size_t length = entries[at].value.len;
    *ret = (plugin_list_u8_t){ length == 0 ? (uint8_t *)1 : copy(entries[at].value.ptr, length), length };
    return true;
}

bool tailweir_plugin_state_set(plugin_string_t *key, plugin_list_u8_t *value, tailweir_plugin_state_error_t *err) {
    if (key->len > KEY_BYTES) {
        *err = (tailweir_plugin_state_error_t){ TAILWEIR_PLUGIN_STATE_ERROR_KEY_BYTES, { .key_bytes = KEY_BYTES } };
        return false;
    }
    if (value->len > VALUE_BYTES) {
        *err = (tailweir_plugin_state_error_t){ TAILWEIR_PLUGIN_STATE_ERROR_VALUE_BYTES, { .value_bytes = VALUE_BYTES } };
        return false;
    }
    bool is_there;
    size_t at = place_of(key, &is_there);
    if (is_there) {
        free(entries[at].value.ptr);
    } else {
        entry *larger = realloc(entries, (entry_count + 1) * sizeof *entries);
        if (larger == NULL) abort();
        entries = larger;
        memmove(&entries[at + 1], &entries[at], (entry_count - at) * sizeof *entries);
        entries[at].key = (plugin_string_t){ copy(key->ptr, key->len), key->len };
        entry_count++;
    }
    entries[at].value = (plugin_list_u8_t){ copy(value->ptr, value->len), value->len };
    return true;
}

bool tailweir_plugin_state_delete(plugin_string_t *key, tailweir_plugin_state_error_t *err) {
    (void)err;
    bool is_there;
    size_t at = place_of(key, &is_there);
    if (!is_there) return true;
    free(entries[at].key.ptr);
    free(entries[at].value.ptr);
    entry_count--;
    memmove(&entries[at], &entries[at + 1], (entry_count - at) * sizeof *entries);
    return true;
}

void tailweir_plugin_state_list(
    plugin_string_t *prefix,
    plugin_string_t *maybe_after,
    uint32_t limit,
    tailweir_plugin_state_page_t *ret
) {
    bool is_there = false;
    size_t at = place_of(prefix, &is_there);
    if (maybe_after != NULL && compare(maybe_after, prefix) >= 0) {
        at = place_of(maybe_after, &is_there);
        at += is_there;
    }
    size_t end = at;
    while (end < entry_count && entries[end].key.len >= prefix->len
           && (prefix->len == 0 || memcmp(entries[end].key.ptr, prefix->ptr, prefix->len) == 0)) {
        end++;
    }
    size_t count = end - at < limit ? end - at : limit;
    plugin_string_t *keys = count == 0 ? NULL : malloc(count * sizeof *keys);
    if (count != 0 && keys == NULL) abort();
    for (size_t i = 0; i < count; i++) {
        const plugin_string_t *key = &entries[at + i].key;
        keys[i] = (plugin_string_t){ key->len == 0 ? (uint8_t *)1 : copy(key->ptr, key->len), key->len };
    }
    *ret = (tailweir_plugin_state_page_t){ { keys, count }, count < end - at };
}
