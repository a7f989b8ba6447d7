/* Tests of the helper itself: what JSON means, what is written, and what is remembered and recorded. */
#include "testing.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

const tw_description tw_plugin = { .name = "test", .version = "0.1.0" };

static void find(const char *json, const char *pointer, const char *expected) {
    tw_text found = tw_json_find(tw_of(json), pointer);
    if (expected == NULL) tw_test(found.bytes == NULL);
    else tw_test(tw_test_is(found, expected));
}

static void string(const char *json, const char *expected) {
    tw_text found = tw_json_string(tw_of(json));
    if (expected == NULL) tw_test(found.bytes == NULL);
    else tw_test(tw_test_is(found, expected));
}

static void integer(const char *json, bool is_one, int64_t expected) {
    int64_t found = 0;
    tw_test(tw_json_integer(tw_of(json), &found) == is_one);
    tw_test(!is_one || found == expected);
}

static void written(const char *text, size_t length, const char *expected) {
    tw_buffer buffer = { 0 };
    tw_append_string(&buffer, (tw_text){ text, length });
    tw_test(tw_test_is(tw_buffer_text(&buffer), expected));
}

static bool is_done(tw_text refused) {
    return refused.bytes == NULL;
}

static void state(void) {
    tw_text key = TW_TEXT("key");
    tw_test(tw_state_get(key).bytes == NULL && is_done(tw_state_delete(key)));
    tw_test(is_done(tw_state_set(key, TW_TEXT("one"))) && is_done(tw_state_set(key, TW_TEXT("two"))));
    tw_test(tw_test_is(tw_state_get(key), "two"));
    tw_test(is_done(tw_state_set(key, (tw_text){ "a\0\xff", 3 })) && tw_state_get(key).length == 3);
    tw_test(is_done(tw_state_set(key, TW_TEXT(""))) && tw_test_is(tw_state_get(key), ""));
    tw_test(is_done(tw_state_delete(key)) && tw_state_get(key).bytes == NULL);

    static char large[(1 << 20) + 1];
    const char *long_key = "a key of state has at most 512 bytes (`state_key_bytes`)";
    tw_test(tw_test_is(tw_state_set((tw_text){ memset(large, 'k', sizeof large), 513 }, key), long_key));
    const char *long_value = "a value of state has at most 1048576 bytes (`state_value_bytes`)";
    tw_test(tw_test_is(tw_state_set(key, (tw_text){ large, sizeof large }), long_value));

    /* More than the host gives at once, in order, and only those asked for. */
    char name[16];
    for (int i = 2500; i-- > 0;) {
        snprintf(name, sizeof name, "by/%04d", i);
        tw_test(is_done(tw_state_set(tw_of(name), tw_of(name))));
    }
    tw_test(is_done(tw_state_set(TW_TEXT("by"), key)) && is_done(tw_state_set(TW_TEXT("by0"), key)));
    size_t count;
    const tw_text *keys = tw_state_list(TW_TEXT("by/"), &count);
    tw_test(count == 2500 && tw_test_is(keys[0], "by/0000") && tw_test_is(keys[2499], "by/2499"));
    for (size_t i = 1; i < count; i++) tw_test(memcmp(keys[i - 1].bytes, keys[i].bytes, 7) < 0);
    tw_state_list(TW_TEXT(""), &count);
    tw_test(count == 2502);
    tw_state_list(TW_TEXT("c"), &count);
    tw_test(count == 0);
    tw_test_empty_state();
    tw_state_list(TW_TEXT(""), &count);
    tw_test(count == 0);
    tw_call_ends();
}

static jmp_buf before_panic;

static void after_panic(int signal) {
    (void)signal;
    longjmp(before_panic, 1);
}

/* A number below 0 is a very large one where it arrives. */
static void counters_do_not_shrink(tw_series counter) {
    signal(SIGABRT, after_panic);
    bool has_panicked = setjmp(before_panic) != 0;
    if (!has_panicked) tw_metric_add(counter, (uint64_t)-1);
    signal(SIGABRT, SIG_DFL);
    tw_test(has_panicked && tw_test_metric(counter) == 5.0);
}

static void metrics(void) {
    const tw_label labels[] = { { "type", TW_TEXT("OOB") }, { "pool", TW_TEXT("") } };
    const tw_label turned[] = { labels[1], labels[0] };
    tw_series counter = tw_metric_counter("counted_total", "Counted", labels, 2);
    tw_test(counter != 0 && counter == tw_metric_counter("counted_total", "Counted", turned, 2));
    tw_test(counter != tw_metric_counter("counted_total", "Counted", labels, 1));
    tw_metric_add(counter, 2);
    tw_metric_add(counter, 3);
    tw_test(tw_test_metric(counter) == 5.0);
    counters_do_not_shrink(counter);
    tw_test(tw_test_metric(tw_metric_counter("counted_total", "Counted", labels, 1)) == 0.0);

    tw_series gauge = tw_metric_gauge("waiting", "Waiting", NULL, 0);
    tw_metric_set(gauge, 7.0);
    tw_metric_set(gauge, -0.5);
    tw_test(tw_test_metric(gauge) == -0.5);

    tw_series histogram = tw_metric_histogram("size", "Sizes", NULL, 0, (const double[]){ 1.0, 10.0 }, 2);
    tw_metric_observe(histogram, (const double[]){ 0.5, 70.0 }, 2);
    tw_metric_observe(histogram, NULL, 0);
    size_t count;
    const double *observed = tw_test_observed(histogram, &count);
    tw_test(count == 2 && observed[0] == 0.5 && observed[1] == 70.0);
    tw_test_empty_metrics();
    tw_test(tw_test_metric(counter) == 0.0 && tw_test_metric(gauge) == 0.0);
    tw_call_ends();
}

