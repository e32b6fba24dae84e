from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from server.engine.admission import MAX_RETRY_AFTER_S, Admission, AdmissionLimits
from server.engine.errors import QueueFullError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rows_are_bounded() -> None:
    admission = Admission(AdmissionLimits(2, 100), Clock())
    admission.reserve(10)
    admission.reserve(10)
    with pytest.raises(QueueFullError, match=r"2 rows wait; at most 2 may; retry after 1 s"):
        admission.reserve(10)
    assert (admission.num_rows, admission.num_tokens) == (2, 20)
    admission.release(10)
    admission.reserve(10)


def test_tokens_are_bounded() -> None:
    admission = Admission(AdmissionLimits(10, 100), Clock())
    admission.reserve(60)
    with pytest.raises(QueueFullError, match=r"60 tokens wait and this row brings 41; at most 100 may wait"):
        admission.reserve(41)
    admission.reserve(40)
    assert admission.num_tokens == 100


def test_an_empty_queue_takes_a_row_of_any_length() -> None:
    admission = Admission(AdmissionLimits(10, 100), Clock())
    admission.reserve(500)
    with pytest.raises(QueueFullError):
        admission.reserve(1)
    admission.release(500)
    assert (admission.num_rows, admission.num_tokens) == (0, 0)


@pytest.mark.parametrize(("seconds", "retry_after_s"), [(0.1, 1), (4.0, 12), (1000.0, MAX_RETRY_AFTER_S)])
def test_retry_after_follows_the_pace(seconds: float, retry_after_s: int) -> None:
    clock = Clock()
    admission = Admission(AdmissionLimits(3, 1000), clock)
    for _ in range(3):
        admission.reserve(100)
    clock.now = seconds
    admission.release(100)
    admission.reserve(100)
    # 100 tokens left in that time, and 300 wait.
    with pytest.raises(QueueFullError) as refused:
        admission.reserve(1)
    assert refused.value.retry_after_s == retry_after_s


def test_a_row_that_would_only_wait_to_expire_is_refused() -> None:
    clock = Clock()
    admission = Admission(AdmissionLimits(100, 1000), clock)
    admission.reserve(100, deadline=0.001)  # no evidence yet: let it try
    admission.reserve(100)
    clock.now = 5.0
    admission.release(100)
    with pytest.raises(QueueFullError, match=r"about 5\.0 s of work.*deadline"):
        admission.reserve(100, deadline=9.0)
    admission.reserve(100, deadline=11.0)


def test_an_idle_time_is_no_evidence() -> None:
    clock = Clock()
    admission = Admission(AdmissionLimits(2, 1000), clock)
    admission.reserve(10)
    clock.now = 1.0
    admission.release(10)
    clock.now = 1000.0
    admission.reserve(10)
    admission.reserve(10)
    with pytest.raises(QueueFullError) as refused:
        admission.reserve(10)
    assert refused.value.retry_after_s == 1


def test_giving_back_what_was_not_taken_is_a_bug() -> None:
    admission = Admission(AdmissionLimits(2, 1000), Clock())
    with pytest.raises(AssertionError):
        admission.release(1)
    admission.reserve(5)
    with pytest.raises(AssertionError):
        admission.release(6)


def test_threads_neither_pass_the_bound_nor_leak() -> None:
    admission = Admission(AdmissionLimits(5, 50), Clock())

    def work(_: int) -> bool:
        try:
            admission.reserve(7)
        except QueueFullError:
            return False
        within = admission.num_rows <= 5 and admission.num_tokens <= 50
        admission.release(7)
        return within

    with ThreadPoolExecutor(8) as pool:
        assert any(pool.map(work, range(2000)))
    assert (admission.num_rows, admission.num_tokens) == (0, 0)
