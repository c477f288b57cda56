"""The films script on real Ray, value by value against pandas."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from airflow_provider_glueray.local import client as local_client

#: The reviews script is what `make test` has time for.
pytestmark = pytest.mark.full
SCRIPT = "movie_ratings_etl.py"
RAW = f"{local_client.BUCKET}/test-movies/raw"
OUTPUT = f"{local_client.BUCKET}/test-movies/ranked"
GENRES = ["Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short"]

#: What the real list does not have, and lists do: no year, no rating, no votes, no title, a film listed twice.
DIRTY = """id,title,year,length,budget,rating,votes,mpaa,Action,Animation,Comedy,Drama,Documentary,Romance,Short
1,No Year,,90,NA,7.0,100,,0,0,1,0,0,0,0
2,Odd Year,MCMXC,90,NA,7.0,100,,0,0,1,0,0,0,0
3,No Rating,1999,90,NA,NA,100,,0,0,1,0,0,0,0
4,Rating Off The Scale,1999,90,NA,11,100,,0,0,1,0,0,0,0
5,No Votes,1999,90,NA,7.0,0,,0,0,1,0,0,0,0
6,"  ",1999,90,NA,7.0,100,,0,0,1,0,0,0,0
7,"Zebra Who Came Twice, The",1871,0,1e+05,7.0,100,R,1,0,1,0,0,0,0
8,The Zebra Who Came Twice,1871,61,200000,8.5,3000,,1,0,1,0,0,0,0
9,The Zebra Who Came Twice,1872,61,200000,6.5,10,,0,0,0,0,0,0,0
"""


@pytest.fixture(scope="module")
def wanted(datasets: ModuleType, s3: fs.S3FileSystem) -> pd.DataFrame:
    """Write the real films and a dirty file, and compute in pandas what should come of them."""
    datasets.write_movies(f"s3://{RAW}")
    with s3.open_output_stream(f"{RAW}/dirty.csv") as stream:
        stream.write(DIRTY.encode())
    files = [info.path for info in s3.get_file_info(fs.FileSelector(RAW)) if info.is_file]
    assert len(files) == 5
    frame = pd.concat(
        pd.read_csv(s3.open_input_file(file), keep_default_na=False, na_values={"budget": ["NA"]}, dtype=str)
        for file in files
    )
    frame["genres"] = ["|".join(name for name in GENRES if row[name] == "1") for row in frame.to_dict("records")]
    for name in ("year", "length", "budget", "rating", "votes"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    frame["title"] = frame["title"].map(spoken)
    frame = frame.loc[(frame["title"] != "") & frame["year"].notna() & (frame["votes"] >= 1)]
    frame = frame.loc[(frame["rating"] >= 1) & (frame["rating"] <= 10)]
    frame = frame.loc[frame.groupby(["title", "year"])["votes"].transform("max") == frame["votes"]]
    frame[["length", "budget"]] = frame[["length", "budget"]].replace(0, np.nan)
    frame["mpaa"] = frame["mpaa"].replace("", None)
    mean, votes = frame["rating"].mean(), frame["votes"]
    frame["weighted_rating"] = frame["rating"] * votes / (votes + 500) + mean * 500 / (votes + 500)
    frame["decade"] = [int(str(int(year))[:3] + "0") for year in frame["year"]]
    return frame


def spoken(title: str) -> str:
    head, comma, tail = title.strip().rpartition(", ")
    articles = {"The", "A", "An", "Le", "La", "Les", "Il", "Lo", "El", "Los", "Las", "Der", "Die", "Das"}
    return f"{tail} {head}" if comma and tail in articles else title.strip()


def read(s3: fs.S3FileSystem) -> dict[int, pd.DataFrame]:
    """Return what lies in each decade's directory."""
    found = s3.get_file_info(fs.FileSelector(OUTPUT, recursive=True))
    return {
        int(info.path.split("decade=")[1][:4]): pq.read_table(
            io.BytesIO(s3.open_input_file(info.path).read())
        ).to_pandas()
        for info in found
        if info.extension == "parquet"
    }


