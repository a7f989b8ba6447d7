import unittest

from app import configure, handle
from tailweir_testing import batch_of


class Processor(unittest.TestCase):
    def test_records_are_counted_by_type(self):
        batch = batch_of('{"type":"Delivery"}', '{"type":"Bounce"}', '{"type":"Delivery"}', "{}")
        expected = {"counts": {"Bounce": 1, "Delivery": 2, "none": 1}, "type": "summary"}
        self.assertEqual(handle(batch, "summary"), [expected])

    def test_a_configuration_with_a_name_that_is_no_string_is_refused(self):
        self.assertRaisesRegex(ValueError, "`name`", lambda: configure({"name": 7}))
        self.assertEqual(configure(None), "summary")


if __name__ == "__main__":
    unittest.main()