int main(void) {
    state();
    metrics();
    find(" {\"a\" : 1 , \"b\":[ {\"c\":\"x,y\"} , [ ] , null ]} ", "/b/0/c", "\"x,y\"");
    find("{\"a\":{\"b\":[1,2]},\"c\":3}", "/a", "{\"b\":[1,2]}");
    find("{\"a\":{\"b\":[1,2]},\"c\":3}", "/c", "3");
    find("[10,20,30]", "/2", "30");
    find("[10,20,30]", "/3", NULL);
    find("[10,20,30]", "/01", NULL);
    find("[10,20,30]", "/-", NULL);
    find("[]", "/0", NULL);
    find("{}", "/a", NULL);
    find("{\"a\":1,\"a\":2}", "/a", "2");
    find("{\"\\u0061\":1}", "/a", "1");
    find("{\"a/b\":1,\"m~n\":2,\"\":3}", "/a~1b", "1");
    find("{\"a/b\":1,\"m~n\":2,\"\":3}", "/m~0n", "2");
    find("{\"a/b\":1,\"m~n\":2,\"\":3}", "/", "3");
    find("{\"a\":\"}\\\"{\",\"b\":true}", "/b", "true");
    find("7", "", "7");
    find("7", "/a", NULL);
    find("7", "a", NULL);

    string("\"\"", "");
    string("\"plain\"", "plain");
    string("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t");
    string("\"\\u00e9\\u20AC\\ud83d\\ude00\"", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    string("\"\\ud83d!\\ude00\"", "\xef\xbf\xbd!\xef\xbf\xbd");
    string("7", NULL);
    string("null", NULL);

    integer("0", true, 0);
    integer("-7", true, -7);
    integer("9223372036854775807", true, INT64_MAX);
    integer("-9223372036854775808", true, INT64_MIN);
    integer("9223372036854775808", false, 0);
    integer("1.0", false, 0);
    integer("1e3", false, 0);
    integer("\"1\"", false, 0);
    integer("-", false, 0);

    written("a\"\\\n\x01\0b\xc3\xa9", 9, "\"a\\\"\\\\\\n\\u0001\\u0000b\xc3\xa9\"");
    tw_buffer buffer = { 0 };
    tw_append_integer(&buffer, INT64_MIN);
    tw_test(tw_test_is(tw_buffer_text(&buffer), "-9223372036854775808"));

    const char *records[] = { "{\"a\":-0.5,\"b\":true,\"s\":\"x\"}", "{\"a\":7,\"b\":null,\"s\":[1]}" };
    const tw_batch *batch = tw_test_batch(2, records);
    tw_test(tw_numbers(batch, "/a")[0].val == -0.5 && tw_numbers(batch, "/a")[1].val == 7.0);
    tw_test(!tw_integers(batch, "/a")[0].is_some && tw_integers(batch, "/a")[1].val == 7);
    tw_test(tw_booleans(batch, "/b")[0].val && !tw_booleans(batch, "/b")[1].is_some);
    tw_test(tw_test_is(tw_strings(batch, "/s")[0], "x") && tw_strings(batch, "/s")[1].bytes == NULL);
    tw_test(tw_test_is(tw_values(batch, "/s")[1], "[1]") && tw_values(batch, "/b")[1].bytes == NULL);
    tw_test(tw_test_is(tw_texts(batch)[1], records[1]) && tw_test_is(tw_json(batch, 0), records[0]));
    tw_test(tw_position_of(batch, 1).line == 2 && tw_position_of(batch, 1).offset == strlen(records[0]) + 1);
    tw_test(tw_strings(batch, "/none")[0].bytes == NULL && tw_values(batch, "/none")[1].bytes == NULL);
    tw_test(tw_strings(tw_test_batch(1, (const char *[]){ "{\"s\":\"\"}" }), "/s")[0].bytes != NULL);
    tw_call_ends();
    return 0;
}

bool tw_init(tw_text config) {
    (void)config;
    return true;
}

tw_answer tw_process(const tw_batch *batch, size_t count) {
    (void)batch;
    return count == 0 ? tw_stop(TW_TEXT("no records")) : tw_done();
}
