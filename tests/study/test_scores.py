import numpy as np
import pytest

from trivet.errors import StudyError
from trivet.study.measurements import Measurement
from trivet.study.scores import score_tables


def _m(system, sample, epoch, value, label=None, cluster=None, evaluation="e", **more):
    return Measurement(system, evaluation, "c", sample, epoch, cluster or sample, value, label=label, **more)


ROWS = [
    _m("a", "q1", 1, 1.0, "correct"),
    _m("a", "q1", 2, 0.0, "idk", metadata={"matched": True}),
    _m("a", "q2", 1, None, reason="?"),
    _m("b", "q2", 1, 0.5, "wrong"),
    _m("b", "q3", 1, 1.0, "correct", cluster="q2"),
]


def test_sums_by_system_and_question():
    table = score_tables(ROWS, ["a", "b"])["e", "c"]
    assert table.ids == ("q1", "q2", "q3")
    assert table.answers.tolist() == [[2, 1, 0], [0, 1, 1]]
    assert table.scored.tolist() == [[2, 0, 0], [0, 1, 1]]
    assert table.share(table.total).tolist() == [[0.5, 0, 0], [0, 0.5, 1]]
    assert table.correct.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert table.idk.tolist() == [[1, 0, 0], [0, 0, 0]]
    assert table.matched.tolist() == [[2, 0, 0], [0, 0, 1]]
    assert table.has.tolist() == [[True, False, False], [False, True, True]]
    assert table.clusters.tolist() == [0, 1, 1]
    assert table.bounds == (0.0, 1.0)


def test_a_cluster_name_means_the_same_everywhere():
    rows = [*ROWS, _m("a", "q1", 1, 7.0, evaluation="other"), _m("a", "x", 1, 7.0, evaluation="other")]
    tables = score_tables(rows, ["a", "b"])
    other = tables["other", "c"]
    assert other.clusters[0] == tables["e", "c"].clusters[0]
    assert other.clusters[1] not in tables["e", "c"].clusters
    assert other.bounds is None
    assert not np.any(other.answers[1])


def test_an_answer_that_is_there_twice_is_refused():
    with pytest.raises(StudyError, match="'q1', epoch 1, is there 2 times"):
        score_tables([*ROWS, ROWS[0]], ["a", "b"])


def test_an_unknown_system_is_refused():
    with pytest.raises(StudyError, match="unknown system 'b'"):
        score_tables(ROWS, ["a"])
