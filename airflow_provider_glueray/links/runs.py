"""Buttons in the Airflow UI that lead to a run.

The UI reads a link from an XCom that Airflow writes only when the task ends. The operator pushes the
same XCom right after the start, so the button is there while the run is running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class _RunLink(BaseOperatorLink):
    """A link whose target the operator has pushed as an XCom."""

    @property
    def xcom_key(self) -> str:
        """Where the UI looks for the target."""
        return f"_link_{type(self).__name__}"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return what the operator pushed, or an empty text when it did not get that far."""
        target: Any = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        return str(target or "")


class GlueRayRunLink(_RunLink):
    """The run's page: in the AWS console, or of the local endpoint."""

    name = "Glue Ray run"


class GlueRayLogsLink(_RunLink):
    """The run's script log: in CloudWatch, or of the local endpoint."""

    name = "Glue Ray logs"


#: In the order of the run's page and its log.
LINKS = (GlueRayRunLink(), GlueRayLogsLink())
