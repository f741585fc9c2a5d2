"""
A file larger than memory, by DuckDB
====================================

A chain of shops keeps its sales in files that no memory holds. DuckDB reads them; a fit asks it for sums over shops,
and what comes back has one row a shop. The file is made here: small, unless the script is given a number of rows, as
in ``python plot_larger_than_memory.py 100000000``.
"""

# %%
# The file
# --------
# Shops differ in how much they sell, and in what the price does to it.

# sphinx_gallery_tags = ["lazy frames"]

import sys
import tempfile
from pathlib import Path

import duckdb
import matplotlib.pyplot as plt

from hbsk import PartialPoolingRegressor
from hbsk.plotting import GroupSizeDisplay

n_rows = int(sys.argv[1]) if sys.argv[1:] else 200_000
path = Path(tempfile.mkdtemp()) / "sales.parquet"
duckdb.sql("SELECT setseed(0.2)").fetchall()
duckdb.sql(
    f"""
    SELECT shop, price, hour,
        20 + 2 * sin(shop * 77) - (3 + cos(shop * 33)) * price + hour / 24 + 12 * (random() - 0.5) AS sold
    FROM (SELECT floor(300 * random() ** 3)::INTEGER AS shop, random() AS price, floor(24 * random()) AS hour
          FROM range({n_rows}))"""
).write_parquet(str(path))
sales = duckdb.read_parquet(str(path))
sales.limit(3)

# %%
# The fit
# -------
# With ``verbose=1`` each query tells its rows and its seconds.
model = PartialPoolingRegressor("sold ~ price + hour + (price | shop)", verbose=1)
model.fit(sales)
model.summary().round(2)

# %%
# What it says of the shops is as large as there are shops: a table to write back, a figure to look at.
effects = model.group_effects()
effects.head()

# %%
GroupSizeDisplay.from_estimator(model)

# %%
# The predictions
# ---------------
# They are a relation of DuckDB again, which computes them while it writes them.
predicted = model.set_params(verbose=0).predict(sales, return_std=True)
predicted.write_parquet(str(path.with_name("predicted.parquet")))
predicted.limit(3)

# %%
# Seen by hour of the day, with an aggregate of the database:
by_hour = predicted.aggregate("hour, avg(sold) AS sold, avg(prediction) AS prediction", "hour").order("hour").df()
_, ax = plt.subplots()
ax.plot("hour", "sold", "o", data=by_hour, label="sold")
ax.plot("hour", "prediction", data=by_hour, label="predicted")
ax.set(xlabel="hour", ylabel="mean of all shops")
_ = ax.legend()
