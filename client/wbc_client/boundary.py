"""The one door out of a clinic: every byte that leaves passes here.

A task is let in only as the approved plan has it. A reply goes out only with exactly the records that its kind of task
may return, and only after the ledger has it. Of an error only its kind and a reference leave: Flower would send the
exception's text, in which a file name with a patient's number once arrived at a server. The text stays in the clinic's
log under that reference.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict

from wbc_client.agreement import check_task
from wbc_client.clinic import Clinic, open_clinic
from wbc_client.location import clinic_file
from wbc_client.state.ledger import Departure, enter
from wbc_client.tasks import perform
from wbc_common.errors import PolicyError, WbcError
from wbc_common.wire import OPTIONAL_RECORDS, REPLY_RECORDS, Task, TaskKind, decode_task, encode_error, encode_reply

log = logging.getLogger(__name__)


def answer(message: Message, context: Context) -> Message:
    """The reply to any message: what the task asks for, or an error without content. Never raises."""
    reply = answer_records(lambda: clinic_file(context.node_config), lambda: message.content)
    return Message(reply, reply_to=message)


def answer_records(clinic: Callable[[], Path], records: Callable[[], RecordDict]) -> RecordDict | Error:
    """The same for the bare records of a message. Never raises.

    Args:
        clinic: finds the clinic file; it may refuse.
        records: reads the message's records; it may refuse.
    """
    opened: Clinic | None = None
    try:
        opened = open_clinic(clinic())
        task = decode_task(records())
        check_task(task, opened.study, opened.site.clinic)
        reply = encode_reply(perform(opened, task))
        _let_out(opened, task, reply)
        return reply
    except Exception as error:
        return _refusal(error, opened)


def check_records(kind: TaskKind, records: RecordDict) -> None:
    """Refuse a reply that holds other records than its kind of task may return.

    Raises:
        PolicyError: something else was about to leave.
    """
    needed, optional = REPLY_RECORDS[kind], OPTIONAL_RECORDS.get(kind, frozenset())
    if not needed <= set(records) <= needed | optional:
        raise PolicyError(
            f"a reply to '{kind}' would hold {sorted(records)}, allowed are {sorted(needed | optional)}",
            remedy="report this as a bug; nothing has left",
        )


def _let_out(clinic: Clinic, task: Task, records: RecordDict) -> None:
    check_records(task.kind, records)
    sizes = {name: int(record.count_bytes()) for name, record in records.items()}
    enter(clinic.site.state_dir, Departure(task.kind, task.round_number, sizes, clinic.study.hash))


def _refusal(error: Exception, clinic: Clinic | None) -> Error:
    """An error's kind and reference, entered into the ledger where there is one: a full disk does not silence it."""
    reference = secrets.token_hex(4)
    kind = error.kind if isinstance(error, WbcError) else WbcError.kind
    log.error("task failed (reference %s): %s", reference, error, exc_info=not isinstance(error, WbcError))
    answer = encode_error(kind, reference)
    if clinic is not None:
        departure = Departure("error", 0, {"kind-and-reference": len(answer.reason or "")}, clinic.study.hash)
        with suppress(OSError):
            enter(clinic.site.state_dir, departure)
    return answer
