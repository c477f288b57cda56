"""`make demo`: both example DAGs, by a real Airflow, on the local endpoint."""
