"""A processor: counts the records of each batch by their `type`, and emits one record with the counts."""

from collections import Counter

import tailweir

CONFIG_SCHEMA = {
    "type": ["object", "null"],
    "properties": {
        "name": {"type": "string", "default": "summary", "description": "The `type` of the records that are emitted."}
    },
    "additionalProperties": False,
}


def configure(config):
    name = (config or {}).get("name", "summary")
    if not isinstance(name, str):
        raise ValueError("`name` in the configuration must be a string")
    return name


def handle(batch, name):
    """Is called once per batch. What it returns is written to the consumer's sink, and then the batch is done; it may also ask
    for the batch again, or have records put in quarantine: see `tailweir.Retry` and `tailweir.Reject`. A batch can come more
    than once, with the same id.
    """
    counts = Counter("none" if kind is None else kind for kind in batch.strings("/type"))
    return [{"counts": dict(sorted(counts.items())), "type": name}]


Lifecycle, Process = tailweir.processor(
    handle, name="{{name}}", version="0.1.0", config_schema=CONFIG_SCHEMA, configure=configure
)
