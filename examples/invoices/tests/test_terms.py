"""What is known to work."""

import unittest
from datetime import date

from invoices.terms import due


class Terms(unittest.TestCase):
    def test_days(self):
        self.assertEqual(due(date(2026, 1, 20), "net 30"), date(2026, 2, 19))

    def test_a_month(self):
        self.assertEqual(due(date(2026, 3, 15), "1 month"), date(2026, 4, 15))

    def test_over_new_year(self):
        self.assertEqual(due(date(2026, 11, 15), "3 months"), date(2027, 2, 15))

    def test_unknown(self):
        with self.assertRaises(ValueError):
            due(date(2026, 1, 1), "whenever")


if __name__ == "__main__":
    unittest.main()
