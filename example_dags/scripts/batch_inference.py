"""Train a scikit-learn model once, then let a pool of actors apply it to all rows: parallel batch inference.

The rows are 22,272 married women of a survey (`HI` of the R package Ecdat). Is she insured through her husband's
employer? Four fifths of the rows train a random forest; the other fifth measures its accuracy.

The model goes through Ray's object store, which nobody but this job writes to, and never through a file: loading a
pickle or a joblib file runs whatever code is in it, so one in a bucket needs the trust that a script needs.

Libraries: ray, pandas, numpy and pyarrow, which Glue has, and scikit-learn, which it has not:
`pip=["scikit-learn==1.3.2"]` has wheels for Python 3.9 on ARM and takes the numpy that is there. The list and the pin
are from documentation and package metadata; they work on the local endpoint's Ray2.4 and are unverified on AWS. Job
arguments, which arrive as environment variables:

input   a CSV file, `s3://…/Ecdat-HI.csv`, as `datasets.py tables` writes it
output  a directory that belongs to this job; what it holds is replaced
actors  the most actors that predict, each with a model of its own (4)

The output has the directory `predictions` and `_summary.json`, which is written last. `steps` is modules/steps.py,
which the task sends by `py_modules`.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import ray
import sklearn
from ray.data import ActorPoolStrategy
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder
from steps import clear, connect, finish, input_and_output, whole_number

#: The first column of the file has no name.
COLUMNS = {
    "id": pa.int64(),
    "hours": pa.float64(),
    "insured_by_husband": pa.string(),
    "insured_by_own_job": pa.string(),
    "husband_insured": pa.string(),
    "education": pa.string(),
    "race": pa.string(),
    "hispanic": pa.string(),
    "experience": pa.float64(),
    "kids_below_6": pa.float64(),
    "kids_below_18": pa.float64(),
    "husbands_income": pa.float64(),
    "region": pa.string(),
    "weight": pa.float64(),
}
TARGET = "insured_by_husband"
WORDS = ["insured_by_own_job", "husband_insured", "education", "region"]
NUMBERS = ["hours", "experience", "kids_below_6", "kids_below_18", "husbands_income"]
#: Every fifth row is kept from training. By its number and not by lot, so it is the same on any cluster.
HELD_OUT = 5
#: Rows a task or an actor has at a time.
BATCH = 1024


def features(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the model may look at, in types scikit-learn knows: newer Rays hand over Arrow's."""
    return rows[[*WORDS, *NUMBERS]].astype({**dict.fromkeys(WORDS, object), **dict.fromkeys(NUMBERS, "float64")})


def is_held_out(rows: pd.DataFrame) -> pd.Series:
    """Return which rows measure the model."""
    # NumPy's type, because Arrow's, which newer Rays hand over, cannot do this in pandas.
    return rows["id"].astype("int64") % HELD_OUT == 0


def for_training(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows that train the model."""
    return rows[~is_held_out(rows)]


@ray.remote
def train(*parts: pd.DataFrame) -> Pipeline:
    """Fit the model in one task. The rows come from the nodes where they are and do not pass through the driver."""
    # A forest draws rows by their position, so their order is part of the result.
    rows = pd.concat(parts).sort_values("id")
    words = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), WORDS), remainder="passthrough")
    model = make_pipeline(words, RandomForestClassifier(n_estimators=50, max_depth=12, random_state=1))
    return model.fit(features(rows), rows[TARGET].astype(object) == "yes")


class Predictor:
    """Predicts batch after batch with a model that each actor fetches once."""

    def __init__(self, model: ray.ObjectRef):
        self.model = ray.get(model)

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Predict for one batch."""
        probability = self.model.predict_proba(features(rows))[:, 1]
        insured, predicted = (rows[TARGET].astype(object) == "yes").to_numpy(), probability > 0.5
        held_out = is_held_out(rows).to_numpy(dtype=bool)
        return pd.DataFrame(
            {
                "id": rows["id"].to_numpy(dtype=np.int64),
                "insured": insured,
                "predicted": predicted,
                "probability": probability,
                "held_out": held_out,
                # Numbers, because sums of these two are all it takes to know the accuracy.
                "counts": held_out.astype(np.int64),
                "right": (held_out & (insured == predicted)).astype(np.int64),
            }
        )


def main() -> None:
    """Read, train, predict, write, and write how accurate it is."""
    started = time.monotonic()
    source, target = input_and_output()
    actors = whole_number("actors", 4, least=2)

    connect()
    rows = ray.data.read_csv(
        source,
        read_options=pyarrow.csv.ReadOptions(column_names=list(COLUMNS), skip_rows=1),
        convert_options=pyarrow.csv.ConvertOptions(column_types=COLUMNS),
    )
    # One file is one block, and a block is what an actor gets.
    rows = rows.repartition(actors).materialize()

    training = rows.map_batches(for_training, batch_format="pandas")
    model = train.remote(*training.to_pandas_refs())
    predictions = rows.map_batches(
        Predictor,
        batch_format="pandas",
        batch_size=BATCH,
        compute=ActorPoolStrategy(min_size=2, max_size=actors),
        fn_constructor_args=(model,),
    ).materialize()
    counts, right = predictions.sum("counts"), predictions.sum("right")

    clear(target)
    predictions.drop_columns(["counts", "right"]).write_parquet(f"{target}/predictions")

    finish(
        source,
        target,
        started,
        scikit_learn=sklearn.__version__,
        rows=rows.count(),
        held_out=int(counts),
        accuracy=round(right / counts, 6),
    )


if __name__ == "__main__":
    main()
