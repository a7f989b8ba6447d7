import unittest

import tailweir
import tailweir_state as state
from app import configure, handle
from tailweir_testing import batch_of, recorded, reset


class CountByType(unittest.TestCase):
    setUp = staticmethod(reset)

    def check(self, records, expected):
        """A batch of these records is answered with this one."""
        self.assertEqual(handle(batch_of(*records), "/type"), [expected])

    def test_counts_go_on_from_batch_to_batch(self):
        self.check(['{"type":"Bounce"}', '{"type":"Delivery"}'], {"records": 2, "by": {"Bounce": 1, "Delivery": 1}})
        self.check(['{"type":"Bounce"}', '{"x":1}'], {"records": 4, "by": {"Bounce": 2, "Delivery": 1}})

    def test_metrics_tell_what_was_done(self):
        records = ['{"type":"Bounce"}', '{"type":"Bounce"}', '{"type":"OOB"}']
        self.check(records, {"records": 3, "by": {"Bounce": 2, "OOB": 1}})
        self.assertEqual(recorded("counted_total", type="Bounce"), 2)
        self.assertEqual(recorded("batch_types"), [2.0])

    def test_a_type_of_any_length_is_counted(self):
        self.check([f'{{"type":"x{"é" * 1000}"}}'], {"records": 1, "by": {f"x{'é' * 99}": 1}})

    def test_state_that_is_no_number_is_not_written_over(self):
        state.set("records", "many")
        self.assertRaisesRegex(tailweir.Stop, "no number under `records`", lambda: handle(batch_of("1"), "/type"))
        self.assertEqual(state.get_text("records"), "many")

    def test_a_configuration_with_a_field_that_is_no_pointer_is_refused(self):
        for config in [{"field": 7}, {"field": "type"}]:
            self.assertRaisesRegex(ValueError, "`field`", lambda: configure(config))
        self.assertEqual(configure(None), "/type")


if __name__ == "__main__":
    unittest.main()
