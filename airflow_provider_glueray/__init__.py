"""Distributed Python ETL as Ray steps inside scheduled Airflow DAGs."""

from __future__ import annotations

__version__ = "0.1.0"
