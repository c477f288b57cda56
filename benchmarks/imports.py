"""What an operator module adds to a process that has `airflow.sdk` already: what every DAG parse pays."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.figures import row, spread, title

OURS = "airflow_provider_glueray.operators.glue_jobs"
PEER = "airflow.providers.amazon.aws.operators.glue"
HEAVY = ("boto3", "botocore", "ray", "pandas", "pyarrow", "httpx")
PROBE = """
import sys, time, json, resource
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, XComArg, conf, BaseOperatorLink, Param
from airflow.sdk.execution_time.xcom import XCom
before, kib = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
__import__(sys.argv[1])
spent = time.process_time() - began
heavy = [name for name in sys.argv[2:] if name in sys.modules and name not in before]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - kib
print(json.dumps([spent, len(sys.modules) - len(before), grown, heavy]))
"""


def once(module: str) -> tuple[float, int, int, list[str]]:
    """Import a module in a fresh interpreter; return CPU seconds, modules, KiB, and the heavy ones among them."""
    done = subprocess.run([sys.executable, "-c", PROBE, module, *HEAVY], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main(runs: int = 7) -> None:
    """Import both in turn, several times."""
    title(f"Import of an operator module on top of airflow.sdk ({runs} fresh interpreters each, in turn)")
    once(OURS), once(PEER)
    pairs = [(once(OURS), once(PEER)) for _ in range(runs)]
    row("", "ours", "amazon GlueJobOperator")
    row("CPU, min / median / max", *(spread([pair[i][0] * 1000 for pair in pairs], "ms", 1) for i in (0, 1)))
    row("modules added", *(str(pairs[0][i][1]) for i in (0, 1)))
    row("memory added, median", *(f"{statistics.median(pair[i][2] for pair in pairs) / 1024:.1f} MiB" for i in (0, 1)))
    row("heavy modules", *(", ".join(pairs[0][i][3]) or "none" for i in (0, 1)))
    ratios = [ours[0] / peer[0] for ours, peer in pairs]
    row("ours / amazon, CPU", spread(ratios, "(goal: at most 0.1)"))


if __name__ == "__main__":
    main()
