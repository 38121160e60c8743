from metaug_ray.tuning.scales import scales
from metaug_ray.tuning.slices import held
from tests.tuning.made_up import point, sweep


def test_lists_are_held_exactly() -> None:
    settings = sweep(space={"method.delta": {"grid": [1, 2, 3]}, "method.alpha": {"grid": [1, 2]}})
    points = [
        point(3 * (a - 1) + d - 1, {"method.delta": d, "method.alpha": a}, [0.1 * d + 0.2 * a])
        for a in (1, 2)
        for d in (1, 2, 3)
    ]
    # The best is at alpha 2.
    assert [found.number for found in held(points, scales(settings), ["method.delta"])] == [3, 4, 5]
    # What is not finished is left out, though another alpha has it.
    points[3] = point(3, points[3].values, state="stopped")
    assert [found.number for found in held(points, scales(settings), ["method.delta"])] == [4, 5]
    assert held([point(0, {}, state="failed")], scales(settings), ["method.delta"]) == []


def test_of_a_range_the_nearest_stays() -> None:
    space = {"method.delta": {"choice": [1, 2]}, "method.alpha": {"log_uniform": [1e-8, 1]}}
    drawn = [(1, 1e-4, 0.9), (2, 1e-3, 0.4), (2, 1e-8, 0.8)]
    points = [point(n, {"method.delta": d, "method.alpha": a}, [value]) for n, (d, a, value) in enumerate(drawn)]
    assert [found.number for found in held(points, scales(sweep(space=space)), ["method.delta"])] == [0, 1]


def test_points_without_a_parameter_are_no_part_of_its_line() -> None:
    space = {"method.contrast": {"choice": ["a", "b"]}, "method.delta": {"grid": [1, 2]}}
    with_it = [point(n, {"method.contrast": "a", "method.delta": n}, [0.2 * n]) for n in (1, 2)]
    without = point(3, {"method.contrast": "b"}, [0.9])
    assert held([*with_it, without], scales(sweep(space=space)), ["method.contrast"]) == [without]
    assert held(with_it, scales(sweep(space=space)), ["method.delta"]) == with_it
