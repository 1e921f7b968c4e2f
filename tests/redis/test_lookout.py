"""When a reply is looked for: a server that is near and awake, and less often the more often it was in vain."""

from __future__ import annotations

from itertools import pairwise

import pytest

from queue_trio.redis.lookout import AWAKE_S, NEAR_S, SKIPPED_MAX, Lookout

SOON = AWAKE_S / 2


class Talk:
    """Calls one after the other. `server`: whether its replies come while one looks, and what they take if not."""

    def __init__(self) -> None:
        self.lookout = Lookout()
        self.now = 100.0

    def call(self, *, found: bool = False, took_s: float = NEAR_S / 2, pause_s: float = SOON) -> bool:
        """One call after a pause. Whether its reply was looked for."""
        self.now += pause_s
        looked = self.lookout.promising(self.now)
        self.now += took_s
        if looked and found:
            self.lookout.answered(took_s, self.now, looked=True, found=True)
        else:
            self.lookout.answered(took_s, self.now, looked=looked, found=False)
        return looked


@pytest.fixture
def talk() -> Talk:
    talk = Talk()
    assert not talk.call()  # of the first nothing is known
    return talk


def test_a_reply_that_is_found_is_looked_for_again_and_again(talk: Talk) -> None:
    assert all(talk.call(found=True) for _ in range(100))


def test_after_a_pause_nobody_looks(talk: Talk) -> None:
    assert not talk.call(found=True, pause_s=2 * AWAKE_S)
    assert talk.call(found=True)


def test_a_server_far_away_is_not_looked_for(talk: Talk) -> None:
    assert talk.call(took_s=NEAR_S)  # it was near, and is not any more
    assert not any(talk.call(took_s=NEAR_S) for _ in range(100))
    assert not talk.call()  # that was quick
    assert talk.call(found=True)


def test_looking_in_vain_becomes_rare(talk: Talk) -> None:
    looked = [at for at in range(400) if talk.call()]
    assert looked[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert {later - earlier for earlier, later in pairwise(looked[6:])} == {SKIPPED_MAX + 1}


def test_a_reply_found_makes_up_for_all_that_were_not(talk: Talk) -> None:
    for _ in range(100):
        talk.call()
    while not talk.call(found=True):
        pass
    assert [talk.call() for _ in range(4)] == [True, True, False, True]


def test_what_was_missed_once_is_looked_for_at_once(talk: Talk) -> None:
    for _ in range(20):
        assert talk.call(found=True)
        assert talk.call()
