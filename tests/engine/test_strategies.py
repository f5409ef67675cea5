"""Strategies in a container: every file of `codes/`, both contracts, and what a hostile one can return."""

import json
import textwrap

import pytest

from sandgate import Costs, Settings, Status, UsageError
from sandgate.evaluation.bars import load
from sandgate.evaluation.metrics import NAMES, compute
from sandgate.patchflow.exercise import Request, exercise
from sandgate.sandbox.backend import DockerBackend
from sandgate.sandbox.image import profiles, store
from sandgate.sandbox.job import new_run_id
from sandgate.schemas.evaluation import Trade
from sandgate.schemas.limits import Limits
from sandgate.validation.source import from_bytes, inspect, read_source

from ..conftest import ROOT

CODES = sorted((ROOT / "codes").glob("*.py"))


@pytest.fixture(scope="session")
def backtesting_image(engine, settings):
    """The opt-in profile, asked for by name as a user would."""
    return store.ensure(engine, profiles.BACKTESTING, settings, print)


@pytest.fixture
def trade(image, settings):
    """Run a strategy from text; keyword arguments go into the request."""

    def trade(code, settings: Settings = settings, **asked):
        source = from_bytes("strategy.py", textwrap.dedent(code).encode())
        request = Request(source=source, limits=Limits(), **asked)
        return exercise(request, settings, DockerBackend(settings, print), lambda *_: None, new_run_id())

    return trade


@pytest.mark.parametrize("path", CODES, ids=lambda path: path.stem)
def test_every_shipped_strategy_trades(path, settings, backtesting_image, image):
    source = read_source(str(path))
    request = Request(source=source, limits=Limits())
    done = exercise(request, settings, DockerBackend(settings, print), lambda *_: None, new_run_id())

    run = done.run
    assert run.passed, (run.reason, run.stderr.text)
    metrics = run.evaluation.metrics if run.evaluation else run.claim.metrics
    assert set(NAMES) <= set(metrics)
    assert metrics["# Trades"] > 3
    if inspect(source.code).contract == "backtesting":
        assert run.evaluation is None
        assert run.claim.framework == "backtesting"
        assert run.image.profile == "backtesting"
    else:
        assert run.claim is None
        assert len(run.evaluation.equity) == 5031
        assert "<svg" in (done.folder / "equity.svg").read_text()
        report = (done.folder / "report.html").read_text()
        assert "http://" not in report.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in report


def test_both_contracts_are_shipped():
    assert {inspect(path.read_bytes()).contract for path in CODES} == {"signals", "backtesting"}
    assert len(CODES) >= 6


def test_metrics_equal_those_of_backtesting_py_on_the_same_fills(execute, backtesting_image, tmp_path):
    """Live, in the sealed image: the library trades its own sample, we compute from its fills alone."""
    full = execute.full(
        textwrap.dedent("""
        import json
        import backtesting, backtesting.backtesting
        backtesting.backtesting._tqdm = lambda bars, **_: bars
        from backtesting import Backtest, Strategy
        from backtesting.lib import crossover
        from backtesting.test import GOOG, SMA

        class Cross(Strategy):
            def init(self):
                self.fast, self.slow = self.I(SMA, self.data.Close, 10), self.I(SMA, self.data.Close, 30)
            def next(self):
                if crossover(self.fast, self.slow):
                    self.position.close(); self.buy(size=0.8)
                elif crossover(self.slow, self.fast):
                    self.position.close(); self.sell(size=0.5)

        stats = Backtest(GOOG, Cross, cash=100_000, commission=0.002, finalize_trades=True).run()
        json.dump({
            "bars": [[str(time), *map(float, row)] for time, *row in GOOG.itertuples()],
            "trades": json.loads(stats["_trades"].drop(columns=["Tag"], errors="ignore").to_json(
                orient="records", date_format="iso", double_precision=15)),
            "exact": [[float(t.PnL), float(t.ReturnPct), float(t.Commission), float(t.EntryPrice),
                       float(t.ExitPrice)] for t in stats["_trades"].itertuples()],
            "equity": [float(value) for value in stats["_equity_curve"]["Equity"]],
            "first": 30 - 1,
            "stats": {name: (float(value) if isinstance(value, (int, float)) else str(value))
                      for name, value in stats.items() if not name.startswith("_")},
        }, open("/out/reference.json", "w"))
        """),
        timeout=100,
    )
    assert full.run.status is Status.OK, full.run.stderr.text
    reference = json.loads((full.folder / "artifacts/reference.json").read_text())
    table = tmp_path / "goog.csv"
    rows = ["Date,Open,High,Low,Close,Volume", *(",".join(map(repr, row)) for row in reference["bars"])]
    table.write_text("\n".join(rows).replace("'", ""))
    bars = load(str(table))
    trades = [
        Trade(
            size=row["Size"],
            entry_bar=row["EntryBar"],
            exit_bar=row["ExitBar"],
            entry_time=row["EntryTime"] + "Z",
            exit_time=row["ExitTime"] + "Z",
            entry_price=entry,
            exit_price=exit_price,
            commission=commission,
            pnl=pnl,
            return_pct=100 * fraction,
        )
        for row, (pnl, fraction, commission, entry, exit_price) in zip(
            reference["trades"], reference["exact"], strict=True
        )
    ]
    import numpy as np

    ours = compute(bars, np.array(reference["equity"]), trades, first_bar=reference["first"])

    assert len(trades) > 50
    for name, theirs in reference["stats"].items():
        if isinstance(theirs, float):
            assert ours[name] == pytest.approx(theirs, rel=1e-9, abs=1e-9), name
    assert len([name for name in ours if isinstance(reference["stats"].get(name), float)]) > 20


