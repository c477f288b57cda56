"""How long to wait where nothing tells when to look: one policy for the whole package.

Floor 0. The defaults fit a real service and a real Airflow; a deployment changes them by ``[glueray] waits``.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Waits(NamedTuple):
    """Pauses and patience, all in seconds. JSON both ways.

    :param least_poll: the shortest pause between two polls where a cluster has to start first.
    :param least_poll_in_session: the same of a statement, many of which are over in no time.
    :param quiet: for how long a run that has ended must have written no new line before its log counts as whole; of a
        run that lasted, a twentieth of its time.
    :param drain: the most time that late lines are waited for, however many keep coming.
    :param stop_grace: how long a run may take to stop after its deadline before nobody waits for it any more.
    :param stop_again: after how long a stop that had no effect is asked for again.
    :param lost: for how long a run must stay unknown to the service before it counts as lost: a list may lag behind a
        start.
    :param queue_first: the pause after the first refusal for want of room; later ones double.
    :param queue_longest: the longest of these pauses.
    :param look_again: the pause between two looks for a run whose start had no answer.
    :param pending_reason: how old a run on KubeRay must be before its pods are asked why it is not under way.
    :param linger: how long a deferrable notebook waits for a cell in the worker before it defers.
    :param worker_end: how long the scheduler may take to hear that a worker has ended.
    """

    least_poll: float = 1.0
    least_poll_in_session: float = 0.3
    quiet: float = 1.0
    drain: float = 60.0
    stop_grace: float = 300.0
    stop_again: float = 60.0
    lost: float = 30.0
    queue_first: float = 5.0
    queue_longest: float = 120.0
    look_again: float = 2.0
    pending_reason: float = 15.0
    linger: float = 5.0
    worker_end: float = 3.0

    def to_json(self) -> dict[str, float]:
        """Return what differs from the defaults: it travels through Airflow's database."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}

    @classmethod
    def from_json(cls, value: Any) -> Waits:
        """Rebuild from :meth:`to_json`.

        :raises TypeError, ValueError: it is no mapping of the names above to seconds.
        """
        if not isinstance(value, dict):
            raise TypeError(f"waits are a JSON object of seconds, not {value!r}")
        for name, seconds in value.items():
            if name not in cls._fields:
                raise ValueError(f"there is no wait {name!r}; there are {', '.join(cls._fields)}")
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
                raise ValueError(f"the wait {name!r} is a number of seconds, not {seconds!r}")
        return cls(**value)

    @classmethod
    def from_text(cls, text: str) -> Waits:
        """Read the JSON text of a setting; an empty one changes nothing.

        :raises TypeError, ValueError: it cannot be read.
        """
        return cls.from_json(json.loads(text)) if text.strip() else cls()
