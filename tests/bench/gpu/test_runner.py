"""Parts run in processes of their own: one that fails, hangs or has no time left does not take the others with it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch

BENCH = Path(__file__).resolve().parents[3] / "bench"
PARTS = {
    "env": "record.put('python', sys.version)",
    "dies": "record.put('before', 1); os._exit(3)",
    "hangs": "record.put('before', 1); print('still here'); time.sleep(600)",
    "fails": "record.attempt('bad', lambda: 1 / 0); record.attempt('good', lambda: 2)",
    "raises": "raise ValueError('nothing to see')",
    "last": "record.put('device', str(card.device))",
}


@pytest.fixture
def run(tmp_path: Path):
    """run(limits): run parts of PARTS by the real runner; gives (exit code, results, summary)."""
    package = tmp_path / "parts"
    package.mkdir()

    def go(limits: dict[str, int]):
        for name, body in PARTS.items():
            code = f"import os, sys, time\n\ndef measure(record, card):\n    {body}\n"
            (package / f"{name}.py").write_text(code)
        script = dedent(f"""
            import sys
            from pathlib import Path
            sys.path.insert(0, {str(BENCH)!r})
            import gpu
            gpu.__path__.insert(0, {str(package)!r})
            import tempfile
            tempfile.tempdir = {str(tmp_path)!r}
            import gpu.card, gpu.record  # parts then start at once
            from gpu import runner
            runner.PARTS = limits = {limits!r}
            runner._start_method = lambda parts: "fork"
            sys.exit(runner.run_parts(Path({str(tmp_path / "out")!r}), "cpu", parts=limits))
        """)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        out = tmp_path / "out"
        results = json.loads((out / "results.json").read_text())
        return done.returncode, results, (out / "summary.txt").read_text()

    return go


@pytest.mark.slow
def test_what_one_part_does_leaves_the_others_alone(run, tmp_path: Path) -> None:
    code, results, summary = run(
        {"env": 30, "dies": 30, "hangs": 4, "fails": 30, "raises": 30, "last": 30}
    )
    assert code == 1
    parts = results["parts"]
    assert parts["env"].startswith("ok")
    assert parts["dies"].startswith("failed: exit code 3 after")
    assert parts["hangs"].startswith("failed: cut off after")
    assert parts["raises"].startswith("failed: exit code 1 after")
    assert parts["last"].startswith("ok")
    assert results["dies"] == results["hangs"] == {"before": 1}
    assert results["fails"] == {
        "bad": {"error": "ZeroDivisionError: division by zero"},
        "good": 2,
    }
    assert results["last"] == {"device": "cpu"}
    assert "fails | bad | ZeroDivisionError: division by zero" in summary
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "still here" in log
    assert "ValueError: nothing to see" in log


@pytest.fixture
def dispatched(gpu, tmp_path: Path, monkeypatch):
    """dispatched(outcomes): run env and last without processes, env with these outcomes one after the other.

    Gives (exit code, results, [(part, method of starting it), ...]).
    """
    runner = gpu("runner")

    def go(*outcomes: str, total: float = 60):
        left, started = list(outcomes), []

        def call(self, method: str, limit: float) -> str:
            started.append((self.name, method))
            self.place.log_of(self.name).write_text("no driver")
            return left.pop(0) if self.name == "env" else "ok, 1 s"

        monkeypatch.setattr(runner.tempfile, "gettempdir", lambda: str(tmp_path))
        monkeypatch.setattr(runner, "_start_method", lambda parts: "fork")
        monkeypatch.setattr(runner._Run, "__call__", call)
        code = runner.run_parts(tmp_path / "out", "cuda", total=total, parts={"env": 5, "last": 5})
        return code, json.loads((tmp_path / "out" / "results.json").read_text()), started

    return go


def test_without_time_a_part_is_not_started(dispatched) -> None:
    code, results, started = dispatched(total=20)  # of which some are kept for merging
    assert code == 1
    assert results["parts"]["env"] == results["parts"]["last"] == "no time left"
    assert started == []


def test_where_forking_fails_processes_start_afresh(dispatched) -> None:
    code, results, started = dispatched("failed: exit code 1", "ok, 3 s")
    assert code == 0
    assert results["parts"]["env"] == "ok, 3 s"
    assert started == [("env", "fork"), ("env", "spawn"), ("last", "spawn")]


def test_nothing_runs_in_a_broken_environment(dispatched, capsys) -> None:
    code, results, started = dispatched("failed: exit code 1", "failed: exit code 1")
    assert code == 1
    assert results["parts"].keys() == {"env", "total"}
    assert started == [("env", "fork"), ("env", "spawn")]
    assert "no driver" in capsys.readouterr().out


@pytest.mark.slow
def test_a_real_part_starts_afresh_with_packages_of_its_own(
    gpu, tmp_path: Path, monkeypatch
) -> None:
    runner = gpu("runner")
    monkeypatch.setattr(runner.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(runner, "_start_method", lambda parts: "spawn")
    monkeypatch.setattr(runner, "OWN_WHEELS", {"env": "mine"})
    (tmp_path / "wheels" / "mine").mkdir(parents=True)
    code = runner.run_parts(tmp_path / "out", "cpu", only=["env"], wheels=tmp_path / "wheels")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert code == 0
    assert results["env"]["first_kernel_error"] < 1e-5


def test_without_a_cuda_device_nothing_starts(gpu, tmp_path: Path, monkeypatch, capsys) -> None:
    main, runner = gpu("__main__").main, gpu("runner")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given: list[object] = []
    monkeypatch.setattr(runner, "run_parts", lambda *arguments: given.extend(arguments) or 0)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    words = r"finds no CUDA device, expected one: run on .*, or pass\s+--device cpu"
    assert re.search(words, capsys.readouterr().err)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), "--device", "cpu"])
    assert main() == 0
    longer = {name: 5 * seconds for name, seconds in runner.PARTS.items()}
    assert given[-1] == longer  # a dry run may share its CPU
    assert runner.limits("cuda") == runner.PARTS
