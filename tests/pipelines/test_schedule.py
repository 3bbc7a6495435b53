"""Cron expressions, as Kubeflow's server reads them and as people write them."""

from __future__ import annotations

import pytest

from components.step_config import InputError
from pipelines.schedule import find_schedules, read_cron
from pipelines.submit import Schedule


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0 3 * * 1", "0 0 3 * * 1"),
        ("*/15 8-18 * * mon-fri", "0 */15 8-18 * * mon-fri"),
        ("30 0 3 1,15 JAN-jun ?", "30 0 3 1,15 JAN-jun ?"),
        ("  0  0 3  * * 6 ", "0 0 3 * * 6"),
        ("0 0/10 * * * *", "0 0/10 * * * *"),
    ],
)
def test_five_fields_get_their_second(written, read):
    assert read_cron(written) == read
    assert read_cron(read) == read


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "has 0 fields; write five or six"),
        ("0 3 * *", "has 4 fields"),
        ("@daily", "has 1 fields"),
        ("0 0 0 3 * * 1", "has 7 fields"),
        ("60 3 * * *", "the minute '60' must lie in 0 to 59"),
        ("0 24 * * *", "the hour '24' must lie in 0 to 23"),
        ("0 3 0 * *", "the day of the month '0'"),
        ("0 3 * 13 *", "the month '13' must lie in 1 to 12 or jan, feb"),
        ("0 3 * * 7", "the day of the week '7' must lie in 0 to 6 or sun"),
        ("0 3 * * monday", "the day of the week 'monday'"),
        ("0 9-8 * * *", "the hour '9-8'"),
        ("0/0 3 * * *", "the minute '0/0'"),
        ("*-5 3 * * *", "the minute"),
        ("1,,2 3 * * *", "the minute ''"),
        ("-1 3 * * *", "the minute '-1'"),
        ("٣ 3 * * *", "the minute"),
    ],
)
def test_what_is_no_cron_is_refused_by_field(written, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        read_cron(written)


class OnlySchedules:
    """An engine that has nothing but schedules."""

    def __init__(self, *names: str):
        self._names = names

    def schedules(self) -> list[Schedule]:
        return [Schedule(name, name, "0 0 3 * * *", True, "d", "") for name in self._names]


def test_a_schedule_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(InputError, match="no schedule 'x'; there are: a, b"):
        find_schedules(OnlySchedules("b", "a"), "x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="there are: none"):
        find_schedules(OnlySchedules(), "x")  # pyright: ignore[reportArgumentType]
