"""Each library on real Ray, its output against the same computation in plain pandas and scikit-learn."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from airflow_provider_glueray.local import client as local_client
from tests.examples.conftest import load

ROOT = f"{local_client.BUCKET}/test-libraries"
SCRIPTS = [
    "core_tasks_and_actors",
    "data_pipeline",
    "modin_report",
    "wrangler_prices",
    "batch_inference",
    "conversions",
]


class Output:
    """What one run wrote."""

    def __init__(self, s3: fs.S3FileSystem, directory: str):
        self.s3, self.directory = s3, directory
        self.summary: dict[str, Any] = json.loads(self.read(f"{directory}/_summary.json"))

    def read(self, path: str) -> bytes:
        content: bytes = self.s3.open_input_file(path).read()
        return content

    def files(self, below: str) -> list[str]:
        """Return what lies in a directory, or the one file of that name."""
        path = f"{self.directory}/{below}".rstrip("/")
        if self.s3.get_file_info(path).is_file:
            return [path]
        found = self.s3.get_file_info(fs.FileSelector(path, recursive=True))
        return sorted(info.path for info in found if info.is_file)

    def table(self, below: str) -> pa.Table:
        """Return Parquet files as one table."""
        return pa.concat_tables(pq.read_table(io.BytesIO(self.read(path))) for path in self.files(below))


@pytest.fixture
def run(run_script: Callable[..., dict[str, Any]], s3: fs.S3FileSystem) -> Callable[..., Output]:
    """Return a function that runs a script, over what an earlier run left, and returns its output."""

    def run(script: str, source: str, **arguments: Any) -> Output:
        directory = f"{ROOT}/out/{script}"
        s3.create_dir(f"{directory}/old", recursive=True)
        with s3.open_output_stream(f"{directory}/old/left.parquet") as stream:
            stream.write(b"from another day")
        done = run_script(f"{script}.py", input=f"s3://{source}", output=f"s3://{directory}", **arguments)
        assert done["JobRunState"] == "SUCCEEDED", done
        output = Output(s3, directory)
        assert not [path for path in output.files("") if "/old/" in path]
        return output

    return run


@pytest.fixture(scope="module")
def reviews(datasets: ModuleType, s3: fs.S3FileSystem) -> pd.DataFrame:
    """Write reviews in four files and return them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "ROWS_PER_FILE", 1_500)
        datasets.write_reviews(f"s3://{ROOT}/reviews", rows=5_000, seed=5)
    found = s3.get_file_info(fs.FileSelector(f"{ROOT}/reviews", recursive=True))
    paths = sorted(info.path for info in found if info.is_file)
    assert len(paths) == 4
    return pd.concat(
        pq.ParquetFile(path, filesystem=s3).read().to_pandas().assign(category=path.split("=")[1].split("/")[0])
        for path in paths
    )


@pytest.fixture(scope="module")
def tables(datasets: ModuleType, s3: fs.S3FileSystem) -> Callable[[str], pd.DataFrame]:
    """Write real tables; return a function that reads one."""
    datasets.write_tables(f"s3://{ROOT}/tables", count=60)
    return lambda name: pd.read_csv(s3.open_input_file(f"{ROOT}/tables/{name}.csv"))


def assert_same(found: pd.DataFrame, wanted: pd.DataFrame, by: list[str]) -> None:
    """Compare all values, whatever order they come in and whoever's types they have."""
    frames = [frame[list(wanted)].sort_values(by, ignore_index=True) for frame in (found, wanted)]
    pd.testing.assert_frame_equal(*frames, check_dtype=False, rtol=1e-9)


@pytest.mark.full
def test_core_counts_what_can_be_read(reviews: pd.DataFrame, s3: fs.S3FileSystem, run: Callable[..., Output]) -> None:
    damaged = f"{ROOT}/reviews/product_category=Toys/part-damaged.parquet"
    with s3.open_output_stream(damaged) as stream:
        stream.write(b"PAR1 but for its beginning no Parquet at all")
    try:
        output = run("core_tasks_and_actors", f"{ROOT}/reviews", at_once=2)
    finally:
        s3.delete_file(damaged)
    region = {"US": "America", "UK": "Europe", "DE": "Europe", "FR": "Europe", "JP": "Asia"}
    counts = pd.crosstab(reviews["marketplace"].map(region), reviews["star_rating"])
    wanted = counts.rename_axis("region").reset_index().melt("region", value_name="reviews")
    assert len(wanted) == 15
    assert_same(output.table("stars.parquet").to_pandas(), wanted, ["region", "star_rating"])
    summary = output.summary
    assert (summary["files"], summary["reviews"], summary["most_under_way"]) == (5, len(reviews), 2)
    assert list(summary["unreadable"]) == [f"s3://{damaged}"]
    assert "Parquet magic bytes not found" in summary["unreadable"][f"s3://{damaged}"]


