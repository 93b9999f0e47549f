"""Reading Flower's records with suspicion: each getter says what it expected and what it got."""

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from wbc_common.errors import MessageError
from wbc_common.wire.messages import Arrays
from wbc_common.wire.npy import view_array, write_array


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Named arrays as one record; their order is kept."""
    return ArrayRecord(array_dict={key: write_array(value) for key, value in arrays.items()})


def decode_arrays(records: RecordDict, name: str) -> Arrays:
    """The named arrays of record `name`, as read-only views of its bytes.

    Raises:
        MessageError: the record is missing, or one of its arrays cannot be read (pickle is never allowed).
    """
    record = records.get(name)
    if not isinstance(record, ArrayRecord):
        raise wrong(f"no arrays under '{name}'", "an array record")
    return record_arrays(record)


def record_arrays(record: ArrayRecord) -> Arrays:
    """The named arrays of a record, as read-only views of its bytes."""
    try:
        return {key: view_array(value) for key, value in record.items()}
    except Exception as error:
        raise wrong("an array that cannot be read", "arrays of numbers in numpy's format") from error


def array(records: RecordDict, record: str, key: str, *, ndim: int) -> np.ndarray:
    """One array of a record, with that many axes; MessageError otherwise."""
    values = decode_arrays(records, record).get(key)
    if values is None or values.ndim != ndim or values.dtype.kind not in "fiu":
        got = "nothing" if values is None else f"{values.dtype} with {values.ndim} axes"
        raise wrong(f"{got} under '{record}.{key}'", f"numbers with {ndim} axes")
    return values


def integers(records: RecordDict, record: str, key: str, *, ndim: int) -> NDArray[np.int64]:
    """One array of whole numbers as int64."""
    values = array(records, record, key, ndim=ndim)
    if values.dtype.kind not in "iu":
        raise wrong(f"'{key}' as {values.dtype}", "integers")
    return values.astype(np.int64)


def config(records: RecordDict, name: str) -> ConfigRecord:
    """A record of settings."""
    record = records.get(name)
    if not isinstance(record, ConfigRecord):
        raise wrong(f"no settings under '{name}'", "a config record")
    return record


def metrics(records: RecordDict, name: str) -> dict[str, float]:
    """A record of single numbers, as floats."""
    record = records.get(name)
    if not isinstance(record, MetricRecord):
        raise wrong(f"no metrics under '{name}'", "a metric record")
    if any(isinstance(value, list) for value in record.values()):
        raise wrong(f"a list under '{name}'", "single numbers")
    return {key: float(value) for key, value in record.items()}  # type: ignore[arg-type]


def integer(values: ConfigRecord, key: str) -> int:
    """A whole number from 0."""
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise wrong(f"'{key}' = {value!r}", "a number from 0")
    return value


def flag(values: ConfigRecord, key: str) -> bool:
    """True or false."""
    value = values.get(key)
    if not isinstance(value, bool):
        raise wrong(f"'{key}' = {value!r}", "true or false")
    return value


def only(records: RecordDict, names: set[str] | frozenset[str]) -> None:
    """Refuse records beside the named ones."""
    surplus = sorted(set(records) - names)
    if surplus:
        raise wrong(f"surplus records {', '.join(surplus)}", f"only {', '.join(sorted(names))}")


def wrong(got: str, expected: str) -> MessageError:
    """The error of a message that is not what it should be."""
    return MessageError(
        f"message holds {got}, expected {expected}", remedy="run the same version of wbc-fl at coordinator and clinics"
    )
