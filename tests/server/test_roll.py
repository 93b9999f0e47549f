"""A start waits for the wanted clinics; who is not there is named, and a quorum decides."""

import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from attending import NODES, Answer, ScriptedGrid, attending, parcel, silent
from wbc_common.errors import ConnectionFailure
from wbc_common.study import StudyConfig, parse_study
from wbc_common.wire import Description, encode_reply
from wbc_server.exchange.attendance import LATE_CODE, await_clinics
from wbc_server.exchange.deployment import Deployment
from wbc_server.exchange.participation import call_roll
from wbc_server.record.round_book import RoundBook
from wbc_server.run_folder import RunFolder
from wbc_server.strategy import WbcStrategy


def test_a_start_waits_for_the_wanted_clinics_and_goes_on_with_those_that_came(tmp_path: Path) -> None:
    grid = ScriptedGrid(Deployment(tmp_path), {}, there=[1, 2, 99])
    assert await_clinics(grid, lambda: NODES, ["east", "north"], 5.0) == {1: "east", 2: "north"}
    assert await_clinics(grid, lambda: NODES, ["east", "west"], 0.1) == {1: "east"}
    with pytest.raises(ConnectionFailure, match="no clinic came"):
        await_clinics(grid, lambda: NODES, ["west"], 0.1)


def test_a_key_that_is_replaced_while_a_start_waits_is_seen(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    deployment.write({1: "east", 2: "north"})

    class Replacing(ScriptedGrid):
        def get_node_ids(self) -> list[int]:
            deployment.write({1: "east", 3: "north"})  # and the clinic comes with its new key
            return [1, 3]

    began = time.monotonic()
    assert await_clinics(Replacing(deployment, {}), deployment.clinics, ["east", "north"], 20.0) == {
        1: "east",
        3: "north",
    }
    assert time.monotonic() - began < 10


def a_study(quorum: float = 0.5) -> StudyConfig:
    clinics = {"train": ["east", "north"], "held_out": ["west"]}
    return parse_study({"name": "s", "clinics": clinics, "participation": {"quorum": quorum}}, "test")


def describes(clinic: str) -> Answer:
    description = Description(clinic, np.full((3, 5), 2.0))
    return lambda message: Message(parcel(encode_reply(description)), reply_to=message)


def test_a_clinic_that_calls_itself_by_anothers_name_is_left_out(tmp_path: Path) -> None:
    grid, _ = attending(tmp_path, {1: describes("east"), 2: describes("west"), 3: describes("west")})
    roster = call_roll(grid, a_study(), 1.0, NODES)
    assert roster.nodes == {"east": 1, "west": 3}
    assert roster.absent == ("north",)
    assert roster.train == ("east",)


def test_a_roll_below_the_quorum_stops_the_study(tmp_path: Path) -> None:
    grid, _ = attending(tmp_path, {1: describes("east"), 2: silent, 3: describes("west")})
    with pytest.raises(ConnectionFailure, match="1 training clinics answered, 2 are needed"):
        call_roll(grid, a_study(quorum=1.0), 0.3, NODES)


def test_a_round_below_the_quorum_is_not_kept_and_an_absent_clinic_stands_in_every_record(tmp_path: Path) -> None:
    grid, _ = attending(tmp_path, {1: describes("east"), 3: describes("west")})
    study = a_study()
    roster = call_roll(grid, study, 1.0, {1: "east", 3: "west"})
    book = RoundBook(RunFolder(tmp_path), study, roster)
    strategy = WbcStrategy(study, roster, book, 0.3)
    book.open_round(1)
    assert [entry["clinic"] for entry in book._open["missing"]] == ["north"]
    question = Message(RecordDict(), 1, "train")
    with pytest.raises(ConnectionFailure, match="updates of 0 of 2"):
        strategy.aggregate_train(1, [Message(Error(LATE_CODE, "late"), reply_to=question)])
    assert book.rounds_done == 0
