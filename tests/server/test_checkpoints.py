"""Checkpoints come back bit for bit or not at all."""

import hashlib
import json
import resource

import numpy as np
import pytest
from safetensors import safe_open

from wbc_common.errors import DataError, WbcError
from wbc_server.record import checkpoints
from wbc_server.record.checkpoints import CheckpointRef

METADATA = {f"key-{index}": str(index) for index in range(8)}


def arrays():
    generator = np.random.default_rng(0)
    return {
        "head.weight": generator.normal(size=(5, 4)).astype(np.float32),
        "head.bias": np.arange(5, dtype=np.float32),
        "backbone.transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "backbone.fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "backbone.strided": np.arange(10, dtype=np.float32)[::2],
        "backbone.steps": np.array(7, np.int64),
        "backbone.empty": np.zeros((0, 3), np.float32),
    }


def test_arrays_come_back_with_their_values_dtypes_and_shapes(tmp_path):
    ref = checkpoints.save(tmp_path / "new" / "folder", 7, arrays(), METADATA)
    loaded = checkpoints.load(tmp_path / "new" / "folder", ref)
    assert loaded.keys() == arrays().keys()
    for key, value in arrays().items():
        assert (loaded[key].dtype, loaded[key].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(loaded[key], value)


def test_the_reference_is_the_files_name_and_checksum(tmp_path):
    ref = checkpoints.save(tmp_path, 7, arrays(), METADATA)
    assert ref.file == "round-0007.safetensors"
    assert ref.sha256 == hashlib.sha256((tmp_path / ref.file).read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == [ref.file]


def test_a_round_beyond_four_digits_has_a_name_too(tmp_path):
    ref = checkpoints.save(tmp_path, 12_345, arrays(), {})
    assert ref.file == "round-12345.safetensors"
    assert checkpoints.load(tmp_path, ref)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    refs = {checkpoints.save(tmp_path, 1, arrays(), METADATA) for _ in range(10)}
    assert len(refs) == 1


def test_the_header_says_what_the_file_is(tmp_path):
    ref = checkpoints.save(tmp_path, 1, arrays(), METADATA)
    with safe_open(tmp_path / ref.file, framework="numpy") as file:
        assert json.loads(file.metadata()["wbc"]) == METADATA


def damaged(content, generator):
    """The content with one flipped bit, cut short, or made longer."""
    kind = generator.integers(3)
    if kind == 0:
        changed = bytearray(content)
        changed[generator.integers(len(content))] ^= 1 << generator.integers(8)
        return bytes(changed)
    if kind == 1:
        return content[: generator.integers(len(content))]
    return content + generator.bytes(generator.integers(1, 100))


def test_none_of_200_damaged_files_is_parsed(tmp_path, monkeypatch):
    ref = checkpoints.save(tmp_path, 1, arrays(), METADATA)
    content = (tmp_path / ref.file).read_bytes()
    parsed = []
    monkeypatch.setattr(checkpoints, "arrays_in_file", parsed.append)
    generator = np.random.default_rng(1)
    for _ in range(200):
        (tmp_path / ref.file).write_bytes(damaged(content, generator))
        with pytest.raises(DataError, match="is damaged") as caught:
            checkpoints.load(tmp_path, ref)
        assert caught.value.remedy
    assert parsed == []


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot read checkpoint"):
        checkpoints.load(tmp_path, CheckpointRef("round-0001.safetensors", "0" * 64))


def test_a_right_checksum_of_something_else_is_a_data_error(tmp_path):
    (tmp_path / "round-0001.safetensors").write_bytes(b"no model")
    ref = CheckpointRef("round-0001.safetensors", hashlib.sha256(b"no model").hexdigest())
    with pytest.raises(DataError, match="no safetensors file"):
        checkpoints.load(tmp_path, ref)


@pytest.mark.parametrize("name", ["../round-0001.safetensors", "/etc/passwd", "round-1.safetensors", ""])
def test_a_reference_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="not a checkpoint's name"):
        checkpoints.load(tmp_path, CheckpointRef(name, "0" * 64))


def test_a_full_disk_leaves_the_earlier_file_and_no_rest(tmp_path):
    ref = checkpoints.save(tmp_path, 1, arrays(), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the kernel writes 100 bytes, then fails
    try:
        with pytest.raises(WbcError, match="cannot write") as caught:
            checkpoints.save(tmp_path, 1, {"head.bias": np.ones(5, np.float32)}, METADATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free space" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == [ref.file]
    assert checkpoints.load(tmp_path, ref).keys() == arrays().keys()


def test_a_crash_before_the_rename_leaves_the_earlier_file(tmp_path, monkeypatch):
    ref = checkpoints.save(tmp_path, 1, arrays(), {})

    def crash(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, 1, {"head.bias": np.ones(5, np.float32)}, {})
    assert checkpoints.load(tmp_path, ref).keys() == arrays().keys()


def test_pruning_keeps_the_named_rounds_and_files_of_others(tmp_path):
    for number in (1, 2, 3, 12_345):
        checkpoints.save(tmp_path, number, arrays(), {})
    for name in ("notes.txt", "round-0001.json", "round-0002.safetensors.part"):
        (tmp_path / name).touch()
    checkpoints.prune(tmp_path, {2, 12_345, 99})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"round-0002.safetensors", "round-12345.safetensors", "notes.txt", "round-0001.json"}


def test_pruning_before_the_first_checkpoint_does_nothing(tmp_path):
    checkpoints.prune(tmp_path / "none", {1})
    assert not (tmp_path / "none").exists()
