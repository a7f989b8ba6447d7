#include "testing.h"

int main(void) {
    const char *records[] = { "{\"type\":\"Delivery\"}", "{\"type\":\"Bounce\"}", "{\"type\":\"Delivery\"}", "{}" };
    tw_test(tw_init(TW_TEXT("null")));
    tw_answer answer = tw_process(tw_test_batch(4, records), 4);
    tw_test(answer.kind == TW_EMIT && answer.count == 1);
    tw_test(tw_test_is(answer.records[0], "{\"counts\":{\"Bounce\":1,\"Delivery\":2,\"none\":1},\"type\":\"summary\"}"));

    tw_test(!tw_init(TW_TEXT("{\"name\":7}")));
    return 0;
}
