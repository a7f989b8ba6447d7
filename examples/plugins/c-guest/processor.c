/* The export that makes a processor of `tw_process`, and its answers. */
#include "tailweir.h"

#include <stdlib.h>
#include <string.h>

tw_answer tw_done(void) {
    return (tw_answer){ .kind = TW_DONE };
}

tw_answer tw_emit(const tw_text *records, size_t count) {
    return (tw_answer){ .kind = TW_EMIT, .records = records, .count = count };
}

tw_answer tw_retry(tw_text reason) {
    return (tw_answer){ .kind = TW_RETRY, .reason = reason };
}

tw_answer tw_retry_after(uint64_t milliseconds, tw_text reason) {
    return (tw_answer){ .kind = TW_RETRY, .reason = reason, .has_delay = true, .delay_ms = milliseconds };
}

tw_answer tw_reject(const uint32_t *indices, size_t count, tw_text reason) {
    return (tw_answer){ .kind = TW_REJECT, .reason = reason, .indices = indices, .count = count };
}

tw_answer tw_stop(tw_text reason) {
    return (tw_answer){ .kind = TW_STOP, .reason = reason };
}

/* Memory for the host's eyes: the bindings free it, after the host has read it. */
static void *array(size_t count, size_t size) {
    void *memory = calloc(count == 0 ? 1 : count, size);
    if (memory == NULL) tw_panic("out of memory");
    return memory;
}

static void emit(const tw_answer *answer, plugin_list_string_t *emitted) {
    emitted->ptr = array(answer->count, sizeof *emitted->ptr);
    emitted->len = answer->count;
    for (size_t i = 0; i < answer->count; i++) tw_copy(answer->records[i], &emitted->ptr[i]);
}

static void reject(const tw_answer *answer, exports_tailweir_plugin_process_reject_t *rejected) {
    rejected->indices.ptr = array(answer->count, sizeof *rejected->indices.ptr);
    rejected->indices.len = answer->count;
    if (answer->count != 0) memcpy(rejected->indices.ptr, answer->indices, answer->count * sizeof *answer->indices);
    tw_copy(answer->reason, &rejected->reason);
}

bool exports_tailweir_plugin_process_process(
    tailweir_plugin_records_borrow_batch_t handle,
    exports_tailweir_plugin_process_outcome_t *outcome,
    exports_tailweir_plugin_process_failure_t *failure
) {
    tw_batch batch = { handle };
    tw_answer answer = tw_process(&batch, tailweir_plugin_records_method_batch_len(handle));
    bool is_dealt_with = answer.kind == TW_DONE || answer.kind == TW_EMIT;
    switch (answer.kind) {
    case TW_DONE:
        outcome->tag = EXPORTS_TAILWEIR_PLUGIN_PROCESS_OUTCOME_DONE;
        break;
    case TW_EMIT:
        outcome->tag = EXPORTS_TAILWEIR_PLUGIN_PROCESS_OUTCOME_EMIT;
        emit(&answer, &outcome->val.emit);
        break;
    case TW_RETRY:
        failure->tag = EXPORTS_TAILWEIR_PLUGIN_PROCESS_FAILURE_RETRY;
        failure->val.retry.after_ms.is_some = answer.has_delay;
        failure->val.retry.after_ms.val = answer.delay_ms;
        tw_copy(answer.reason, &failure->val.retry.reason);
        break;
    case TW_REJECT:
        failure->tag = EXPORTS_TAILWEIR_PLUGIN_PROCESS_FAILURE_REJECT;
        reject(&answer, &failure->val.reject);
        break;
    case TW_STOP:
        failure->tag = EXPORTS_TAILWEIR_PLUGIN_PROCESS_FAILURE_STOP;
        tw_copy(answer.reason, &failure->val.stop);
        break;
    }
    tw_call_ends();
    return is_dealt_with;
}
