"""Whole studies through the unmodified ServerApp and ClientApp."""

import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from safetensors.numpy import load_file

from studies import aligned_experiment, run_tiny, tiny_experiment
from wbc_client import sharing
from wbc_client.app import app as client_app
from wbc_client.dataset.packed import packed_metadata, read_packed, write_packed
from wbc_client.state.ledger import LEDGER_NAME
from wbc_common.errors import SettingError
from wbc_server.app import app as server_app
from wbc_server.record import checkpoints, journal, round_book
from wbc_server.run_folder import RUN_KEY, RunFolder
from wbc_simulations.clinics import write_clinics
from wbc_simulations.engine import engines as engine
from wbc_simulations.engine.engines import InProcessGrid, run_study
from wbc_simulations.experiment import PhantomClinic, plan_study
from wbc_simulations.running import continue_run, finish_run, start_run


def arrays(run: RunFolder) -> dict[str, np.ndarray]:
    return load_file(run.model)


def records(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in run.journal.read_text().splitlines()]


def same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(one[key].tobytes() == other[key].tobytes() for key in one)


def test_a_study_leaves_everything_a_user_was_promised(finished_run: RunFolder) -> None:
    names = {path.name for path in finished_run.path.iterdir()}
    assert {"study.toml", "rounds.jsonl", "model.safetensors", "metrics.json", "report.html"} <= names
    assert [record["round"] for record in records(finished_run)] == [1, 2]


def test_the_held_out_clinic_only_ever_answers_evaluations(finished_run: RunFolder) -> None:
    left = [
        json.loads(line) for line in (finished_run.path / "sites" / "west" / "egress.jsonl").read_text().splitlines()
    ]
    assert {departure["task"] for departure in left} == {"describe", "evaluate"}


def test_the_clinics_ledger_and_the_servers_count_agree_on_what_left(finished_run: RunFolder) -> None:
    sent = records(finished_run)
    for clinic in ("east", "north", "south"):
        left = [json.loads(line) for line in (finished_run.path / "sites" / clinic / LEDGER_NAME).open()]
        rounds = [departure["bytes"] for departure in left if departure["task"] == "train"]
        closing = next(departure["bytes"] for departure in left if departure["task"] == "evaluate")
        counted = sum(sum(record["egress"][clinic].values()) for record in sent)
        assert sum(rounds) + closing == counted > 1_000_000


def test_a_round_is_one_message_each_way_for_every_clinic(finished_run: RunFolder) -> None:
    for clinic, kind in (("east", "train"), ("north", "train"), ("south", "train"), ("west", "evaluate")):
        left = [json.loads(line) for line in (finished_run.path / "sites" / clinic / LEDGER_NAME).open()]
        before_last = [departure["task"] for departure in left if departure["round_number"] == 1]
        assert before_last == [kind]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(finished_run: RunFolder, tmp_path: Path) -> None:
    again, _ = run_tiny(tmp_path / "again", aligned_experiment())
    other, _ = run_tiny(tmp_path / "other", aligned_experiment(seed=1))
    assert same_bits(arrays(finished_run), arrays(again))
    assert not same_bits(arrays(finished_run), arrays(other))


class _Interrupted(KeyboardInterrupt):
    pass


