import itertools

import numpy as np
import psutil
import pytest

from tests import numerics
from tests.benchmarks.matrices import known_weight
from tests.benchmarks.report import Line, markdown, reaches
from tests.benchmarks.timing import Ratio, busy_loops, paired_ratio, race
from tests.waiting import until


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wait(self, *seconds):
        """Return a call that takes these seconds, one after the other, the last for ever."""
        durations = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def call():
            self.now += next(durations)

        return call


def test_a_ratio_is_the_median_of_the_ratios_of_neighbours_not_the_ratio_of_the_medians():
    # The machine became ten times slower half way: each pair still says 2.
    assert paired_ratio([2, 20, 200], [1, 10, 100]) == Ratio(2.0, 2.0, 2.0, 3)


def test_the_interval_runs_from_the_tenth_to_the_ninetieth_percentile():
    found = paired_ratio(range(1, 12), [1] * 11)
    assert (found.low, found.median, found.high, found.pairs) == (2, 6, 10, 11)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_makes_no_pairs_is_refused(ours, theirs):
    with pytest.raises(ValueError, match="make no pairs"):
        paired_ratio(ours, theirs)


def test_calls_take_turns_in_no_fixed_order():
    done = []
    race({name: lambda name=name: done.append(name) for name in "abc"}, 0, least=20, warm_up=0)
    rounds = ["".join(done[i : i + 3]) for i in range(0, 60, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert {each[0] for each in rounds} == set("abc")


def test_the_first_round_does_not_count():
    clock = Clock()
    times = race({"slow at first": clock.wait(9, 1)}, 0, least=3, clock=clock)
    assert times == {"slow at first": [1, 1, 1]}


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 3), (10, 10), (1000, 20)])
def test_rounds_go_on_until_the_time_is_up_within_their_limits(seconds, rounds):
    clock = Clock()
    times = race({"a": clock.wait(0.5), "b": clock.wait(0.5)}, seconds, least=3, most=20, clock=clock)
    assert [len(series) for series in times.values()] == [rounds, rounds]


def test_busy_loops_run_beside_the_call_and_rest_otherwise():
    def stopped(count):
        # A signal takes a moment.
        until(lambda: [loop.status() for loop in loops].count(psutil.STATUS_STOPPED) == count)

    before = set(psutil.Process().children())
    with busy_loops(3) as beside:
        loops = set(psutil.Process().children()) - before
        assert len(loops) == 3
        stopped(3)
        beside(2, lambda: stopped(1))()
        stopped(3)
    assert not any(loop.is_running() for loop in loops)


def test_a_goal_has_a_direction():
    assert reaches(1.05, "<= 1.05")
    assert not reaches(1.06, "<= 1.05")
    assert reaches(5, ">= 5")
    assert not reaches(4.9, ">= 5")
    with pytest.raises(ValueError, match="a goal is"):
        reaches(1, "about 1")


def test_the_table_says_whether_a_goal_is_met_and_what_was_left_out():
    met, missed = (
        Line("svd", "ours", "peer", "2 x 2", "time, peer / ours", paired_ratio([value], [1]), ">= 5")
        for value in (6, 4)
    )
    host = {"cpu": "a CPU", "cores": 2, "memory_gb": 4.0, "gpu": None, "load": 0.0}
    about = {"machine": host, "versions": {"numpy": "2"}, "threads": 2, "date": "today", "commit": "abc"}
    *_, first, second, blank, last = markdown([met, missed], ["a GPU"], about).splitlines()
    assert ">= 5 met" in first
    assert ">= 5 **missed**" in second
    assert (blank, last) == ("", "Left out: a GPU")


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_the_truth_of_a_known_weight_is_that_of_a_dense_svd(shape):
    known = known_weight(shape, 8)
    U, sigma, Vt = np.linalg.svd(known.weight.astype(float), full_matrices=False)
    sigma_error, angle = known.errors(U[:, :8], sigma[:8], Vt[:8].T)
    # The weight was rounded to float32, and there is almost no gap behind the eighth.
    rounded = numerics.unit_roundoff("float32") * np.linalg.norm(sigma)
    turned = numerics.subspace_error(sigma, 8, rounded)
    assert sigma_error < rounded / sigma[7]
    assert angle < turned
    assert known.errors(U[:, 1:9], sigma[:8], Vt[1:9].T)[1] == pytest.approx(1, abs=turned)
