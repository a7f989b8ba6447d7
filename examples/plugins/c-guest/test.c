/* Tests of the helper itself: what JSON means, and what is written. */
#include "testing.h"

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

int main(void) {
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
