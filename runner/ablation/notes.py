"""What must be known to read a table's numbers, in sentences."""

from __future__ import annotations

from runner.ablation.quantities import OF_DOMAINS
from runner.ablation.summary import TableSummary
from runner.profiling.fusion_cost import BATCH


def notes(summary: TableSummary) -> list[str]:
    """What must be known to read the numbers."""
    found: list[str] = []
    if any(len(row.runs) > 1 for row in summary.rows):
        found.append("±: sample standard deviation over seeds, or of the differences by seed.")
    if missing := summary.missing:
        names = [f"{row} seed {seed}" for row, seed in missing[:4]]
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        found.append(f"Not finished: {', '.join(names)}{more}.")
    if summary.settings:
        found.append(f"With {' '.join(summary.settings)}.")
    found += _score_notes(summary)
    if summary.costs:
        found += NOTES
    found += [f"Code: {each}." for each in [_revisions(summary)] if each]
    found += _lock_notes(summary)
    for row in summary.rows:
        if row.published:
            remarks = "".join(f"; {remark}" for remark in row.published.remarks)
            found.append(f"Published: {row.published.source}{remarks}.")
    if any(row.published for row in summary.rows) and any(
        run.benchmark.startswith("synthetic") for _, run in summary.runs
    ):
        found.append(
            "Published numbers are of photographs, these of drawn people: compare the order of "
            "rows, not the values."
        )
    return list(dict.fromkeys(found))


def _score_notes(summary: TableSummary) -> list[str]:
    """Which network the scores are of, and what chance would score, of runs over one domain."""
    found: list[str] = []
    if summary.table.checkpoint == "validation":
        found.append("Scores on test people of the epoch that validation people chose, by mAP.")
    elif summary.quantities is not OF_DOMAINS:
        found.append("Scores on test people of the network after the last epoch.")
    chances = [
        (chance.get("seen_R1"), chance.get("seen_mAP"))
        for _, run in summary.runs
        if (chance := run.results.get("chance"))
    ]
    if summary.quantities is not OF_DOMAINS and len(set(chances)) == 1 and None not in chances[0]:
        found.append("Chance: R1 {:.1f}, mAP {:.1f}.".format(*chances[0]))
    return found


def _revisions(summary: TableSummary) -> str:
    found = [
        f"{revision[:8]}{'+' if revision.endswith('+') else ''} ({number} runs)"
        for revision, number in summary.revisions.items()
    ]
    warning = "different revisions, " if len(found) > 1 else ""
    return warning + ", ".join(found)


def _lock_notes(summary: TableSummary) -> list[str]:
    if len(summary.locks) == 1:
        return [f"Protocol lock {next(iter(summary.locks))[:12]}, shared by all."]
    if not summary.locks:
        return []
    sentences = [each.sentence for each in summary.lock_differences]
    shown = "; ".join(sentences[:4])
    more = f"; and {len(sentences) - 4} more" if len(sentences) > 4 else ""
    meant = ", as this table means them to" if summary.varies_data else ""
    return [f"Protocol locks differ{meant}: {shown}{more}."]


REPEATS = 5


NOTES = (
    "Parameters and FLOPs are the fusion's; image FLOPs are of all that embeds an image with its "
    "description. They are of one image, a multiplication and an addition being two, of matrix "
    "products, attention, convolutions and the states of Mamba's scan (9 each in every position); "
    "activations, norms and other sums are left out.",
    f"ms: of an image in a batch of {BATCH}, embedded with its description, median and range of "
    f"{REPEATS} turns of all rows, on one CPU thread or a GPU; times: of the reference row's, turn "
    "by turn. They compare inside this table alone.",
    "Memory: most that a batch holds at once beyond parameters and inputs; on a GPU all that torch "
    "allocates, on the CPU the tensors that operations return.",
)
