"""Set hbsk up in a virtual environment of its own (.venv, beside this file) and run something there.

    python3 run.py example            examples/radon.py, the main job
    python3 run.py test               the tests
    python3 run.py test -k groups     further words go to pytest, or to the example

Needs Python 3.12 or newer with pip; finds it on the PATH or under pyenv even if `python3` is an older one. Uses the
standard library only, and nothing newer than Python 3.8, so that an old Python can say what is missing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed-for"
VERSIONS = ("3.13", "3.14", "3.12")
MINIMUM = (3, 12)

# A process for each core, each with one BLAS thread: more of either make the tests slower, not faster. A file's tests
# stay together, for the fits they share.
JOBS = {"example": ["examples/radon.py"], "test": ["-m", "pytest", "-n", "auto", "--dist", "loadfile"]}
PACKAGES = {"example": ".", "test": ".[test]"}
TEST_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in JOBS:
        sys.exit(__doc__)
    set_up(sys.argv[1])
    if sys.argv[1] == "test":
        os.environ.update(TEST_THREADS)
    sys.exit(call(VENV_PYTHON, *JOBS[sys.argv[1]], *sys.argv[2:]))


def set_up(job):
    """Make the environment and install hbsk into it, unless that was done for the same pyproject.toml."""
    wanted = hashlib.sha256((HERE / "pyproject.toml").read_bytes()).hexdigest()
    stamp = STAMP.read_text() if version_of(VENV_PYTHON) and STAMP.exists() else ""
    if stamp in (f"{wanted} {job}", f"{wanted} test"):  # what the tests need holds what the example needs
        return
    base = find_python()
    # A distribution's Python may come without ensurepip: its own pip then installs into the environment from outside.
    if call(base, "-c", "import ensurepip", quiet=True) == 0:
        make, pip = [base, "-m", "venv"], [VENV_PYTHON, "-m", "pip"]
    else:
        make, pip = [base, "-m", "venv", "--without-pip"], [base, "-m", "pip", "--python", VENV_PYTHON]
    if version_of(VENV_PYTHON) < MINIMUM or call(*pip, "--version", quiet=True) != 0:
        print("Making .venv with", base, flush=True)
        if call(*make, "--clear", VENV) != 0:
            sys.exit("The environment could not be made; the reason stands above.")
    print("Installing hbsk and what it needs into .venv; the first time this takes a minute or two", flush=True)
    if call(*pip, "install", "--disable-pip-version-check", "--editable", PACKAGES[job]) != 0:
        sys.exit("The installation failed; the reason stands above. It needs pip and a package index it can reach.")
    STAMP.write_text(f"{wanted} {job}")


def find_python():
    """Return a Python that is new enough; leave with a message if there is none."""
    candidates = [sys.executable]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for version in VERSIONS:
        candidates.append(shutil.which("python" + version))
        candidates.extend(sorted(pyenv.glob(f"versions/{version}.*/bin/python")))
    for candidate in candidates:
        if candidate and version_of(candidate) >= MINIMUM:
            return candidate
    sys.exit(
        f"hbsk needs Python 3.12 or newer. This is Python {sys.version_info[0]}.{sys.version_info[1]}, and there is no "
        "python3.12, python3.13 or python3.14 on the PATH or under pyenv. Install one and run the same command again."
    )


def version_of(python):
    """Return (major, minor) of an interpreter, () if it does not run."""
    command = [str(python), "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=HERE, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(number) for number in answer.stdout.split())


def call(*command, quiet=False):
    """Run a command in the folder of this file and return its exit code."""
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run([str(word) for word in command], stdout=output, stderr=output, cwd=HERE).returncode


if __name__ == "__main__":
    main()
