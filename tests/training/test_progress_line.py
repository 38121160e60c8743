from metaug_ray.training.progress_line import evaluation_line, progress_line


def test_a_line_that_a_person_can_read() -> None:
    values = {
        "progress/epoch": 3.25,
        "loss/total": 0.94321,
        "similarity/positives_mean": 0.7123,
        "similarity/negatives_mean": 0.5,
        "feature_spread": 0.987,
        "speed/images_per_second": 2345.6,
        "speed/images_per_second_per_worker": 293.2,
        "data/wait_fraction": 0.031,
        "progress/skipped_steps": 0.0,
        "progress/hours_left": 50.0,
    }
    expected = (
        "epoch 3.25 | step 32,500 | loss 0.9432 | d+ 0.712 d- 0.500 spread 0.99 | 2,346 images/s (293 each) | "
        "data wait 3% | 2 d 2 h left"
    )
    assert progress_line(32_500, values) == expected
    assert "2 steps skipped" in progress_line(32_500, values | {"progress/skipped_steps": 2.0})


def test_an_evaluation_with_labels_and_without() -> None:
    values = {"rankme/l": 12.34, "rankme/ab": 3, "rankme/mean": 7.67}
    assert evaluation_line(1200, values, ("l", "ab")) == "RankMe 7.7 (l 12.3, ab 3.0) after 1,200 steps"
    labelled = evaluation_line(0, values | {"knn/accuracy": 0.276}, ("l", "ab"))
    assert labelled == "kNN accuracy 27.6%, RankMe 7.7 (l 12.3, ab 3.0) after 0 steps"
