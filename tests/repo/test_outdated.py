"""What the role's `outdated.py` says of a journal catalog that an interrupted run has written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/hostagent/files/outdated.py"


@pytest.mark.parametrize(
    ("text_age_s", "database_age_s", "said"),
    [
        pytest.param(10, 5, "", id="the database was made after it"),
        pytest.param(10, 20, "catalog", id="the database is from before it"),
        pytest.param(10, None, "catalog", id="there is no database"),
        pytest.param(-3600, 5, "", id="it is from the future, as somebody set the clock back"),
        pytest.param(None, 5, "", id="it is not there, as in a dry run"),
    ],
)
def test_a_catalog_is_outdated_when_its_database_is_older(
    tmp_path: Path, text_age_s: int | None, database_age_s: int | None, said: str
) -> None:
    text, database = made(tmp_path / "hostagent.catalog", text_age_s), made(tmp_path / "database", database_age_s)
    argv = [sys.executable, str(PROGRAM), "catalog", str(text), str(database)]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == said


def made(path: Path, age_s: int | None) -> Path:
    if age_s is not None:
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    return path
