"""Payment terms: from the day an invoice was written to the day it is due."""

from datetime import date, timedelta


def add_months(day: date, months: int) -> date:
    """Return the same day of a later month."""
    month = day.month + months
    return day.replace(year=day.year + month // 12, month=month % 12)


def due(written: date, terms: str) -> date:
    """Return the due date for terms like `net 30` (days) or `2 months`."""
    if terms.startswith("net "):
        return written + timedelta(days=int(terms.removeprefix("net ")))
    count, _, unit = terms.partition(" ")
    if unit not in ("month", "months"):
        raise ValueError(f"unknown terms {terms!r}: expected 'net DAYS' or 'N months'")
    return add_months(written, int(count))
