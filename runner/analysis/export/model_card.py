"""README.md of an exported model, generated from the facts of its run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from runner.analysis.export.graphs import EMBEDDING
from runner.analysis.export.parity import MIN_COSINE
from runner.analysis.trained_run import UNTRAINED, TrainedRun
from runner.config.run_config import learner_module

_AFTER = re.compile(r"after-(\d+)-")


def scores_of(run: TrainedRun) -> dict[str, Any] | None:
    """Test scores of the exported weights in percent, from results.json of the run.

    Returns:
        `{domain: {metric: score}}` under "scores", and which domains were learned; None if
        the run did not evaluate these weights as a row of its result matrix.
    """
    results = run.storage.results()
    if results is None:
        return None
    if run.checkpoint == UNTRAINED:
        row = 0
    elif match := _AFTER.match(run.checkpoint):
        row = int(match[1])
    else:
        return None
    seen, unseen = results["domains"]["seen"], results["domains"]["unseen"]
    rows = {metric: matrix[row] for metric, matrix in results["scores"].items()}
    names = [*seen, *unseen]
    return {
        "seen": seen,
        "unseen": unseen,
        "scores": {
            name: {metric: values[column] for metric, values in rows.items()}
            for column, name in enumerate(names)
        },
    }


def model_card(
    run: TrainedRun,
    description: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    scores: Mapping[str, Any] | None,
) -> str:
    """Writes the model card as Markdown.

    Args:
        run: the exported run.
        description: content of export.json.
        preprocessing: content of preprocessing.json.
        scores: result of `scores_of`.
    """
    parts = [
        _head(run, description),
        "## Intended use\n\n"
        "Ranking images of people by similarity, for research on re-identification. Two "
        "embeddings are compared by their cosine; a threshold must be chosen on data of your own. "
        "The model does not know names or identities. Do not use it to decide about a person "
        "without a human check, and check that the law allows you to process the images.\n",
        _inputs(description, preprocessing),
        _data(run),
        _scores(run, scores),
        _checks(run, description),
        _limits(run),
        _files(description),
    ]
    return "\n".join(parts)


def _head(run: TrainedRun, description: Mapping[str, Any]) -> str:
    config, embedding = run.config, description["embedding"]
    int8 = ", weights quantised to int8" if description["int8"] else ""
    return (
        f"# {config.learner.name} on {run.lock['benchmark']}, {description['format']}\n\n"
        f"Person re-identification model exported from the run `{run.storage.folder.name}` "
        f"({run.checkpoint}).\n\n"
        f"| | |\n|---|---|\n"
        f"| method | {config.learner.name} |\n"
        f"| backbone | {config.backbone.name}, initial weights `{_weights(run)}` |\n"
        f"| embedding | {embedding['size']} values, L2-normalised |\n"
        f"| format | {description['format']}{int8} |\n"
        f"| seed | {config.seed} |\n"
        f"| configuration | `{config.hash}` |\n"
    )


def _weights(run: TrainedRun) -> str:
    """Weights of the backbone before training, without the folder of a local file."""
    return run.config.backbone.weights.rpartition("/")[2]


def _inputs(description: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> str:
    images, texts = preprocessing["images"], preprocessing["texts"]
    lines = [
        "## Inputs\n",
        f"Images are decoded to RGB, resized to {images['height']} x {images['width']} pixels "
        f"(height x width, {images['interpolation']}), and passed as {images['dtype']} "
        f"{images['layout']}. Normalisation: {images['normalisation']}, with mean "
        f"{images['mean']} and std {images['std']}. preprocessing.json has the same values.\n",
    ]
    for name, graph in description["graphs"].items():
        inputs = ", ".join(
            f"`{each['name']}` {each['dtype']} [{', '.join(map(str, each['shape']))}]"
            for each in graph["inputs"]
        )
        lines.append(f"- `{graph['file']}` ({name}): {inputs} -> `{EMBEDDING}`")
    if texts is not None:
        lines.append(
            f"\nTexts are tokenised by the {texts['tokenizer']} tokenizer, with at most "
            f"{texts['context_length']} tokens, padded with {texts['padding']}."
        )
        if texts["descriptions"]:
            lines.append(
                "Gallery images need a description of the person, as for `describe --prompt dual`."
            )
    return "\n".join([*lines, ""])


def _num_learned(run: TrainedRun) -> int:
    """Number of domains that the exported weights were trained on."""
    match learner_module(run.config.learner.name).Method.course:
        case "none":
            return 0
        case "sequential" if after := _AFTER.match(run.checkpoint):
            return int(after[1])
        case _:
            return len(run.lock["order"])


def _data(run: TrainedRun) -> str:
    lock = run.lock
    learned = lock["order"][: _num_learned(run)]
    rows = [
        f"| {name} | {lock['domains'][name]['identities']['train']['count']} "
        f"| {lock['domains'][name]['num_images']['train']} |"
        for name in learned
    ]
    table = "| domain | identities | images |\n|---|---|---|\n" + "\n".join(rows)
    synthetic = lock.get("synthetic") is not None
    made = "The images are synthetic figures, not photographs of people.\n\n" if synthetic else ""
    text = (
        f"Domains in the order of the run:\n\n{table}" if rows else "None: the run trains nothing."
    )
    return f"## Training data\n\n{made}{text}\n"


def _scores(run: TrainedRun, scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return (
            "## Scores\n\nThe run has no test scores of these weights; measure them with "
            "`evaluate` on this folder.\n"
        )
    learned = run.lock["order"][: _num_learned(run)]
    rows = [
        f"| {name} | {'yes' if name in learned else 'no'} "
        f"| {values['mAP']:.1f} | {values['R1']:.1f} |"
        for name, values in scores["scores"].items()
    ]
    return (
        "## Scores\n\nIn percent, on the test identities of each domain, by the run itself (before "
        "export). The protocol is in protocol.lock.json.\n\n"
        "| domain | learned | mAP | Rank-1 |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _checks(run: TrainedRun, description: Mapping[str, Any]) -> str:
    measured = description["parity"]
    lines = [
        "## Check at export\n",
        f"Embeddings of {measured['num_inputs']} random images and sample texts have a cosine of "
        f"at least {measured['min_cosine']:.6f} to those of the learner in float32 (required "
        f"without quantisation: {MIN_COSINE}); the largest difference of a value is "
        f"{measured['max_difference']:.1e}.",
    ]
    if run.config.precision != "float32":
        lines.append(
            f"\nThe run computed in {run.config.precision}, so the scores above differ slightly "
            "from those of this model."
        )
    if loss := description["int8_loss"]:
        before, after = loss["average_mAP"]
        lines += [
            f"\nInt8 quantisation changes the mean mAP over the learned domains from {before:.2f} "
            f"to {after:.2f}, a loss of {loss['loss']:.2f} points:\n",
            "| domain | mAP float32 | mAP int8 |\n|---|---|---|",
            *(f"| {name} | {old:.2f} | {new:.2f} |" for name, (old, new) in loss["mAP"].items()),
        ]
    return "\n".join([*lines, ""])


def _limits(run: TrainedRun) -> str:
    lines = [
        "## Limits\n",
        "- Scores hold for the test sets above. Expect lower ones for other cameras, clothing, "
        "light and image sizes.",
        "- The training data determine whom the model represents well; no analysis by group of "
        "people was made.",
        "- Embeddings of different models, and of this model before and after int8 quantisation, "
        "are not comparable.",
    ]
    if run.lock.get("synthetic") is not None:
        lines.append("- Trained on synthetic figures: it is not useful for photographs.")
    return "\n".join([*lines, ""])


def _files(description: Mapping[str, Any]) -> str:
    rows = [f"| `{name}` | {each['bytes']:,} |" for name, each in description["files"].items()]
    return "## Files\n\n| file | bytes |\n|---|---|\n" + "\n".join(rows) + "\n"


def shown_lines(description: Mapping[str, Any]) -> Sequence[str]:
    """Result of an export as lines for a terminal."""
    measured, loss = description["parity"], description["int8_loss"]
    lines = [
        f"lowest cosine to the learner {measured['min_cosine']:.6f}, largest difference "
        f"{measured['max_difference']:.1e} ({measured['num_inputs']} inputs)"
    ]
    if loss:
        before, after = loss["average_mAP"]
        lines.append(
            f"int8: mAP {before:.2f} -> {after:.2f} on {len(loss['mAP'])} learned domains, a loss "
            f"of {loss['loss']:.2f} points"
        )
    return lines
