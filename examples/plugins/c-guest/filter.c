/* The export that makes a filter of `tw_keep`. */
#include "tailweir.h"

#include <stdlib.h>

bool exports_tailweir_plugin_filter_evaluate(
    tailweir_plugin_records_borrow_batch_t handle,
    exports_tailweir_plugin_filter_verdict_t *verdict,
    plugin_string_t *reason
) {
    tw_batch batch = { handle };
    size_t count = tailweir_plugin_records_method_batch_len(handle);
    /* The bindings free it, after the host has read it. */
    bool *keep = calloc(count == 0 ? 1 : count, sizeof *keep);
    if (keep == NULL) tw_panic("out of memory");
    bool decided = tw_keep(&batch, count, keep);
    if (decided) {
        verdict->tag = EXPORTS_TAILWEIR_PLUGIN_FILTER_VERDICT_KEEP;
        verdict->val.keep.ptr = keep;
        verdict->val.keep.len = count;
    } else {
        free(keep);
        tw_take_reason(reason);
    }
    tw_call_ends();
    return decided;
}
