"""Turn a raw CSV list of films into Parquet by decade, with a rating weighted by votes.

A film with five votes and a 9.8 is not the best film ever made. So each film gets a weighted rating

    (votes * rating + prior_votes * mean_rating) / (votes + prior_votes)

where `mean_rating` is the plain mean over all films kept: with few votes a film stays near the mean, with
many it gets its own.

Runs on Ray 2.4 with Python 3.9 (Glue for Ray) and on today's. Job arguments, which arrive as environment
variables:

input        a directory of CSV files, `s3://…/raw`
output       a directory that belongs to this job; what it holds is replaced
prior_votes  how many votes it takes to outweigh the mean (500)

The output has one directory for each decade and `_summary.json`, which is written last. `steps` is modules/steps.py,
which the task sends by `py_modules`.
"""

from __future__ import annotations

from functools import partial

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq
import ray
from steps import InputMissing, Steps, clear, connect, files_below, finish, input_and_output, whole_number

GENRES = ["Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short"]
ARTICLES = "The|A|An|Le|La|Les|Il|Lo|El|Los|Las|Der|Die|Das"
RAW_COLUMNS = ["title", "year", "length", "budget", "rating", "votes", "mpaa", *GENRES]
#: Explicit, because a block in which no film has a budget would have another type than the next one.
TYPES = {
    "title": "string",
    "year": "int32",
    "length": "Int64",
    "budget": "Int64",
    "mpaa": "string",
    "genres": "string",
    "votes": "int64",
}
#: What a film looks like at the end. Its decade is in the path.
FILM_SCHEMA = pa.schema(
    [
        ("title", pa.string()),
        ("year", pa.int32()),
        ("length", pa.int64()),
        ("budget", pa.int64()),
        ("mpaa", pa.string()),
        ("genres", pa.string()),
        ("rating", pa.float64()),
        ("votes", pa.int64()),
        ("weighted_rating", pa.float64()),
    ]
)


def clean(raw: pd.DataFrame) -> pd.DataFrame:
    """Give the text of the CSV files types; drop rows without a usable title, year, rating or votes."""
    # Ray 2.4 gives plain strings, a newer one Arrow's own, which cannot do all that pandas can.
    raw = raw.astype(object)
    films = pd.DataFrame({name: pd.to_numeric(raw[name], errors="coerce") for name in ["year", "rating", "votes"]})
    # "Crow, The" is for a card index; people look for "The Crow".
    films["title"] = raw["title"].str.strip().str.replace(rf"^(.*), ({ARTICLES})$", r"\2 \1", regex=True)
    for name in ["length", "budget"]:
        number = pd.to_numeric(raw[name], errors="coerce").round()
        films[name] = number.where(number > 0)
    films["mpaa"] = raw["mpaa"].where(~raw["mpaa"].isin(["", "NA"]))
    films["genres"] = ""
    for genre in GENRES:
        films["genres"] += (raw[genre] == "1").map({True: genre + "|", False: ""})
    films["genres"] = films["genres"].str.rstrip("|")
    usable = (films["title"] != "") & films["year"].between(1870, 2100)
    usable &= films["rating"].between(1, 10) & (films["votes"] > 0)
    films = films[usable].astype(TYPES)
    films["decade"] = films["year"] // 10 * 10
    return films


def one_row_a_film(films: pd.DataFrame) -> pd.DataFrame:
    """Of rows with the same title and year keep the one with the most votes."""
    films = films.sort_values(["title", "year", "votes", "rating"])
    return films.drop_duplicates(["title", "year"], keep="last")


def weigh(films: pd.DataFrame, prior_votes: int, mean_rating: float) -> pd.DataFrame:
    """Add the weighted rating; the formula stands at the top of this file."""
    votes, rating = films["votes"], films["rating"]
    weighted = (votes * rating + prior_votes * mean_rating) / (votes + prior_votes)
    return films.assign(weighted_rating=weighted)


def write_decade(films: pd.DataFrame, target: str) -> pd.DataFrame:
    """Write one decade, best film first, and return one row that sums it up.

    Ray may run a task twice. The file has a fixed name, so that the second writes over the first.
    """
    decade = int(films["decade"].iloc[0])
    films = films.sort_values(["weighted_rating", "title"], ascending=[False, True])
    table = pa.Table.from_pandas(films[FILM_SCHEMA.names], FILM_SCHEMA, preserve_index=False)
    filesystem, path = pyarrow.fs.FileSystem.from_uri(f"{target}/decade={decade}")
    filesystem.create_dir(path, recursive=True)
    pq.write_table(table, f"{path}/films.parquet", filesystem=filesystem)
    best = films.iloc[0]
    return pd.DataFrame(
        {
            "decade": [decade],
            "films": [len(films)],
            "mean_rating": [round(films["rating"].mean(), 3)],
            "best": [best["title"]],
            "best_weighted_rating": [round(best["weighted_rating"], 3)],
        }
    )


def main() -> None:
    """Read, clean, weigh, write by decade, and write a summary."""
    source, target = input_and_output()
    prior_votes = whole_number("prior_votes", 500)
    files = files_below(source, ".csv", "CSV")

    connect()
    steps = Steps()

    # All text: Arrow guesses the type of a column from its first rows, and the rest then may not fit.
    as_text = pyarrow.csv.ConvertOptions(
        include_columns=RAW_COLUMNS, column_types={name: pa.string() for name in RAW_COLUMNS}
    )
    raw = steps.run("read", ray.data.read_csv(source, parallelism=len(files), convert_options=as_text))
    cleaned = steps.run("clean", raw.map_batches(clean, batch_format="pandas"))
    if not cleaned.count():
        raise InputMissing(f"no film below {source} has a title, a year, a rating and votes")
    # Films of one year share a decade, so all rows of a film meet in one group.
    films = cleaned.groupby("decade").map_groups(one_row_a_film, batch_format="pandas")
    films = steps.run("one_row_a_film", films)
    mean_rating = films.mean("rating")
    prior = {"prior_votes": prior_votes, "mean_rating": mean_rating}
    films = steps.run("weigh", films.map_batches(weigh, batch_format="pandas", fn_kwargs=prior))

    clear(target)
    decades = films.groupby("decade").map_groups(partial(write_decade, target=target), batch_format="pandas")
    decades = steps.run("write", decades).to_pandas().sort_values("decade")

    finish(
        source,
        target,
        steps.started,
        rows_in=raw.count(),
        rows_out=films.count(),
        columns=FILM_SCHEMA.names,
        prior_votes=prior_votes,
        mean_rating=round(mean_rating, 6),
        decades=decades.to_dict("records"),
        steps=steps.done,
    )


if __name__ == "__main__":
    main()
