#include "testing.h"

int main(void) {
    tw_test(!tw_init(TW_TEXT("null")));
    tw_test(!tw_init(TW_TEXT("{\"pool\":7}")));
    tw_test(tw_init(TW_TEXT("{ \"pool\": \"pool-1\" }")));

    const char *records[] = {
        "{\"type\":\"Delivery\",\"egress_pool\":\"pool-1\"}",
        "{\"type\":\"Delivery\",\"egress_pool\":\"pool-2\"}",
        "{\"type\":\"Reception\",\"egress_pool\":null}",
        "{\"type\":\"Reception\"}",
        "{\"egress_pool\":\"pool-\\u0031\"}",
    };
    bool keep[5] = { false };
    tw_test(tw_keep(tw_test_batch(5, records), 5, keep));
    tw_test(keep[0] && !keep[1] && !keep[2] && !keep[3] && keep[4]);
    return 0;
}
