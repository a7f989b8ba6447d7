/* What a processor remembers: the import `state`. */
#include "tailweir.h"

#include <stdlib.h>
#include <string.h>

tw_text tw_state_get(tw_text key) {
    plugin_string_t shown = tw_show(key);
    plugin_list_u8_t value;
    if (!tailweir_plugin_state_get(&shown, &value)) return (tw_text){ NULL, 0 };
    return tw_take((plugin_string_t){ value.ptr, value.len });
}

/* Why nothing was changed. */
static tw_text reason(const tailweir_plugin_state_error_t *error) {
    static const struct {
        const char *before, *behind;
    } words[] = {
        [TAILWEIR_PLUGIN_STATE_ERROR_KEY_BYTES] = { "a key of state has at most ", " bytes (`state_key_bytes`)" },
        [TAILWEIR_PLUGIN_STATE_ERROR_VALUE_BYTES] = { "a value of state has at most ", " bytes (`state_value_bytes`)" },
        [TAILWEIR_PLUGIN_STATE_ERROR_KEYS] = { "the state has at most ", " keys (`state_keys`)" },
        [TAILWEIR_PLUGIN_STATE_ERROR_BYTES] = { "the state has at most ", " bytes (`state_bytes`)" },
        [TAILWEIR_PLUGIN_STATE_ERROR_CHANGES] = { "a batch changes at most ", " keys of state (`state_changes`)" },
    };
    if (error->tag == TAILWEIR_PLUGIN_STATE_ERROR_NOT_NOW) {
        return TW_TEXT("state can be changed only while a batch is processed");
    }
    tw_buffer text = { 0 };
    tw_append(&text, tw_of(words[error->tag].before));
    /* The limit, whichever it is: they all lie in the same place. */
    tw_append_integer(&text, (int64_t)error->val.bytes);
    tw_append(&text, tw_of(words[error->tag].behind));
    return tw_buffer_text(&text);
}

tw_text tw_state_set(tw_text key, tw_text value) {
    plugin_string_t shown = tw_show(key), bytes = tw_show(value);
    plugin_list_u8_t list = { bytes.ptr, bytes.len };
    tailweir_plugin_state_error_t error;
    return tailweir_plugin_state_set(&shown, &list, &error) ? (tw_text){ NULL, 0 } : reason(&error);
}

tw_text tw_state_delete(tw_text key) {
    plugin_string_t shown = tw_show(key);
    tailweir_plugin_state_error_t error;
    return tailweir_plugin_state_delete(&shown, &error) ? (tw_text){ NULL, 0 } : reason(&error);
}

const tw_text *tw_state_list(tw_text prefix, size_t *count) {
    /* As many as the host gives at once. */
    enum { PAGE = 1000 };
    plugin_string_t shown = tw_show(prefix), last;
    size_t capacity = PAGE;
    tw_text *keys = tw_alloc(capacity * sizeof *keys);
    tailweir_plugin_state_page_t page = { .more = true };
    for (*count = 0; page.more;) {
        if (*count != 0) last = tw_show(keys[*count - 1]);
        tailweir_plugin_state_list(&shown, *count == 0 ? NULL : &last, PAGE, &page);
        if (page.keys.len == 0) break;
        if (page.keys.len > capacity - *count) {
            capacity = 2 * capacity + page.keys.len;
            tw_text *larger = tw_alloc(capacity * sizeof *larger);
            memcpy(larger, keys, *count * sizeof *keys);
            keys = larger;
        }
        for (size_t i = 0; i < page.keys.len; i++) keys[(*count)++] = tw_take(page.keys.ptr[i]);
        free(page.keys.ptr);
    }
    return keys;
}