@pytest.mark.full
def test_data_ranks_products(reviews: pd.DataFrame, run: Callable[..., Output]) -> None:
    output = run("data_pipeline", f"{ROOT}/reviews", min_reviews=25)
    verified = reviews[reviews["verified_purchase"] == "Y"]
    weights = verified["total_votes"] + 1
    verified = verified.assign(
        product=verified["category"] + "/" + verified["product_title"],
        weight=weights,
        weighted=weights * verified["star_rating"],
    )
    grouped = verified.groupby("product")
    wanted = pd.DataFrame(
        {
            "reviews": grouped.size(),
            "mean_stars": grouped["star_rating"].mean(),
            "most_votes": grouped["total_votes"].max(),
            "weighted_stars": grouped["weighted"].sum() / grouped["weight"].sum(),
        }
    ).query("reviews >= 25")
    assert 10 < len(wanted) < grouped.ngroups
    found = output.table("parquet").to_pandas()
    assert_same(found, wanted.reset_index(), ["product"])
    assert found["weighted_stars"].is_monotonic_decreasing
    csv = pd.concat(pd.read_csv(io.BytesIO(output.read(path))) for path in output.files("csv"))
    pd.testing.assert_frame_equal(csv, found)
    assert (output.summary["verified_reviews"], output.summary["products"]) == (len(verified), len(wanted))
    assert [each["product"] for each in output.summary["best"]] == list(found["product"][:3])


@pytest.mark.full
def test_modin_compares_films_with_their_decade(
    datasets: ModuleType, s3: fs.S3FileSystem, run: Callable[..., Output]
) -> None:
    datasets.write_movies(f"s3://{ROOT}/movies")
    paths = [info.path for info in s3.get_file_info(fs.FileSelector(f"{ROOT}/movies"))]
    films = pd.concat(pd.read_csv(s3.open_input_file(path)) for path in paths)[["title", "year", "rating", "votes"]]
    output = run("modin_report", f"{ROOT}/movies", partitions=2)

    films["decade"] = [int(f"{str(year)[:3]}0") for year in films["year"]]
    groups = films.groupby("decade")
    films["mean_rating"] = groups["rating"].transform("mean")
    films["above_decade"] = films["rating"] - films["mean_rating"]
    decades = pd.DataFrame(
        {"films": groups.size(), "mean_rating": groups["rating"].mean(), "all_votes": groups["votes"].sum()}
    )
    every_column = ["title", "year", "votes", "rating"]
    assert_same(output.table("films").to_pandas(), films, every_column)
    assert_same(output.table("decades").to_pandas(), decades.reset_index(), ["decade"])
    summary = output.summary
    assert (summary["rows_in"], summary["rows_out"], summary["decades"]) == (58_788, 58_788, len(decades))
    assert (summary["engine"], summary["partitions"]) == ("Ray", 2)
    # Both nodes of the endpoint; a Ray of Modin's own would have one.
    assert summary["nodes"] == 2


@pytest.mark.full
def test_wrangler_is_distributed(tables: Callable[[str], pd.DataFrame], run: Callable[..., Output]) -> None:
    computers = tables("Ecdat-Computers")
    output = run("wrangler_prices", f"{ROOT}/tables/Ecdat-Computers.csv", blocks=2)
    summary = output.summary
    assert (summary["engine"], summary["memory_format"]) == ("ray", "modin")
    assert summary["table"].startswith("modin.pandas.")

    parts = output.files("computers")
    ram = {path: int(path.split("/ram=")[1].split("/")[0]) for path in parts}
    assert set(ram.values()) == set(computers["ram"])
    written = pd.concat(pd.read_parquet(io.BytesIO(output.read(path))).assign(ram=ram[path]) for path in parts)
    columns = ["price", "speed", "hd", "ram", "screen", "cd", "multi", "premium", "trend"]
    assert set(written) == set(columns)
    assert_same(written, computers[columns], columns)

    big = computers[computers["ram"] >= 8]
    prices = pd.DataFrame(
        {
            "computers": pd.crosstab(big["ram"], big["screen"]).stack(),
            "mean_price": big.pivot_table("price", "ram", "screen", "mean").stack(),
            "lowest": big.pivot_table("price", "ram", "screen", "min").stack(),
            "highest": big.pivot_table("price", "ram", "screen", "max").stack(),
        }
    ).query("computers > 0")
    assert_same(output.table("prices.parquet").to_pandas(), prices.reset_index(), ["ram", "screen"])
    assert (summary["files"], summary["rows_in"]) == (len(parts), len(computers))
    assert (summary["big"], summary["groups"]) == (len(big), len(prices))


