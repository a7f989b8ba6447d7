"""A filter that keeps the records whose `egress_pool` is the one in its configuration."""

import tailweir

CONFIG_SCHEMA = {
    "type": "object",
    "properties": {"pool": {"type": "string", "description": "The egress pool whose records are kept."}},
    "required": ["pool"],
    "additionalProperties": False,
}


def configure(config):
    if not isinstance(config, dict) or not isinstance(config.get("pool"), str):
        raise ValueError("the configuration needs `pool`, a string")
    return config


def keep(batch, config):
    pool = config["pool"]
    return [of == pool for of in batch.strings("/egress_pool")]


Lifecycle, Filter = tailweir.filter(
    keep, name="python-pool-filter", version="0.1.0", config_schema=CONFIG_SCHEMA, configure=configure
)
