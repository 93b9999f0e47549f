"""Encoding of the small sums that travel beside models and confusions: stain and class sums, calibration counts."""

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from wbc_common.calibration import CalibrationCounts
from wbc_common.stain_sums import NUM_STATISTICS, StainSums
from wbc_common.wire.messages import CalibrationRequest, ClassSums
from wbc_common.wire.records import array, encode_arrays, integers, wrong


def encode_stain(sums: StainSums) -> ArrayRecord:
    """Stain sums as one record."""
    return encode_arrays({"images": np.array([sums.images]), "first": sums.first, "second": sums.second})


def decode_stain(records: RecordDict, name: str) -> StainSums:
    """Stain sums of record `name`; MessageError if it does not hold one whole number and two vectors of six floats."""
    images = integers(records, name, "images", ndim=1)
    first, second = (array(records, name, key, ndim=1) for key in ("first", "second"))
    shapes = (images.shape, first.shape, second.shape)
    if shapes != ((1,), (NUM_STATISTICS,), (NUM_STATISTICS,)) or {first.dtype.kind, second.dtype.kind} != {"f"}:
        raise wrong(f"stain sums of shapes {shapes}", f"one count and twice {NUM_STATISTICS} floats")
    return StainSums(int(images[0]), first.astype(np.float64), second.astype(np.float64))


def encode_request(request: CalibrationRequest) -> ArrayRecord:
    """A wish for calibration counts as one record."""
    return encode_arrays({"temperature": np.array([request.temperature]), "source-prior": request.source_prior})


def decode_request(records: RecordDict, name: str) -> CalibrationRequest:
    """A wish for calibration counts; MessageError if the temperature is not one number above 0."""
    temperature = array(records, name, "temperature", ndim=1)
    if temperature.shape != (1,) or not 0 < temperature[0] < np.inf:
        raise wrong(f"temperatures {temperature.tolist()}", "one above 0")
    return CalibrationRequest(float(temperature[0]), array(records, name, "source-prior", ndim=1).astype(np.float64))


_AXES = {"nll": 1, "brier": 1, "cells": 3, "positives": 3, "mass": 3, "confidence": 2, "correct": 2}
_SUMS = ("nll", "brier", "mass")
_WHOLE = ("cells", "positives", "confidence", "correct")


def encode_calibration(counts: CalibrationCounts) -> ArrayRecord:
    """Calibration counts as one record."""
    return encode_arrays({key: getattr(counts, key) for key in _AXES})


def decode_calibration(records: RecordDict, name: str) -> CalibrationCounts:
    """Calibration counts; MessageError unless they are numbers with the right axes, and counts whole."""
    sums = {key: array(records, name, key, ndim=_AXES[key]).astype(np.float64) for key in _SUMS}
    cells, positives, confidence, correct = (integers(records, name, key, ndim=_AXES[key]) for key in _WHOLE)
    return CalibrationCounts(sums["nll"], sums["brier"], cells, positives, sums["mass"], confidence, correct)


def encode_sums(sums: ClassSums) -> ArrayRecord:
    """Class sums as one record."""
    return encode_arrays({"sums": sums.sums, "counts": sums.counts})


def decode_sums(records: RecordDict, name: str) -> ClassSums:
    """Class sums of record `name`; MessageError if there are none."""
    sums = array(records, name, "sums", ndim=2).astype(np.float64)
    counts = array(records, name, "counts", ndim=1).astype(np.float64)
    if len(sums) != len(counts):
        raise wrong(f"{len(sums)} class sums with {len(counts)} counts", "as many of both")
    return ClassSums(sums, counts)