# Messages: 1-4 describe; 5-7 train; 8-10 train and 11 measures; 12-15 close; then the selected model is measured.
@pytest.mark.parametrize("stop_at", [4, 5, 10, 11, 12, 15, 16])
def test_a_resumed_study_equals_an_uninterrupted_one_bit_for_bit(
    finished_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    run = RunFolder(tmp_path / "run")
    experiment = aligned_experiment()
    start_run(experiment, plan_study(experiment), run)
    deliver, sent = InProcessGrid._deliver, []

    def stop_after_some(grid: InProcessGrid, message: Message) -> Message:
        sent.append(message)
        if len(sent) == stop_at:
            raise _Interrupted
        return deliver(grid, message)

    monkeypatch.setattr(InProcessGrid, "_deliver", stop_after_some)
    with pytest.raises(_Interrupted):
        finish_run(experiment, run.study(), run, "in-process")
    assert not run.is_finished
    monkeypatch.undo()
    finish_run(*continue_run(run), run, "in-process")
    assert same_bits(arrays(run), arrays(finished_run))
    assert run.read_metrics()["held_out"] == finished_run.read_metrics()["held_out"]


KILLS = [
    (checkpoints, "save", 1, "before"),  # the model of round 1
    (checkpoints, "save", 2, "after"),  # and the anchors beside it, without the record of that round
    (round_book, "write_kept", 1, "after"),
    (round_book, "write_kept", 2, "before"),  # round 1 is in the journal, its figures came with round 2
    (journal, "append", 1, "before"),  # the figures of round 1 are here, their line is not
    (journal, "append", 2, "before"),  # the closing exchange is over
    (journal, "append", 2, "after"),
    (sharing, "keep", 1, "after"),  # a clinic, with its sums written and its update not yet made
    (InProcessGrid, "_deliver", 5, "after"),  # a clinic has trained; its reply is lost
]


@pytest.mark.parametrize(("room", "act", "count", "moment"), KILLS)
def test_killed_at_any_step_of_keeping_a_round_it_resumes_to_the_same_bits(
    finished_run: RunFolder, tmp_path: Path, room: object, act: str, count: int, moment: str
) -> None:
    run, done = RunFolder(tmp_path / "run"), []
    experiment = aligned_experiment()
    start_run(experiment, plan_study(experiment), run)
    real = getattr(room, act)

    def killed(*args: object, **named: object) -> object:
        done.append(act)
        is_it = len(done) == count  # asked now: clinics work side by side
        if is_it and moment == "before":
            raise _Interrupted
        result = real(*args, **named)
        if is_it:
            raise _Interrupted
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, act, killed)
        with pytest.raises(_Interrupted):
            finish_run(experiment, run.study(), run, "in-process")
    finish_run(*continue_run(run), run, "in-process")
    assert same_bits(arrays(run), arrays(finished_run))
    assert run.read_metrics()["held_out"] == finished_run.read_metrics()["held_out"]
    assert [record["validation"] for record in records(run)] == [
        record["validation"] for record in records(finished_run)
    ]


def test_a_finished_study_is_not_run_again(finished_run: RunFolder) -> None:
    before = finished_run.report.stat().st_mtime_ns
    finish_run(*continue_run(finished_run), finished_run, "in-process")
    assert finished_run.report.stat().st_mtime_ns == before


def test_a_new_run_refuses_a_folder_that_holds_something(finished_run: RunFolder) -> None:
    with pytest.raises(SettingError, match="not empty"):
        start_run(tiny_experiment(), plan_study(tiny_experiment()), finished_run)


Tamper = Callable[[RecordDict], None]


def _not_a_number(content: RecordDict) -> None:
    update = content["update"]
    assert isinstance(update, ArrayRecord)
    value = update["head.bias"].numpy()
    value[0] = np.nan
    update["head.bias"] = Array(value)


def _wrong_shape(content: RecordDict) -> None:
    content["update"]["head.bias"] = Array(np.zeros(1, dtype=np.float32))


def _billion_cells(content: RecordDict) -> None:
    content["counts"]["counts"] = Array(np.full(5, 1e12))


def _surplus_record(content: RecordDict) -> None:
    content["more"] = ArrayRecord()


