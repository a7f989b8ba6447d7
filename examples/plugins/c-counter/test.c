#include "testing.h"

#include <string.h>

/* A batch of these records is answered with this one. */
static void check(size_t count, const char *const *records, const char *expected) {
    tw_answer answer = tw_process(tw_test_batch(count, records), count);
    tw_test(answer.kind == TW_EMIT && answer.count == 1);
    tw_test(tw_test_is(answer.records[0], expected));
}

static double counted(const char *type) {
    const tw_label label = { "type", tw_of(type) };
    return tw_test_metric(tw_metric_counter("counted_total", "", &label, 1));
}

static void counts_go_on_from_batch_to_batch(void) {
    const char *first[] = { "{\"type\":\"Bounce\"}", "{\"type\":\"Delivery\"}", "{\"type\":\"Bounce\"}" };
    check(3, first, "{\"records\":3,\"by\":{\"Bounce\":2,\"Delivery\":1}}");
    const char *second[] = { "{\"type\":\"Bounce\"}", "{\"x\":1}" };
    check(2, second, "{\"records\":5,\"by\":{\"Bounce\":3,\"Delivery\":1}}");

    tw_test(counted("Bounce") == 3 && counted("Delivery") == 1);
    size_t batches;
    const double *types = tw_test_observed(tw_metric_histogram("batch_types", "", NULL, 0, NULL, 0), &batches);
    tw_test(batches == 2 && types[0] == 2 && types[1] == 1);
}

static void a_type_of_any_length_is_counted(void) {
    tw_test_empty_state();
    tw_buffer name = { 0 }, record = { 0 }, expected = { 0 };
    for (int i = 0; i < 1000; i++) tw_append(&name, TW_TEXT("\xc3\xa9"));
    tw_append(&record, TW_TEXT("{\"type\":\"x"));
    tw_append(&record, tw_buffer_text(&name));
    tw_append(&record, (tw_text){ "\"}", 3 });
    tw_append(&expected, TW_TEXT("{\"records\":1,\"by\":{\"x"));
    /* The 200th byte is in the middle of a character. */
    tw_append(&expected, (tw_text){ name.bytes, 198 });
    tw_append(&expected, (tw_text){ "\":1}}", 6 });
    check(1, (const char *[]){ record.bytes }, expected.bytes);
}

static void state_that_is_no_number_is_not_written_over(void) {
    tw_text key = TW_TEXT("records");
    tw_test(tw_state_set(key, TW_TEXT("many")).bytes == NULL);
    tw_test(tw_process(tw_test_batch(1, (const char *[]){ "1" }), 1).kind == TW_STOP);
    tw_test(tw_test_is(tw_state_get(key), "many"));
}

int main(void) {
    tw_test(!tw_init(TW_TEXT("{\"field\":7}")));
    tw_test(tw_init(TW_TEXT("null")));
    counts_go_on_from_batch_to_batch();
    a_type_of_any_length_is_counted();
    state_that_is_no_number_is_not_written_over();
    return 0;
}
