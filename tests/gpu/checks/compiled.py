"""What `torch.compile` makes of a tangent pass and of steps. The compiling is in `tests/gpu/compiling.py`."""

from collections.abc import Generator, Iterator
from typing import Any

from tests.gpu.child import Child
from tests.gpu.setting import Row, Setting, held, skipped

Answer = dict[str, Any] | None

MEASURING = 8.0
"""Seconds that a child's measurements take at most."""


def start_compiling(setting: Setting) -> Iterator[Row]:
    """Begin in the background. From here on, no check but these measures time."""
    names = ("tangent", "step", "steps", "quarter") if setting.gpu else ("tangent", "step")
    for name in names:
        _child(setting, name)
    yield Row("begun", f"{len(names)} processes compile beside the next checks")


def compiled_tangent(setting: Setting) -> Iterator[Row]:
    # What is left after it is for the next checks.
    seconds = setting.left - 4 * MEASURING
    compiled, measured = yield from _answers(setting, "tangent", "tangents, compiled", seconds)
    if compiled is None:
        return
    difference, eager = compiled["difference"], compiled["eager_error"]
    yield held(
        "tangents, compiled",
        f"apart from eager by {difference:.1e} (bar: 1.5 x the {eager:.1e} by which eager is off float32; this is off "
        f"by {compiled['error']:.1e}); compiled in {compiled['compiling']:.0f} s, {compiled['graphs']} graphs",
        # Two roundings that have nothing in common differ by 1.4 x.
        difference <= 1.5 * eager,
        **compiled,
    )
    if measured is not None:
        yield held(
            "its time",
            f"{1e3 * measured['compiled']:.1f} ms compiled, {1e3 * measured['eager']:.1f} ms eager; "
            f"{measured['recompilations']} recompilations (bar 0)",
            measured["recompilations"] == 0,
            **measured,
        )


def compiled_step(setting: Setting) -> Iterator[Row]:
    what = f"fused, batch {setting.sizes.small_batch}, compiled"
    compiled, measured = yield from _answers(setting, "step", what, setting.left - 3 * MEASURING)
    if compiled is None or measured is None:
        return
    said = f"{1e3 * measured['seconds']:.1f} ms; compiled in {compiled['compiling']:.0f} s"
    if "kernels" in measured:
        said += f"; {measured['kernels']} kernels, busy for {measured['busy']:.0%}"
    yield Row(what, said, numbers=compiled | measured)


def compiled_steps(setting: Setting) -> Iterator[Row]:
    batch = setting.sizes.large.batch
    if not setting.gpu:
        yield skipped(f"steps, batch {batch}, compiled", "only a GPU's times tell anything")
        return
    plain: float | None = None
    for number, child in enumerate(("steps", "quarter")):
        what = f"{child}, batch {batch}, compiled"
        compiled, measured = yield from _answers(setting, child, what, setting.left - (2 - number) * MEASURING)
        if compiled is None or measured is None:
            continue
        yield Row(what, f"compiled in {compiled['compiling']:.0f} s, {compiled['graphs']} graphs", numbers=compiled)
        plain = measured.get("plain", plain)
        for name, seconds in measured.items():
            ratio = "" if plain is None else f"{seconds / plain:.2f} x plain, "
            said = f"{1e3 * seconds:.1f} ms, {ratio}{batch / seconds:.0f} images/s"
            yield Row(f"step {name}, compiled", said, numbers={"seconds": seconds})


def _answers(setting: Setting, name: str, what: str, seconds: float) -> Generator[Row, None, tuple[Answer, Answer]]:
    """Both answers of a child, each None if it does not come in time, which is a row too.

    Args:
        setting: of the checks.
        name: of the child.
        what: for the row.
        seconds: to wait for the first answer.
    """
    child = _child(setting, name)
    try:
        compiled = child.answer(seconds)
        if compiled is None:
            yield skipped(what, "its compilation takes longer than the time that was left")
            return None, None
        child.go()
        measured = child.answer(max(setting.left, MEASURING))
        if measured is None:
            yield skipped(f"{what}: its time", "no time left")
        return compiled, measured
    finally:
        child.kill()


def _child(setting: Setting, name: str) -> Child:
    """The child of this name, begun now if it was not before."""
    if name not in setting.children:
        options = ["--device", str(setting.device), *(["--quick"] if setting.quick else [])]
        setting.children[name] = Child(name, options, setting.folder / f"compiling_{name}.log")
    return setting.children[name]
