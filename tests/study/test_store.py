"""The store: addresses, manifests, the index, upkeep, the driver's lock."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import StoreError
from trivet.study.address import Description, changed_versions, derived_seed
from trivet.study.manifest import MANIFEST
from trivet.study.store import Store

texts = st.text(max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def write(store: Store, description: Description, **files: bytes) -> str:
    with store.writing(description, study="s", step="step") as draft:
        for name, content in files.items():
            (draft / name).write_bytes(content)
    return description.address


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class TestAddress:
    @given(st.dictionaries(texts, plain, max_size=4))
    def test_order_of_keys_does_not_matter(self, config):
        turned = dict(reversed(config.items()))
        assert Description("m", 1, config).address == Description("m", 1, turned).address

    @given(st.dictionaries(texts, plain, max_size=3), texts, plain)
    def test_every_key_matters(self, config, key, value):
        changed = {**config, key: value}
        same = key in config and json.dumps(config[key]) == json.dumps(value)
        assert (Description("m", 1, config).address == Description("m", 1, changed).address) == same

    def test_method_version_inputs_and_seed_matter(self):
        base = Description("m", 1, {"a": 1}, {"x": "00"}, 3)
        others = [
            Description("n", 1, {"a": 1}, {"x": "00"}, 3),
            Description("m", 2, {"a": 1}, {"x": "00"}, 3),
            Description("m", 1, {"a": 1}, {"x": "01"}, 3),
            Description("m", 1, {"a": 1}, {"x": "00"}, 4),
        ]
        assert len({base.address, *(other.address for other in others)}) == 5

    def test_is_stable_between_versions_of_the_code(self):
        # The hashed form, written out: a change here would orphan every store that exists.
        text = '{"config":{"n":4},"inputs":{"x":"ab"},"method":"m","seed":1,"version":1}'
        expected = hashlib.sha256(text.encode()).hexdigest()
        assert Description("m", 1, {"n": 4}, {"x": "ab"}, 1).address == expected

    @given(st.integers(0, 2**31 - 1), texts, texts)
    def test_derived_seeds_are_in_range_and_differ(self, seed, a, b):
        assert 0 <= derived_seed(seed, a) < 2**31
        assert (derived_seed(seed, a, "x") == derived_seed(seed, b, "x")) == (a == b)

    def test_versions_that_changed_are_named(self):
        assert changed_versions({"a": "1", "b": "1"}, {"a": "2", "b": "1", "c": "1"}) == ["a 1 → 2"]


class TestWriting:
    @settings(max_examples=20)
    @given(st.dictionaries(st.from_regex(r"\A[a-z]{1,8}\Z"), st.binary(max_size=200), max_size=4))
    def test_what_is_written_is_found_listed_and_verified(self, tmp_path_factory, files):
        store = Store(tmp_path_factory.mktemp("store") / "s")
        with store.driver():
            address = write(store, Description("m", 1), **files)
        manifest = store.find(address)
        assert manifest is not None
        assert manifest.bytes == sum(map(len, files.values()))
        assert {p.name for p in store.folder(address).iterdir()} == {*files, MANIFEST}
        assert store.verify() == []
        assert [row["address"] for row in store.rows()] == [address]

    def test_only_the_driver_writes(self, store):
        with pytest.raises(StoreError, match="only the driver"):
            write(store, Description("m", 1), a=b"1")

    def test_an_error_inside_leaves_nothing(self, store):
        with store.driver():
            with (
                pytest.raises(ZeroDivisionError),
                store.writing(Description("m", 1), study="s", step="x") as draft,
            ):
                (draft / "half").write_text("half")
                raise ZeroDivisionError
            assert list(store.objects.iterdir()) == []

    def test_a_folder_without_manifest_counts_as_absent_and_is_replaced(self, store):
        description = Description("m", 1)
        with store.driver():
            store.folder(description.address).mkdir(parents=True)
            (store.folder(description.address) / "half").write_text("half")
            assert store.find(description.address) is None
            assert "did not finish" in store.verify()[0].what
            write(store, description, whole=b"1")
        assert store.find(description.address) is not None
        assert not (store.folder(description.address) / "half").exists()

    def test_a_full_disk_is_one_clear_message_and_nothing_half_written(self, store):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with store.driver():
            kept = write(store, Description("m", 1), a=b"1")
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
            try:
                with pytest.raises(StoreError, match="cannot write") as caught:
                    write(store, Description("m", 2), big=b"x" * 100_000)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "free disk space" in str(caught.value)
        assert store.addresses() == [kept]
        assert store.verify() == []


class TestDamage:
    @pytest.fixture
    def address(self, store: Store) -> str:
        with store.driver():
            return write(store, Description("m", 1), a=b"hello")

    def test_a_changed_output_is_found_by_verify(self, store, address):
        (store.folder(address) / "a").write_bytes(b"hellO")
        assert [problem.what for problem in store.verify()] == ["a was changed"]

    def test_a_shorter_or_missing_output_counts_as_absent(self, store, address):
        (store.folder(address) / "a").write_bytes(b"hell")
        assert store.find(address) is None
        (store.folder(address) / "a").unlink()
        assert store.find(address) is None
        assert [problem.what for problem in store.verify()] == ["a is missing"]

    @given(place=st.floats(0, 1, exclude_max=True), cut=st.booleans())
    @settings(max_examples=40)
    def test_no_damaged_manifest_is_believed(self, tmp_path_factory, place, cut):
        store = Store(tmp_path_factory.mktemp("store") / "s")
        with store.driver():
            address = write(store, Description("m", 1), a=b"hello")
        path = store.folder(address) / MANIFEST
        whole = path.read_bytes()
        position = int(place * len(whole))
        damaged = whole[:position] if cut else whole[:position] + b"\x00" + whole[position + 1 :]
        path.write_bytes(damaged)
        try:
            same = json.loads(damaged) == json.loads(whole)
        except ValueError:
            same = False
        assert (store.find(address) is not None) == same
        assert bool(store.verify()) == (not same)


class TestIndex:
    def test_is_rebuilt_from_the_manifests(self, store):
        with store.driver():
            addresses = {write(store, Description("m", i), a=bytes(i)) for i in range(1, 4)}
            rows = store.rows()
            (store.path / "index.sqlite").write_bytes(b"this is no database")
            assert store.rows() == rows
            assert store.rebuild_index() == 3
        assert {row["address"] for row in store.rows()} == addresses

    def test_a_row_for_an_object_that_is_gone_is_not_listed(self, store):
        import shutil

        with store.driver():
            address = write(store, Description("m", 1), a=b"1")
        shutil.rmtree(store.folder(address))
        assert store.rows() == []


class TestUpkeep:
    def test_gc_keeps_what_a_study_stands_on(self, store):
        with store.driver():
            kept = write(store, Description("m", 1), a=b"1")
            lost = write(store, Description("m", 2), a=b"22")
            store.answers.mkdir()
            (store.answers / "keep.jsonl").write_text("{}\n")
            (store.answers / "drop.jsonl").write_text("{}\n")
            store.record_study("study", {"addresses": [kept], "answers": ["keep"]})
            names = {name for name, _ in store.gc(dry_run=True)}
            assert names == {f"objects/{lost}", "answers/drop.jsonl"}
            assert store.find(lost) is not None, "a dry run removes nothing"
            store.gc()
        assert store.addresses() == [kept]
        assert [p.name for p in store.answers.iterdir()] == ["keep.jsonl"]
        assert store.gc(dry_run=True) == []

    def test_gc_keeps_training_that_a_study_still_needs(self, store):
        def begin(number, study, started=None):
            folder = store.begin_training(Description("m", number), study=study)
            (folder / "weights").write_text("x")
            if started is not None:
                said = json.loads((folder / "step.json").read_text())
                (folder / "step.json").write_text(json.dumps({**said, "started": started}))
            return folder

        early, finished = "2026-01-01T00:00:00.000+00:00", "2026-01-02T00:00:00.000+00:00"
        with store.driver():
            record = {"finished": finished, "training": [Description("m", 3).address]}
            store.record_study("known", record)
            kept = [begin(1, "never-finished", early), begin(2, "known"), begin(3, "known", early)]
            lost = [begin(4, "known", early), begin(5, "known"), store.training / "unknown"]
            write(store, Description("m", 5), a=b"1")
            store.record_study("done", {"addresses": [Description("m", 5).address]})
            lost[2].mkdir()
            store.gc()
        assert all((folder / "weights").is_file() for folder in kept)
        assert not any(folder.exists() for folder in lost)

    def test_gc_refuses_where_a_record_is_damaged(self, store):
        with store.driver():
            address = write(store, Description("m", 1), a=b"1")
            (store.path / "studies").mkdir()
            (store.path / "studies" / "x.json").write_text("{")
            with pytest.raises(StoreError, match=r"x\.json"):
                store.gc()
        assert store.find(address) is not None


class TestFolder:
    def test_a_folder_that_holds_something_else_is_refused(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("mine")
        with pytest.raises(StoreError, match="is not a store"):
            Store(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.txt"]

    def test_a_missing_store_is_not_made_for_reading(self, tmp_path):
        with pytest.raises(StoreError, match="is not a store"):
            Store(tmp_path / "nothing", create=False)
        assert not (tmp_path / "nothing").exists()

    def test_a_later_format_is_refused(self, tmp_path):
        (tmp_path / "store.json").write_text('{"format": 99}')
        with pytest.raises(StoreError, match="99"):
            Store(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from trivet.study.store import Store
with Store(Path(sys.argv[1])).driver():
    print("held", flush=True)
    time.sleep(60)
"""


class TestLock:
    def test_a_second_driver_is_refused_and_a_dead_ones_lock_is_taken_over(self, store):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(store.path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(StoreError, match=rf"process {holder.pid} ") as caught, store.driver():
                pass
            assert "wait until" in str(caught.value)
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
            holder.stdout.close()
        with store.driver():
            assert str(os.getpid()) in (store.path / "lock").read_text()

    def test_two_objects_in_one_process_exclude_each_other_too(self, store):
        with store.driver(), pytest.raises(StoreError, match="another process"), Store(store.path).driver():
            pass
        with store.driver():
            pass
