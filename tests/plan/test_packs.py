"""Packs of concepts: the same at any moment of a run, and never changed by what comes later."""

import json

import pytest
from cgddi.core.errors import UserError
from cgddi.plan.packs import packs_of, read_ledgers
from cgddi.plan.sheets import Photo
from cgddi.stages.lora.pack import folders
from hypothesis import given, settings
from hypothesis import strategies as st


def training(*concepts, scopes=("main",)):
    """What `Plan.training` gives for concepts named `<cohort>/<concept>`, one photo each."""
    found = {}
    for scope in scopes:
        for number, name in enumerate(concepts):
            cohort, concept = name.split("/")
            photo = Photo(f"{number}", f"{number}.png", cohort, concept, concept, "light", None, None, None, number + 2)
            found[scope, concept] = [photo]
    return found


def leave(lora, packs, *names, scope="main"):
    """The ledgers that jobs of these packs leave, with their tars."""
    for name in names:
        with folders(None, lora / scope / "packs" / f"{name}.tar", packs[scope, name]) as made:
            for folder in made:
                folder.mkdir()
                (folder / "record.json").write_text("{}")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 99), st.sampled_from("ab")),
        st.tuples(st.just("remove"), st.integers(0, 99), st.none()),
        st.tuples(st.just("delete"), st.integers(0, 99), st.none()),
        st.tuples(st.just("size"), st.integers(1, 5), st.none()),
        st.tuples(st.just("run"), st.lists(st.integers(0, 99), max_size=8), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=12), st.integers(1, 5), STEPS)
def test_any_moment_of_a_run_gives_the_packs_it_started_with(cohorts, size, steps):
    """A lab's history: concepts come and go anywhere in the sheet, ledgers are deleted, runs end half-way."""
    names = [f"{cohort}/c{k}" for k, cohort in enumerate(cohorts)]
    ledgers, number = {}, len(names)
    for what, value, cohort in [*steps, ("run", list(range(20)), None)]:
        before = packs_of(training(*names), size, ledgers)
        if what == "add":
            names.insert(value % (len(names) + 1), f"{cohort}/c{number}")
            number += 1
            after = packs_of(training(*names), size, ledgers)
            assert all(after[key] == before[key] for key in before if key in ledgers)
        elif what == "remove" and len(names) > 1:
            gone = names.pop(value % len(names)).split("/")[1]
            after = packs_of(training(*names), size, ledgers)
            assert all(after.get(k, []) == [c for c in before[k] if c != gone] for k in before if k in ledgers)
        elif what == "delete" and ledgers:
            del ledgers[sorted(ledgers)[value % len(ledgers)]]
        elif what == "size":
            size = value
        elif what == "run":
            for choice in value:
                key = sorted(before)[choice % len(before)]
                ledgers[key] = before[key]
                assert packs_of(training(*names), size, ledgers) == before
        placed = [c for pack in packs_of(training(*names), size, ledgers).values() for c in pack]
        assert sorted(placed) == sorted(name.split("/")[1] for name in names)


def test_a_half_full_trained_pack_is_never_filled_up(tmp_path):
    old = packs_of(training("a/1", "a/2", "a/3", "b/4"), 2)
    assert old == {("main", "a.000"): ["1", "2"], ("main", "a.001"): ["3"], ("main", "b.000"): ["4"]}
    leave(tmp_path, old, "a.000", "a.001")
    new = packs_of(
        training("a/1", "a/0", "a/2", "a/3", "b/4", "b/5", "a/6", "a/7"), 2, read_ledgers(tmp_path, ["main"])
    )
    assert new == old | {("main", "a.002"): ["0", "6"], ("main", "a.003"): ["7"], ("main", "b.000"): ["4", "5"]}


def test_a_deleted_ledger_gives_the_same_pack_again_when_nothing_else_changed(tmp_path):
    sheet = training("a/1", "a/2", "a/3", "a/4", "a/5")
    packs = packs_of(sheet, 2)
    leave(tmp_path, packs, *(name for _, name in packs))
    (tmp_path / "main/packs/a.001.json").unlink()
    assert packs_of(sheet, 2, read_ledgers(tmp_path, ["main"])) == packs


def test_trained_packs_stay_when_the_size_of_new_ones_changes(tmp_path):
    sheet = training("a/1", "a/2", "a/3", "a/4", "a/5")
    packs = packs_of(sheet, 2)
    leave(tmp_path, packs, "a.001")
    assert packs_of(sheet, 4, read_ledgers(tmp_path, ["main"])) == {
        ("main", "a.000"): ["1", "2", "5"],
        ("main", "a.001"): ["3", "4"],
    }


def test_scopes_have_packs_of_their_own(tmp_path):
    sheet = training("a/1", "a/2", "a/3", scopes=("main", "other"))
    packs = packs_of(sheet, 2)
    assert packs["main", "a.000"] == packs["other", "a.000"] == ["1", "2"]
    leave(tmp_path, packs, "a.001", scope="other")
    grown = packs_of(
        training("a/1", "a/2", "a/3", "a/4", scopes=("main", "other")), 2, read_ledgers(tmp_path, ["main", "other"])
    )
    assert grown["main", "a.001"] == ["3", "4"]
    assert (grown["other", "a.001"], grown["other", "a.002"]) == (["3"], ["4"])


def test_a_pack_keeps_its_others_when_one_leaves_the_sheet(tmp_path):
    packs = packs_of(training("a/1", "a/2", "a/3"), 2)
    leave(tmp_path, packs, "a.000", "a.001")
    left = packs_of(training("a/2", "a/4"), 2, read_ledgers(tmp_path, ["main"]))
    assert left == {("main", "a.000"): ["2"], ("main", "a.002"): ["4"]}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"concepts": []}', '{"concepts": [1]}', '{"concepts": "1"}', "\xff"])
def test_an_unreadable_ledger_is_named_with_the_remedy(tmp_path, text):
    path = tmp_path / "main/packs/a.000.json"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"a\.000\.json: .* Delete it"):
        read_ledgers(tmp_path, ["main"])


def test_a_concept_in_two_ledgers_is_named_with_both(tmp_path):
    leave(tmp_path, {("main", "a.000"): ["1", "2"], ("main", "a.001"): ["2"]}, "a.000", "a.001")
    with pytest.raises(UserError, match=r"a\.001\.json: concept 2 is also in .*a\.000\.json\. Delete one"):
        read_ledgers(tmp_path, ["main"])
    (tmp_path / "main/packs/a.001.json").write_text(json.dumps({"concepts": ["3", "3"]}))
    with pytest.raises(UserError, match="named twice"):
        read_ledgers(tmp_path, ["main"])
