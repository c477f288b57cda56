"""Images, which are not there: a name says what becomes of it, and any other is the environment of the tests.

============ ==========================================================================
name has     what happens
============ ==========================================================================
capitals     it is no name of an image
``nosuch``   it is not found, again and again with back-off
``slowpull`` it takes 20 s
``absent``   with ``imagePullPolicy: Never``: it is not on the node
============ ==========================================================================
"""

from __future__ import annotations

import re
from typing import NamedTuple

SLOW_SECONDS = 20.0
#: For how long a failed pull is told as such, until the kubelet looks at the pod again and tells of its back-off.
_TOLD_SECONDS = 3.0


class Problem(NamedTuple):
    """Why a container waits for its image: reason and message of its state, and of an event, if there is one."""

    reason: str
    message: str
    event: tuple[str, str, str] | None = None


def problem_of(image: str, policy: str, seconds: float) -> Problem | None:
    """Return what keeps an image from being there so many seconds after it was first wanted, or None."""
    name = image.rpartition("/")[2].partition(":")[0]
    if re.search(r"[A-Z ]", name):
        why = f"couldn't parse image name {image!r}: invalid reference format: repository name must be lowercase"
        return Problem("InvalidImageName", f"Failed to apply default image tag {image!r}: {why}".replace("'", '"'))
    if "absent" in image and policy == "Never":
        message = f'Container image "{image}" is not present with pull policy of Never'
        return Problem("ErrImageNeverPull", message, ("Warning", "ErrImageNeverPull", message))
    if "nosuch" in image:
        why = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
        if _since_last_try(seconds) < _TOLD_SECONDS:
            return Problem("ErrImagePull", why, ("Warning", "Failed", f'Failed to pull image "{image}": {why}'))
        told = f'Back-off pulling image "{image}"'
        return Problem("ImagePullBackOff", f"{told}: ErrImagePull: {why}", ("Normal", "BackOff", told))
    if "slowpull" in image and seconds < SLOW_SECONDS:
        return Problem("ContainerCreating", "", ("Normal", "Pulling", f'Pulling image "{image}"'))
    return None


def _since_last_try(seconds: float) -> float:
    """Return how long ago an image was last tried: at 0, 10, 30, 70 s and so on, in the end each five minutes."""
    pause = 10.0
    while seconds >= pause:
        seconds -= pause
        pause = min(pause * 2, 300.0)
    return seconds
