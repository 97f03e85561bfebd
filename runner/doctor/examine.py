"""What `doctor` finds out about data sets on disk, before any run; writes nothing into them.

`examine` looks at folders, lists and names; `examine_images` also opens every image.
"""

from __future__ import annotations

import difflib
import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from runner.doctor.checks import counts_of, faults_and_notes, parts_of
from runner.doctor.open_images import open_images
from tasks.reading import (
    Counts,
    DatasetFacts,
    NotExtractedError,
    Place,
    ReadOptions,
    dataset_facts,
    dataset_names,
    find_dataset,
    find_deeper,
    read_place,
)
from tasks.schema import RawDomain

Status = Literal["ok", "warning", "missing", "broken"]

NUM_LISTED = 20
"""Unreadable images that are said one by one; the others are counted."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found out about one data set.

    Attributes:
        name: its reader's name.
        title: what people call it.
        status: "missing": nothing of it was found; "broken": found, but it cannot be read;
            "warning": it can be read, but something about it is not as it should be.
        folder: where it is, or None.
        variant: which of its layouts that has, or None.
        splits: what was read of "train", "validation" (if it has its own), "query" and "gallery".
        expected: what the literature says of the same; None where it says nothing.
        faults: what is wrong and what to do, one sentence or two each.
        notes: what is to be known and is no fault.
        is_traceless: whether `faults` say no more than that there is none of it.
        image_paths: every image of every split, each once.
        unreadable: path -> why this image cannot be decoded; None if no image was opened.
    """

    name: str
    title: str
    status: Status
    folder: Path | None = None
    variant: str | None = None
    splits: Mapping[str, Counts] = field(default_factory=dict[str, Counts])
    expected: Mapping[str, Counts] = field(default_factory=dict[str, Counts])
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_traceless: bool = False
    image_paths: tuple[str, ...] = ()
    unreadable: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `doctor --json` prints them under the data set's name."""
        found: dict[str, Any] = {
            "status": self.status,
            "root": None if self.folder is None else str(self.folder),
            "variant": self.variant,
            "splits": {part: asdict(counts) for part, counts in self.splits.items()},
            "problems": [*self.faults, *self.notes],
        }
        if self.unreadable is None:
            return found
        return found | {"num_opened": len(self.image_paths), "unreadable": list(self.unreadable)}


def check_names(names: Sequence[str], what: str) -> None:
    """Refuses names of data sets that have no reader.

    Raises:
        ValueError: there is none of one of the names; the nearest is said.
    """
    known = dataset_names()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise ValueError(
                f"{what}: expected one of {', '.join(known)}; got {name!r}"
                + (f"; did you mean {near[0]}?" if near else "")
            )


def examine(names: Sequence[str], root: Path, options: ReadOptions) -> dict[str, Report]:
    """Finds and reads data sets, whether or not they were withdrawn; opens no image.

    Nothing is written but generated splits, to a temporary folder. What would first have to be
    extracted is found but not read.

    Args:
        names: data sets, each with a reader.
        root: their common folder.
        options: where else they are and which variants are meant.

    Raises:
        FileNotFoundError: there is no folder `root`, and one of them is not said to be elsewhere.
    """
    if not root.is_dir() and any(name not in options.roots for name in names):
        raise FileNotFoundError(
            f"{root} does not exist: expected the folder of the data sets. Give another one by "
            "--data, or set benchmark.root."
        )
    with tempfile.TemporaryDirectory(prefix="lifelong-reid-doctor-") as scratch:
        reports = {name: _examine(name, root, options, scratch) for name in names}
    return _traced(_told_apart(reports, options), root)


