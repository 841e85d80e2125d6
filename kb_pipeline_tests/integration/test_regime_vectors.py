"""The packed regimes keep in step with the tunes and runs they stand for, and cost what is new."""

from uuid import UUID

import numpy as np
import pytest

from kb_pipeline.domain.matching import feature_vector
from kb_pipeline.domain.regime import RegimeSnapshot
from kb_pipeline.questions import vectors
from kb_pipeline.questions.similar import SimilarAnswer, similar
from kb_pipeline.rules import DISTANCE_FEATURES
from kb_pipeline.storage import recommend_events, regime_vectors
from kb_pipeline.storage.paths import migrations_directory
from kb_pipeline.storage.postgres import Connection, connect
from kb_pipeline.storage.regime_vectors import ID_BYTES
from kb_pipeline_tests.attributed import FEATURES, kept, learn, snapshot, won
from kb_pipeline_tests.builders import add_run, add_workspace, column
from kb_pipeline_tests.conftest import Workspace

FLAT = "flat low_vol noisy"


def _packed(connection: Connection, workspace: Workspace) -> dict[str, list[float]]:
    """Return the features of everything packed, by id."""
    return {
        str(UUID(bytes=one)): bucket.features[:, place].tolist()
        for _, bucket in regime_vectors.packed(connection, workspace.id, None)
        for place, one in enumerate(bucket.ids.tolist())
    }


def _near(connection: Connection, workspace: Workspace, **features: float) -> SimilarAnswer:
    """Ask about a run with these features, which is not in the knowledge base itself."""
    run_id = add_run(connection, workspace, regime_oos=snapshot(FLAT, **features))
    return similar(connection, workspace.id, run_id=run_id)


def test_features_are_packed_as_they_are_stored_but_for_the_undefined(
    connection: Connection, workspace: Workspace
) -> None:
    values = {name: float(place) / 8 for place, name in enumerate(DISTANCE_FEATURES)}
    whole = won(connection, workspace, FLAT, 1, features=values)
    gaps = {"rsi": 1e300, "zscore": None, "atr_pct": "0.1", "undefined_features": ["std_pct"]}
    broken = won(connection, workspace, FLAT, 1, features=gaps)
    run = kept(connection, workspace, FLAT, 1)
    kept(connection, workspace, None, 1)
    learn(connection, workspace)
    vectors.pack_changes(connection, workspace.id)
    packed = _packed(connection, workspace)
    assert packed.keys() == {whole, broken, run}
    assert packed[whole] == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]
    assert packed[run] == pytest.approx(list(FEATURES.values()))
    defined = [name for name, value in zip(DISTANCE_FEATURES, packed[broken], strict=True) if value == value]
    assert defined == ["bb_width_pct", "trend_strength", "trend_dir", "efficiency_ratio"]


def test_only_what_changed_is_packed_again(connection: Connection, workspace: Workspace) -> None:
    first = [won(connection, workspace, FLAT, 1) for _ in range(3)]
    learn(connection, workspace)
    assert regime_vectors.state(connection, workspace.id) == (None, 3)
    scales, waiting = vectors.pack_changes(connection, workspace.id)
    assert (scales is None, waiting) == (False, 0)
    before = connection.execute("SELECT bucket, xmin FROM kb_regime_vectors").fetchall()
    vectors.pack_changes(connection, workspace.id)
    assert connection.execute("SELECT bucket, xmin FROM kb_regime_vectors").fetchall() == before
    new = won(connection, workspace, FLAT, 1)
    learn(connection, workspace)
    vectors.pack_changes(connection, workspace.id)
    assert _packed(connection, workspace).keys() == {*first, new}
    changed = set(connection.execute("SELECT bucket, xmin FROM kb_regime_vectors")) - set(before)
    assert {bucket for bucket, _ in changed} == {int(new[-2:], 16)}


def test_what_is_attributed_while_packing_waits_for_the_next_question(
    connection: Connection, workspace: Workspace
) -> None:
    won(connection, workspace, FLAT, 1)
    learn(connection, workspace)
    connection.execute(
        """CREATE FUNCTION attribute_meanwhile() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF OLD.id < 20 THEN
                   INSERT INTO kb_regime_changes (workspace_id, source_type, ids)
                   VALUES (OLD.workspace_id, OLD.source_type, OLD.ids);
               END IF;
               RETURN NULL;
           END $$"""
    )
    connection.execute(
        """CREATE TRIGGER meanwhile AFTER DELETE ON kb_regime_changes
               FOR EACH ROW EXECUTE FUNCTION attribute_meanwhile()"""
    )
    scales = vectors.pack_changes(connection, workspace.id)
    assert scales.waiting == 1, "an answer does not run after a backfill that never ends"
    assert scales.values is not None
    assert "1 tunes or runs" in scales.warnings[0]


