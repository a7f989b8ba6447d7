"""What a tailweir plug-in written in Python uses: the batch, the answers, the log, and `filter` and `processor`, which make
a plug-in of a function.

On a machine without a host, where unit tests run, `tailweir_testing` makes batches, and the log goes to stderr.
"""

import inspect
import json
import os
import sys
import traceback
from collections.abc import Mapping
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
            _log.write(_log.Level[level.upper()], _utf8(str(message)))

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
        # The one mistake that is likely; to look for others costs a tenth of the call. What has no order is an error, too.
        if index < 0:
            _whole(index, "the index of a record", 32)
        return self._host.json(index)

    def record(self, index: int) -> Any:
        """The record at `index` as a value."""
        return json.loads(self.json(index))

    def position(self, index: int) -> Position:
        """Where the record at `index` is."""
        _whole(index, "the index of a record", 32)
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
        return self._host.strings(_pointer(pointer))

    def integers(self, pointer: str) -> list[Optional[int]]:
        """A column of integers, exact. A number with a fraction or an exponent is none."""
        return self._host.integers(_pointer(pointer))

    def numbers(self, pointer: str) -> list[Optional[float]]:
        """A column of numbers."""
        return self._host.numbers(_pointer(pointer))

    def booleans(self, pointer: str) -> list[Optional[bool]]:
        """A column of booleans."""
        return self._host.booleans(_pointer(pointer))

    def values(self, pointer: str) -> list[Any]:
        """A column of values of any type."""
        return [None if text is None else json.loads(text) for text in self._host.values(_pointer(pointer))]


def _pointer(pointer: str) -> str:
    if not isinstance(pointer, str):
        raise TypeError(f"a JSON pointer must be a string such as \"/type\", not {_shown(pointer)}")
    return _utf8(pointer)


class Failure(Exception):
    """What a processor raises where a batch cannot be dealt with, or not all of it: one of the classes below."""


class Retry(Failure):
    """The same batch is to come again, with the same id."""

    def __init__(self, reason: str, *, after_ms: Optional[int] = None) -> None:
        """`after_ms`: not before so many milliseconds; without it the consumer's back-off counts, which grows."""
        if after_ms is not None:
            _whole(after_ms, "`after_ms` of Retry", 64)
        super().__init__(reason)
        self.reason, self.after_ms = str(reason), after_ms


class Reject(Failure):
    """The records at these indices, counted from 0, go to quarantine; the others are dealt with."""

    def __init__(self, indices: Iterable[int], reason: str) -> None:
        if isinstance(indices, (str, bytes)) or not isinstance(indices, Iterable):
            given = type(indices).__name__
            raise TypeError(f"Reject takes a list of indices, not {given}: `Reject([index], reason)`")
        super().__init__(reason)
        self.indices, self.reason = list(indices), str(reason)
        for index in self.indices:
            # One boolean per record, as a filter has them, would be taken for the indices 0 and 1.
            if isinstance(index, bool):
                raise TypeError(f"an index of Reject must be an integer, not {index}")
            _whole(index, "an index of Reject", 32)


class Stop(Failure):
    """The consumer stops, and the batch comes again at its next start."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _whole(number: Any, what: str, bits: int) -> None:
    """Refuses what the interface cannot take as an integer without a sign."""
    if not isinstance(number, int):
        raise TypeError(f"{what} must be an integer, not {_shown(number)}")
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{what} must be from 0 to {(1 << bits) - 1}, not {_shown(number)}")


def _shown(value: Any) -> str:
    """A value in an error: short, whatever it is."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if abs(value) < 1 << 100 else "so large an integer"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    return f"a value of type {type(value).__name__}"


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
    _check_function("keep", keep, ["batch", "config"])
    author = _Author()
    lifecycle, configured = _lifecycle(name, version, config_schema, configure, author)

    class Filter:
        def evaluate(self, batch: Any) -> Any:
            from wit_world.exports import filter as wit

            try:
                return _verdict(keep(Batch(batch), configured()), wit)
            except Exception as error:
                raise Err(author.in_words(error, keep)) from error

    return lifecycle, Filter


def processor(
    handle: Handle, *, name: str, version: str, config_schema: Any = None, configure: Optional[Configure] = None
) -> tuple[type, type]:
    """Makes a processor. Its module keeps what comes back: `Lifecycle, Process = tailweir.processor(handle, …)`.

    `handle(batch, config)` returns nothing, or a list of the records that go to the consumer's sink, each a JSON text or a
    value that is made one, and not `None`; a generator will do, too. It raises `Retry`, `Reject` or `Stop` where a batch
    cannot be dealt with. Any other exception ends the instance, as a panic does in other languages: the batch is tried again
    on a fresh one, and the record that it fails on is found and quarantined. The other arguments are those of `filter`.
    """
    _check_function("handle", handle, ["batch", "config"])
    author = _Author()
    lifecycle, configured = _lifecycle(name, version, config_schema, configure, author)

    class Process:
        def process(self, batch: Any) -> Any:
            from wit_world.exports import process as wit

            try:
                return _outcome(handle(Batch(batch), configured()), wit)
            except Failure as failure:
                raise Err(_failure(failure, wit)) from failure
            except Exception as error:
                log.error(author.in_words(error, handle))
                raise

    return lifecycle, Process


