"""Arrays as the bytes of a file: read back by safetensors itself, and the same bytes for the same content."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, save

from wbc_common.arrays_file import arrays_as_file, arrays_in_file

ARRAYS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "number": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 3), np.float32),
}
MANY = {name: f"ä {name}" for name in ("study", "classes", "round", "use", "format", "hash", "digest")}


def as_bytes(arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    return b"".join(arrays_as_file(arrays, metadata))


@pytest.mark.parametrize("metadata", [None, {}, {"one": "entry"}, MANY])
def test_a_file_comes_back_with_arrays_and_metadata(tmp_path, metadata):
    content = as_bytes(ARRAYS, metadata)
    loaded = load(content)
    assert set(loaded) == set(ARRAYS)
    for key, value in ARRAYS.items():
        assert loaded[key].dtype == value.dtype
        np.testing.assert_array_equal(loaded[key], value)
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with safe_open(path, framework="numpy") as file:
        assert (file.metadata() or {}) == (metadata or {})


def test_the_librarys_writer_gives_the_same_bytes():
    """Of arrays in rows and one entry of metadata, where it has no choice."""
    arrays = {key: np.ascontiguousarray(value) for key, value in ARRAYS.items() if value.ndim}
    assert as_bytes(arrays, {"a": "b"}) == save(arrays, {"a": "b"})


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "?", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1"])
def test_numbers_of_every_type_come_back(kind):
    value = np.array([0, 1, 1], dtype=kind)
    loaded = load(as_bytes({"a": value}))["a"]
    assert (loaded.dtype, loaded.tolist()) == (value.dtype, value.tolist())


def test_an_array_of_something_else_is_refused():
    with pytest.raises(ValueError, match="'a' of object"):
        arrays_as_file({"a": np.array([None])})


def test_arrays_are_read_one_by_one_also_when_the_file_is_gone(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(as_bytes(ARRAYS, MANY))
    found = arrays_in_file(path)
    path.unlink()
    assert found.keys() == ARRAYS.keys()
    for key, value in ARRAYS.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[key], value)
    assert "missing" not in found


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 16, (2).to_bytes(8, "little") + b"[]"])
def test_a_file_of_something_else_is_not_read(tmp_path, content):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"header|JSON|Expecting"):
        arrays_in_file(path)


def test_tensors_begin_at_a_multiple_of_eight_bytes():
    for length in range(8):
        content = as_bytes(ARRAYS, {"a": "x" * length, "b": ""})
        assert int.from_bytes(content[:8], "little") % 8 == 0


def test_another_process_writes_the_same_bytes():
    """The library's own writer orders metadata by a hash that is seeded anew for every map."""
    script = (
        "import sys, numpy as np; from wbc_common.arrays_file import arrays_as_file;"
        f"sys.stdout.buffer.writelines(arrays_as_file({{'a': np.ones(3, np.float32)}}, {MANY!r}))"
    )
    other = subprocess.run([sys.executable, "-X", "utf8", "-c", script], capture_output=True, check=True).stdout
    written = {as_bytes({"a": np.ones(3, np.float32)}, dict(reversed(MANY.items()))) for _ in range(20)}
    assert written == {other}
