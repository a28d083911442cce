"""The plan counts what the merge then reads and writes."""

from trivet.merge import merge_checkpoints
from trivet.merge.checkpoint import open_merge
from trivet.merge.cost import estimate


def test_bytes_are_those_of_the_merge(write_recipe, tmp_path):
    recipe = write_recipe(out_dtype="bfloat16")
    merge, _ = open_merge(recipe)
    cost = estimate(merge)
    merge.sources.close()
    made = merge_checkpoints(recipe, tmp_path / "out").report
    assert made is not None
    assert (cost.bytes_read, cost.bytes_written) == (made.bytes_read, made.bytes_written)
    assert cost.files == 1 and cost.models == 4 and cost.tensors == len(made.tensors)
    assert 0 < cost.seconds < 60


def test_methods_that_look_more_often_read_more_of_what_is_not_kept(write_recipe, monkeypatch):
    from trivet.merge import stream

    monkeypatch.setattr(stream, "KEPT_BYTES", 0)
    read = {}
    for method in ("task_arithmetic", "ties"):
        merge, _ = open_merge(write_recipe(merge_method=method))
        read[method] = estimate(merge).bytes_read
        merge.sources.close()
    assert read["ties"] == 3 * read["task_arithmetic"]
