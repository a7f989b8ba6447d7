"""Tests of the helper itself. What the host generates for a world is made up here."""

import sys
import unittest
from types import ModuleType, SimpleNamespace

import tailweir
import tailweir_metrics as metrics
import tailweir_state as state
from tailweir_testing import batch_of, recorded, reset


class Err(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value


def made_up(name, *classes):
    """A module with classes that show what they were made of."""
    module = ModuleType(name)
    for one in classes:
        setattr(module, one, lambda *arguments, one=one: (one, *arguments))
    sys.modules[name] = module
    return module


made_up("wit_world")
exports = made_up("wit_world.exports")
exports.filter = made_up("wit_world.exports.filter", "Verdict_All", "Verdict_None_", "Verdict_Keep")
exports.process = made_up(
    "wit_world.exports.process",
    *("Outcome_Done", "Outcome_Emit", "Retry", "Reject", "Failure_Retry", "Failure_Reject", "Failure_Stop"),
)
exports.lifecycle = made_up("wit_world.exports.lifecycle", "Description")
tailweir.Err = Err

HOST = SimpleNamespace(id=lambda: "x", len=lambda: 1)
WHO = {"name": "test", "version": "0.1.0"}


def raising(error):
    def handle(batch, config):
        raise error

    return handle


class Columns(unittest.TestCase):
    def test_they_have_one_entry_per_record(self):
        batch = batch_of('{"s":"Grüße","n":1.5,"b":true,"i":7}', '{"s":null,"n":"1","b":0,"i":7.5}', '{"v":[1]}')
        self.assertEqual(batch.strings("/s"), ["Grüße", None, None])
        self.assertEqual(batch.numbers("/n"), [1.5, None, None])
        self.assertEqual(batch.booleans("/b"), [True, None, None])
        self.assertEqual(batch.integers("/i"), [7, None, None])
        self.assertEqual(batch.integers("/b"), [None, 0, None])
        self.assertEqual(batch.values("/v"), [None, None, [1]])
        self.assertEqual(batch.values("/v/0"), [None, None, 1])
        self.assertRaisesRegex(ValueError, "no JSON pointer", lambda: batch.strings("s"))

    def test_records_are_there_as_texts_and_as_values(self):
        batch = batch_of('{"a":"ü"}', "[1, 2]")
        self.assertEqual(len(batch), 2)
        self.assertEqual(batch.texts(), ['{"a":"ü"}', "[1, 2]"])
        self.assertEqual(batch.records(), [{"a": "ü"}, [1, 2]])
        self.assertEqual(batch.record(1), [1, 2])
        self.assertEqual(batch.position(1), tailweir.Position("segment", 2, 11))


class Answers(unittest.TestCase):
    def verdict(self, keep):
        lifecycle, plugin = tailweir.filter(keep, **WHO)
        lifecycle().init("null")
        return plugin().evaluate(HOST)

    def outcome(self, handle):
        lifecycle, plugin = tailweir.processor(handle, **WHO)
        lifecycle().init("null")
        return plugin().process(HOST)

    def failure(self, error):
        with self.assertRaises(Err) as caught:
            self.outcome(raising(error))
        return caught.exception.value

    def test_a_filter_answers_with_a_verdict_or_with_a_reason(self):
        self.assertEqual(self.verdict(lambda batch, config: True), ("Verdict_All",))
        self.assertEqual(self.verdict(lambda batch, config: False), ("Verdict_None_",))
        self.assertEqual(self.verdict(lambda batch, config: (b for b in [True])), ("Verdict_Keep", [True]))
        with self.assertRaises(Err) as caught:
            self.verdict(raising(KeyError("pool")))
        self.assertRegex(caught.exception.value, r"KeyError: 'pool' \(.*test_tailweir.py, line \d+\)")

    def test_a_processor_answers_with_what_it_has_done(self):
        self.assertEqual(self.outcome(lambda batch, config: None), ("Outcome_Done",))
        emitted = self.outcome(lambda batch, config: ["{}", {"a": "ü"}])
        self.assertEqual(emitted, ("Outcome_Emit", ["{}", '{"a":"ü"}']))
        self.assertEqual(self.failure(tailweir.Retry("busy")), ("Failure_Retry", ("Retry", None, "busy")))
        self.assertEqual(self.failure(tailweir.Retry("busy", after_ms=5)), ("Failure_Retry", ("Retry", 5, "busy")))
        self.assertEqual(self.failure(tailweir.Reject([1], "bad")), ("Failure_Reject", ("Reject", [1], "bad")))
        self.assertEqual(self.failure(tailweir.Stop("no")), ("Failure_Stop", "no"))
        self.assertRaises(TypeError, lambda: self.outcome(raising(TypeError("a mistake"))))

    def test_a_configuration_is_made_by_the_plugin_and_refused_in_words(self):
        def configure(config):
            if config is None:
                raise ValueError("`pool` is missing")
            if config["pool"] == "":
                raise tailweir.Stop("`pool` is empty")
            return config["pool"].upper()

        lifecycle, plugin = tailweir.filter(
            lambda batch, config: config == "A", **WHO, config_schema={}, configure=configure
        )
        self.assertEqual(lifecycle().describe(), ("Description", "test", "0.1.0", [], "{}"))
        with self.assertRaises(Err) as caught:
            lifecycle().init("null")
        self.assertEqual(caught.exception.value, "`pool` is missing")
        with self.assertRaises(Err) as caught:
            lifecycle().init('{"pool":""}')
        self.assertEqual(caught.exception.value, "`pool` is empty")
        lifecycle().init('{"pool":"a"}')
        self.assertEqual(plugin().evaluate(HOST), ("Verdict_All",))

    def test_what_a_limit_does_not_allow_stops_a_processor_that_does_not_see_to_it(self):
        handle = lambda batch, config: state.set("k" * 513, "x")
        with self.assertRaises(Err) as caught:
            self.outcome(handle)
        reason = "a key of state has at most 512 bytes (`state_key_bytes`)"
        self.assertEqual(caught.exception.value, ("Failure_Stop", reason))


class State(unittest.TestCase):
    setUp = staticmethod(reset)

    def test_it_keeps_bytes_and_texts(self):
        self.assertEqual((state.get("a"), state.get_text("a")), (None, None))
        state.set("a", "Grüße")
        self.assertEqual((state.get("a"), state.get_text("a")), ("Grüße".encode(), "Grüße"))
        state.set("a", b"\0\xff")
        self.assertEqual(state.get("a"), b"\0\xff")
        self.assertRaises(UnicodeDecodeError, lambda: state.get_text("a"))
        state.set("a", "")
        self.assertEqual(state.get("a"), b"")
        state.delete("a")
        state.delete("a")
        self.assertEqual(state.get("a"), None)
        self.assertRaisesRegex(TypeError, "must be bytes or a string", lambda: state.set("a", 7))
        too_long = "a value of state has at most 1048576 bytes"
        self.assertRaisesRegex(state.StateError, too_long, lambda: state.set("a", bytes((1 << 20) + 1)))

    def test_all_keys_with_a_prefix_are_listed_in_the_order_of_their_bytes(self):
        keys = [f"by/{n:04}" for n in range(2500)]
        for key in [*reversed(keys), "by", "by0", "by/\U0001f600", "by/\uffee"]:
            state.set(key, "x")
        self.assertEqual([*state.list("by/")], [*keys, "by/\uffee", "by/\U0001f600"])
        self.assertEqual(len([*state.list()]), 2504)
        self.assertEqual([*state.list("c")], [])


class Metrics(unittest.TestCase):
    setUp = staticmethod(reset)

    def test_they_record_what_they_are_told(self):
        sent = metrics.Counter("sent_total", "Records sent")
        self.assertEqual(recorded("sent_total"), None)
        sent.add(2)
        sent.add(3)
        sent.labelled(status=200, pool="a").add(1)
        metrics.Counter("sent_total", "Records sent").labelled(pool="a", status="200").add(1)
        self.assertEqual(recorded("sent_total"), 5)
        self.assertEqual(recorded("sent_total", status=200, pool="a"), 2)
        waiting = metrics.Gauge("waiting", "Messages that wait")
        waiting.set(7)
        waiting.set(-0.5)
        self.assertEqual(recorded("waiting"), -0.5)
        sizes = metrics.Histogram("size_bytes", "Sizes", [1, 10])
        sizes.observe([0.5, 70])
        sizes.labelled(pool="a").observe([1])
        self.assertEqual((recorded("size_bytes"), recorded("size_bytes", pool="a")), ([0.5, 70.0], [1.0]))
        reset()
        sent.add(1)
        self.assertEqual(recorded("sent_total"), 1)
        self.assertRaisesRegex(ValueError, "is a counter already", lambda: metrics.Gauge("sent_total", "").set(1))
        self.assertRaisesRegex(ValueError, "only grows", lambda: sent.add(-1))


if __name__ == "__main__":
    unittest.main()
