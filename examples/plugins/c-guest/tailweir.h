/* What a tailweir plug-in written in C uses. A filter defines `tw_plugin`, `tw_init` and `tw_keep`, and is linked with
 * filter.c; a processor defines `tw_plugin`, `tw_init` and `tw_process`, and is linked with processor.c.
 *
 * Memory: all that these functions hand out stays valid until the call of `tw_keep` or `tw_process` ends, and is freed by
 * the helper then. What is obtained in `tw_init` stays valid for the life of the plug-in. A plug-in that runs out of memory
 * ends with a message; no function here returns NULL for that. */
#ifndef TAILWEIR_H
#define TAILWEIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plugin.h"

/* UTF-8 text. It is not terminated by a zero byte. `bytes` is NULL where there is no text. */
typedef struct {
    const char *bytes;
    size_t length;
} tw_text;

/* A string literal as a text. */
#define TW_TEXT(literal) ((tw_text){ "" literal, sizeof(literal) - 1 })

/* The compiler warns where what comes back is left aside. */
#define TW_MUST_CHECK __attribute__((warn_unused_result))

/* Whether two texts are the same. No text is the same as no other one, not even as another that is none. */
bool tw_equal(tw_text a, tw_text b);

/* A string that ends with a zero byte as a text. */
tw_text tw_of(const char *string);

/* Memory for `size` bytes. */
void *tw_alloc(size_t size);

/* ---- who the plug-in is ---- */

typedef struct {
    const char *name;
    const char *version;
    /* JSON schema of the configuration, or NULL. The host holds configurations to it before `tw_init`. */
    const char *config_schema;
} tw_description;

/* Defined by the plug-in. */
extern const tw_description tw_plugin;

/* Defined by the plug-in: called once with the operator's configuration, one JSON text, `null` if there is none. Returns
 * true, or the result of `tw_fail`, whose reason the operator is shown; then the plug-in is not used. */
bool tw_init(tw_text config);

/* Says why a call cannot do what it was asked, in words for the operator. Returns false. */
bool tw_fail(tw_text reason);

/* ---- batches ---- */

/* Consecutive records, owned by the host; to be used during the call that it was passed to, and no longer. From cheap to
 * expensive: one of the columns, `tw_texts`, `tw_json` for each record.
 *
 * A column has one entry per record, in order: the field that a JSON pointer (RFC 6901) such as "/response/code" names.
 * There is no entry where a record does not have the field, where it is null, and where it is of another type. A pointer
 * that is none ends the plug-in. */
typedef struct tw_batch tw_batch;

/* What identifies the batch: the same records come with the same id again, other ones never do. */
tw_text tw_batch_id(const tw_batch *batch);

/* The JSON text of the record at `index`, counted from 0. An index beyond the last ends the plug-in. */
tw_text tw_json(const tw_batch *batch, size_t index);

/* The JSON texts of all records, fetched at once. */
const tw_text *tw_texts(const tw_batch *batch);

/* Where a record is. */
typedef struct {
    tw_text segment; /* the bare file name of its segment */
    uint64_t line;   /* the number of its line, counted from 1 */
    uint64_t offset; /* bytes before it in the segment's decompressed text */
} tw_position;
tw_position tw_position_of(const tw_batch *batch, size_t index);

/* Entries of columns: `val` counts where `is_some` does. */
typedef plugin_option_s64_t tw_integer;
typedef plugin_option_f64_t tw_number;
typedef plugin_option_bool_t tw_boolean;

/* Columns. Where there is no entry, a text's `bytes` is NULL. */
const tw_text *tw_strings(const tw_batch *batch, const char *pointer);
const tw_integer *tw_integers(const tw_batch *batch, const char *pointer);
const tw_number *tw_numbers(const tw_batch *batch, const char *pointer);
const tw_boolean *tw_booleans(const tw_batch *batch, const char *pointer);
/* Values of any type, each as its JSON text. */
const tw_text *tw_values(const tw_batch *batch, const char *pointer);

/* ---- answers ---- */

/* Defined by a filter: writes one entry per record, `count` of them, that says whether it is kept; they are false at
 * first. Returns true, or the result of `tw_fail`. */
bool tw_keep(const tw_batch *batch, size_t count, bool *keep);

/* What a processor has done with a batch; made by the functions below. */
typedef struct {
    enum { TW_DONE, TW_EMIT, TW_RETRY, TW_REJECT, TW_STOP } kind;
    tw_text reason;
    const tw_text *records;
    const uint32_t *indices;
    size_t count;
    bool has_delay;
    uint64_t delay_ms;
} tw_answer;

/* The batch is dealt with. */
tw_answer tw_done(void);
/* So it is, and these JSON texts, none with a line break, go to the consumer's sink. */
tw_answer tw_emit(const tw_text *records, size_t count);
/* The same batch, with the same id, is to come again, after the consumer's back-off. */
tw_answer tw_retry(tw_text reason);
/* The same, not before some milliseconds have passed. */
tw_answer tw_retry_after(uint64_t milliseconds, tw_text reason);
/* These records, counted from 0, go to quarantine; the others are dealt with. */
tw_answer tw_reject(const uint32_t *indices, size_t count, tw_text reason);
/* The consumer stops, and the batch comes again at its next start. */
tw_answer tw_stop(tw_text reason);

