"""Notes below a table."""

from __future__ import annotations

from runner.ablation.quantities import OF_DOMAINS
from runner.ablation.summary import TableSummary
from runner.profiling.fusion_cost import BATCH


def notes(summary: TableSummary) -> list[str]:
    """Explains symbols, checkpoints, missing runs, revisions, protocol locks and sources."""
    sentences: list[str] = []
    if any(len(row.runs) > 1 for row in summary.rows):
        sentences.append("±: sample standard deviation over seeds, or of the differences by seed.")
    if not summary.has_equal_seeds:
        sentences.append(
            "Rows have different seeds, so their means are not over the same seeds; the "
            "differences are over the seeds that both rows have."
        )
    if missing := summary.missing:
        names = [f"{row} seed {seed}" for row, seed in missing[:4]]
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        sentences.append(f"Not finished: {', '.join(names)}{more}.")
    if summary.settings:
        sentences.append(f"With {' '.join(summary.settings)}.")
    sentences += _score_notes(summary)
    if summary.costs:
        sentences += COST_NOTES
    sentences += [f"Code: {each}." for each in [_revisions(summary)] if each]
    sentences += _lock_notes(summary)
    for row in summary.rows:
        if row.published:
            remarks = "".join(f"; {remark}" for remark in row.published.remarks)
            sentences.append(f"Published: {row.published.source}{remarks}.")
    if any(row.published for row in summary.rows) and any(
        run.benchmark.startswith("synthetic") for _, run in summary.runs
    ):
        sentences.append(
            "Published numbers are of photographs, these of synthetic people: compare the order of "
            "rows, not the values."
        )
    return list(dict.fromkeys(sentences))


def _score_notes(summary: TableSummary) -> list[str]:
    """Checkpoint of the scores, and scores of a random ranking for runs over one domain."""
    sentences: list[str] = []
    if summary.table.checkpoint == "validation":
        sentences.append(
            "Scores on test identities, of the epoch selected by mAP on validation identities."
        )
    elif summary.quantities is not OF_DOMAINS:
        sentences.append("Scores on test identities after the last epoch.")
    chances = [
        (chance.get("seen_R1"), chance.get("seen_mAP"))
        for _, run in summary.runs
        if (chance := run.results.get("chance"))
    ]
    if summary.quantities is not OF_DOMAINS and len(set(chances)) == 1 and None not in chances[0]:
        sentences.append("Chance: R1 {:.1f}, mAP {:.1f}.".format(*chances[0]))
    return sentences


def _revisions(summary: TableSummary) -> str:
    texts = [
        f"{revision[:8]}{'+' if revision.endswith('+') else ''} ({number} runs)"
        for revision, number in summary.revisions.items()
    ]
    warning = "different revisions, " if len(texts) > 1 else ""
    return warning + ", ".join(texts)


def _lock_notes(summary: TableSummary) -> list[str]:
    if len(summary.locks) == 1:
        return [f"Protocol lock {next(iter(summary.locks))[:12]}, the same for all runs."]
    if not summary.locks:
        return []
    sentences = [each.sentence for each in summary.lock_differences]
    shown = "; ".join(sentences[:4])
    more = f"; and {len(sentences) - 4} more" if len(sentences) > 4 else ""
    reason = " on purpose" if summary.varies_data else ""
    return [f"Protocol locks differ{reason}: {shown}{more}."]


REPEATS = 5


COST_NOTES = (
    "Parameters and FLOPs: of the fusion. Image FLOPs: of the whole embedding of an image with its "
    "description. FLOPs are counted for one image, a multiplication and an addition as two: matrix "
    "products, attention, convolutions and the states of Mamba's scan (9 per state and position); "
    "activations, norms and other sums are excluded.",
    f"ms: latency of an image in a batch of {BATCH}, embedded with its description; median and "
    f"range of {REPEATS} interleaved repeats of all rows, on one CPU thread or a GPU. times: ratio "
    "to the reference row, repeat by repeat. Comparable only within this table.",
    "Memory: peak of a batch beyond parameters and inputs; on a GPU all memory allocated by torch, "
    "on the CPU the tensors that operations return.",
)
