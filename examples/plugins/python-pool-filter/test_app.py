import unittest

from app import configure, keep
from tailweir_testing import batch_of


class PoolFilter(unittest.TestCase):
    def test_records_of_the_pool_are_kept(self):
        batch = batch_of(
            '{"type":"Delivery","egress_pool":"pool-1"}',
            '{"type":"Delivery","egress_pool":"pool-2"}',
            '{"type":"Reception","egress_pool":null}',
            '{"type":"Reception"}',
        )
        self.assertEqual(keep(batch, {"pool": "pool-1"}), [True, False, False, False])

    def test_a_configuration_without_a_pool_is_refused(self):
        for config in [None, {}, {"pool": 7}]:
            self.assertRaisesRegex(ValueError, "`pool`", lambda: configure(config))


if __name__ == "__main__":
    unittest.main()
