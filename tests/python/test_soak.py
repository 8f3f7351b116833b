"""The short form of ``make soak``: readers over every endpoint while builds are made, fail and are killed."""

import subprocess
import sys

from conftest import ROOT


def test_readers_see_whole_green_releases_and_no_error_whatever_happens_to_builds() -> None:
    command = [sys.executable, ROOT / "bench/soak.py", "--builds", "2", "--kills", "2", "--readers", "4"]
    soak = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert "4 readers through 1 red and" in soak.stdout
