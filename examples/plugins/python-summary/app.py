"""A processor that turns each batch into one record: how many records it has, and how many of each type."""

from collections import Counter

import tailweir

CONFIG_SCHEMA = {
    "type": ["object", "null"],
    "properties": {
        "field": {
            "type": "string",
            "default": "/type",
            "pattern": "^/([^~]|~[01])*$",
            "description": "The field whose values are counted, as a JSON pointer.",
        }
    },
    "additionalProperties": False,
}


def configure(config):
    field = (config or {}).get("field", "/type")
    if not str(field).startswith("/"):
        raise ValueError('`field` in the configuration must be a JSON pointer such as "/type"')
    return field


def handle(batch, field):
    counts = Counter(value for value in batch.strings(field) if value is not None)
    return [{"batch": batch.id, "records": len(batch), "types": dict(sorted(counts.items()))}]


Lifecycle, Process = tailweir.processor(
    handle, name="python-summary", version="0.1.0", config_schema=CONFIG_SCHEMA, configure=configure
)
