"""Batches without a host, for tests of plug-ins: `batch_of('{"type":"Delivery"}')`."""

import json
import re
from types import SimpleNamespace
from typing import Any, Optional

from tailweir import Batch


def batch_of(*texts: str) -> Batch:
    """A batch of these JSON texts."""
    return Batch(_Records(texts))


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
