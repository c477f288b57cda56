"""`make demo`: the nightly example DAGs at the same time, by a real Airflow, on the local endpoint."""
