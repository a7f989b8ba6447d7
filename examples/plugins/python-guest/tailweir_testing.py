"""Batches, state and metrics without a host, for tests of plug-ins: `batch_of('{"type":"Delivery"}')` is a batch, and what
`tailweir_state` and `tailweir_metrics` are told is kept in memory.
"""

import json
import re
from types import SimpleNamespace
from typing import Any, NamedTuple, Optional

from tailweir import Batch


def batch_of(*texts: str) -> Batch:
    """A batch of these JSON texts."""
    return Batch(_Records(texts))


def reset() -> None:
    """Empties state, and what metrics have recorded: all tests of a process share them, so it belongs in `setUp`."""
    state.kept.clear()
    for series in metrics.series:
        series.value = None


def recorded(name: str, /, **labels: object) -> Any:
    """What a metric has recorded: the sum of what was added, what was set last, or the list of what was observed; `None` if
    nothing was. The labels are those of `labelled`.
    """
    key = metrics.key(name, [_Metrics.Label(name, str(value)) for name, value in labels.items()])
    return next((series.value for series in metrics.series if series.key == key), None)


class _Records:
    """What the host offers for a batch, over texts that a test has made up."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts
        self._values = [json.loads(text) for text in texts]

    def id(self) -> str:
        return f"test:segment:1:{len(self._texts)}"

    def len(self) -> int:
        return len(self._texts)

    def json(self, index: int) -> str:
        if not 0 <= index < len(self._texts):
            raise IndexError(f"record {index} of a batch of {len(self._texts)}")
        return self._texts[index]

    def position(self, index: int) -> Any:
        self.json(index)
        offset = sum(len(text.encode()) + 1 for text in self._texts[:index])
        return SimpleNamespace(segment="segment", line=index + 1, offset=offset)

    def text(self) -> Any:
        joined, ends = b"", []
        for text in self._texts:
            joined += text.encode()
            ends.append(len(joined))
        return SimpleNamespace(bytes=joined, ends=ends)

    def strings(self, pointer: str) -> list[Optional[str]]:
        return self._column(pointer, str)

    def integers(self, pointer: str) -> list[Optional[int]]:
        return self._column(pointer, int)

    def numbers(self, pointer: str) -> list[Optional[float]]:
        return [None if number is None else float(number) for number in self._column(pointer, (int, float))]

    def booleans(self, pointer: str) -> list[Optional[bool]]:
        return self._column(pointer, bool)

    def values(self, pointer: str) -> list[Optional[str]]:
        return [None if value is None else json.dumps(value) for value in self._find(pointer)]

    def _column(self, pointer: str, of: Any) -> list[Any]:
        # A boolean is an int to Python, and nothing of the kind in JSON.
        fits = lambda value: isinstance(value, of) and (of is bool or not isinstance(value, bool))
        return [value if fits(value) else None for value in self._find(pointer)]

    def _find(self, pointer: str) -> list[Any]:
        if not re.fullmatch(r"(/([^~]|~[01])*)?", pointer):
            raise ValueError(f"`{pointer}` is no JSON pointer (RFC 6901)")
        tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]
        return [_look_up(value, tokens) for value in self._values]


def _look_up(value: Any, tokens: list[str]) -> Any:
    for token in tokens:
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9][0-9]*", token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
    return value


class Err(Exception):
    """What is raised where the host answers with an error."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


class Error_KeyBytes(SimpleNamespace):
    """A key is too long."""


class Error_ValueBytes(SimpleNamespace):
    """A value is too long."""


class _State:
    """The host's state, with the limits of a key and a value that it has if nobody changes them."""

    KEY_BYTES, VALUE_BYTES = 512, 1 << 20

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, key: str) -> Optional[bytes]:
        return self.kept.get(key)

    def set(self, key: str, value: bytes) -> None:
        if len(key.encode()) > self.KEY_BYTES:
            raise Err(Error_KeyBytes(value=self.KEY_BYTES))
        if len(value) > self.VALUE_BYTES:
            raise Err(Error_ValueBytes(value=self.VALUE_BYTES))
        self.kept[key] = value

    def delete(self, key: str) -> None:
        self.kept.pop(key, None)

    def list(self, prefix: str, after: Optional[str], limit: int) -> Any:
        # Strings are ordered by code points here, which is the order of their UTF-8.
        keys = sorted(key for key in self.kept if key.startswith(prefix) and (after is None or key > after))
        return SimpleNamespace(keys=keys[:limit], more=len(keys) > limit)


class _Metrics:
    """The host's metrics. The number of a series is its place in `series`, counted from 1."""

    class Label(NamedTuple):
        name: str
        value: str

    def __init__(self) -> None:
        self.series: list[Any] = []

    def key(self, name: str, labels: list[Label]) -> Any:
        return name, sorted(labels)

    def counter(self, name: str, help: str, labels: list[Label]) -> int:
        return self._register("counter", name, labels)

    def gauge(self, name: str, help: str, labels: list[Label]) -> int:
        return self._register("gauge", name, labels)

    def histogram(self, name: str, help: str, labels: list[Label], bounds: list[float]) -> int:
        return self._register("histogram", name, labels)

    def _register(self, kind: str, name: str, labels: list[Label]) -> int:
        key = self.key(name, labels)
        for number, series in enumerate(self.series, 1):
            if series.key == key:
                if series.kind != kind:
                    raise ValueError(f"`{name}` is a {series.kind} already")
                return number
        self.series.append(SimpleNamespace(key=key, kind=kind, value=None))
        return len(self.series)

    def add(self, counter: int, amount: int) -> None:
        if amount < 0:
            raise ValueError(f"{amount} cannot be added to a counter, which only grows")
        series = self.series[counter - 1]
        series.value = (series.value or 0) + amount

    def set(self, gauge: int, value: float) -> None:
        self.series[gauge - 1].value = value

    def observe(self, histogram: int, values: list[float]) -> None:
        series = self.series[histogram - 1]
        series.value = (series.value or []) + values


state = _State()
metrics = _Metrics()
