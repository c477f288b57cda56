"""What is left of a notebook that is one job, however its run has ended; on the scripted backend."""

from __future__ import annotations

import json

import nbformat

from airflow_provider_glueray.core.errors import RunTimedOut
from airflow_provider_glueray.glueray_step.cells import CELL_OUTPUT
from tests.contract.scripts import Script


def test_what_has_run_by_the_deadline_is_not_lost(life_of):
    """The first cell has ended, the second has only begun: it is the one to blame."""
    one = life_of("notebook", Script(states=[(0, "RUNNING")]), run_timeout=600)

    def work(run):
        whole = {"started": 1.0, "completed": 2.0, "printed": "so far", "shown": {}, "error": None, "value": "1"}
        for number, said in ((1, whole), (2, {"started": 3.0})):
            place = f"{run.arguments['--glueray_call']}/{CELL_OUTPUT.format(number=number)}"
            one.service.files[place] = json.dumps(said).encode()

    one.service.work = work
    result = one.run()

    assert isinstance(result.error, RunTimedOut)
    assert "Cell 2 of walk.ipynb failed" in str(result.error)
    notebook = nbformat.read(one.task.operator.output_notebook, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.metadata["papermill"]["status"] for cell in cells] == ["completed", "failed"]
    assert cells[0].outputs[0].text == "so far"
