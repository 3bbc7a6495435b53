"""No finding is accepted without a reason, and none for ever."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from images import ignored

TODAY = date(2026, 5, 4)
REASON = "# no release mends it yet, and the server never parses XML\n"


def test_what_is_accepted_today_has_a_reason_and_has_not_expired():
    assert ignored.problems(ignored.FILE.read_text(), datetime.now(UTC).date()) == []


def test_reason_and_date_are_enough():
    text = REASON + "CVE-2026-1234 exp:2026-06-01\nGHSA-aaaa-bbbb-cccc exp:2026-05-04\n"
    assert ignored.problems(text, TODAY) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (REASON + "CVE-2026-1234\n", "is not `CVE-… exp:YYYY-MM-DD`"),
        (REASON + "CVE-2026-1234 exp:soon\n", "is not `CVE-… exp:YYYY-MM-DD`"),
        (REASON + "CVE-2026-1234 exp:2026-02-30\n", "2026-02-30 is no date"),
        (REASON + "CVE-2026-1234 exp:2026-05-03\n", "has expired on 2026-05-03"),
        (REASON + "CVE-2026-1234 exp:2027-05-04\n", "is accepted for more than 90 days"),
        ("CVE-2026-1234 exp:2026-06-01\n", "says no reason"),
        ("# not ours\nCVE-2026-1234 exp:2026-06-01\n", "says no reason"),
        (REASON + "\nCVE-2026-1234 exp:2026-06-01\n", "says no reason"),
    ],
)
def test_a_line_that_is_not_enough_is_refused(text: str, said: str):
    (found,) = ignored.problems(text, TODAY)
    assert said in found