def test_what_is_new_goes_behind_what_its_bucket_holds(connection: Connection, workspace: Workspace) -> None:
    ids = [f"{place}0000000-0000-4000-8000-0000000000aa" for place in range(3)]
    for rsi, tune_id in enumerate(ids):
        won(connection, workspace, FLAT, 1, features={"rsi": float(rsi)}, id=UUID(tune_id))
        learn(connection, workspace)
        vectors.pack_changes(connection, workspace.id)
    packed = _packed(connection, workspace)
    assert {tune_id: features[6] for tune_id, features in packed.items()} == dict(
        zip(ids, range(3), strict=True)
    )
    assert connection.execute("SELECT bucket FROM kb_regime_vectors").fetchall() == [(0xAA,)]


def test_a_tune_that_is_attributed_again_moves_and_is_not_there_twice(
    connection: Connection, workspace: Workspace
) -> None:
    tune = won(connection, workspace, FLAT, 1, features={"rsi": 20.0})
    learn(connection, workspace)
    assert _near(connection, workspace, rsi=20.0).neighbours[0].distance == 0
    connection.execute(
        "UPDATE backtest_tune_runs SET metrics_oos = jsonb_set(metrics_oos, '{regime,rsi}', '70')"
    )
    connection.execute("""UPDATE backtest_runs SET dataset_meta = '{"timeframe": "1h"}'""")
    connection.execute("UPDATE backtest_tunes SET completed_at = completed_at + interval '1 day'")
    learn(connection, workspace)
    (found,) = _near(connection, workspace, rsi=70.0).neighbours
    assert (found.id, found.distance, found.timeframe) == (tune, 0, "1h")
    groups = connection.execute("SELECT timeframe, length(ids) FROM kb_regime_vectors").fetchall()
    assert groups == [("1h", 16)]


def test_what_is_gone_is_not_answered_and_not_packed_any_more(
    connection: Connection, workspace: Workspace
) -> None:
    tunes = [won(connection, workspace, FLAT, 1) for _ in range(25)]
    run = kept(connection, workspace, FLAT, 1)
    learn(connection, workspace)
    assert len(_near(connection, workspace).neighbours) == 20
    connection.execute("DELETE FROM backtest_tunes WHERE id <> %s", [tunes[0]])
    connection.execute("UPDATE backtest_runs SET kb_status = 'rejected' WHERE id = %s", [run])
    learn(connection, workspace)
    assert regime_vectors.state(connection, workspace.id)[1] == 1, "the run; nobody tells of deleted tunes"
    for _ in range(2):  # the second time without those the first one missed
        assert [it.id for it in _near(connection, workspace).neighbours] == [tunes[0]]
    assert _packed(connection, workspace).keys() == {tunes[0]}


def test_packing_anew_gives_what_was_packed_bit_by_bit(connection: Connection, workspace: Workspace) -> None:
    other = add_workspace(connection)
    for owner in (workspace, other):
        for rsi in range(5):
            won(connection, owner, FLAT, rsi, features={"rsi": float(rsi)})
        kept(connection, owner, FLAT, 1)
        learn(connection, owner)
        vectors.pack_changes(connection, owner.id)
    theirs, ours = _packed(connection, other), _packed(connection, workspace)
    connection.execute("UPDATE kb_regime_vectors SET features = repeat('x', length(features))::bytea")
    regime_vectors.start_over(connection, workspace.id)
    vectors.pack_changes(connection, workspace.id)
    assert _packed(connection, workspace) == ours
    assert _packed(connection, other).keys() == theirs.keys()
    assert _packed(connection, other) != theirs, "another workspace is left alone"


def test_scales_are_those_of_all_snapshots_of_the_workspace(
    connection: Connection, workspace: Workspace
) -> None:
    other = add_workspace(connection)
    for rsi in (30.0, 40.0, 50.0, 60.0, 70.0):
        won(connection, workspace, FLAT, 1, features={"rsi": rsi})
        won(connection, other, FLAT, 1, features={"rsi": rsi * 3})
    for owner in (workspace, other):
        learn(connection, owner)
    scales, _ = vectors.pack_changes(connection, workspace.id)
    assert scales is not None
    assert scales[6] == pytest.approx(14.826)


def test_only_one_session_packs_and_the_other_says_what_it_does_not_know(
    connection: Connection, workspace: Workspace, database_url: str
) -> None:
    won(connection, workspace, FLAT, 1)
    learn(connection, workspace)
    with connect(database_url) as beside, beside.transaction():
        assert regime_vectors.try_lock(beside, workspace.id)
        assert vectors.pack_changes(connection, workspace.id).waiting == 1
        (warning,) = _near(connection, workspace).warnings
        assert warning == "Changed lately and not in the distances yet: 1 tunes or runs."
    assert vectors.pack_changes(connection, workspace.id).waiting == 0


