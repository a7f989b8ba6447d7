"""Figures of a plug-in's own, for whoever watches over it: counters, gauges and histograms. Filters and processors may have them.

They count what was done, repetitions included, and begin at zero when the process starts: what must be exact belongs in state. One
call per batch and series is enough. What exceeds a limit or cannot be a metric is not recorded; the host counts it, and logs why
once.

Metrics are made once, outside of functions: `SENT = Counter("sent_total", "Records sent")`. The host is told at their first use. A
plug-in that imports this module is built with a world of `worlds.wit`. In unit tests `tailweir_testing.recorded` tells what was
recorded.
"""

from typing import Iterable, Optional, Sequence

from tailweir import _shown, _utf8, _whole

try:
    from wit_world.imports import metrics as _host
except ModuleNotFoundError:  # no host: a unit test
    from tailweir_testing import metrics as _host
except ImportError as error:
    raise ImportError("the plug-in's world has no metrics; build it with one of `worlds.wit`") from error


class _Metric:
    """What all metrics have in common. Names are of letters, digits and `_`; `help` says in a few words what it is about."""

    def __init__(self, name: str, help: str) -> None:
        for what, given in [("name", name), ("help", help)]:
            if not isinstance(given, str):
                raise TypeError(f"the {what} of a metric must be a string, not {_shown(given)}")
        self._name, self._help = name, help
        self._number: Optional[int] = None

    def labelled(self, **labels: object):
        """The metric of the same name that has these labels. A value is one of a few: never an id."""
        one = object.__new__(type(self))
        one.__dict__.update(self.__dict__)
        one._number = self._register([_host.Label(name, _utf8(str(value))) for name, value in labels.items()])
        return one

    def _series(self) -> int:
        if self._number is None:
            self._number = self._register([])
        return self._number


class Counter(_Metric):
    """Only grows. Its name ends in `_total` by custom."""

    def add(self, amount: int) -> None:
        """Adds an integer, which is not below 0."""
        _whole(amount, f"what is added to the counter `{self._name}`, which only grows,", 64)
        _host.add(self._series(), amount)

    def _register(self, labels: list) -> int:
        return _host.counter(self._name, self._help, labels)


class Gauge(_Metric):
    """Has the value that it was given last."""

    def set(self, value: float) -> None:
        """Sets it to a finite number."""
        _host.set(self._series(), _number(value, f"the value of the gauge `{self._name}`"))

    def _register(self, labels: list) -> int:
        return _host.gauge(self._name, self._help, labels)


class Histogram(_Metric):
    """Counts values by how large they are."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        """`bounds` are the largest values of its buckets, in order; a bucket for what is larger comes of itself."""
        super().__init__(name, help)
        self._bounds = _numbers(bounds, f"the bounds of the histogram `{name}`")

    def observe(self, values: Iterable[float]) -> None:
        """Counts these values, all of which must be finite, or none is counted."""
        _host.observe(self._series(), _numbers(values, f"what the histogram `{self._name}` counts"))

    def _register(self, labels: list) -> int:
        return _host.histogram(self._name, self._help, labels, self._bounds)


def _number(value: float, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} must be a number, not {_shown(value)}") from None


def _numbers(values: Iterable[float], what: str) -> list[float]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} must be a list of numbers, not {_shown(values)}")
    values = list(values)
    try:
        return [*map(float, values)]
    except (TypeError, ValueError, OverflowError):
        return [_number(value, what) for value in values]
