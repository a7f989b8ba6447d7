import unittest

from app import configure, handle
from tailweir_testing import batch_of


class Summary(unittest.TestCase):
    def test_records_are_counted_by_type(self):
        batch = batch_of('{"type":"Delivery"}', '{"type":"Bounce"}', '{"type":"Delivery"}', '{"type":null}')
        expected = {"batch": batch.id, "records": 4, "types": {"Bounce": 1, "Delivery": 2}}
        self.assertEqual(handle(batch, "/type"), [expected])

    def test_a_configuration_with_a_field_that_is_no_pointer_is_refused(self):
        for config in [{"field": 7}, {"field": "type"}]:
            self.assertRaisesRegex(ValueError, "`field`", lambda: configure(config))
        self.assertEqual(configure(None), "/type")


if __name__ == "__main__":
    unittest.main()
