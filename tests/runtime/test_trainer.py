import asyncio

from metaug_ray.runtime.trainer import _run


def test_the_controller_runs_within_another_event_loop_too() -> None:
    done = []

    async def control() -> None:
        await asyncio.sleep(0)
        done.append(asyncio.get_running_loop())

    async def notebook() -> None:
        _run(control())
        done.append(asyncio.get_running_loop())

    asyncio.run(notebook())
    assert len(set(done)) == 2
    _run(control())
    assert len(done) == 3
