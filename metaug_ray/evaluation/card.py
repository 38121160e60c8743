"""The model card of an encoder."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import yaml

from metaug_ray.config.model import ModelSettings
from metaug_ray.evaluation.results import in_a_cell
from metaug_ray.runtime.words import counted
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.evaluations import classifier_of, is_accuracy
from metaug_ray.tracking.registry import VERSION


def _scaling(model: ModelSettings) -> str:
    """What a network by itself takes."""
    if any(view.color != "rgb" for view in model.parsed_views):
        return "By itself such a network takes its view's colours (`metaug_ray.method.views.split_views`)."
    return "By itself such a network takes `images / 127.5 - 1`, numbers from -1 to 1, not normalised in another way."


def write_card(
    description: EncoderDescription,
    metrics: Mapping[str, float],
    judged_by: Mapping[str, str],
    figures: Sequence[Path],
    name: str,
) -> str:
    """Markdown: what it is, how to use it, what it was measured to be worth, where it is from.

    Args:
        description: of the encoder.
        metrics: of its evaluations, as shares, and what the run itself measured.
        judged_by: names of the data, by classifier.
        figures: that lie beside the card.
        name: under which it is registered.
    """
    model = description.model
    small = ", small-image stem" if model.small_images else ""
    lines = [
        f"# {name}",
        "",
        f"{description.variant}: a {model.encoder} (width {model.width:g}{small}) for {_shared(model)}, pre-trained "
        "without labels for "
        f"{counted(description.epochs, 'epoch')} on {description.data_name} at {description.image_size} px.",
        "",
        "Input: a batch of RGB images, uint8 [B, 3, H, W]; any number of them, and any size that the encoder takes. "
        "Output: representations, float32 [B, H], the encoders' side by side. Frozen; batch norm uses its running "
        "statistics.",
        "",
        "```python",
        "import mlflow  # MLFLOW_TRACKING_URI: the MLflow where you read this",
        "",
        f'encoder = mlflow.pytorch.load_model("models:/{name}/{VERSION}")',
        "representations = encoder(images)  # a uint8 tensor",
        "```",
        "",
        f"The weights of each encoder lie in `extra_files/<encoder>.safetensors`. {_scaling(model)}",
        "",
        "## Results",
        "",
    ]
    shown = {name: value for name, value in metrics.items() if not name.endswith("_interval")}
    if shown:
        lines += ["| measured | value | learnt from -> judged by |", "|---|---|---|"]
        for metric, value in sorted(shown.items()):
            width = metrics.get(f"{metric}_interval")
            accuracy = f"{100 * value:.1f}{'' if width is None else f' ± {100 * width:.1f}'} %"
            text = accuracy if is_accuracy(metric) else f"{value:.1f}"
            data = judged_by.get(classifier_of(metric), "as the training itself measured it")
            lines.append(f"| {metric} | {text} | {in_a_cell(data)} |")
        if len(shown) < len(metrics):
            lines += ["", "± is the half width of a 95 % interval over seeds of the classifier."]
        lines += ["", f"Measured until {date.today():%Y-%m-%d}; the registry tells what is known of this version now."]
    else:
        lines.append("Not evaluated yet.")
    for figure in figures:
        lines += ["", f"![{figure.stem}]({figure.name})"]
    settings = yaml.safe_dump(description.settings, sort_keys=False)
    lines += [
        "",
        "## Origin",
        "",
        f"- run `{description.run}`, MLflow run `{description.run_id}`",
        f"- checkpoint `{description.checkpoint}`, step {description.step:,}, seed {description.seed}",
        f"- trained on `{description.data_name}`, SHA-256 `{description.data_sha256}`",
        f"- settings and data, without seed: `{description.config_hash}`",
        "",
        "## Settings",
        "",
        f"```yaml\n{settings}```",
    ]
    return "\n".join(lines) + "\n"


def _shared(model: ModelSettings) -> str:
    """Which views have which encoder, in words."""
    views = ", ".join(model.views)
    if len(model.encoders) == len(model.views):
        return f"each of the views {views}"
    return f"the views {views} together, which it reads as {' and '.join(model.encoders)}"
