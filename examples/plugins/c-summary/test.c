#include "testing.h"

static tw_text summary_of(const tw_batch *batch, size_t count) {
    tw_answer answer = tw_process(batch, count);
    tw_test(answer.kind == TW_EMIT && answer.count == 1);
    return answer.records[0];
}

int main(void) {
    const char *records[] = {
        "{\"type\":\"Delivery\",\"queue\":\"a\\\"b\"}",
        "{\"type\":\"Bounce\"}",
        "{\"type\":\"Delivery\",\"queue\":\"a\\\"b\"}",
        "{\"type\":null}",
    };
    const tw_batch *batch = tw_test_batch(4, records);

    tw_test(tw_init(TW_TEXT("null")));
    const char *types = "{\"batch\":\"test:segment:1\",\"records\":4,\"types\":{\"Bounce\":1,\"Delivery\":2}}";
    tw_test(tw_test_is(summary_of(batch, 4), types));

    tw_test(tw_init(TW_TEXT("{\"field\":\"/queue\"}")));
    const char *queues = "{\"batch\":\"test:segment:1\",\"records\":4,\"types\":{\"a\\\"b\":2}}";
    tw_test(tw_test_is(summary_of(batch, 4), queues));

    tw_test(!tw_init(TW_TEXT("{\"field\":7}")));
    return 0;
}