def assert_same(*frames: pd.DataFrame) -> None:
    """Compare all values; a null is a null whatever pandas calls it."""
    ordered = [frame.sort_values(["title", "year"]).reset_index(drop=True).astype(object) for frame in frames]
    films, wanted = (frame.where(frame.notna(), None) for frame in ordered)
    pd.testing.assert_frame_equal(films, wanted, rtol=1e-9)


def test_films_by_decade(wanted: pd.DataFrame, s3: fs.S3FileSystem, run_script: Callable[..., dict[str, Any]]) -> None:
    # What an earlier run left, in a decade nobody has films of.
    s3.create_dir(f"{OUTPUT}/decade=1790", recursive=True)
    with s3.open_output_stream(f"{OUTPUT}/decade=1790/films.parquet") as stream:
        stream.write(b"old")

    run = run_script(SCRIPT, input=f"s3://{RAW}", output=f"s3://{OUTPUT}")
    assert run["JobRunState"] == "SUCCEEDED", run

    decades = read(s3)
    assert sorted(decades) == sorted(wanted["decade"].unique())
    for films in decades.values():
        assert films["weighted_rating"].is_monotonic_decreasing
    films = pd.concat(films.assign(decade=decade) for decade, films in decades.items())
    assert_same(films, wanted[films.columns])

    summary = json.loads(s3.open_input_file(f"{OUTPUT}/_summary.json").read())
    assert (summary["rows_in"], summary["rows_out"]) == (58_797, 58_790)
    assert summary["rows_out"] == len(wanted)
    assert summary["mean_rating"] == pytest.approx(wanted["rating"].mean(), abs=1e-6)
    assert {row["decade"]: row["films"] for row in summary["decades"]} == wanted["decade"].value_counts().to_dict()
    best = wanted.sort_values("weighted_rating").drop_duplicates("decade", keep="last")
    assert {row["decade"]: row["best"] for row in summary["decades"]} == dict(
        zip(best["decade"], best["title"], strict=True)
    )


def test_missing_input(s3: fs.S3FileSystem, run_script: Callable[..., dict[str, Any]]) -> None:
    run = run_script(SCRIPT, input=f"s3://{local_client.BUCKET}/test-movies/nowhere", output=f"s3://{OUTPUT}-none")
    assert run["JobRunState"] == "FAILED"
    assert f"no CSV files below s3://{local_client.BUCKET}/test-movies/nowhere" in run["ErrorMessage"]


def test_the_one_with_the_most_votes_is_kept(movies_script: ModuleType) -> None:
    films = pd.DataFrame(
        {"title": ["M", "M", "M"], "year": [1931, 1931, 1951], "votes": [5, 9, 1], "rating": [8.0, 7.0, 6.0]}
    )
    kept = movies_script.one_row_a_film(films)
    assert kept[["year", "votes"]].to_numpy().tolist() == [[1931, 9], [1951, 1]]


@pytest.mark.parametrize(
    ("votes", "rating", "weighted"),
    [(500, 9.0, 7.5), (0, 9.0, 6.0), (1_500, 9.0, 8.25)],
)
def test_weighted_rating(movies_script: ModuleType, votes: int, rating: float, weighted: float) -> None:
    films = pd.DataFrame({"votes": [votes], "rating": [rating]})
    assert movies_script.weigh(films, 500, 6.0)["weighted_rating"].tolist() == [weighted]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"input": "s3://a/b"}, "the job argument --output is missing"),
        ({"input": "s3://a/b", "output": "s3://a/c", "prior_votes": "-1"}, "prior_votes is '-1'"),
        ({"input": "s3://a/b/c", "output": "s3://a/b/"}, "holds input"),
    ],
)
def test_bad_arguments(
    steps: ModuleType,
    movies_script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    message: str,
) -> None:
    for name in ("input", "output", "prior_votes"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(steps.BadArgument, match=message):
        movies_script.main()
