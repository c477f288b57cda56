"""What a deployment says under ``[glueray]`` in Airflow's configuration.

Airflow's configuration, and no service.
"""

from __future__ import annotations

import json

from airflow_provider_glueray.airflow_compat import conf
from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.follow import Waits
from airflow_provider_glueray.core.runs import Prices

#: US dollars per M-DPU-hour: a rate of 2024-11 for sessions in eu-west-1; that jobs cost the same is assumed.
DEFAULT_PRICE = 0.44


def default_conn_id() -> str:
    """Return the connection that a whole deployment runs its jobs by, unless a task names another."""
    return conf.get("glueray", "conn_id", fallback="aws_default")


def deployment() -> str:
    """Return the name of this deployment, which tells its runs from those of others on the same service."""
    return conf.get("glueray", "deployment", fallback="") or conf.get("api", "base_url", fallback="")


def prices() -> Prices:
    """Return the prices that costs are estimated with.

    :raises SpecError: one of them is no number.
    """
    given = {}
    for unit, default in Prices(DEFAULT_PRICE)._asdict().items():
        text = conf.get("glueray", f"price_per_{unit}_hour", fallback="")
        try:
            given[unit] = float(text) if text.strip() else default
        except ValueError as error:
            raise SpecError([f"[glueray] price_per_{unit}_hour = {text} is no number"]) from error
    return Prices(**given)


def waits() -> Waits:
    """Return how long to wait.

    :raises SpecError: the setting cannot be read.
    """
    text = conf.get("glueray", "waits", fallback="")
    try:
        return Waits.from_json(json.loads(text)) if text.strip() else Waits()
    except (TypeError, ValueError) as error:
        raise SpecError([f"[glueray] waits = {text}: {error}"]) from error