def _examine(name: str, root: Path, options: ReadOptions, scratch: str) -> Report:
    facts = dataset_facts(name)
    try:
        place = find_dataset(name, root, options)
    except FileNotFoundError as error:
        return _not_found(name, facts, str(error), root, options)
    except OSError as error:
        return Report(name, facts.title, "broken", faults=(_in_words(error),))
    report = _found(place, options)
    # What was extracted before is read where it is; generated splits go where nobody looks.
    has_own = (Path(options.derived).expanduser() / name).is_dir()
    kept = options if has_own else options.model_copy(update={"derived": scratch})
    try:
        with _warnings_heard() as heard:
            raw = read_place(replace(place, may_extract=False), root, kept)
    except NotExtractedError:
        return _not_extracted(report, options)
    except Exception as error:  # a reader's bug, too, must not keep us from the other data sets
        return replace(report, status="broken", faults=(_in_words(error),))
    return _with_records(replace(report, notes=(*report.notes, *heard)), raw)


def _not_found(
    name: str, facts: DatasetFacts, error: str, root: Path, options: ReadOptions
) -> Report:
    """Broken where a part of it was found, else missing."""
    own = options.roots.get(name)
    start = Path(own).expanduser() if own else root
    needs = {need for layout in facts.layouts for need in layout.needs}
    for folder in (start, *(start / below for below in facts.folders)):
        if any((folder / need).exists() for need in needs):
            return Report(name, facts.title, "broken", folder=folder, faults=(error,))
    if own:
        return Report(name, facts.title, "missing", faults=(error,))
    expected = " or ".join(", ".join(layout.needs) for layout in facts.layouts)
    fault = (
        f"{facts.title}: not found. Expected {expected} under {root / facts.folders[0]}, or under "
        f"another folder by benchmark.roots.{name}."
    )
    return Report(name, facts.title, "missing", faults=(fault,), is_traceless=True)


def _found(place: Place, options: ReadOptions) -> Report:
    """The report before anything is read."""
    facts, expected, notes = place.facts, place.layout.expected, list[str]()
    if facts.withdrawn:
        consent = "" if options.accept_withdrawn else "; runs need benchmark.accept_withdrawn=true"
        notes.append(f"{facts.title} {facts.withdrawn}{consent}.")
    if expected and (changed := _changed_variants(place.name, options)):
        expected = {}
        notes.append(
            f"Not compared with the literature's counts, which are for another {changed[0]}."
        )
    return Report(
        place.name, facts.title, "ok", place.folder, place.layout.variant,
        expected=expected, notes=tuple(notes),
    )  # fmt: skip


def _not_extracted(report: Report, options: ReadOptions) -> Report:
    note = (
        f"Found in its raw form: the first run extracts images into {options.derived} "
        "(benchmark.derived). Until then there is no more to see."
    )
    return replace(report, expected={}, notes=(*report.notes, note))


def _changed_variants(name: str, options: ReadOptions) -> list[str]:
    """Options of this data set alone (`<name>_...`) that are not at their default."""
    return [
        f"benchmark.{key}"
        for key, about in ReadOptions.model_fields.items()
        if key.startswith(f"{name}_") and getattr(options, key) != about.get_default()
    ]


def _in_words(error: Exception) -> str:
    """Readers word what they expect; other errors need their kind to be understood."""
    is_worded = type(error) in (ValueError, FileNotFoundError) and str(error)
    return str(error) if is_worded else f"cannot be read: {type(error).__name__}: {error}"


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@contextmanager
def _warnings_heard() -> Iterator[list[str]]:
    """What readers warn of, which goes into a report and not on the screen."""
    logger, listener = logging.getLogger("tasks"), _Listener()
    logger.addHandler(listener)
    try:
        yield listener.heard
    finally:
        logger.removeHandler(listener)


def _with_records(report: Report, raw: RawDomain) -> Report:
    parts = parts_of(raw)
    faults, notes = faults_and_notes(raw, report.expected)
    paths = dict.fromkeys(record.image_path for records in parts.values() for record in records)
    return replace(
        report,
        status="warning" if faults else "ok",
        splits={part: counts_of(records) for part, records in parts.items()},
        faults=tuple(faults),
        notes=(*report.notes, *notes),
        image_paths=tuple(paths),
    )