/* Defined by a processor: deals with the batch, which has `count` records. */
tw_answer tw_process(const tw_batch *batch, size_t count);

/* ---- log ---- */

typedef enum { TW_TRACE, TW_DEBUG, TW_INFO, TW_WARN, TW_ERROR } tw_level;

/* Writes a message to the host's log. */
void tw_log(tw_level level, tw_text message);

/* Ends the plug-in with a message, as an error that no later batch could survive. */
_Noreturn void tw_panic(const char *message);

/* ---- state: for processors ---- */

/* What a processor remembers from one batch to the next, also over restarts: keys with values, in a bucket of its own for each
 * consumer and each name of a plug-in. What `tw_process` changes becomes durable in one step with the batch's checkpoint, and
 * is undone if the batch comes again; after `tw_reject` it stays. Variables are not undone, and an instance may be replaced
 * between two calls: what must be exact is read from here in each call.
 *
 * A plug-in that calls none of these has no state: a pipeline may run it without a checkpoint, and several of it at once. */

/* The value of a key, which may be any bytes; no text if it has none. */
tw_text tw_state_get(tw_text key);
/* Gives a key a value, in place of any that it has. Returns no text. If a limit does not allow it, or if this is called by
 * `tw_init`, nothing is changed, and the reason comes back in words for the operator, as `tw_stop` takes it. */
TW_MUST_CHECK tw_text tw_state_set(tw_text key, tw_text value);
/* Takes a key and its value out; one that is not there stays so. Returns what `tw_state_set` does. */
TW_MUST_CHECK tw_text tw_state_delete(tw_text key);
/* The keys that begin with `prefix`, in the order of their bytes, and how many. */
const tw_text *tw_state_list(tw_text prefix, size_t *count);

/* ---- metrics ---- */

/* Figures of the plug-in's own, for whoever watches over it. They count what was done, repetitions included, and begin at zero
 * when the process starts: what must be exact belongs in state. One call per batch and series is enough.
 *
 * Names are of letters, digits and `_`. What exceeds a limit or cannot be a metric is not recorded; the host counts it, and
 * logs why once. */

/* A part of what tells one series of a metric from another. Its value is any text, but one of a few: never an id. */
typedef struct {
    const char *name;
    tw_text value;
} tw_label;

/* What a series is called by. */
typedef tailweir_plugin_metrics_series_t tw_series;

/* The series of a counter, which only grows, with these labels in any order. `name` ends in `_total` by custom, `help` says
 * in a few words what it is about. The same name and labels give the same series again; an instance may keep it. */
tw_series tw_metric_counter(const char *name, const char *help, const tw_label *labels, size_t count);
/* That of a gauge, which has the value that it was given last. */
tw_series tw_metric_gauge(const char *name, const char *help, const tw_label *labels, size_t count);
/* That of a histogram, which counts values by how large they are. `bounds` are the largest values of its buckets, in order; a
 * bucket for what is larger comes of itself. */
tw_series tw_metric_histogram(
    const char *name, const char *help, const tw_label *labels, size_t count, const double *bounds, size_t bound_count
);
/* Adds to a counter. What is greater than INT64_MAX was a number below 0, and ends the plug-in: see `tw_panic`. */
void tw_metric_add(tw_series counter, uint64_t amount);
/* Sets a gauge. The value must be finite. */
void tw_metric_set(tw_series gauge, double value);
/* Has a histogram count these values. All must be finite, or none is counted. */
void tw_metric_observe(tw_series histogram, const double *values, size_t count);

/* ---- JSON: for configurations, and for records that are looked into one by one ---- */

/* The value under a pointer as its JSON text; no text if there is none. `json` must be valid JSON, as all that the host
 * passes is. The last one counts where an object has a key twice. */
tw_text tw_json_find(tw_text json, const char *pointer);
/* The string that a JSON text is, its escapes resolved; no text if it is none. */
tw_text tw_json_string(tw_text json);
/* Whether a JSON text is an integer that fits in 64 bits, without fraction and exponent, and which. */
bool tw_json_integer(tw_text json, int64_t *integer);
/* Whether a JSON text is an object. */
bool tw_json_is_object(tw_text json);

/* A text that grows. */
typedef struct {
    char *bytes;
    size_t length;
    size_t capacity;
} tw_buffer;

void tw_append(tw_buffer *buffer, tw_text text);
void tw_append_integer(tw_buffer *buffer, int64_t integer);
/* Appends a text as a JSON string, with quotes and escapes. */
void tw_append_string(tw_buffer *buffer, tw_text text);
tw_text tw_buffer_text(const tw_buffer *buffer);

/* ---- for the other files of the helper ---- */

struct tw_batch {
    tailweir_plugin_records_borrow_batch_t handle;
};

void tw_call_ends(void);
void tw_take_reason(plugin_string_t *reason);
void tw_copy(tw_text text, plugin_string_t *to);
/* A text that the host has passed; freed when the call ends. */
tw_text tw_take(plugin_string_t string);
/* A text that the host is shown for the time of one call. */
plugin_string_t tw_show(tw_text text);

#endif
