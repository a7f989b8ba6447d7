"""What a tailweir plug-in written in Python uses: the batch, the answers, the log, and `filter` and `processor`, which make
a plug-in of a function.

On a machine without a host, where unit tests run, `tailweir_testing` makes batches, and the log goes to stderr.
"""

import json
import sys
import traceback
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Optional, Sequence, Union

try:
    from componentize_py_types import Err
    from wit_world.imports import log as _log
except ModuleNotFoundError:  # no host: a unit test
    _log = None


class log:
    """The host's log, by level: `log.info("…")`."""

    @staticmethod
    def _write(level: str, message: object) -> None:
        if _log is None:
            print(f"{level}: {message}", file=sys.stderr)
        else:
            _log.write(_log.Level[level.upper()], str(message))

    @staticmethod
    def trace(message: object) -> None:
        log._write("trace", message)

    @staticmethod
    def debug(message: object) -> None:
        log._write("debug", message)

    @staticmethod
    def info(message: object) -> None:
        log._write("info", message)

    @staticmethod
    def warn(message: object) -> None:
        log._write("warn", message)

    @staticmethod
    def error(message: object) -> None:
        log._write("error", message)


@dataclass(frozen=True)
class Position:
    """Where a record is."""

    segment: str
    """The bare file name of its segment."""
    line: int
    """The number of its line, counted from 1."""
    offset: int
    """Bytes before it in the segment's decompressed text."""


class Batch:
    """Consecutive log records, which the host keeps: a plug-in asks for what it needs of them, from cheap to expensive one
    of the columns, `texts()`, `records()`. To be used during the call that it is passed to, and no longer.

    A column has one entry per record, in order: the field that a JSON pointer (RFC 6901) such as `/response/code` names. It
    is `None` where a record does not have the field, where it is null, and where it is of another type. A pointer that is
    none ends the plug-in.
    """

    __slots__ = ("_host",)

    def __init__(self, host: Any) -> None:
        """Takes the host's batch, or one of `tailweir_testing`."""
        self._host = host

    @property
    def id(self) -> str:
        """What identifies the batch: the same records come with the same id again, other ones never do."""
        return self._host.id()

    def __len__(self) -> int:
        """How many records there are."""
        return self._host.len()

    def json(self, index: int) -> str:
        """The JSON text of the record at `index`, as it stands in its segment. An index beyond the last ends the plug-in."""
        return self._host.json(index)

    def record(self, index: int) -> Any:
        """The record at `index` as a value."""
        return json.loads(self.json(index))

    def position(self, index: int) -> Position:
        """Where the record at `index` is."""
        position = self._host.position(index)
        return Position(position.segment, position.line, position.offset)

    def texts(self) -> list[str]:
        """The JSON texts of all records, fetched at once."""
        joined = self._host.text()
        starts = [0, *joined.ends[:-1]]
        return [joined.bytes[start:end].decode() for start, end in zip(starts, joined.ends)]

    def records(self) -> list[Any]:
        """All records as values."""
        return [json.loads(text) for text in self.texts()]

    def strings(self, pointer: str) -> list[Optional[str]]:
        """A column of strings."""
        return self._host.strings(pointer)

    def integers(self, pointer: str) -> list[Optional[int]]:
        """A column of integers, exact. A number with a fraction or an exponent is none."""
        return self._host.integers(pointer)

    def numbers(self, pointer: str) -> list[Optional[float]]:
        """A column of numbers."""
        return self._host.numbers(pointer)

    def booleans(self, pointer: str) -> list[Optional[bool]]:
        """A column of booleans."""
        return self._host.booleans(pointer)

    def values(self, pointer: str) -> list[Any]:
        """A column of values of any type."""
        return [None if text is None else json.loads(text) for text in self._host.values(pointer)]


class Failure(Exception):
    """What a processor raises where a batch cannot be dealt with, or not all of it: one of the classes below."""


class Retry(Failure):
    """The same batch is to come again, with the same id."""

    def __init__(self, reason: str, *, after_ms: Optional[int] = None) -> None:
        """`after_ms`: not before so many milliseconds; without it the consumer's back-off counts, which grows."""
        super().__init__(reason)
        self.reason, self.after_ms = reason, after_ms


