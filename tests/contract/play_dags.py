"""Run example DAGs by `dag.test()` in an interpreter and a database of their own; print their XComs as JSON.

python play_dags.py DAG_ID:CONF_JSON …
"""

from __future__ import annotations

import inspect
import json
import sys

from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_glueray.airflow_compat import DagBag


def play(bag: DagBag, dag_id: str, conf: dict[str, object]) -> dict[str, object]:
    """Run one DAG; return its state and, per task, every XCom."""
    run = bag.dags[dag_id].test(run_conf=conf)
    with create_session() as session:
        rows = session.scalars(select(XComModel).where(XComModel.dag_id == dag_id, XComModel.run_id == run.run_id))
        xcoms: dict[str, dict[str, object]] = {}
        for row in rows:
            xcoms.setdefault(row.task_id, {})[row.key] = XComModel.deserialize_value(row)
    return {"state": str(run.state), "xcoms": xcoms}


def main() -> None:
    """Play what the command line names."""
    from airflow.configuration import conf

    # Airflow 3.0 knows no bundle here.
    bundle = {"bundle_name": "dags-folder"} if "bundle_name" in inspect.signature(DagBag).parameters else {}
    bag = DagBag(conf.get("core", "dags_folder"), **bundle)
    assert not bag.import_errors, bag.import_errors
    asked = [argument.partition(":") for argument in sys.argv[1:]]
    print("PLAYED " + json.dumps({dag_id: play(bag, dag_id, json.loads(text)) for dag_id, _, text in asked}))


if __name__ == "__main__":
    main()