@pytest.mark.full
def test_batch_inference_predicts_what_scikit_learn_does(
    tables: Callable[[str], pd.DataFrame], run: Callable[..., Output]
) -> None:
    people = tables("Ecdat-HI")
    output = run("batch_inference", f"{ROOT}/tables/Ecdat-HI.csv", actors=2)

    words, numbers = ["whi", "hhi2", "education", "region"], ["whrswk", "experience", "kidslt6", "kids618", "husby"]
    insured, held_out = people["hhi"] == "yes", people.iloc[:, 0] % 5 == 0
    encode = ColumnTransformer([("words", OneHotEncoder(), words), ("numbers", "passthrough", numbers)])
    forest = RandomForestClassifier(n_estimators=50, max_depth=12, random_state=1)
    model = Pipeline([("encode", encode), ("forest", forest)])
    model.fit(people.loc[~held_out, words + numbers], insured[~held_out])
    probability = model.predict_proba(people[words + numbers])[:, 1]
    accuracy = model.score(people.loc[held_out, words + numbers], insured[held_out])
    # Always saying what most of them are would be right for half of them.
    assert max(insured[held_out].mean(), 1 - insured[held_out].mean()) < 0.55
    assert 0.85 < accuracy < 0.95

    found = output.table("predictions").to_pandas().sort_values("id")
    assert found["id"].tolist() == people.iloc[:, 0].tolist()
    np.testing.assert_allclose(found["probability"], probability, atol=1e-9)
    for name, wanted in [("insured", insured), ("held_out", held_out), ("predicted", probability > 0.5)]:
        assert found[name].tolist() == wanted.tolist()
    assert output.summary["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert (output.summary["rows"], output.summary["held_out"]) == (22_272, held_out.sum())


@pytest.mark.full
def test_conversions_change_nothing(reviews: pd.DataFrame, run: Callable[..., Output]) -> None:
    output = run("conversions", f"{ROOT}/reviews/product_category=Books")
    columns = ["review_id", "review_headline", "star_rating", "total_votes", "review_date"]
    books = reviews.loc[reviews["category"] == "Books", columns]
    assert books["review_headline"].isna().any()
    wanted = books.sort_values("review_id").to_dict("records")
    types = {
        "pandas": "pandas.core.frame.DataFrame",
        "modin": "modin.pandas.dataframe.DataFrame",
        "arrow_references": "pyarrow.lib.Table",
        "batches": "pyarrow.lib.Table",
    }
    assert output.summary["ways"] == {way: {"type": name, "rows": len(books)} for way, name in types.items()}
    for way in types:
        table = output.table(way).select(columns)
        assert table.sort_by("review_id").to_pylist() == wanted
        assert [str(kind) for kind in table.schema.types[2:]] == ["int32", "int32", "date32[day]"]


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "the job argument --input is missing"),
        ({"input": "s3://a/b"}, "the job argument --output is missing"),
        ({"input": "s3://a/b/c", "output": "s3://a/b/"}, "holds input"),
    ],
)
def test_bad_arguments(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, environment: dict[str, str], message: str
) -> None:
    for argument in ("input", "output"):
        monkeypatch.delenv(argument, raising=False)
    for argument, value in environment.items():
        monkeypatch.setenv(argument, value)
    script = load(f"scripts/{name}.py")
    with pytest.raises(steps.BadArgument, match=message):
        script.main()


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("core_tasks_and_actors", "at_once", "0"),
        ("data_pipeline", "min_reviews", "some"),
        ("modin_report", "partitions", "-1"),
        ("wrangler_prices", "blocks", "0"),
        ("batch_inference", "actors", "1"),
    ],
)
def test_bad_numbers(steps: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, argument: str, value: str) -> None:
    for key, given in {"input": "s3://a/b", "output": "s3://a/c", argument: value}.items():
        monkeypatch.setenv(key, given)
    script = load(f"scripts/{name}.py")
    with pytest.raises(steps.BadArgument, match=f"{argument} is '{value}'"):
        script.main()
