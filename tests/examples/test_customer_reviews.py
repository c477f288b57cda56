"""The reviews script on real Ray, value by value against pandas."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from airflow_provider_glueray.local import client as local_client
from tests.examples.conftest import EXAMPLES

SCRIPT = "customer_reviews_etl.py"
RAW = f"s3://{local_client.BUCKET}/test-reviews/raw"
OUTPUT = f"s3://{local_client.BUCKET}/test-reviews/clean/day=2026-11-21"
STEPS = [
    "read",
    "add_column",
    "drop_columns",
    "sort",
    "max_votes_tasks",
    "max_votes_actors",
    "with_votes",
    "marketplace",
]


@dataclass
class Outcome:
    """What one run left behind."""

    run: dict[str, Any]
    files: dict[str, bytes]

    def summary(self) -> Any:
        return json.loads(self.files["_summary.json"])

    def of(self, kind: str) -> list[bytes]:
        return [self.files[name] for name in sorted(self.files) if name.startswith(f"{kind}/")]


@pytest.fixture(scope="module")
def raw(datasets: ModuleType, s3: fs.S3FileSystem) -> pd.DataFrame:
    """Write a small data set in four files and return the partition the script reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "ROWS_PER_FILE", 1_000)
        datasets.write_reviews(RAW, rows=6_000, seed=11)
    directory = f"{local_client.BUCKET}/test-reviews/raw/product_category=Wireless"
    parts = [info.path for info in s3.get_file_info(fs.FileSelector(directory)) if info.is_file]
    assert len(parts) == 4
    return pd.concat(pq.ParquetFile(part, filesystem=s3).read().to_pandas() for part in parts)


@pytest.fixture(scope="module")
def run(raw: pd.DataFrame, s3: fs.S3FileSystem, run_script: Callable[..., dict[str, Any]]) -> Callable[..., Outcome]:
    """Return what runs the script, always into the same output."""

    def run(**arguments: Any) -> Outcome:
        done = run_script(SCRIPT, input=f"{RAW}/product_category=Wireless", output=OUTPUT, **arguments)
        root = OUTPUT.removeprefix("s3://")
        found = s3.get_file_info(fs.FileSelector(root, recursive=True))
        files = {
            info.path.removeprefix(f"{root}/"): s3.open_input_file(info.path).read() for info in found if info.is_file
        }
        return Outcome(done, files)

    return run


@pytest.fixture(scope="module")
def outcomes(run: Callable[..., Outcome]) -> dict[str, Outcome]:
    """Run with other arguments first, then with the defaults."""
    return {"other": run(marketplace="DE", max_votes=7), "first": run()}


def expected(raw: pd.DataFrame, marketplace: str, max_votes: int) -> pd.DataFrame:
    """Compute in pandas what the script should write."""
    frame = raw.assign(product_category="Wireless")
    unwanted = {"review_body", "vine", "product_parent", "verified_purchase", "review_headline"}
    frame = frame[[name for name in frame.columns if name not in unwanted]]
    frame = frame.query("0 < total_votes < @max_votes and marketplace == @marketplace")
    frame = frame.assign(helpful_votes_ratio=np.divide(frame["helpful_votes"], frame["total_votes"]))
    return frame.assign(review_date=pd.to_datetime(frame["review_date"]))


def assert_same(actual: pd.DataFrame, wanted: pd.DataFrame) -> None:
    frames = [frame.sort_values("review_id").reset_index(drop=True) for frame in (actual, wanted)]
    pd.testing.assert_frame_equal(*frames, check_dtype=False, rtol=1e-9)


@pytest.mark.parametrize(("name", "marketplace", "max_votes"), [("first", "US", 100), ("other", "DE", 7)])
def test_every_value_in_every_format(
    raw: pd.DataFrame, outcomes: dict[str, Outcome], name: str, marketplace: str, max_votes: int
) -> None:
    outcome, wanted = outcomes[name], expected(raw, marketplace, max_votes)
    assert outcome.run["JobRunState"] == "SUCCEEDED", outcome.run
    assert len(wanted) > 20
    stored = pa.concat_tables(pq.read_table(io.BytesIO(part)) for part in outcome.of("parquet"))
    assert stored.schema.field("total_votes").type == pa.int32()
    parquet = stored.to_pandas()
    assert_same(parquet.assign(review_date=pd.to_datetime(parquet["review_date"])), wanted)
    assert parquet["total_votes"].is_monotonic_increasing
    text = {"customer_id": str, "review_date": "datetime64[ns]"}
    csv = pd.concat(pd.read_csv(io.BytesIO(part), parse_dates=["review_date"]) for part in outcome.of("csv"))
    assert_same(csv.astype(text), wanted)
    lines = pd.concat(pd.read_json(io.BytesIO(part), lines=True, dtype=False) for part in outcome.of("json"))
    assert_same(lines.assign(review_date=pd.to_datetime(lines["review_date"], unit="ms")), wanted)


