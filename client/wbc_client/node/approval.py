"""A clinic's consent to a plan: its hash, signed with the clinic's key and kept on site.

A study file that changes after it was approved has another hash, so that nothing runs until a person has looked again.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from wbc_client.site import Site
from wbc_common.errors import PolicyError
from wbc_common.files import write_atomically
from wbc_common.keys import read_private_key, sign, verifies
from wbc_common.study import StudyConfig

_NAME = "approved.json"


def approve_plan(site: Site, study: StudyConfig) -> str:
    """Sign the hash of the plan that was shown, whatever its file holds by now, and keep it; returns the hash.

    Raises:
        SettingError: the key cannot be used.
    """
    plan = study.hash
    key = read_private_key(site.node().key)
    values = {
        "clinic": site.clinic,
        "plan": plan,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "signature": sign(key, _statement(site.clinic, plan)),
    }
    site.state_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(site.state_dir / _NAME, json.dumps(values, indent=1).encode())
    return plan


def check_approved(site: Site) -> None:
    """Refuse to work by a plan that this clinic has not approved.

    Raises:
        PolicyError: nothing was approved, another plan was, or the approval is not signed with the clinic's key.
    """
    plan = site.read_study().hash
    approved = _read(site.state_dir / _NAME)
    if approved.get("plan") != plan:
        before = f"this clinic approved {str(approved['plan'])[:12]}" if approved.get("plan") else "none is approved"
        raise PolicyError(
            f"plan {plan[:12]} of {site.study.name} is not approved: {before}",
            remedy="read it and agree to it: wbc-client approve clinic.toml",
        )
    key = read_private_key(site.node().key).public_key()
    if not verifies(key, _statement(site.clinic, plan), str(approved.get("signature", ""))):
        raise PolicyError(
            "the approval is not signed with this clinic's key", remedy="approve again: wbc-client approve clinic.toml"
        )


def plain_words(site: Site, study: StudyConfig) -> list[str]:
    """What the plan means for this clinic, a line each."""
    role = study.role(site.clinic)
    training, held_out = study.clinics.train, study.clinics.held_out
    rehearsed = f", beside {study.training.rehearsal:g} in-silico cells of the package for each of its own"
    work = (
        f"trains {study.training.local_epochs} epochs in each of up to {study.rounds} rounds"
        f"{rehearsed if study.training.rehearsal else ''}, and measures"
        if role == "train"
        else f"never trains; measures the model on all its cells in up to {study.rounds} rounds"
    )
    return [
        f"study: {study.name}, classes {study.registry}, model {study.model.backbone}",
        f"clinics that train: {', '.join(training)}; held out: {', '.join(held_out) or 'none'}",
        f"here: clinic {site.clinic} {work}",
        f"what leaves: {', '.join(_leaves(site.clinic, study))}",
        "what does not leave: images, names of files, patients",
        _budget(study),
        f"a round waits {study.participation.round_minutes:g} minutes for its clinics",
    ]


def _leaves(clinic: str, study: StudyConfig) -> list[str]:
    """Each kind of content that the plan lets leave this clinic."""
    by_probability = ["counts of cells and sums of errors by predicted probability, confusion counts for another mix"]
    counts = [
        "its name and class counts",
        f"confusion counts, at the end summed over {study.evaluation.bootstrap_replicates} secret draws of patients",
        *(by_probability if study.evaluation.calibration else []),
        "the kind of an error and a reference to this clinic's log",
    ]
    if study.role(clinic) != "train":
        return counts
    if clinic in study.personal.clinics:
        counts.append("confusion counts of its own head")
    beside = "mean losses" if study.privacy.mode == "none" else "the ε spent"
    updates = (
        f"model updates ({study.transport.update_precision}) with {beside}, class counts, number of cells, seconds and "
        "arithmetic"
    )
    aligns = any(study.shares_sums(number) for number in range(1, study.rounds + 1))
    sums = ["sums of features by class"] if aligns else []
    stains = ["sums of stain statistics"] if study.pools_stain else []
    return [updates, *sums, *stains, *counts]


def _budget(study: StudyConfig) -> str:
    if study.privacy.mode == "none":
        return "budget: none; no noise is added, and updates can reveal something about training cells"
    return f"budget: {study.privacy.mode}, for model updates alone: {study.privacy.model_dump(mode='json')}"


def _statement(clinic: str, plan: str) -> bytes:
    return f"wbc-fl: clinic {clinic} approves plan {plan}".encode()


def _read(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
