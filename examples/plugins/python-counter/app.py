"""A processor that counts records by type, and emits after each batch what it has counted so far. The counts are in its state, so
they are exact: no record is counted twice, whatever crashes. What it has done since it was started, batches that came again
included, it tells in metrics.
"""

from collections import Counter

import tailweir
import tailweir_metrics as metrics
import tailweir_state as state

CONFIG_SCHEMA = {
    "type": ["object", "null"],
    "properties": {
        "field": {
            "type": "string",
            "default": "/type",
            "pattern": "^/([^~]|~[01])*$",
            "description": "JSON pointer to the text that records are counted by.",
        }
    },
    "additionalProperties": False,
}

COUNTED = metrics.Counter("counted_total", "Records counted, by type")
TYPES = metrics.Histogram("batch_types", "How many different types a batch had", [1, 2, 5, 10, 20, 50])

RECORDS = "records"
"""The key of the number of all records."""
BY = "by/"
"""What the keys of the other numbers begin with."""
MAX_TYPE = 200
"""Bytes of a type that count: a key of state has a limit."""


def configure(config):
    field = (config or {}).get("field", "/type")
    if not str(field).startswith("/"):
        raise ValueError('`field` in the configuration must be a JSON pointer such as "/type"')
    return field


def clip(kind):
    """What is left of a type: whole characters only."""
    return kind if len(kind) <= MAX_TYPE // 4 else kind.encode()[:MAX_TYPE].decode(errors="ignore")


def count(key):
    """The number under a key."""
    value = state.get(key)
    if value is None:
        return 0
    if not value.isdigit():
        raise tailweir.Stop(f"the state has no number under `{key}`: another program wrote it")
    return int(value)


def add(key, more):
    state.set(key, str(count(key) + more))


def handle(batch, field):
    counts = Counter(clip(kind) for kind in batch.strings(field) if kind is not None)
    add(RECORDS, len(batch))
    for kind, more in counts.items():
        add(BY + kind, more)
        COUNTED.labelled(type=kind).add(more)
    TYPES.observe([len(counts)])
    return [{"records": count(RECORDS), "by": {key[len(BY) :]: count(key) for key in state.list(BY)}}]


Lifecycle, Process = tailweir.processor(
    handle, name="python-counter", version="0.1.0", config_schema=CONFIG_SCHEMA, configure=configure
)
