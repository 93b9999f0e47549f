"""Whether a run that lies in a folder is the one that a sweep plans there."""

from pathlib import Path

from wbc_common.study import StudyConfig


def same_plan(one: StudyConfig, other: StudyConfig) -> bool:
    """Whether two plans are the same, wherever a weights file of one name lies ("w.safetensors", "/at/w.safetensors").

    An earlier version wrote the name as the study says it, whatever folder it was found in.
    """
    mine, theirs = Path(one.model.weights), Path(other.model.weights)
    shorter, longer = sorted((mine.parts, theirs.parts), key=len)
    if longer[len(longer) - len(shorter) :] != shorter:
        return False
    model = other.model.model_copy(update={"weights": one.model.weights})
    return one.hash == other.model_copy(update={"model": model}).hash
