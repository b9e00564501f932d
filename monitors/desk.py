"""The desk: the incidents as the monitor sees them between two commits.

While the monitor reads, it opens incidents and adds to them here, in memory; nothing is durable until `commit` writes
all of it at once, together with the checkpoint: where the monitor stands in the log and what its detectors know. A
monitor that is killed finds the state before, reads the same records again, and decides the same.

People acknowledge and decide at the same time. Changes are therefore kept as functions of an incident, and when
somebody else was faster they are done again on what is there now.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from monitors.incidents import ACTIVE, PREFIX, Body, cause_of
from monitors.pages import outbox_change, page
from state import MUST_NOT_EXIST, Change, Conflict, State

Step = Callable[[Body], Body]


@dataclass(slots=True)
class _Case:
    """One incident: what is durable, and what was done to it since."""

    body: Body
    revision: int = MUST_NOT_EXIST
    durable: Body | None = None
    steps: list[Step] = field(default_factory=list)


class Desk:
    """All incidents of a home, and the changes that wait to be written."""

    def __init__(self, state: State, console_url: str | None) -> None:
        self._state = state
        self._console_url = console_url
        self._cases: dict[str, _Case] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take up what people did meanwhile."""
        for document in self._state.list(PREFIX):
            case = self._cases.get(document.body["id"])
            if case is not None and case.revision == document.revision:
                continue
            steps = case.steps if case is not None else []
            body = document.body
            for step in steps:
                body = step(body)
            self._cases[document.body["id"]] = _Case(body, document.revision, document.body, steps)

    def all(self) -> list[Body]:
        """Return all incidents, in the order of their ids."""
        return [self._cases[name].body for name in sorted(self._cases)]

    def active(self, model: str) -> Body | None:
        """Return the one incident about a model's shifts that is not resolved, or None."""
        found = (case.body for case in self._cases.values() if case.body["state"] in ACTIVE)
        return next((body for body in found if (body["model"], cause_of(body)) == (model, "shift")), None)

    def open(self, body: Body) -> Body:
        """Put a new incident on the desk; its name gets a number when another one has it."""
        name, number = body["id"], 1
        while body["id"] in self._cases:
            number += 1
            body = body | {"id": f"{name}-{number}", "dedup_key": f"{body['dedup_key']}-{number}"}
        self._cases[body["id"]] = _Case(body)
        return body

    def change(self, incident_id: str, step: Step) -> Body:
        """Change an incident. `step` may be called again on a newer body, so it must look at the body's state."""
        case = self._cases[incident_id]
        case.body = step(case.body)
        case.steps.append(step)
        return case.body

    @property
    def waiting(self) -> bool:
        """Whether anything is not written yet."""
        return any(case.steps or case.durable is None for case in self._cases.values())

    @property
    def urgent(self) -> bool:
        """Whether an incident is new or has another state: people must hear of it now."""
        return any(case.durable is None or case.durable["state"] != case.body["state"] for case in self._cases.values())

    def commit(self, *others: Change) -> None:
        """Write everything, pages into the outbox and `others` included, all or nothing."""
        while True:
            touched = [case for case in self._cases.values() if case.steps or case.durable is None]
            changes = [change for case in touched for change in self._changes(case)]
            try:
                revision = self._state.commit(*changes, *others)
            except Conflict:
                self.refresh()
                continue
            for case in touched:
                case.revision, case.durable, case.steps = revision, case.body, []
            return

    def _changes(self, case: _Case) -> list[Change]:
        changes = [Change(PREFIX + case.body["id"], case.body, case.revision)]
        known = 0 if case.durable is None else len(case.durable["history"])
        states = [entry["state"] for entry in case.body["history"]]
        # A suspicion that went away was never paged, so its end is not either.
        if "open" in states[known:]:
            changes.append(outbox_change(page(case.body, "open", self._console_url)))
        if "resolved" in states[known:] and "open" in states:
            changes.append(outbox_change(page(case.body, "resolved", self._console_url)))
        return changes
