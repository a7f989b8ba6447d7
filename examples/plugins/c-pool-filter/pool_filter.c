/* A filter that keeps the records whose `egress_pool` is the one in its configuration. */
#include "tailweir.h"

const tw_description tw_plugin = {
    .name = "c-pool-filter",
    .version = "0.1.0",
    .config_schema =
        "{\"type\":\"object\",\"properties\":{\"pool\":{\"type\":\"string\","
        "\"description\":\"The egress pool whose records are kept.\"}},"
        "\"required\":[\"pool\"],\"additionalProperties\":false}",
};

static tw_text pool;

bool tw_init(tw_text config) {
    pool = tw_json_string(tw_json_find(config, "/pool"));
    return pool.bytes != NULL || tw_fail(TW_TEXT("the configuration needs `pool`, a string"));
}

bool tw_keep(const tw_batch *batch, size_t count, bool *keep) {
    const tw_text *pools = tw_strings(batch, "/egress_pool");
    for (size_t i = 0; i < count; i++) keep[i] = tw_equal(pools[i], pool);
    return true;
}
