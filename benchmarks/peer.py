"""Print what the peer's environment needs: the Airflow and amazon provider of ours, and what we leave out."""

from __future__ import annotations

from importlib.metadata import version

SAME = ("apache-airflow", "apache-airflow-providers-amazon")

if __name__ == "__main__":
    print(*(f"{name}=={version(name)}" for name in SAME), "aiobotocore", "httpx", "psutil")
