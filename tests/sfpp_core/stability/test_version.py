"""The offline judge's name has a version: whoever kept its ratings by its name never gets those of another."""

from __future__ import annotations

import json

import pytest

from sfpp_core.stability.offline.judge import Damage, OfflineJudge
from tests.helpers.offline_ratings import RECORD, differences, measured_shares

RECORDED = json.loads(RECORD.read_text())


def test_what_is_rated_changes_only_with_the_version() -> None:
    again = "python -m tests.helpers.offline_ratings"
    assert RECORDED["judge"] == OfflineJudge.name, f"the judge is now {OfflineJudge.name}; record its ratings: {again}"
    changed = differences(RECORDED["shares"], measured_shares())
    assert not changed, (
        f"{'; '.join(changed)}. The offline judge rates otherwise than as {OfflineJudge.name}: raise the version in "
        f"OfflineJudge.name, or ledgers give out ratings of the old one; then run {again}."
    )


@pytest.mark.parametrize("kind", Damage)
def test_every_detector_has_a_video_that_it_answers_to(kind: Damage) -> None:
    assert RECORDED["shares"][kind.value][kind.value] > 0.05
    assert RECORDED["shares"]["undamaged"][kind.value] < 0.02


def test_videos_that_come_to_rest_or_out_of_black_are_among_them() -> None:
    assert RECORDED["shares"]["comes to rest"]["freeze"] > 0.05
    assert RECORDED["shares"]["fades in"]["darkening"] > 0.05
