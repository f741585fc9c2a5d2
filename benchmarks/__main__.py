"""Run all benchmarks, one after the other: `tox -e benchmarks`. Every file also runs by itself, with options."""

import subprocess
import sys
from pathlib import Path

# encoders, encoded_models and marginal_against_nuts measure accuracy, the others time.
FILES = ("speed", "effective_samples", "grid_search", "scaling", "columns", "crossed", "encoders", "encoded_models")

for name in FILES:
    print(f"\n=== benchmarks.{name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=Path(__file__).resolve().parents[1], check=True)
