"""The Python API: sync, async, cancelled."""

import asyncio

import pytest

from sandgate import Limits, Status, UsageError, arun, run
from sandgate.sandbox import reaper


def test_run_takes_a_file_or_code(image, settings, tmp_path):
    (tmp_path / "x.py").write_text("print('from a file')")

    assert run(tmp_path / "x.py", settings=settings).stdout.text == "from a file\n"
    assert run(code="print('from text')", settings=settings).stdout.text == "from text\n"
    assert run(code="import sys; print(sys.argv[1])", arguments=["x"], settings=settings).stdout.text == "x\n"
    with pytest.raises(UsageError, match="exactly one"):
        run(settings=settings)
    with pytest.raises(UsageError, match="isolation"):
        run(code="pass", isolation="none", settings=settings)


def test_runs_go_side_by_side(image, settings):
    async def both():
        return await asyncio.gather(*(arun(code=f"print({number})", settings=settings) for number in range(4)))

    assert [one.stdout.text for one in asyncio.run(both())] == ["0\n", "1\n", "2\n", "3\n"]


def test_a_cancelled_run_is_gone_when_the_cancelling_returns(image, settings, engine):
    async def cancel():
        task = asyncio.create_task(arun(code="while True: pass", limits=Limits(timeout=60), settings=settings))
        while not any(one.state == "running" for one in reaper.ours(engine, settings)):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert engine.api.containers(all=True, filters={"label": f"{reaper.OWNER_LABEL}={reaper.owner_label()}"}) == []


def test_a_run_cancelled_twice_is_gone_too(image, settings, engine):
    async def cancel():
        task = asyncio.create_task(arun(code="while True: pass", limits=Limits(timeout=60), settings=settings))
        await asyncio.sleep(1.5)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert engine.api.containers(all=True, filters={"label": f"{reaper.OWNER_LABEL}={reaper.owner_label()}"}) == []


def test_what_is_misspelt_or_of_the_wrong_type_is_an_error(image, settings):
    with pytest.raises(TypeError, match="timeout"):
        run(code="pass", timeout=5, settings=settings)
    for wrong in ({"limits": {"timeout": 5}}, {"params": {"a": object()}}):
        with pytest.raises(UsageError):
            run(code="pass", settings=settings, **wrong)
    with pytest.raises(UsageError):
        run(123, settings=settings)


def test_ceilings_hold_for_the_api_too(image, settings):
    with pytest.raises(UsageError, match="ceiling"):
        run(code="pass", limits=Limits(memory=2**40), settings=settings)
    assert run(code="pass", limits=Limits(memory=64 * 2**20, disk=2**20), settings=settings).status is Status.OK