def _told_apart(reports: Mapping[str, Report], options: ReadOptions) -> dict[str, Report]:
    """The reports, after a second look at folders that were taken for several data sets.

    Some data sets have the same layout, and a root that is one of them looks like all of them. The
    one that reads best is believed to be there; between equals nobody can tell.
    """
    sharing: defaultdict[Path, list[Report]] = defaultdict(list)
    for report in reports.values():
        if report.folder is not None and report.name not in options.roots:
            sharing[report.folder].append(report)
    told = dict(reports)
    for folder, claims in sharing.items():
        best = next(
            (
                [report for report in claims if report.status == status]
                for status in ("ok", "warning")
                if any(report.status == status for report in claims)
            ),
            [],
        )
        names = " or ".join(report.title for report in best)
        for report in claims if best else ():
            if report not in best:
                told[report.name] = Report(
                    report.name, report.title, "missing", is_traceless=True,
                    faults=(f"{report.title}: not found; {folder} is {names}.",),
                )  # fmt: skip
            elif len(best) > 1:
                doubt = (
                    f"{folder} may be {names}: they look alike. Give the folder above it by "
                    "--data, or name the data set by --dataset."
                )
                faults = (*report.faults, doubt)
                told[report.name] = replace(report, status="warning", faults=faults)
    return told


def _traced(reports: Mapping[str, Report], root: Path) -> dict[str, Report]:
    """The reports, with where deeper below the root missing data sets are.

    Layouts are not unique, so folders of data sets that were found are no such places, nor are
    folders that are named as another missing data set, or lie below one.
    """
    taken = {report.folder for report in reports.values() if report.folder is not None}
    deeper = {
        name: folder
        for name, report in reports.items()
        if report.is_traceless and (folder := find_deeper(dataset_facts(name), root, taken))
    }
    named = {name: folder for name, folder in deeper.items() if _is_named(name, folder)}
    traced = dict(reports)
    for name, folder in deeper.items():
        others = [other for other in named if other != name]
        if name in named or not any(named[other] in (folder, *folder.parents) for other in others):
            title = reports[name].title
            fault = f"{title}: found deeper, at {folder}: set benchmark.roots.{name}={folder}"
            traced[name] = replace(reports[name], faults=(fault,), is_traceless=False)
    return traced


def _is_named(name: str, folder: Path) -> bool:
    usual = {Path(below).name.casefold() for below in dataset_facts(name).folders}
    return folder.name.casefold() in usual


def examine_images(
    reports: Mapping[str, Report], opened: Callable[[int], None] = lambda _: None
) -> dict[str, Report]:
    """The same reports after every image has been decoded, on all cores; each file once.

    Args:
        reports: what `examine` returned.
        opened: told how many more files have been opened.

    Raises:
        RuntimeError: one of the processes that open images died.
    """
    reasons = open_images(images_of(reports), opened)
    return {name: _with_images(report, reasons) for name, report in reports.items()}


def images_of(reports: Mapping[str, Report]) -> list[str]:
    """The images of all data sets, each once."""
    return list(dict.fromkeys(path for each in reports.values() for path in each.image_paths))


def _with_images(report: Report, reasons: Mapping[str, str]) -> Report:
    unreadable = {path: reasons[path] for path in report.image_paths if path in reasons}
    if not unreadable:
        return replace(report, unreadable=unreadable)
    faults = [
        f"{len(unreadable):,} of {len(report.image_paths):,} images cannot be decoded. Fetch them "
        "again: runs set a few aside (data.max_bad_share) and refuse more."
    ]
    faults += [f"{path} ({reason})" for path, reason in list(unreadable.items())[:NUM_LISTED]]
    if len(unreadable) > NUM_LISTED:
        faults.append(f"and {len(unreadable) - NUM_LISTED:,} more; --json lists them all")
    faults = [*report.faults, *faults]
    return replace(report, status="warning", unreadable=unreadable, faults=tuple(faults))
