"""What is missing is named by what needs it; ``tests/matrix`` sees it where it is really missing."""

from __future__ import annotations

import pytest

from airflow_provider_glueray.core.errors import ExtraMissing, GlueRayError
from airflow_provider_glueray.core.extras import extra
from airflow_provider_glueray.core.runs import BACKENDS, RAY_JOB


def test_the_extra_is_named():
    with (
        pytest.raises(
            ExtraMissing, match=r"KubeRayHook needs the module 'no_such_module': pip install '.*\[kuberay\]'"
        ),
        extra("kuberay", "KubeRayHook"),
    ):
        import no_such_module  # noqa: F401


def test_a_handler_can_tell_it_apart():
    error = ExtraMissing("words", name="moto")
    assert isinstance(error, GlueRayError)
    assert (error.name, error.retryable) == ("moto", False)


@pytest.mark.parametrize(("name", "module"), [("", "no_such_module"), ("aws", "airflow_provider_glueray.gone")])
def test_what_no_extra_brings_is_shown_as_it_is(name, module):
    with pytest.raises(ModuleNotFoundError, match="No module named"), extra(name, "This"):
        __import__(module)


@pytest.mark.parametrize(("backend", "row"), BACKENDS.items())
def test_each_backend_names_its_extra(backend, row):
    """Only a Ray cluster needs nothing beside Airflow."""
    assert bool(row.extra) is (backend != RAY_JOB)
