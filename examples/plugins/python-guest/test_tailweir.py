"""Tests of the helper itself. What the host generates for a world is made up here."""

import contextlib
import io
import json
import sys
import unittest
from collections import Counter
from types import ModuleType

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

HOST = batch_of("{}")._host
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
        for column in [batch.strings, batch.integers, batch.numbers, batch.booleans, batch.values]:
            self.assertRaisesRegex(TypeError, 'a string such as "/type", not 5', lambda: column(5))

    def test_records_are_there_as_texts_and_as_values(self):
        batch = batch_of('{"a":"ü"}', "[1, 2]")
        self.assertEqual(len(batch), 2)
        self.assertEqual(batch.texts(), ['{"a":"ü"}', "[1, 2]"])
        self.assertEqual(batch.records(), [{"a": "ü"}, [1, 2]])
        self.assertEqual(batch.record(1), [1, 2])
        self.assertEqual(batch.position(1), tailweir.Position("segment", 2, 11))
        for ask in [batch.json, batch.record, batch.position]:
            self.assertRaisesRegex(ValueError, "the index of a record must be from 0 to 4294967295, not -1", lambda: ask(-1))
            self.assertRaises(TypeError, lambda: ask("a"))


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

    def reason(self, keep):
        """Why a filter cannot be used."""
        with self.assertRaises(Err) as caught:
            self.verdict(keep)
        return caught.exception.value

    def crash(self, handle):
        """What a processor that ends with an exception has logged before."""
        log = io.StringIO()
        with contextlib.redirect_stderr(log), self.assertRaises(Exception):
            self.outcome(handle)
        return log.getvalue().removeprefix("error: ").rstrip()

    def test_what_is_no_verdict_is_refused(self):
        def forgotten(batch, config):
            [True]

        where = rf" \(test_tailweir.py, line {forgotten.__code__.co_firstlineno}\)$"
        must = "it must return True, False, or a list of booleans, one per record"
        self.assertRegex(self.reason(forgotten), f"^TypeError: keep returned None; {must}{where}")
        for answer, given in [(5, "int"), ("ab", "str"), (b"ab", "bytes"), ({"a": 1}, "dict"), (object(), "object")]:
            self.assertIn(f"keep returned {given}; {must}", self.reason(lambda batch, config: answer))
        must = "each entry must be True or False"
        for entry, shown in [("Bounce", "'Bounce'"), (None, "None"), (2, "2"), (1.0, "1.0"), (1 << 100, "so large an integer"), ([], "a value of type list")]:
            for answer in [[True, entry], (True, entry), iter([True, entry])]:
                reason = self.reason(lambda batch, config: answer)
                self.assertIn(f"keep returned {shown} at index 1; {must}", reason)
        for answer in [[], [True, False], (True, False), [1, 0]]:
            self.assertEqual(self.verdict(lambda batch, config: answer), ("Verdict_Keep", [*answer]))

    def test_what_is_no_list_of_records_is_refused(self):
        must = "it must return None, or a list of records"
        answers = [("42", "str"), (b"42", "bytes"), ({"a": 1}, "dict"), (Counter("ab"), "Counter"), (5, "int"), (True, "bool")]
        for answer, given in answers:
            self.assertIn(f"handle returned {given}; {must}", self.crash(lambda batch, config: answer))
        self.assertIn("handle returned Retry; ", self.crash(lambda batch, config: tailweir.Retry("busy")))
        for record, why in [({1}, "type set is not"), (b"{}", "type bytes is not"), (float("nan"), "not JSON compliant")]:
            said = self.crash(lambda batch, config: [{}, record])
            self.assertRegex(said, f"^TypeError: handle returned a record at index 1 that cannot be made JSON: .*{why}")
            self.assertRegex(said, r" \(test_tailweir.py, line \d+\)$")
        self.assertIn("returned None as the record at index 1", self.crash(lambda batch, config: [{}, None]))

        def yields(batch, config):
            yield {"a": 1}
            yield "null"

        self.assertEqual(self.outcome(yields), ("Outcome_Emit", ['{"a":1}', "null"]))
        self.assertEqual(self.outcome(lambda batch, config: ({}, [1])), ("Outcome_Emit", ["{}", "[1]"]))

    def test_half_a_surrogate_pair_stays_the_escape_that_it_was(self):
        text = r'{"Subject":"bad \ud83d, Grüße 😀"}'
        record = json.loads(text)
        for emitted in [record, json.dumps(record, ensure_ascii=False, separators=(",", ":")), text]:
            self.assertEqual(self.outcome(lambda batch, config: [emitted]), ("Outcome_Emit", [text]))
        bad = record["Subject"]
        self.assertEqual(self.failure(tailweir.Stop(bad)), ("Failure_Stop", r"bad \ud83d, Grüße 😀"))
        self.assertEqual(self.failure(tailweir.Reject([0], bad))[1][2], r"bad \ud83d, Grüße 😀")
        self.assertEqual(self.failure(tailweir.Retry(bad))[1][2], r"bad \ud83d, Grüße 😀")
        self.assertIn(r"ValueError: bad \ud83d, Grüße 😀 (", self.reason(raising(ValueError(bad))))

    def test_a_failure_that_cannot_be_is_refused_where_it_is_made(self):
        Retry, Reject = tailweir.Retry, tailweir.Reject
        cases = [
            (TypeError, "an index of Reject must be an integer, not 'a'", lambda: Reject(["a"], "x")),
            (TypeError, "an index of Reject must be an integer, not 1.0", lambda: Reject([0, 1.0], "x")),
            (TypeError, "an index of Reject must be an integer, not True", lambda: Reject([True], "x")),
            (ValueError, "an index of Reject must be from 0 to 4294967295, not -1", lambda: Reject([0, -1], "x")),
            (ValueError, "must be from 0 to 4294967295, not 4294967296", lambda: Reject([1 << 32], "x")),
            (TypeError, "Reject takes a list of indices, not int: ", lambda: Reject(0, "x")),
            (TypeError, "Reject takes a list of indices, not str: ", lambda: Reject("x", [0])),
            (TypeError, "`after_ms` of Retry must be an integer, not 1.5", lambda: Retry("x", after_ms=1.5)),
            (ValueError, "`after_ms` of Retry must be from 0 to .*, not -1", lambda: Retry("x", after_ms=-1)),
        ]
        for kind, words, make in cases:
            self.assertRaisesRegex(kind, words, make)
        self.assertEqual(self.failure(Reject(iter([0, 2]), ValueError("why"))), ("Failure_Reject", ("Reject", [0, 2], "why")))
        self.assertEqual(self.failure(Retry(ValueError("why"))), ("Failure_Retry", ("Retry", None, "why")))

    def test_an_error_points_at_the_innermost_place_in_the_authors_files(self):
        def parse(text):
            return json.loads(text)

        def reject(batch, config):
            raise tailweir.Reject([-1], "x")

        inner = parse.__code__.co_firstlineno + 1
        self.assertRegex(self.reason(lambda batch, config: parse("{")), rf" \(test_tailweir.py, line {inner}\)$")
        self.assertRegex(self.crash(reject), rf" \(test_tailweir.py, line {inner + 3}\)$")
        self.assertRegex(self.crash(lambda batch, config: batch.json(-1)), r"not -1 \(test_tailweir.py, line \d+\)$")

    def test_a_module_that_was_not_built_in_is_named_with_the_remedy(self):
        def keep(batch, config):
            import no_such_module

        remedy = "; import it at the top of the file, "
        self.assertIn(f"'no_such_module' (test_tailweir.py, line {keep.__code__.co_firstlineno + 1}){remedy}", self.reason(keep))

    def test_what_cannot_be_called_is_refused_when_the_plugin_is_made(self):
        both = [(tailweir.filter, "keep"), (tailweir.processor, "handle")]
        for make, name in both:
            words = rf"^`{name}` must take .* as in `def {name}\(batch, config\)`; it is `def {name}\(b\)`$"
            self.assertRaisesRegex(TypeError, words, lambda: make(lambda b: True, **WHO))
            self.assertRaisesRegex(TypeError, f"^`{name}` must be a function, not True$", lambda: make(True, **WHO))
            words = r"^`configure` must take .* as in `def configure\(config\)`; it is `def configure\(\)`$"
            self.assertRaisesRegex(TypeError, words, lambda: make(self.never, **WHO, configure=lambda: None))
            words = "^`version` must be a string, not 1$"
            self.assertRaisesRegex(TypeError, words, lambda: make(self.never, name="x", version=1))
            self.assertRaisesRegex(TypeError, "not JSON serializable", lambda: make(self.never, **WHO, config_schema={1}))
            make(self.never, **WHO, configure=dict)

    @staticmethod
    def never(batch, config=None, *more):
        raise AssertionError("called")

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
        for change in [state.get, state.get_text, state.delete, lambda key: state.set(key, "x")]:
            self.assertRaisesRegex(TypeError, "a key of state must be a string, not 5", lambda: change(5))
            self.assertRaises(UnicodeEncodeError, lambda: change("\ud83d"))
        self.assertRaisesRegex(TypeError, "a prefix of keys of state must be a string", lambda: next(state.list(5)))
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

    def test_what_they_cannot_record_is_refused_by_name(self):
        sent, waiting = metrics.Counter("refused_total", ""), metrics.Gauge("refused", "")
        sizes = metrics.Histogram("refused_bytes", "", [1])
        what = "what is added to the counter `refused_total`, which only grows, must be"
        self.assertRaisesRegex(ValueError, f"{what} from 0 to .*, not -1$", lambda: sent.add(-1))
        self.assertRaisesRegex(ValueError, f"{what} from 0 to .*, not 18446744073709551616$", lambda: sent.add(1 << 64))
        self.assertRaisesRegex(TypeError, f"{what} an integer, not 1.5$", lambda: sent.add(1.5))
        self.assertRaisesRegex(TypeError, f"{what} an integer, not '1'$", lambda: sent.add("1"))
        what = "the value of the gauge `refused` must be a number, not"
        self.assertRaisesRegex(TypeError, f"{what} 'x'$", lambda: waiting.set("x"))
        self.assertRaisesRegex(TypeError, f"{what} None$", lambda: waiting.set(None))
        self.assertRaisesRegex(TypeError, f"{what} so large an integer$", lambda: waiting.set(10**400))
        what = "what the histogram `refused_bytes` counts must be a"
        self.assertRaisesRegex(TypeError, f"{what} list of numbers, not 5$", lambda: sizes.observe(5))
        self.assertRaisesRegex(TypeError, f"{what} number, not None$", lambda: sizes.observe(iter([1, None])))
        self.assertRaisesRegex(TypeError, "the name of a metric must be a string, not 5", lambda: metrics.Counter(5, ""))
        self.assertEqual([recorded(f"refused{rest}") for rest in ["_total", "", "_bytes"]], [None, None, None])
        sent.add(True)
        sent.labelled(subject="bad \ud83d").add(2)
        self.assertEqual((recorded("refused_total"), recorded("refused_total", subject=r"bad \ud83d")), (1, 2))


if __name__ == "__main__":
    unittest.main()
