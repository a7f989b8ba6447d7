"""What a processor remembers from one batch to the next, also over restarts: keys with values, in a bucket of its own for each
consumer and each name of a plug-in.

What `handle` changes becomes durable in one step with the batch's checkpoint, and is undone if the batch comes again; after
`Reject` it stays. Variables are not undone, and an instance may be replaced between two calls: what must be exact is read from
here in each call. In `configure` state can be read and not changed.

A plug-in that imports this module is built with `--world state-processor-plugin`, or one of `worlds.wit` if it has metrics, too.
Only such a one has state: any other may run without a checkpoint, and several of it at once. In unit tests state is in memory:
see `tailweir_testing`.
"""

from typing import Iterator, Optional, Union

import tailweir

try:
    from componentize_py_types import Err
    from wit_world.imports import state as _host
except ModuleNotFoundError:  # no host: a unit test
    from tailweir_testing import Err, state as _host
except ImportError as error:
    raise ImportError("the plug-in's world has no state; build it with `--world state-processor-plugin`") from error

_PAGE = 1000
"""As many keys as the host gives at once."""

_REASONS = {
    "Error_KeyBytes": "a key of state has at most {} bytes (`state_key_bytes`)",
    "Error_ValueBytes": "a value of state has at most {} bytes (`state_value_bytes`)",
    "Error_Keys": "the state has at most {} keys (`state_keys`)",
    "Error_Bytes": "the state has at most {} bytes (`state_bytes`)",
    "Error_Changes": "a batch changes at most {} keys of state (`state_changes`)",
    "Error_NotNow": "state can be changed only while a batch is processed",
}


class StateError(tailweir.Stop):
    """Raised where a limit does not allow a change, and nothing was changed. A processor that does not catch it stops its
    consumer with the reason: only the operator can raise a limit.
    """


def get(key: str) -> Optional[bytes]:
    """The value of a key, `None` if it has none."""
    return _host.get(_text(key, "a key"))


def get_text(key: str) -> Optional[str]:
    """The value of a key as a string, `None` if it has none. Raises a UnicodeDecodeError if it is not UTF-8."""
    value = get(key)
    return None if value is None else value.decode()


def set(key: str, value: Union[bytes, str]) -> None:
    """Gives a key a value, in place of any that it has; a string is kept as UTF-8. Raises a StateError."""
    key = _text(key, "a key")
    if not isinstance(value, (bytes, str)):
        raise TypeError(f"the value of `{key}` must be bytes or a string, not {tailweir._shown(value)}")
    try:
        _host.set(key, value.encode() if isinstance(value, str) else value)
    except Err as error:
        raise _in_words(error) from None


def delete(key: str) -> None:
    """Takes a key and its value out; one that is not there stays so. Raises a StateError."""
    try:
        _host.delete(_text(key, "a key"))
    except Err as error:
        raise _in_words(error) from None


def list(prefix: str = "") -> Iterator[str]:
    """The keys that begin with `prefix`, in the order of their UTF-8. They are fetched as they are asked for."""
    prefix = _text(prefix, "a prefix of keys")
    last, more = None, True
    while more:
        page = _host.list(prefix, last, _PAGE)
        yield from page.keys
        last = page.keys[-1] if page.keys else None
        more = page.more and last is not None


def _text(given: str, what: str) -> str:
    """Refuses what the host cannot take: what has half a surrogate pair is no UTF-8, and a UnicodeEncodeError."""
    if not isinstance(given, str):
        raise TypeError(f"{what} of state must be a string, not {tailweir._shown(given)}")
    if not given.isascii():
        given.encode()
    return given


def _in_words(error: Err) -> StateError:
    reason = _REASONS[type(error.value).__name__]
    return StateError(reason.format(getattr(error.value, "value", None)))