def test_packing_in_pieces_packs_everything_and_tells_how_far_it_is(
    connection: Connection, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_PIECE", 2)
    ids = set()
    for _ in range(5):
        ids.add(won(connection, workspace, FLAT, 1))
        learn(connection, workspace)
    told: list[tuple[int, int]] = []
    assert vectors.pack_changes(connection, workspace.id, lambda *so_far: told.append(so_far)).waiting == 0
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert _packed(connection, workspace).keys() == ids


# --- Similar -------------------------------------------------------------------------------------


def test_the_nearest_of_all_strategies_come_first_with_what_worked_there(
    connection: Connection, workspace: Workspace
) -> None:
    far = won(connection, workspace, FLAT, 3, features={"rsi": 65.0})
    near = won(connection, workspace, FLAT, 1, features={"rsi": 51.0}, params={"fast": 9})
    hours = won(connection, workspace, FLAT, 9, features={"rsi": 55.0}, timeframe="1h")
    unscored = won(connection, workspace, FLAT, None, features={"rsi": 60.0})
    run = kept(connection, workspace, FLAT, 2)
    learn(connection, workspace)
    answer = _near(connection, workspace)
    assert [it.id for it in answer.neighbours] == [run, near, hours, unscored, far]
    # values 50 51 55 60 65, median 55, deviations 0 4 5 5 10: scale 7.413
    assert [it.distance for it in answer.neighbours] == pytest.approx(
        [at / 7.413 for at in (0, 1, 5, 10, 15)]
    )
    assert [it.id for it in answer.worked] == [far, hours], "days and hours do not compare"
    assert "mostly by" in answer.to_text()
    assert answer.neighbours[3].score is None


def test_a_run_of_the_knowledge_base_is_not_its_own_neighbour(
    connection: Connection, workspace: Workspace
) -> None:
    asked, other = kept(connection, workspace, FLAT, 1), kept(connection, workspace, FLAT, 1)
    learn(connection, workspace)
    answer = similar(connection, workspace.id, run_id=UUID(asked), k=1)
    assert [it.id for it in answer.neighbours] == [other]


def test_nothing_to_compare_with_is_said(connection: Connection, workspace: Workspace) -> None:
    answer = _near(connection, workspace)
    assert (answer.neighbours, answer.worked, answer.warnings) == ([], [], [])
    assert "Nothing to compare with" in answer.to_text()


def test_the_question_s_vector_is_read_as_the_packed_ones_are(
    connection: Connection, workspace: Workspace
) -> None:
    stored = snapshot(FLAT, rsi=33.0, undefined_features=["zscore"])
    asked = feature_vector(RegimeSnapshot.from_dict(stored).to_dict())
    tune = won(connection, workspace, FLAT, 1, features={"rsi": 33.0, "undefined_features": ["zscore"]})
    learn(connection, workspace)
    vectors.pack_changes(connection, workspace.id)
    assert _packed(connection, workspace)[tune] == pytest.approx(asked.tolist(), nan_ok=True)


# --- What was there before -----------------------------------------------------------------------


def test_what_was_attributed_before_the_migration_is_packed_and_has_its_timeframe(
    connection: Connection, workspace: Workspace
) -> None:
    tune, run = won(connection, workspace, FLAT, 1, timeframe="4h"), kept(connection, workspace, FLAT, 1)
    learn(connection, workspace)
    connection.execute("DELETE FROM kb_regime_changes")
    connection.execute("ALTER TABLE backtest_tunes DROP COLUMN timeframe")
    migration = (migrations_directory() / "039_extend_recommendations.sql").read_bytes()
    for _ in range(2):
        connection.execute(migration)
    assert regime_vectors.state(connection, workspace.id)[1] == 2
    vectors.pack_changes(connection, workspace.id)
    assert _packed(connection, workspace).keys() == {tune, run}
    assert column(connection, "backtest_tunes", "timeframe", UUID(tune)) == "4h"


def test_texts_of_any_length_stop_neither_attribution_nor_ingestion(
    connection: Connection, workspace: Workspace
) -> None:
    endless = "".join(map(chr, np.random.default_rng(1).integers(0x4E00, 0x9FFF, 9_000)))
    tune = won(
        connection, workspace, FLAT, 1, timeframe=endless, objective_type=None, objective_metric=endless
    )
    run = kept(connection, workspace, FLAT, 1)
    connection.execute(
        "UPDATE backtest_runs SET dataset_meta = jsonb_build_object('timeframe', %s::text)", [endless]
    )
    learn(connection, workspace)
    assert {it.id for it in _near(connection, workspace).neighbours} == {tune, run}
    assert {group.timeframe for group in recommend_events.score_groups(connection, workspace.id)} == {
        endless[:21]  # 63 bytes
    }


def test_of_thousands_as_near_as_each_other_the_lowest_ids_come_first() -> None:
    ids = (
        np.random.default_rng(1)
        .integers(0, 256, (3_000, ID_BYTES), dtype=np.uint8)
        .view(f"V{ID_BYTES}")[:, 0]
    )
    apart = np.where(np.arange(3_000) == 2_000, 0.5, 1.0)
    order = vectors._in_order(ids, apart).tolist()
    as_texts = [str(UUID(bytes=one)) for one in ids.tolist()]
    assert order == sorted(range(3_000), key=lambda row: (apart[row], as_texts[row]))