def test_parameters_and_the_choice_of_a_strategy(trade):
    code = """
        class Hold:
            size = 1.0
            def generate_signals(self, df, size: float = 1.0):
                return [size] * len(df)
        class Flat:
            def generate_signals(self, df):
                return [0] * len(df)
    """
    half = trade(code, strategy="Hold", params={"size": "0.5"}).run
    whole = trade(code, strategy="Hold").run

    assert half.evaluation.strategy == "Hold"
    assert 0 < half.evaluation.metrics["Return [%]"] < whole.evaluation.metrics["Return [%]"]
    for asked in ({}, {"strategy": "Nope"}, {"strategy": "Hold", "params": {"sise": "1"}}):
        with pytest.raises(UsageError):
            trade(code, **asked)


def test_the_demonstration_at_the_end_of_a_strategy_file_does_not_run(trade):
    code = """
        def generate_signals(df): return [1] * len(df)
        if __name__ == "__main__": raise SystemExit("demo")
    """
    assert trade(code).run.passed


def test_costs_come_from_the_settings(trade, settings):
    code = "def generate_signals(df): return [i % 2 for i in range(len(df))]"
    free = settings.model_copy(update={"costs": Costs(commission=0, slippage=0)})

    assert trade(code, settings=free).run.evaluation.metrics["Commissions [$]"] == 0
    dear = trade(code).run.evaluation.metrics
    assert dear["Commissions [$]"] > 1000
    assert dear["Return [%]"] < -90


def test_data_can_be_a_registered_name_a_csv_or_a_parquet_file(trade, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    columns = {"Date": [f"2024-01-{day:02}" for day in range(1, 31)]}
    columns |= {name: [100.0 + day for day in range(30)] for name in ("Open", "High", "Low", "Close", "Volume")}
    rows = zip(*columns.values(), strict=True)
    (tmp_path / "x.csv").write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]))
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    code = "def generate_signals(df): return [1] * len(df)"

    from_csv = trade(code, data=str(tmp_path / "x.csv")).run
    from_parquet = trade(code, data=str(tmp_path / "x.parquet")).run

    assert len(from_csv.evaluation.equity) == 30
    assert from_csv.data.sha256 == from_parquet.data.sha256
    assert from_csv.data.name == str(tmp_path / "x.csv")
    assert from_csv.evaluation == from_parquet.evaluation
    assert trade(code, data="nasdaq").run.data != trade(code).run.data
    with pytest.raises(UsageError, match="sp500"):
        trade(code, data="no-such-set")


HOSTILE = {
    "too short": ("def generate_signals(df): return [1]", "EV002"),
    "not numbers": ("def generate_signals(df): return ['x'] * len(df)", "EV003"),
    "infinite": ("def generate_signals(df): return [float('inf')] * len(df)", None),
    "out of range": ("def generate_signals(df): return [99] * len(df)", "EV005"),
    "nothing": ("def generate_signals(df): pass", None),
    "exits with success": ("import os\ndef generate_signals(df): os._exit(0)", Status.INCOMPLETE),
    "SystemExit 0": ("def generate_signals(df): raise SystemExit(0)", Status.INCOMPLETE),
    "forged answer": (
        """
        import json, os
        def generate_signals(df):
            os.write(3, json.dumps({"contract": "backtesting", "strategy": "x", "metrics": {"Return [%]": 1e9},
                                    "trades": [], "positions": None}).encode())
            os._exit(0)
        """,
        "EV001",
    ),
    "answer that is no JSON": (
        "import os\ndef generate_signals(df): os.write(3, b'{' * 100000); os._exit(0)",
        Status.INCOMPLETE,
    ),
    "answer without end": (
        "import os\ndef generate_signals(df):\n    while True: os.write(3, b'1' * 65536)",
        Status.OUTPUT_LIMIT,
    ),
    "patched harness": (
        """
        import json
        json.dump = lambda value, pipe, **_: pipe.write('{"strategy": "x", "positions": [1e999]}')
        def generate_signals(df): return [0] * len(df)
        """,
        "EV002",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_strategy_cannot_write_its_own_verdict(trade, name):
    code, expected = HOSTILE[name]

    run = trade(code).run

    assert not run.passed
    if isinstance(expected, Status):
        assert run.status is expected
    elif expected is not None:
        assert [finding.rule for finding in run.evaluation.findings] == [expected]
    assert run.claim is None


def test_what_a_strategy_does_to_its_frame_does_not_reach_the_evaluation(trade):
    honest = trade("def generate_signals(df): return [1] * len(df)").run
    forging = trade("def generate_signals(df):\n    df.loc[:, 'close'] = df['close'] * 9\n    return [1] * len(df)").run

    assert forging.evaluation.metrics == honest.evaluation.metrics
