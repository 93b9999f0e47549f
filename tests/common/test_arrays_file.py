"""Arrays as the bytes of a file: read back by safetensors itself, and the same bytes for the same content."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load

from wbc_common.arrays_file import arrays_to_bytes

ARRAYS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "number": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 3), np.float32),
}
MANY = {name: f"ä {name}" for name in ("study", "classes", "round", "use", "format", "hash", "digest")}


@pytest.mark.parametrize("metadata", [None, {}, {"one": "entry"}, MANY])
def test_a_file_comes_back_with_arrays_and_metadata(tmp_path, metadata):
    content = arrays_to_bytes(ARRAYS, metadata)
    loaded = load(content)
    assert set(loaded) == set(ARRAYS)
    for key, value in ARRAYS.items():
        assert loaded[key].dtype == value.dtype
        np.testing.assert_array_equal(loaded[key], value)
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with safe_open(path, framework="numpy") as file:
        assert (file.metadata() or {}) == (metadata or {})


def test_tensors_begin_at_a_multiple_of_eight_bytes():
    for length in range(8):
        content = arrays_to_bytes(ARRAYS, {"a": "x" * length, "b": ""})
        assert int.from_bytes(content[:8], "little") % 8 == 0


def test_another_process_writes_the_same_bytes():
    """safetensors orders metadata by a hash that is seeded anew for every map."""
    script = (
        "import sys, numpy as np; from wbc_common.arrays_file import arrays_to_bytes;"
        f"sys.stdout.buffer.write(arrays_to_bytes({{'a': np.ones(3, np.float32)}}, {MANY!r}))"
    )
    other = subprocess.run([sys.executable, "-X", "utf8", "-c", script], capture_output=True, check=True).stdout
    written = {arrays_to_bytes({"a": np.ones(3, np.float32)}, dict(reversed(MANY.items()))) for _ in range(20)}
    assert written == {other}
