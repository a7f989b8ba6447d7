/* JSON: looking values up in valid text, and writing strings. */
#include "tailweir.h"

#include <stdlib.h>
#include <string.h>

static const tw_text nothing = { NULL, 0 };

static const char *skip_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

/* Behind the string that begins at `at`. */
static const char *skip_string(const char *at, const char *end) {
    for (at++; at < end; at++) {
        if (*at == '\\') at++;
        else if (*at == '"') return at + 1;
    }
    return end;
}

/* Behind the value that begins at `at`. No recursion: text may nest deeper than the stack. */
static const char *skip_value(const char *at, const char *end) {
    size_t depth = 0;
    while (at < end) {
        if (*at == '"') {
            at = skip_string(at, end);
        } else if (*at == '{' || *at == '[') {
            depth++;
            at++;
            continue;
        } else if (*at == '}' || *at == ']') {
            depth--;
            at++;
        } else if (*at == ',' || *at == ':' || skip_space(at, end) != at) {
            at++;
            continue;
        } else {
            do at++;
            while (at < end && strchr(",:]} \t\n\r", *at) == NULL);
        }
        if (depth == 0) return at;
    }
    return end;
}

/* The next token of a pointer, which begins with a slash, its escapes resolved. */
static tw_text next_token(const char **pointer) {
    const char *at = *pointer + 1;
    char *token = tw_alloc(strlen(at));
    size_t length = 0;
    for (; *at != '\0' && *at != '/'; at++) {
        char byte = *at;
        if (byte == '~' && (at[1] == '0' || at[1] == '1')) byte = *++at == '0' ? '~' : '/';
        token[length++] = byte;
    }
    *pointer = at;
    return (tw_text){ token, length };
}

static tw_text member(const char *at, const char *end, tw_text key) {
    tw_text found = nothing;
    at = skip_space(at + 1, end);
    while (at < end && *at == '"') {
        const char *behind = skip_string(at, end);
        bool is_it = tw_equal(tw_json_string((tw_text){ at, (size_t)(behind - at) }), key);
        at = skip_space(behind, end) + 1;
        at = skip_space(at, end);
        behind = skip_value(at, end);
        if (is_it) found = (tw_text){ at, (size_t)(behind - at) };
        at = skip_space(behind, end);
        if (at < end && *at == ',') at = skip_space(at + 1, end);
    }
    return found;
}

static tw_text element(const char *at, const char *end, tw_text token) {
    int64_t index;
    if (!tw_json_integer(token, &index) || index < 0 || token.bytes[0] == '-') return nothing;
    if (token.length > 1 && token.bytes[0] == '0') return nothing;
    at = skip_space(at + 1, end);
    while (at < end && *at != ']') {
        const char *behind = skip_value(at, end);
        if (index-- == 0) return (tw_text){ at, (size_t)(behind - at) };
        at = skip_space(behind, end);
        if (at < end && *at == ',') at = skip_space(at + 1, end);
    }
    return nothing;
}

tw_text tw_json_find(tw_text json, const char *pointer) {
    if (json.bytes == NULL) return nothing;
    const char *end = json.bytes + json.length;
    const char *at = skip_space(json.bytes, end);
    tw_text value = { at, (size_t)(skip_value(at, end) - at) };
    while (*pointer == '/' && value.length != 0) {
        tw_text token = next_token(&pointer);
        const char *behind = value.bytes + value.length;
        if (*value.bytes == '{') value = member(value.bytes, behind, token);
        else if (*value.bytes == '[') value = element(value.bytes, behind, token);
        else value = nothing;
    }
    return *pointer == '\0' && value.length != 0 ? value : nothing;
}

bool tw_json_is_object(tw_text json) {
    return tw_json_find(json, "").bytes != NULL && *tw_json_find(json, "").bytes == '{';
}

static uint32_t hex4(const char *digits) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char digit = digits[i];
        uint32_t of = digit <= '9' ? (uint32_t)(digit - '0') : (uint32_t)((digit | 0x20) - 'a' + 10);
        value = value << 4 | (of & 0xf);
    }
    return value;
}

/* Appends a code point as UTF-8, and returns behind it. */
static char *put_utf8(char *out, uint32_t point) {
    if (point < 0x80) {
        *out++ = (char)point;
    } else if (point < 0x800) {
        *out++ = (char)(0xc0 | point >> 6);
        *out++ = (char)(0x80 | (point & 0x3f));
    } else {
        if (point < 0x10000) {
            *out++ = (char)(0xe0 | point >> 12);
        } else {
            *out++ = (char)(0xf0 | point >> 18);
            *out++ = (char)(0x80 | (point >> 12 & 0x3f));
        }
        *out++ = (char)(0x80 | (point >> 6 & 0x3f));
        *out++ = (char)(0x80 | (point & 0x3f));
    }
    return out;
}