class Reject(Failure):
    """The records at these indices, counted from 0, go to quarantine; the others are dealt with."""

    def __init__(self, indices: Iterable[int], reason: str) -> None:
        super().__init__(reason)
        self.indices, self.reason = list(indices), reason


class Stop(Failure):
    """The consumer stops, and the batch comes again at its next start."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Configure = Callable[[Any], Any]
Keep = Callable[[Batch, Any], Union[bool, Sequence[bool]]]
Handle = Callable[[Batch, Any], Optional[Iterable[Any]]]


def filter(
    keep: Keep, *, name: str, version: str, config_schema: Any = None, configure: Optional[Configure] = None
) -> tuple[type, type]:
    """Makes a filter. Its module keeps what comes back: `Lifecycle, Filter = tailweir.filter(keep, …)`.

    * `keep(batch, config)` returns one boolean per record, or `True` or `False` for all. What it raises is the plug-in's
      error.
    * `name`, `version`: what the plug-in is called in logs, metrics and errors.
    * `config_schema`: JSON schema of the configuration; the host holds configurations to it.
    * `configure(config)`: gets the configuration, `None` if there is none, and returns what `keep` is given. What it raises
      is shown to the operator, and the plug-in is not used.
    """
    lifecycle, configured = _lifecycle(name, version, config_schema, configure)

    class Filter:
        def evaluate(self, batch: Any) -> Any:
            from wit_world.exports import filter as wit

            try:
                kept = keep(Batch(batch), configured())
                if isinstance(kept, bool):
                    return wit.Verdict_All() if kept else wit.Verdict_None_()
                return wit.Verdict_Keep(list(kept))
            except Exception as error:
                raise Err(_in_words(error)) from error

    return lifecycle, Filter


def processor(
    handle: Handle, *, name: str, version: str, config_schema: Any = None, configure: Optional[Configure] = None
) -> tuple[type, type]:
    """Makes a processor. Its module keeps what comes back: `Lifecycle, Process = tailweir.processor(handle, …)`.

    `handle(batch, config)` returns nothing, or the records that go to the consumer's sink, each a JSON text or a value that
    is made one. It raises `Retry`, `Reject` or `Stop` where a batch cannot be dealt with. Any other exception ends the
    instance, as a panic does in other languages: the batch is tried again on a fresh one, and the record that it fails on
    is found and quarantined. The other arguments are those of `filter`.
    """
    lifecycle, configured = _lifecycle(name, version, config_schema, configure)

    class Process:
        def process(self, batch: Any) -> Any:
            from wit_world.exports import process as wit

            try:
                emitted = handle(Batch(batch), configured())
                if emitted is None:
                    return wit.Outcome_Done()
                return wit.Outcome_Emit([_text(record) for record in emitted])
            except Failure as failure:
                raise Err(_failure(failure, wit)) from failure
            except Exception as error:
                log.error(_in_words(error))
                raise

    return lifecycle, Process


def _failure(failure: Failure, wit: Any) -> Any:
    if isinstance(failure, Retry):
        return wit.Failure_Retry(wit.Retry(failure.after_ms, failure.reason))
    if isinstance(failure, Reject):
        return wit.Failure_Reject(wit.Reject(failure.indices, failure.reason))
    return wit.Failure_Stop(str(failure))


def _text(record: Any) -> str:
    return record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _lifecycle(
    name: str, version: str, config_schema: Any, configure: Optional[Configure]
) -> tuple[type, Callable[[], Any]]:
    config: list[Any] = [None]

    class Lifecycle:
        def describe(self) -> Any:
            from wit_world.exports.lifecycle import Description

            return Description(name, version, [], "" if config_schema is None else json.dumps(config_schema))

        def init(self, text: str) -> None:
            try:
                given = json.loads(text)
                config[0] = given if configure is None else configure(given)
            except (ValueError, Failure) as error:
                raise Err(str(error)) from error
            except Exception as error:
                raise Err(_in_words(error)) from error

    return Lifecycle, lambda: config[0]


def _in_words(error: Exception) -> str:
    """An exception with the place it came from: `KeyError: 'pool' (app.py, line 7)`."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
