"""Answers packed into one integer a row."""

import numpy as np

from kb_pipeline.domain.flags import flagged_names, pack_flags


def test_each_answer_has_the_bit_of_its_place() -> None:
    flags = pack_flags([np.array([True, False]), np.array([False, False]), np.array([True, True])])
    assert flags.tolist() == [5, 4]


def test_names_come_back_in_their_order() -> None:
    assert flagged_names(5, ("first", "second", "third")) == ["first", "third"]
    assert flagged_names(0, ("first",)) == []


def test_sixteen_answers_fit() -> None:
    names = [f"name {place}" for place in range(16)]
    assert flagged_names(pack_flags([np.array([True])] * 16)[0], names) == names