/* The code point of the escape `\uXXXX` at `at`, two of them for a pair of surrogates, of which a lone one becomes U+FFFD.
 * Moves `at` behind it. */
static uint32_t unicode_escape(const char **at, const char *end) {
    if (end - *at < 6) {
        *at = end;
        return 0xfffd;
    }
    uint32_t point = hex4(*at + 2);
    *at += 6;
    if (point >= 0xd800 && point < 0xdc00 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
        uint32_t low = hex4(*at + 2);
        if (low >= 0xdc00 && low < 0xe000) {
            *at += 6;
            return 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    return point >= 0xd800 && point < 0xe000 ? 0xfffd : point;
}

tw_text tw_json_string(tw_text json) {
    if (json.length < 2 || json.bytes[0] != '"') return nothing;
    const char *at = json.bytes + 1, *end = json.bytes + json.length - 1;
    if (memchr(at, '\\', (size_t)(end - at)) == NULL) return (tw_text){ at, (size_t)(end - at) };
    /* No escape is shorter than what it stands for. */
    char *string = tw_alloc(json.length), *out = string;
    while (at < end) {
        if (*at != '\\') {
            *out++ = *at++;
        } else if (end - at >= 2 && at[1] == 'u') {
            out = put_utf8(out, unicode_escape(&at, end));
        } else {
            static const char escapes[] = "bfnrt", meant[] = "\b\f\n\r\t";
            const char *escape = at + 1 < end ? strchr(escapes, at[1]) : NULL;
            *out++ = escape != NULL ? meant[escape - escapes] : at[1];
            at += 2;
        }
    }
    return (tw_text){ string, (size_t)(out - string) };
}

bool tw_json_integer(tw_text json, int64_t *integer) {
    bool is_negative = json.length > 0 && json.bytes[0] == '-';
    size_t i = is_negative ? 1 : 0;
    if (json.bytes == NULL || i == json.length) return false;
    /* Negative all the while: the smallest integer has no positive counterpart. */
    int64_t value = 0;
    for (; i < json.length; i++) {
        if (json.bytes[i] < '0' || json.bytes[i] > '9') return false;
        if (__builtin_mul_overflow(value, 10, &value)) return false;
        if (__builtin_sub_overflow(value, json.bytes[i] - '0', &value)) return false;
    }
    if (!is_negative && __builtin_sub_overflow(0, value, &value)) return false;
    *integer = value;
    return true;
}

/* ---- writing ---- */

void tw_append(tw_buffer *buffer, tw_text text) {
    if (text.length > buffer->capacity - buffer->length) {
        size_t capacity = buffer->capacity < 64 ? 64 : buffer->capacity;
        while (capacity - buffer->length < text.length) {
            if (capacity > SIZE_MAX / 2) tw_panic("out of memory");
            capacity *= 2;
        }
        char *larger = tw_alloc(capacity);
        if (buffer->length != 0) memcpy(larger, buffer->bytes, buffer->length);
        buffer->bytes = larger;
        buffer->capacity = capacity;
    }
    if (text.length != 0) memcpy(buffer->bytes + buffer->length, text.bytes, text.length);
    buffer->length += text.length;
}

void tw_append_integer(tw_buffer *buffer, int64_t integer) {
    char digits[20], *at = digits + sizeof digits;
    uint64_t rest = integer < 0 ? -(uint64_t)integer : (uint64_t)integer;
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (integer < 0) *--at = '-';
    tw_append(buffer, (tw_text){ at, (size_t)(digits + sizeof digits - at) });
}

void tw_append_string(tw_buffer *buffer, tw_text text) {
    static const char hex[] = "0123456789abcdef", escapes[] = "bfnrt", meant[] = "\b\f\n\r\t";
    tw_append(buffer, TW_TEXT("\""));
    for (size_t i = 0; i < text.length; i++) {
        unsigned char byte = (unsigned char)text.bytes[i];
        if (byte == '"' || byte == '\\') {
            tw_append(buffer, (tw_text){ (char[]){ '\\', (char)byte }, 2 });
        } else if (byte >= 0x20) {
            tw_append(buffer, (tw_text){ &text.bytes[i], 1 });
        } else if (byte != 0 && strchr(meant, byte) != NULL) {
            tw_append(buffer, (tw_text){ (char[]){ '\\', escapes[strchr(meant, byte) - meant] }, 2 });
        } else {
            tw_append(buffer, (tw_text){ (char[]){ '\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 0xf] }, 6 });
        }
    }
    tw_append(buffer, TW_TEXT("\""));
}

tw_text tw_buffer_text(const tw_buffer *buffer) {
    return buffer->length == 0 ? TW_TEXT("") : (tw_text){ buffer->bytes, buffer->length };
}