def _verdict(kept: Any, wit: Any) -> Any:
    if isinstance(kept, bool):
        return wit.Verdict_All() if kept else wit.Verdict_None_()
    _check_several(kept, "keep", "True, False, or a list of booleans, one per record")
    if not isinstance(kept, list):
        kept = list(kept)
    if not _are_booleans(kept):
        index, entry = next(entry for entry in enumerate(kept) if not _are_booleans([entry[1]]))
        raise TypeError(f"keep returned {_shown(entry)} at index {index}; each entry must be True or False")
    return wit.Verdict_Keep(kept)


def _are_booleans(entries: list[Any]) -> bool:
    """Whether all are `True` or `False`, or 1 or 0. The host's side takes anything for one of them: a string keeps its record.

    Bytes are made of integers only, and that costs a quarter of what looking at types does.
    """
    try:
        return not bytes(entries).translate(None, b"\0\1")
    except (TypeError, ValueError, OverflowError):
        return False


def _outcome(emitted: Any, wit: Any) -> Any:
    if emitted is None:
        return wit.Outcome_Done()
    _check_several(emitted, "handle", "None, or a list of records")
    return wit.Outcome_Emit([_text(record, index) for index, record in enumerate(emitted)])


def _check_several(answer: Any, function: str, expected: str) -> None:
    """Refuses what is one thing. Some such can be iterated: a dict has keys then, and a string characters."""
    if isinstance(answer, (str, bytes, bytearray, Mapping)) or not isinstance(answer, Iterable):
        given = "None" if answer is None else type(answer).__name__
        raise TypeError(f"{function} returned {given}; it must return {expected}")


def _failure(failure: Failure, wit: Any) -> Any:
    if isinstance(failure, Retry):
        return wit.Failure_Retry(wit.Retry(failure.after_ms, _utf8(failure.reason)))
    if isinstance(failure, Reject):
        return wit.Failure_Reject(wit.Reject(failure.indices, _utf8(failure.reason)))
    return wit.Failure_Stop(_utf8(str(failure)))


# What is no number to JSON, such as NaN, is an error here, where it can be told which record has it.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _text(record: Any, index: int) -> str:
    if isinstance(record, str):
        return _utf8(record)
    if record is None:
        raise TypeError(f"handle returned None as the record at index {index}; a record that is null is the text \"null\"")
    try:
        return _utf8(_encode(record))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"handle returned a record at index {index} that cannot be made JSON: {error}") from error


def _utf8(text: str) -> str:
    """A text that the host can take. Half a surrogate pair, which JSON can have as `\\ud83d`, is not to be had in UTF-8; it
    becomes that escape again.
    """
    if text.isascii():
        return text
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()


def _lifecycle(
    name: str, version: str, config_schema: Any, configure: Optional[Configure], author: "_Author"
) -> tuple[type, Callable[[], Any]]:
    if configure is not None:
        _check_function("configure", configure, ["config"])
    for what, given in [("name", name), ("version", version)]:
        if not isinstance(given, str):
            raise TypeError(f"`{what}` must be a string, not {_shown(given)}")
    schema = "" if config_schema is None else json.dumps(config_schema)
    config: list[Any] = [None]

    class Lifecycle:
        def describe(self) -> Any:
            from wit_world.exports.lifecycle import Description

            return Description(name, version, [], schema)

        def init(self, text: str) -> None:
            try:
                given = json.loads(text)
                config[0] = given if configure is None else configure(given)
            except (ValueError, Failure) as error:
                raise Err(_utf8(str(error))) from error
            except Exception as error:
                raise Err(author.in_words(error, configure)) from error

    return Lifecycle, lambda: config[0]


def _check_function(what: str, function: Any, parameters: list[str]) -> None:
    """Has building fail where the first batch would."""
    if not callable(function):
        raise TypeError(f"`{what}` must be a function, not {_shown(function)}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Some that are not written in Python do not tell.
    try:
        signature.bind(*parameters)
    except TypeError:
        takes = f"`def {what}({', '.join(parameters)})`"
        raise TypeError(f"`{what}` must take what it is given, as in {takes}; it is `def {what}{signature}`") from None


class _Author:
    """Where the files of whoever wrote the plug-in are: an error is to point there."""

    def __init__(self) -> None:
        """Called by a function that the plug-in's main file calls."""
        main = sys._getframe(2).f_code.co_filename
        self._folder = os.path.join(os.path.dirname(main), "")

    def in_words(self, error: Exception, function: Any) -> str:
        """An exception with the place it came from: `KeyError: 'pool' (app.py, line 7)`. `function` is what was called."""
        said = f"{type(error).__name__}: {error}{self._place(error, function)}"
        if isinstance(error, ModuleNotFoundError):
            said += "; import it at the top of the file, so that it is built in"
        return _utf8(said)

    def _place(self, error: Exception, function: Any) -> str:
        """The innermost place in the author's files. If there is none, it is about what the function has returned."""
        passed = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        places = [place for place in passed if self._is_own(place[0])]
        if not places and (code := getattr(function, "__code__", None)):
            places = [(code.co_filename, code.co_firstlineno)]
        if not (places or passed):
            return ""
        file, line = (places or passed)[-1]
        return f" ({file.removeprefix(self._folder)}, line {line})"

    def _is_own(self, file: str) -> bool:
        return file.startswith(self._folder) and file not in _HELPERS


_HELPERS = {
    os.path.join(os.path.dirname(__file__), name)
    for name in ["tailweir.py", "tailweir_metrics.py", "tailweir_state.py", "tailweir_testing.py"]
}