def test_counts_of_every_step(raw: pd.DataFrame, outcomes: dict[str, Outcome]) -> None:
    for name, marketplace, max_votes in [("first", "US", 100), ("other", "DE", 7)]:
        summary = outcomes[name].summary()
        rows = {step["step"]: step["rows"] for step in summary["steps"] if "rows" in step}
        below = raw[raw["total_votes"] < max_votes]
        voted = below[below["total_votes"] > 0]
        wanted = (voted["marketplace"] == marketplace).sum()
        assert list(rows) == STEPS
        assert list(rows.values()) == [len(raw)] * 4 + [len(below)] * 2 + [len(voted), wanted]
        assert (summary["rows_in"], summary["rows_out"]) == (len(raw), wanted)
        assert summary["columns"] == list(expected(raw, "US", 100).columns)
        assert summary["seconds"] > 0
    assert outcomes["first"].summary()["rows_out"] != outcomes["other"].summary()["rows_out"]


@pytest.mark.full
def test_a_second_run_overwrites(outcomes: dict[str, Outcome], run: Callable[..., Outcome]) -> None:
    first, second = outcomes["first"], run()
    assert second.run["JobRunState"] == "SUCCEEDED"
    for kind in ("csv", "json"):
        lines = [sorted(b"".join(outcome.of(kind)).splitlines()) for outcome in (first, second)]
        assert lines[0] == lines[1]
        assert len(first.of(kind)) == len(second.of(kind)) == 4
    rows = [
        sum(pq.read_metadata(io.BytesIO(part)).num_rows for part in outcome.of("parquet"))
        for outcome in (first, second)
    ]
    assert rows == [first.summary()["rows_out"]] * 2
    assert {name.split("/")[0] for name in second.files} == {"parquet", "csv", "json", "_summary.json"}
    kept = set(first.files) & set(second.files) | set(outcomes["other"].files) & set(first.files)
    assert kept == {"_summary.json"}


def test_missing_input(raw: pd.DataFrame, run_script: Callable[..., dict[str, Any]], s3: fs.S3FileSystem) -> None:
    output = f"s3://{local_client.BUCKET}/test-reviews/nothing"
    run = run_script(SCRIPT, input=f"{RAW}/product_category=Wirelss", output=output)
    assert run["JobRunState"] == "FAILED"
    assert f"no Parquet files below {RAW}/product_category=Wirelss" in run["ErrorMessage"]
    assert s3.get_file_info(output.removeprefix("s3://")).type == fs.FileType.NotFound


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "the job argument --input is missing"),
        ({"input": "s3://a/b"}, "the job argument --output is missing"),
        ({"input": "s3://a/b", "output": "s3://a/c", "max_votes": "many"}, "max_votes is 'many'"),
        ({"input": "s3://a/b", "output": "s3://a/c", "formats": "parquet,orc"}, "formats is 'parquet,orc'"),
        ({"input": "s3://a/b/c", "output": "s3://a/b/"}, "holds input"),
        ({"input": "s3://a/b", "output": "s3://a/b"}, "holds input"),
    ],
)
def test_bad_arguments(
    steps: ModuleType,
    reviews_script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    message: str,
) -> None:
    for name in ("input", "output", "marketplace", "max_votes", "formats"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(steps.BadArgument, match=message):
        reviews_script.main()


@pytest.mark.parametrize("kind", ["int32", "int32[pyarrow]"])
def test_nobody_voted_gives_null(reviews_script: ModuleType, kind: str) -> None:
    """In plain pandas 0/0 is not-a-number. Newer Rays hand over Arrow's types, older ones NumPy's."""
    votes = pd.DataFrame({"helpful_votes": [3, 0, 0], "total_votes": [4, 0, 5]}).astype(kind)
    ratio = reviews_script.helpful_votes_ratio(votes)
    assert pa.array(ratio).to_pylist() == [0.75, None, 0.0]


def test_filters(reviews_script: ModuleType) -> None:
    reviews = pd.DataFrame({"total_votes": [0, 1, 99, 100], "marketplace": ["US", "DE", "US", "US"]})
    assert reviews_script.below_max_votes(reviews, 100)["total_votes"].tolist() == [0, 1, 99]
    assert reviews_script.BelowMaxVotes(100)(reviews)["total_votes"].tolist() == [0, 1, 99]
    assert reviews_script.with_votes(reviews)["total_votes"].tolist() == [1, 99, 100]
    assert reviews_script.in_marketplace(reviews, "DE")["total_votes"].tolist() == [1]
    for empty in (reviews_script.with_votes(reviews[:0]), reviews_script.in_marketplace(reviews, "XX")):
        assert empty.empty
        assert list(empty.columns) == ["total_votes", "marketplace"]


@pytest.mark.parametrize(
    "script",
    [*sorted((EXAMPLES / "scripts").glob("*.py")), EXAMPLES / "modules" / "steps.py"],
    ids=lambda path: path.stem,
)
def test_syntax_is_old_enough_for_glue(script: Any) -> None:
    ast.parse(script.read_text(), feature_version=(3, 9))