def run_with_tampered_north(folder: Path, tamper: Tamper) -> RunFolder:
    """A study in which clinic north's every update is tampered with."""
    experiment = tiny_experiment()
    study = plan_study(experiment)
    run = RunFolder(folder)
    start_run(experiment, study, run)
    clinics = sorted(write_clinics(experiment, study, run.path).glob("*.toml"))

    def client(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type == "train" and context.node_config["clinic-config"] == str(clinics[1]):
            tamper(reply.content)
        return reply

    nodes = {number: {"clinic-config": str(path)} for number, path in enumerate(clinics, start=1)}
    context = Context(1, 1, {}, RecordDict(), {RUN_KEY: str(run.path)})
    server_app(InProcessGrid(client, nodes), context)  # type: ignore[arg-type]
    return run


@pytest.mark.parametrize("tamper", [_not_a_number, _wrong_shape, _billion_cells, _surplus_record])
def test_a_bad_update_is_named_and_left_out_and_the_study_goes_on(tmp_path: Path, tamper: Tamper) -> None:
    run = run_with_tampered_north(tmp_path / "run", tamper)
    for record in records(run):
        assert [(entry["clinic"], entry["stage"]) for entry in record["refused"]] == [("north", "update")]
        assert list(record["train"]) == ["east"]
    assert all(np.isfinite(value).all() for value in arrays(run).values())
    assert "north" in run.report.read_text()


def test_a_clinic_with_one_cell_takes_part(tmp_path: Path) -> None:
    experiment = tiny_experiment()
    one = PhantomClinic(clinic="one", domain="pale_wright", cells=1, patients=1, case_mix={"normal": 1.0})
    data = experiment.data.model_copy(update={"clinics": (*experiment.data.clinics, one)})
    run, _ = run_tiny(tmp_path / "run", experiment.model_copy(update={"data": data}))
    assert records(run)[0]["train"]["one"]["cells"] == 1
    assert records(run)[0]["refused"] == []


def test_a_class_that_no_clinic_has_stays_finite_and_unmeasured(tmp_path: Path) -> None:
    experiment = tiny_experiment()
    clinics = tuple(clinic.model_copy(update={"missing": ("basophil",)}) for clinic in experiment.data.clinics)
    data = experiment.data.model_copy(update={"clinics": clinics})
    run, study = run_tiny(tmp_path / "run", experiment.model_copy(update={"data": data}))
    assert all(np.isfinite(value).all() for value in arrays(run).values())
    basophil = run.read_metrics()["held_out"]["west"]["per_class"][study.classes.index("basophil")]
    assert basophil["support"] == 0
    assert basophil["f1"] is None


def test_coarse_labels_train_and_are_counted_apart(tmp_path: Path) -> None:
    experiment = tiny_experiment(registry="wbc13")
    study = plan_study(experiment)
    run = RunFolder(tmp_path / "run")
    start_run(experiment, study, run)
    clinics = write_clinics(experiment, study, run.path)
    path = tmp_path / "coarse.safetensors"
    values = tomllib.loads((clinics / "east.toml").read_text())
    cells = read_packed(Path(values["data"]["path"]))
    neutrophils = list(study.classes.resolve("neutrophil"))
    is_neutrophil = cells.allowed[:, neutrophils].any(dim=1)
    allowed = cells.allowed.clone()
    for index in neutrophils:
        allowed[is_neutrophil, index] = True
    write_packed(replace(cells, allowed=allowed), path, packed_metadata(study.classes, study.images))
    text = (clinics / "east.toml").read_text().replace(values["data"]["path"], str(path))
    (clinics / "east.toml").write_text(text)
    run_study(run, clinics, "in-process")
    record = records(run)[-1]
    assert record["refused"] == []
    assert record["coarse"]["east"][0] > 0
    assert "east" in record["train"]


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """As many threads as a Ray worker has: sums over other numbers of threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray cluster of two nodes with one core each, on loopback."""
    pytest.importorskip("ray", reason='Ray comes with pip install ".[simulation]"')
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    # Ray takes 127.0.0.1 for the machine's outer address, but leaves the other loopback addresses alone.
    head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.2"}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_on_a_ray_cluster_of_two_nodes_the_same_study_gives_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_nodes: str
) -> None:
    import ray
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool

    places: list[set[str]] = []
    add_actors = BasicActorPool.add_actors_to_pool

    def note_places(pool: BasicActorPool, number: int) -> None:
        add_actors(pool, number)
        places.append({node["NodeID"] for node in ray.nodes() if node["Alive"]})
        assert number == len(places[-1]) == 2  # one core a node, one core a clinic: an actor on each

    monkeypatch.setattr(BasicActorPool, "add_actors_to_pool", note_places)
    in_process, _ = run_tiny(tmp_path / "in-process", aligned_experiment())
    run = RunFolder(tmp_path / "ray")
    experiment = aligned_experiment()
    study = plan_study(experiment)
    start_run(experiment, study, run)
    engine.run_study(run, write_clinics(experiment, study, run.path), "ray", ray_address=two_nodes)
    assert len(places) == 1
    assert not ray.is_initialized()
    assert same_bits(arrays(in_process), arrays(run))


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_without_an_address_ray_starts_on_this_machine_and_ends_with_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason='Ray comes with pip install ".[simulation]"')
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    experiment, run = tiny_experiment(rounds=1), RunFolder(tmp_path / "ray")
    study = plan_study(experiment)
    start_run(experiment, study, run)
    finish_run(experiment, study, run, "ray")
    assert run.is_finished
    assert not ray.is_initialized()
    in_process, _ = run_tiny(tmp_path / "in-process", experiment)
    assert same_bits(arrays(in_process), arrays(run))


def test_a_ray_address_without_ray_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--ray-address is for the engine 'ray'"):
        run_study(RunFolder(tmp_path), tmp_path, "in-process", ray_address="127.0.0.1:1")
